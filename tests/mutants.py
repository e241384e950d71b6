# ruff: noqa: E501
"""The faults that `test_mutations.py` inserts: name, file, change, and the test that must fail."""

import dataclasses
import re

NETWORK = "test_reference_network.py::test_every_endpoint_is_the_reference_s"
R18 = f"{NETWORK}[cifar_r18_1x_sk0_32_b2_infer]"
R18_TRAIN = f"{NETWORK}[cifar_r18_1x_sk0_32_b8_train_blocks]"
R50 = f"{NETWORK}[r50_1x_sk0_64_b2_infer]"
R50_SK = f"{NETWORK}[r50_1x_sk1_64_b2_infer]"
R50_SE = f"{NETWORK}[r50_1x_sk0_se_64_b2_infer]"
LOSSES = "test_reference_losses.py"
CONTRASTIVE = f"{LOSSES}::test_contrastive_loss_logits_labels_and_gradients"
REPLICAS = f"{LOSSES}::test_contrastive_loss_of_two_and_four_replicas_with_the_gather_s_gradient"
SUPCON = "test_objective.py::test_supervised_contrastive_loss_is_equation_2"
SUPCON_REPLICAS = "test_objective.py::test_replicas_together_are_one_process_for_supcon"
LARS = f"{LOSSES}::test_lars_in_all_variants_over_six_steps"
SCHEDULE = f"{LOSSES}::test_schedule_and_step_counts"
DECAY = f"{LOSSES}::test_weight_decay_terms"
TRAINING = "test_reference_training.py"
RUN = f"{TRAINING}::test_the_first_steps_are_the_reference_s"
FROZEN = (
    f"{TRAINING}::test_linear_evaluation_uses_frozen_features_and_updates_no_frozen_weight[lars]"
)
EVALUATION = f"{TRAINING}::test_evaluation_results_are_the_reference_s"
IMAGES = "test_reference_preprocessing.py"
DRAWN = "test_data_util.py"  # these need the whole pack
MEMORY = "test_momentum_encoder.py"
QUEUE = f"{MEMORY}::test_the_queue_equals_a_ring_buffer_over_50_steps"
AVERAGE = f"{MEMORY}::test_the_average_of_weights_and_statistics_follows_its_recurrence"
EXCLUDED = f"{MEMORY}::test_empty_slots_and_an_image_s_own_are_excluded_and_unknown_images_never"
MEMORY_LOSS = f"{MEMORY}::test_a_loss_and_its_gradient_are_those_of_plain_loops"
MEMORY_REPLICAS = f"{MEMORY}::test_replicas_together_are_one_process_for_a_memory_loss"
PARTS = "test_micro_batches.py::test_parts_train_as_one_tape_over_all_of_them"
RECOMPUTE = "test_recompute.py"
MEMORY_STEP = f"{MEMORY}::test_a_step_contrasts_with_earlier_batches_then_updates_queue_and_average"
DISTILLATION = "test_distillation.py"
DISTILLED = f"{DISTILLATION}::test_a_step_is_equation_3_and_updates_the_student_along_its_gradient"
HIDDEN = f"{DISTILLATION}::test_only_the_labeled_subset_has_labels"
TEACHER = "test_teacher.py"
INSPECTION = "test_inspection.py"
CALIBRATION = "test_calibration.py"
SELECTION = "test_selection.py"
HERDING = f"{SELECTION}::test_maxherding_is_the_greedy_maximum_of_the_coverage"
PLAN = "test_plan.py"


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault: the only `old` in `file` is replaced by `new`, and `caught_by` must fail.

    With `pattern`, `old` is a regular expression and all its matches are replaced.
    """

    name: str
    file: str
    old: str
    new: str
    caught_by: str
    whole_pack: bool = False
    pattern: bool = False

    def apply(self, text):
        """Returns the source text with the fault."""
        if self.pattern:
            broken, count = re.subn(self.old, self.new, text)
            assert count >= 1, self.name
            return broken
        assert text.count(self.old) == 1, self.name
        return text.replace(self.old, self.new)


# fmt: off
MUTANTS = [
    # The network.
    Mutant("batch norm's epsilon", "resnet.py", "epsilon: float = 1e-5", "epsilon: float = 1e-4", R18),
    Mutant("batch norm's momentum", "model.py", "batch_norm_decay: float = 0.9,", "batch_norm_decay: float = 0.91,", R18_TRAIN),
    Mutant("unbiased moving variance", "resnet.py", "biased = variance * (tf.maximum(count - 1.0, 1.0) / count)", "biased = variance", R18_TRAIN),
    Mutant("padding by image size (stem)", "resnet.py", 'padding="same" if strides == 1 else "valid",', 'padding="same",', R50),
    Mutant("stem's max pooling", "resnet.py", 'tf.nn.max_pool2d(x, 3, 2, "SAME")', 'tf.nn.max_pool2d(fixed_padding(x, 2), 3, 2, "VALID")', R50),
    Mutant("padding of the ResNet-D shortcut", "resnet.py", "front = total // 2", "front = total - total // 2", R50_SK),
    Mutant("selective kernel's minimum width", "resnet.py", "int(filters * sk_ratio), 32)", "int(filters * sk_ratio), 16)", R50_SK),
    Mutant("selective kernel's two paths", "resnet.py", "logit_first - logit_second", "logit_second - logit_first", R50_SK),
    Mutant("squeeze-and-excitation's width", "resnet.py", "max(1, int(filters * se_ratio))", "max(1, int(channels * se_ratio))", R50_SE),
    Mutant("squeeze-and-excitation's gate", "resnet.py", "tf.sigmoid(self.expand(", "tf.nn.relu(self.expand(", R50_SE),
    Mutant("ReLU after the last projection", "model.py", "return x if self._last else tf.nn.relu(x)", "return tf.nn.relu(x)", R18),
    Mutant("frozen blocks in training mode", "resnet.py", "trains = training and self._frozen_blocks < block", "trains = training", FROZEN),
    # Losses.
    Mutant("mask of the image itself", "objective.py", "LARGE_NUM = 1e9", "LARGE_NUM = 1.0", CONTRASTIVE),
    Mutant("temperature multiplied", "objective.py", "transpose_b=True) / temperature", "transpose_b=True) * temperature", CONTRASTIVE),
    Mutant("temperature on one half of the logits", "objective.py", "aa=_similarity(view_a, all_a, temperature) - itself", "aa=_similarity(view_a, all_a, 1.0) - itself", CONTRASTIVE),
    Mutant("rows not normalized", "objective.py", "    if hidden_norm:\n", "    if not hidden_norm:\n", CONTRASTIVE),
    Mutant("one direction only", "objective.py", "tf.reduce_mean(loss_a + loss_b)", "tf.reduce_mean(loss_a * 2.0)", CONTRASTIVE),
    Mutant("gather's gradient averaged", "objective.py", "context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)", "context.all_reduce(tf.distribute.ReduceOp.MEAN, upstream)", REPLICAS),
    Mutant("labels of the first replica", "objective.py", "(replica_id() * n if several else 0)", "0", REPLICAS),
    Mutant("an anchor is its own positive (supcon)", "objective.py", "same_class * (1 - other_view)", "same_class", SUPCON),
    Mutant("no positive without a label (supcon)", "objective.py", "tf.maximum(same_class, other_view)", "tf.maximum(same_class, 1e-6)", SUPCON),
    Mutant("positives of this replica only (supcon)", "objective.py", "else gather(labels)", "else tf.tile(labels, [_replicas(strategy), 1])", f"{SUPCON_REPLICAS}[2]"),
    # Optimizers and schedule.
    Mutant("LARS's eta", "lars_optimizer.py", "eeta: float = 0.001,", "eeta: float = 0.0011,", f"{RUN}[pretrain_r1]"),
    Mutant("LARS's Nesterov step", "lars_optimizer.py", "step = self.momentum * velocity + scaled if", "step = velocity + scaled if", LARS),
    Mutant("LARS's weight decay omitted", "lars_optimizer.py", "gradient = gradient + self.decay * weight", "gradient = gradient + 0.0 * weight", LARS),
    Mutant("LARS's trust ratio of a zero gradient", "lars_optimizer.py", "tf.where(both, self.eeta * weight_norm / safe, tf.ones_like(weight_norm))", "tf.where(both, self.eeta * weight_norm / safe, tf.zeros_like(weight_norm))", LARS),
    Mutant("LARS adapts the classifier", "optimization.py", r'LARS_EXCLUSIONS = (r"(gamma|beta|bias)$", r"^supervised_head/")', r'LARS_EXCLUSIONS = (r"(gamma|beta|bias)$",)', f"{RUN}[pretrain_r1]"),
    Mutant("momentum without Nesterov", "compat.py", "momentum=momentum, nesterov=True", "momentum=momentum, nesterov=False", f"{RUN}[finetune_momentum_all]"),
    Mutant("cosine's amplitude", "optimization.py", "peak_learning_rate * 0.5 * (1.0 + tf.cos", "peak_learning_rate * 0.499 * (1.0 + tf.cos", SCHEDULE),
    Mutant("warm-up rounded differently", "optimization.py", "int(round(warmup_epochs * num_examples // batch_size))", "int(round(warmup_epochs * num_examples / batch_size))", SCHEDULE),
    Mutant("one training step fewer", "config.py", "num_examples * train_epochs // batch_size + 1", "num_examples * train_epochs // batch_size", SCHEDULE),
    Mutant("images per unit of the learning rate", "optimization.py", "batch_size / 256.0", "batch_size / 255.0", SCHEDULE),
    Mutant("L2 on the head omitted", "optimization.py", 'variables.place(name) == "supervised_head" and', 'variables.place(name) == "none" and', DECAY),
    Mutant("L2 on the head's bias", "optimization.py", ' and variables.role(name) != "bias"', "", DECAY),
    Mutant("L2 not on biases (momentum)", "optimization.py", 'variables.role(name) in ("kernel", "bias")', 'variables.role(name) in ("kernel",)', DECAY),
    # Training and evaluation.
    Mutant("online classifier's gradient reaches the network", "model.py", "head_input = tf.stop_gradient(hidden[0])", "head_input = hidden[0]", f"{RUN}[pretrain_r1]"),
    Mutant("gradient not divided by the replicas", "micro_batches.py", "1.0 / replicas", "1.0", f"{RUN}[pretrain_r2]"),
    Mutant("variance within replicas only", "resnet.py", "variance = within + mean_square - tf.square(mean)", "variance = within", f"{RUN}[pretrain_r2]"),
    Mutant("padding counted in evaluation", "evaluation.py", '"count": tf.reduce_sum(mask)', '"count": tf.reduce_sum(tf.ones_like(mask))', EVALUATION),
    Mutant("Wilson's center", "intervals.py", "p + z2 / (2 * n)", "p + z2 / n", "test_intervals.py::test_wilson_intervals_are_the_published_ones"),
    Mutant("Wilson's width", "intervals.py", "z2 / (4 * n**2)", "z2 / (4 * n)", "test_intervals.py::test_wilson_intervals_are_the_published_ones"),
    # What is chosen and estimated.
    Mutant("logits are multiplied by the temperature", "calibration.py", "scaled = logits / math.exp(log_temperature)", "scaled = logits * math.exp(log_temperature)", f"{CALIBRATION}::test_the_temperature_minimizes_the_cross_entropy[3.0]"),
    Mutant("bins of calibration weigh alike", "calibration.py", "return sum(count * abs(accuracy - mean)", "return sum(abs(accuracy - mean)", f"{CALIBRATION}::test_the_calibration_error_is_the_one_counted_by_hand"),
    Mutant("a precision without its bound", "calibration.py", "if intervals.wilson(correct, images)[0] >= min_precision", "if correct / images >= min_precision", f"{CALIBRATION}::test_the_threshold_is_the_lowest_whose_bound_reaches_the_precision"),
    Mutant("a conformal quantile of n instead of n + 1", "calibration.py", "(rank := (n + 1) * percent // 100)", "(rank := n * percent // 100)", f"{CALIBRATION}::test_the_quantile_is_the_one_counted_by_hand"),
    Mutant("an export without its temperature", "apply/export.py", "tf.nn.softmax(logits / self._temperature)", "tf.nn.softmax(logits)", "test_trust.py::test_the_export_has_the_temperature"),
    Mutant("a format is right on images without a label", "apply/formats.py", "(values.argmax(1) == labels.argmax(1))[known].sum()", "(values.argmax(1) == labels.argmax(1)).sum()", "test_formats.py::test_without_labels_or_classes_only_the_outputs_are_compared"),
    Mutant("an export with the name of the least probable class", "apply/export.py", 'tf.argmax(outputs["logits"], axis=-1)', 'tf.argmin(outputs["logits"], axis=-1)', "test_export.py::test_serving_has_the_preprocessing_of_evaluation"),
    Mutant("an image is its own nearest neighbor", "inspection/neighbors.py", "similarity[rows - start, rows] = -np.inf", "pass", f"{INSPECTION}::test_neighbors_in_blocks_are_those_of_brute_force"),
    Mutant("columns are not centered before images are compared", "inspection/alignment.py", "return images - rows - columns + images.mean((1, 2), keepdims=True)", "return images - columns", f"{INSPECTION}::test_light_sky_over_dark_ground_is_no_resemblance"),
    Mutant("mirrored copies are not looked for", "inspection/alignment.py", "both = np.concatenate([whole[others], mirrored[others]])", "both = np.concatenate([whole[others], whole[others]])", f"{INSPECTION}::test_a_copy_correlates_almost_perfectly[mirrored]"),
    Mutant("outliers by the plain distance", "inspection/doubts.py", "np.log(np.maximum(1 - np.asarray(cosines[:, -1], np.float64), 1e-7))", "1 - np.asarray(cosines[:, -1], np.float64)", f"{INSPECTION}::test_outlier_scores_are_modified_z_scores_of_log_distances"),
    Mutant("a label is doubtful below chance", "inspection/doubts.py", "_SHARE_OF_CHANCE / probabilities", "1.0 / probabilities", f"{INSPECTION}::test_a_label_is_doubtful_below_a_fifth_of_chance"),
    Mutant("more neighbors than a class has, leaving one out", "evaluation.py", "k=min(k, max(count // classes, 1))", "k=k", "test_unlabeled_images.py::test_too_few_held_out_images_are_joined_by_the_labeled_training_images"),
    Mutant("kNN on the first images of a split", "sources/source.py", "np.arange(count) * step // count", "np.arange(count)", "test_unlabeled_images.py::test_knn_is_bounded_unless_it_is_on"),
    Mutant("squeeze-and-excitation one layer early", "checkpoints/reference_tf2.py", "{last + 3}", "{last + 2}", "test_reference_tf2.py::test_squeeze_and_excitation_has_the_references_attributes"),
    Mutant("a TF1 run on TF2's grid", "checkpoints/checkpoint_reader.py", '"half_pixel" if half_pixel else "legacy"', '"half_pixel"', "test_reference_tf2.py::test_a_tf1_run_keeps_its_size_and_the_legacy_grid"),
    Mutant("the classifier's layer from a pretraining", "checkpoints/reference_checkpoints.py", 'origin.flags.get("train_mode") == "finetune" and ', "", "test_reference_tf2.py::test_the_layer_of_the_classifier_is_that_of_the_flags"),
    Mutant("an image is its own neighbor", "knn.py", "similarity -= itself", "similarity -= 0.0", "test_knn.py::test_an_image_left_out_is_classified_by_all_others"),
    Mutant("activations before the rectifier only", "auto/network_shapes.py", "output * (1 + rectified) + copied", "output + copied", "test_memory_estimate.py::test_what_a_convolution_keeps_is_counted_by_hand"),
    Mutant("no gradients among the weights", "auto/memory_estimate.py", "trained * (2 + accumulated", "trained * (1 + accumulated", "test_memory_estimate.py::test_adam_has_one_slot_more_than_lars_and_a_memory_a_second_network"),
    Mutant("a control group's used memory counted as free", "machine.py", "limit - used + _cached", "limit + _cached", "test_memory_estimate.py::test_usable_memory_is_what_is_available_within_the_limits_of_control_groups"),
    Mutant("a stage has the whole time", "auto/time_budget.py", "SHARES.get(stage, 1) / total", "1", "test_auto.py::test_epochs_are_what_fits_into_the_stage_s_share"),
    Mutant("one view's work in pretraining", "auto/time_budget.py", "(mode.views * view + taught)", "(view + taught)", "test_auto.py::test_a_step_lasts_as_long_as_its_work"),
    Mutant("a rate of another scaling", "auto/rules.py", "peak / of_batch[wanted]", "peak / of_batch[scaling]", "test_auto.py::test_a_rate_has_the_same_peak_in_either_scaling"),
    Mutant("a resumed run decides again", "auto/choices.py", "return stored if all(same) else {}", "return {}", "test_auto.py::test_another_size_by_the_user_is_decided_again"),
    Mutant("errors of the classes added", "intervals.py", "above = math.sqrt(sum((high - p) ** 2 for p, _, high in classes)) / len(classes)", "above = sum(high - p for p, _, high in classes) / len(classes)", "test_intervals.py::test_the_interval_of_a_mean_of_classes_counted_by_hand"),
    Mutant("classes weighted by their images", "evaluation.py", 'np.mean(totals["class_top_1"][present] / by_class[present])', 'totals["class_top_1"].sum() / by_class.sum()', "test_evaluation.py::test_accuracies_are_those_counted_by_hand"),
    Mutant("unlabeled images counted in evaluation", "evaluation.py", 'tf.cast(tf.reduce_any(labels > 0, axis=-1), tf.float32)', "1.0", "test_unlabeled_images.py::test_the_classification_step_counts_labeled_images_alone"),
    Mutant("unlabeled images in the mean of the loss", "training.py", "objective.add_supervised_loss(labels, logits) * rows", "objective.add_supervised_loss(labels, logits)", "test_unlabeled_images.py::test_the_supervised_loss_and_accuracy_are_those_of_the_labeled_rows"),
    Mutant("images of another size are the same", "sources/data_identity.py", "if before[old].size != now[new].size", "if False", "test_data_identity.py::test_changes_are_counted_with_the_first_of_them"),
    Mutant("fewer than two images of a class left", "sources/holdout.py", "labeled - _LEAST", "labeled", "test_holdout.py::test_a_large_fraction_leaves_two_to_train_on"),
    Mutant("folds drawn without their classes", "apply/cross_validation.py", "fold[order] = np.arange(len(labels)) % folds", "fold[random.permutation(order)] = np.arange(len(labels)) % folds", "test_cross_validation.py::test_folds_are_equally_large_and_spread_each_class"),
    Mutant("a probe that has seen its test images", "apply/cross_validation.py", "features[~test],\n                labels[~test],", "features,\n                labels,", "test_cross_validation.py::test_no_probe_is_fitted_on_an_image_that_it_is_tested_on"),
    Mutant("online classifier's rate not over the features' norm", "training.py", "1.0 if rate is None else rate / (norm + 1e-6)", "1.0 if rate is None else rate", "test_online_classifier.py::test_its_update_is_scaled_by_its_rate_over_the_features_norm"),
    # Parts of a batch.
    Mutant("a part's gradient dropped", "micro_batches.py", "(tf.constant(0), state),", "(tf.constant(1), state),", f"{PARTS}[memory]"),
    Mutant("pairs of other parts", "micro_batches.py", "tf.reshape(_swap(tensor), [-1, *rest])", "tf.reshape(tensor, [-1, *rest])", f"{PARTS}[memory]"),
    Mutant("the gradient of the first part for all", "micro_batches.py", "[g[part] for g in upstream]", "[g[0] for g in upstream]", f"{PARTS}[memory]"),
    Mutant("moving averages updated in both passes", "resnet.py", "average.assign(value)", "average.assign(average)", f"{PARTS}[memory]"),
    Mutant("the L2 term dropped", "micro_batches.py", "_fold(backward, gradients[len(names) :]", "_fold(backward, [0.0 * g for g in gradients[len(names) :]]", f"{PARTS}[memory]"),
    Mutant("gradients of the parts added", "micro_batches.py", "lambda value: value / parts, total", "lambda value: value, total", f"{PARTS}[finetune]"),
    Mutant("labels counted in each part", "training.py", "_rows_per_labeled(labels) if rows is None else rows", "_rows_per_labeled(labels)", f"{PARTS}[finetune]"),
    Mutant("moving averages updated in both passes of a block", "resnet.py", "with kept(moving_averages):", "with kept([]):", f"{RECOMPUTE}::test_a_block_computed_again_has_the_same_gradients_and_updates_once"),
    Mutant("nothing computed again", "resnet.py", "again = trains and self.recompute", "again = False", f"{RECOMPUTE}::test_every_trained_block_is_computed_twice"),
    Mutant("frozen blocks computed again", "resnet.py", "again = trains and self.recompute", "again = self.recompute", f"{RECOMPUTE}::test_every_trained_block_is_computed_twice"),
    Mutant("all blocks held at once", "auto/network_shapes.py", "return max(map(sum,", "return sum(map(sum,", "test_memory_estimate.py::test_recomputed_blocks_hold_their_inputs_and_one_of_them_all_it_has"),
    Mutant("activations of the whole batch", "auto/memory_estimate.py", "kept = at_once * (", "kept = images * (", "test_memory_estimate.py::test_micro_batches_divide_the_activations_and_hold_one_gradient_more"),
    # The memory.
    Mutant("decay exchanged with 1 - decay", "momentum_encoder.py", "decay * average + (1.0 - decay) * tf.convert_to_tensor(weight)", "decay * tf.convert_to_tensor(weight) + (1.0 - decay) * average", AVERAGE),
    Mutant("decay without its ramp", "momentum_encoder.py", "tf.minimum(self.decay, (1.0 + t) / (10.0 + t))", "tf.constant(self.decay)", f"{AVERAGE}[0.99]"),
    Mutant("ramp of the next step", "training.py", "memory.update_ema(step)", "memory.update_ema(step + 1)", f"{AVERAGE}[0.99]"),
    Mutant("average of the weights without the statistics", "momentum_encoder.py", "if average.dtype.is_floating", "if variables.is_trainable(name)", AVERAGE),
    Mutant("first slot of a batch larger than the queue", "momentum_encoder.py", "tf.cast(tf.maximum(number - size, 0), tf.int64)", "tf.cast(0, tf.int64)", QUEUE),
    Mutant("queue keeps the start of a batch larger than the queue", "momentum_encoder.py", "rows, ids = rows[-size:], ids[-size:]", "rows, ids = rows[:size], ids[:size]", QUEUE),
    Mutant("first views enqueued", "momentum_encoder.py", "keys[:, -self.views :]", "keys[:, : self.views]", QUEUE),
    Mutant("ids in another order than their keys", "momentum_encoder.py", "tf.repeat(ids, self.views)", "tf.tile(ids, [self.views])", QUEUE),
    Mutant("empty slots are negatives", "momentum_encoder.py", "tf.cast(empty | itself, tf.float32)", "tf.cast(itself, tf.float32)", EXCLUDED),
    Mutant("an image is its own negative", "momentum_encoder.py", "tf.cast(empty | itself, tf.float32)", "tf.cast(tf.broadcast_to(empty, tf.shape(itself)), tf.float32)", EXCLUDED),
    Mutant("excluded slots are negatives", "objective.py", "keys.excluded * LARGE_NUM", "keys.excluded * 0.0", MEMORY_LOSS),
    Mutant("keys by the batch's statistics", "momentum_encoder.py", "self.encoder(images, training=False)", "self.encoder(images, training=True)", MEMORY_STEP),
    Mutant("positive of the same view (hybrid)", "objective.py", "pairs.view_a * key_b", "pairs.view_a * key_a", f"{MEMORY_LOSS}[True-7-7-hybrid]"),
    Mutant("queue not weighted (hybrid)", "objective.py", "loss + weight * with_queue", "loss + with_queue", f"{MEMORY_LOSS}[True-7-7-hybrid]"),
    Mutant("keys of the first replica's images (hybrid)", "objective.py", "tf.gather(keys.batch, pairs.position)", "keys.batch[: tf.shape(pairs.position)[0]]", f"{MEMORY_REPLICAS}[hybrid]"),
    Mutant("embeddings in place of keys (momentum)", "objective.py", "temperature, strategy, keys.batch)", "temperature, strategy)", f"{MEMORY_LOSS}[True-7-7-momentum]"),
    Mutant("first views' queue for second views (momentum)", "objective.py", "[pairs.ba, pairs.bb, queue_b]", "[pairs.ba, pairs.bb, queue_a]", f"{MEMORY_LOSS}[True-7-7-momentum]"),
    Mutant("one replica's keys", "training.py", "batch=_gather(tf.stack(of_views, axis=1))", "batch=tf.stack(of_views, axis=1)", "test_distribute.py::test_replicas_do_not_change_the_training[pretrain-memory_size]"),
    Mutant("a queue's age without its batch", "flags/memory.py", "(1 - decay) * size / enqueued", "(1 - decay) * size", "test_config.py::test_a_stale_queue_is_a_warning_with_values_that_fit"),
    Mutant("a queue longer than the images", "auto/rules.py", "if size > number else (size, reason)", "if size < number else (size, reason)", "test_auto.py::test_a_memory_is_never_stale_nor_longer_than_the_images"),
    # Distillation.
    Mutant("student's temperature omitted", "objective.py", "tf.cast(logits, tf.float32) / temperature)", "tf.cast(logits, tf.float32))", f"{DISTILLATION}::test_the_distillation_loss_is_equation_2_with_its_gradient"),
    Mutant("teacher's temperature omitted", "teacher.py", "tf.nn.softmax(logits / self._temperature)", "tf.nn.softmax(logits)", f"{TEACHER}::test_a_prediction_is_the_softmax_of_the_logits_over_the_temperature"),
    Mutant("teachers' logits added", "teacher.py", "tf.add_n(predictions) / len(predictions)", "tf.nn.softmax(tf.math.log(tf.add_n(predictions)) / len(predictions))", f"{TEACHER}::test_several_teachers_predict_the_mean_of_their_probabilities"),
    Mutant("order of the teacher's classes inverted", "teacher.py", "[list(theirs).index(name) for name in class_names]", "[list(class_names).index(name) for name in theirs]", f"{TEACHER}::test_predictions_are_in_the_order_of_the_students_classes"),
    Mutant("teacher in training mode", "teacher.py", "network(images, training=False)", "network(images, training=True)", f"{DISTILLATION}::test_the_teacher_predicts_in_inference_mode_and_is_never_updated"),
    Mutant("alpha exchanged with 1 - alpha", "training.py", "loss = alpha * distill_loss", "loss = (1 - alpha) * distill_loss", DISTILLED),
    Mutant("temperature instead of its square", "training.py", "distill_loss *= temperature**2", "distill_loss *= temperature", DISTILLED),
    Mutant("gradient of unlabeled images", "objective.py", "tf.where(tf.reduce_any(labels > 0, axis=-1), losses, 0.0)", "losses", DISTILLED),
    Mutant("hidden labels returned", "sources/source.py", 'tf.where(shown, record["label"], tf.constant(-1, tf.int64))', 'record["label"]', HIDDEN),
    # Choice of images to label.
    Mutant("kernel of the distance, not of its square", "selection/kernel.py", "cosines /= np.float32(width) ** 2", "cosines /= np.float32(width)", HERDING),
    Mutant("labeled images cover nothing", "selection/kernel.py", "covered = gaussian(cosine_to_nearest(others, unit[labeled]), width)\n\n    def added", "covered = np.zeros(len(others), np.float32)\n\n    def added", HERDING),
    Mutant("a chosen image covers nothing", "selection/kernel.py", "np.maximum(covered, gaussian(others @ unit[candidates[best]], width), out=covered)", "pass", HERDING),
    Mutant("bounds are taken for what a candidate adds", "selection/kernel.py", "exact &= bounds == -np.inf", "pass", HERDING),
    Mutant("coverage of the sum, not of the nearest", "selection/kernel.py", "np.maximum(values, 0, out=values) @ weight", "values @ weight", HERDING),
    Mutant("the whole distance as the width", "selection/kernel.py", "max(0.5 * float(np.median(distances))", "max(float(np.median(distances))", f"{SELECTION}::test_the_width_follows_the_data_and_the_number_of_labels"),
    Mutant("images weighted by their margin", "selection/methods.py", "_herd(pool, count, 1 - pool.margins)", "_herd(pool, count, pool.margins)", f"{SELECTION}::test_uncertainty_herding_weighs_images_by_one_minus_their_margin"),
    Mutant("k-center of the last chosen image alone", "selection/methods.py", "nearest = cosines if first else np.maximum(nearest, cosines)", "nearest = cosines", f"{SELECTION}::test_kcenter_takes_the_farthest_image_each_time"),
    Mutant("the least typical image of a cluster", "selection/methods.py", "members[np.argmin(_neighbor_distances(pool.unit[members]))]", "members[np.argmax(_neighbor_distances(pool.unit[members]))]", f"{SELECTION}::test_typiclust_takes_the_most_typical_image_of_each_cluster"),
    Mutant("the largest margins", "selection/methods.py", "np.argsort(pool.margins[candidates], kind=\"stable\")", "np.argsort(-pool.margins[candidates], kind=\"stable\")", f"{SELECTION}::test_margin_takes_the_smallest_differences_of_the_two_best"),
    # The plan of a training.
    Mutant("one product in the backward pass", "benchmark/plan.py", "_BACKWARD = 2", "_BACKWARD = 1", f"{PLAN}::test_a_supervised_resnet_50_has_its_published_size_and_work"),
    Mutant("gradients are sent once", "benchmark/plan.py", "(2 * summed + embeddings)", "(summed + embeddings)", f"{PLAN}::test_what_replicas_send_is_counted_by_hand"),
    Mutant("no forward pass of the teacher", "benchmark/plan.py", "flops += mode.views * 2 * sum(layer.multiply_adds for layer in taught)", "pass", f"{PLAN}::test_a_distillation_adds_the_forward_pass_of_its_teacher"),
    # Images.
    Mutant("blur's radius", "data_util.py", "radius = kernel_size // 2", "radius = (kernel_size - 1) // 2", IMAGES),
    Mutant("blur's exponent", "data_util.py", "(2.0 * tf.square(tf.cast(sigma", "(tf.square(tf.cast(sigma", IMAGES),
    Mutant("center crop's proportion", "architecture.py", "CROP_PROPORTION = 0.875", "CROP_PROPORTION = 0.88", IMAGES),
    Mutant("legacy resize by default", "data_util.py", r'(CROP_PROPORTION,\n    resize: str =) "half_pixel"', r'\1 "legacy"', IMAGES, pattern=True),
    Mutant("brightness added", "augment/color_ops.py", r"(planes?) \* factors\[0\]", r"\1 + factors[0] - 1.0", IMAGES, pattern=True),
    Mutant("luma weights", "augment/color_ops.py", "(0.2989, 0.5870, 0.1140)", "(0.3333, 0.3333, 0.3333)", IMAGES),
    Mutant("contrast takes saturation's factor", "augment/color_ops.py", r"factors\[1\]", "factors[2]", IMAGES, pattern=True),
    Mutant("crop's area", "data_util.py", "float] = (0.08, 1.0)", "float] = (0.16, 1.0)", f"{DRAWN}::test_random_crops_are_distributed_as_the_references", True),
    Mutant("crop's aspect", "data_util.py", "aspect_ratio_range=(3 / 4", "aspect_ratio_range=(2 / 3", f"{DRAWN}::test_random_crops_are_distributed_as_the_references", True),
    Mutant("jitter's strength", "augment/color_ops.py", "tf.constant([0.8, 0.8, 0.8, 0.2]", "tf.constant([0.7, 0.8, 0.8, 0.2]", f"{DRAWN}::test_jitter_parameters_are_distributed_as_the_references", True),
    Mutant("hue's strength", "augment/color_ops.py", "tf.constant([0.8, 0.8, 0.8, 0.2]", "tf.constant([0.8, 0.8, 0.8, 0.15]", f"{DRAWN}::test_jitter_parameters_are_distributed_as_the_references", True),
    Mutant("probability of jitter", "augment/color_ops.py", "JITTER_PROBABILITY = 0.8", "JITTER_PROBABILITY = 0.7", f"{DRAWN}::test_random_color_jitter_is_distributed_as_the_references", True),
    Mutant("probability of grayscale", "augment/color_ops.py", "GRAYSCALE_PROBABILITY = 0.2", "GRAYSCALE_PROBABILITY = 0.3", f"{DRAWN}::test_random_color_jitter_is_distributed_as_the_references", True),
    Mutant("one sigma for both views", "data_util.py", "blur_sigma(seeds[2 * view + 1])", "blur_sigma(seeds[1])", f"{DRAWN}::test_both_views_draw_their_own_sigma"),
    Mutant("every step blurs alike", "training.py", "step = compat.step_count(optimizer)", "step = 0 * compat.step_count(optimizer)", f"{DRAWN}::test_every_step_blurs_anew_and_the_same_step_alike"),
    Mutant("probability of blur", "data_util.py", "BLUR_PROBABILITY = 0.5", "BLUR_PROBABILITY = 0.45", f"{DRAWN}::test_one_sigma_per_view_and_half_of_the_images_blurred", True),
    Mutant("blur's sigma", "data_util.py", "_BLUR_SIGMA = (0.1, 2.0)", "_BLUR_SIGMA = (0.1, 1.6)", f"{DRAWN}::test_one_sigma_per_view_and_half_of_the_images_blurred", True),
]
# fmt: on
