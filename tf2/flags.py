"""Every flag: its default, help text, choices, range, scope, identity and group.

Flags are defined only here. run.py defines the command line from these fields, `config.Config` adds
derived properties, and every list of flags is computed from the metadata (see `flag_fields.flag`).
No TensorFlow import, so that `--help` is fast.
"""

import dataclasses

from tf2 import architecture, modes
from tf2 import flag_fields as fields


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of a run, in the order of --help."""

    mode: str = fields.job(
        "train",
        "train; eval (each checkpoint in model_dir as it appears); train_then_eval; or, with the "
        "network of checkpoint or model_dir, probe features, embed or predict images, or export.",
        ("train", "eval", "train_then_eval", "probe", "embed", "predict", "export"),
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    train_mode: str = fields.job(
        "pretrain",
        "; ".join(mode.help for mode in modes.TRAIN_MODES.values())
        + f"; or all of them in turn ({modes.SIMCLRV2}).",
        modes.names,
        scope=fields.SHARED,
        identity=fields.TRAINS,
    )
    recipe: str = fields.job(
        "",
        "Named settings from tf2/recipes; flags on the command line override them. "
        "'help' lists the recipes.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    model_dir: str | None = fields.job(
        None,
        "Directory for checkpoints, logs, results and exports. A stopped run resumes from "
        "it. Default: ./runs/<dataset>_<train_mode>; ./runs/<folder> for all stages on a folder.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    checkpoint: str | None = fields.job(
        None,
        "Weights to start from: a model_dir, a checkpoint prefix, an exported SavedModel, or the "
        "name of a released network, which is downloaded (python -m checkpoints_tools.catalog "
        "lists them). The architecture is read from model.json next to it.",
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    weights: str = fields.job(
        "online",
        "Weights to load, evaluate and export for a network pretrained with a memory: the "
        "trained ones (online) or their moving average (ema).",
        ("online", "ema"),
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    allow_partial: bool = fields.job(
        False,
        "Start even if --checkpoint lacks weights of the backbone.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    seed: int = fields.job(
        0,
        "Seed of the initial weights, the data order and the augmentation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 2147483647]",
    )

    dataset: str = fields.data(
        "",
        "digits (embedded), folder (images below data_dir), or the name of any "
        "TensorFlow Datasets image classification set. Empty means folder with --data_dir, "
        "else digits.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
    )
    data_dir: str | None = fields.data(
        None,
        "Picture folder, or directory of the TensorFlow Datasets files. Without other settings, "
        "all stages run on the folder's images (--recipe=images).",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    train_split: str = fields.data(
        "train",
        "Split to train on; splits may be added, as in train+unlabeled.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        auto=True,
    )
    eval_split: str = fields.data(
        "validation",
        "Split to evaluate on.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        auto=True,
    )
    cache_dataset: bool = fields.data(
        False,
        "Keep the undecoded training records in memory after the first epoch.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    labels: str = fields.data(
        "",
        "Labels of a folder's images: a CSV, TSV or Label Studio JSON file; a folder of class "
        "folders with the same file names; guess (folder names, where they look like classes) or "
        "none (ignore them). By default an image's first folder is its class.",
        scope=fields.SHARED,
        identity=fields.FREE,  # the labels themselves are compared: see sources.data_identity
    )
    holdout: float = fields.data(
        0.0,
        "Fraction of a folder's labeled images of each class to hold out as the split holdout, if "
        "there is no labeled evaluation split; at least two where that leaves two.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, 1)",
    )
    val_fraction: float = fields.data(
        0.0,
        "Fraction of a folder's images to hold out for evaluation if the folder has no "
        "evaluation split.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    allow_changed_data: bool = fields.data(
        False,
        "Resume a run although the images of its folder have changed.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    max_bad_fraction: float = fields.data(
        0.01,
        "Largest fraction of a folder's images that may be unreadable.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, 1]",
    )
    label_fraction: float = fields.data(
        0.0,
        "Fraction of the labels of each class to fine-tune or train on; 0 uses all.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it is a fraction of the labels, not a percentage",
    )
    labels_per_class: int = fields.data(
        0,
        "Labeled images per class to fine-tune or train on; 0 uses all.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    label_seed: int = fields.data(
        0,
        "Seed of the labeled subset and of holdout.",
        scope=fields.SHARED,
        identity=fields.TRAINS,
        range="[0, 2147483647]",
    )
    shuffle_buffer: int = fields.data(
        50000,
        "Records in the shuffle buffer of a dataset that can only be read sequentially.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    num_parallel_calls: int = fields.data(
        0,
        "Images preprocessed in parallel; 0 lets TensorFlow choose.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )

    image_size: int = fields.augmentation(
        224,
        "Side of the network's square input images, in pixels.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
        why="it is in pixels",
        auto=True,
    )
    color_jitter_strength: float = fields.augmentation(
        1.0,
        "Strength of the color jitter in pretraining: brightness, contrast and "
        "saturation vary by 0.8 times this, hue by 0.2 times this; 0 disables jitter "
        "and grayscale.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1.25]",
        why="the factor 1 - 0.8 * strength of contrast and saturation must not be negative",
        auto=True,
    )
    color_jitter_impl: str = fields.augmentation(
        "simclrv2",
        "Whether brightness is multiplied (simclrv2) or added to (simclrv1).",
        ("simclrv1", "simclrv2"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    use_blur: bool = fields.augmentation(
        True,
        "Blur half of the images in pretraining (Gaussian, sigma 0.1 to 2).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        auto=True,
    )
    crop_min_area: float = fields.augmentation(
        0.08,
        "Smallest random crop of a training image, as a fraction of its area; more than the "
        "published 0.08 if the objects fill small images.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="(0, 1]",
        auto=True,
    )
    flip: bool = fields.augmentation(
        True,
        "Mirror half of the training images left to right; not for digits.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    rotation_degrees: float = fields.augmentation(
        0.0,
        "Rotate training images by up to this many degrees either way.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 180]",
    )
    noise_std: float = fields.augmentation(
        0.0,
        "Standard deviation of Gaussian noise added to images in [0, 1].",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    cutout_size: float = fields.augmentation(
        0.0,
        "Side of the square that is masked, as a fraction of the image's side.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it is a fraction of the image's side",
    )
    sobel: bool = fields.augmentation(
        False,
        "Replace images by their edges (Sobel), in training and in evaluation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    resize: str = fields.augmentation(
        "half_pixel",
        "Pixel grid of every resize: half_pixel, as in the reference's TF2 program, or "
        "legacy, as in its TF1 program, which trained the released networks.",
        architecture.RESIZES,
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    train_batch_size: int = fields.training(
        512,
        "Images per training step over all replicas (each gives two views).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, inf)",
        auto=True,
    )
    train_epochs: int = fields.training(
        100,
        "Passes over the training images; train_steps overrides it.",
        scope=fields.PER_STAGE,
        identity=fields.LENGTH,
        range="[0, inf)",
        auto=True,
    )
    train_steps: int = fields.training(
        0,
        "Training steps; 0 uses train_epochs.",
        scope=fields.PER_STAGE,
        identity=fields.LENGTH,
        range="[0, inf)",
    )
    minutes: float = fields.training(
        0.0,
        "Time for all stages together, from which train_epochs=auto follows; 0 means 30 on a CPU "
        "and 240 on a GPU.",
        scope=fields.SHARED,
        identity=fields.FREE,
        range="[0, inf)",
    )
    warmup_epochs: float = fields.training(
        10.0,
        "Epochs over which the learning rate rises from 0 to its peak.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    learning_rate: float = fields.training(
        0.3,
        "The peak learning rate is this times train_batch_size / 256 under linear "
        "scaling (a rate per 256 images) and this times sqrt(train_batch_size) under "
        "sqrt scaling.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
        auto=True,
    )
    learning_rate_scaling: str = fields.training(
        "linear",
        "How the peak learning rate grows with train_batch_size; see learning_rate.",
        ("linear", "sqrt"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    optimizer: str = fields.training(
        "lars",
        "lars and lamb scale the update per layer; momentum is SGD with Nesterov momentum.",
        ("momentum", "adam", "lars", "lamb"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    momentum: float = fields.training(
        0.9,
        "Momentum of the optimizers lars and momentum.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    weight_decay: float = fields.training(
        1e-6,
        "Decay of the weights: coefficient of 0.5 * |w|^2. lars applies it to kernels in its own "
        "update (to the classifier's in the loss); with the other optimizers it is in the loss, "
        "on all weights but batch norm's.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    log_every_steps: int = fields.training(
        0,
        "Steps between progress lines and TensorBoard points; 0 chooses automatically.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    checkpoint_epochs: int = fields.training(
        1,
        "Epochs between checkpoints; checkpoint_steps overrides it. Where epochs are short, the "
        "default is at least a hundred steps or a twentieth of the training, on a labeled subset "
        "a twentieth.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    checkpoint_steps: int = fields.training(
        0,
        "Steps between checkpoints; 0 uses checkpoint_epochs.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    keep_checkpoint_max: int = fields.training(
        5,
        "Newest checkpoints to keep; the best one is also kept, under best/.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[1, inf)",
    )

    contrastive_loss: str = fields.loss(
        "ntxent",
        "Contrastive loss: ntxent (SimCLR's) or supcon (supervised contrastive, which needs "
        "labels); --contrastive_loss=help lists all.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    temperature: float = fields.loss(
        0.1,
        "Divisor of the similarities in the contrastive loss.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="(0, inf)",
        auto=True,
    )
    hidden_norm: bool = fields.loss(
        True,
        "Normalize embeddings to length 1, so that the contrastive loss compares cosines.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    lineareval_while_pretraining: bool = fields.loss(
        True,
        "While pretraining, also fit a linear classifier on the features; its gradient "
        "does not reach the backbone. Needs labels.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,  # the network is the same with or without it
    )

    lineareval_learning_rate: float = fields.loss(
        0.0,
        "Highest learning rate of that classifier, over the mean squared norm of the features: up "
        "to 1 suits every network. 0 uses the network's rate, with which its loss may explode, "
        "since LARS and momentum train it by plain momentum. No effect with adam and lamb.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )

    use_memory: bool = fields.memory(
        False,
        "Add a memory of negatives: a queue of embeddings of earlier batches, computed by a "
        "moving average of the network (SimCLRv2, section 2).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    memory_size: int = fields.memory(
        65536,
        "Embeddings in the memory; new ones replace the oldest.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    ema_decay: float = fields.memory(
        0.999,
        "Decay per step of the moving average of the weights.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
    )

    backbone: str = fields.model(
        "resnet",
        "Network below the projection head: resnet or efficientnet_b0; --backbone=help lists all.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
    )
    resnet_depth: int = fields.model(
        50,
        "ResNet depth: 18, 34, 50, 101, 152 or 200.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        auto=True,
    )
    width_multiplier: float = fields.model(
        1.0,
        "Width of the ResNet: 1, 2, 3, 4, or a fraction such as 0.25.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[0.0625, inf)",
        auto=True,
    )
    sk_ratio: float = fields.model(
        0.0,
        "Selective kernels: width of their bottleneck, and ResNet-D stem and "
        "shortcut. 0 for none; the released sk1 networks have 0.0625.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[0, 1]",
    )
    se_ratio: float = fields.model(
        0.0,
        "Squeeze-and-excitation: width of its bottleneck; 0 for none.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[0, 1]",
    )
    stem: str = fields.model(
        "auto",
        "First layers: imagenet (7x7, stride 2, pooling) or cifar (3x3, stride 1); "
        "auto means cifar up to image_size 32.",
        ("auto", *architecture.STEMS),
        scope=fields.NETWORK,
        identity=fields.TRAINS,
    )
    proj_head_mode: str = fields.model(
        "nonlinear",
        "Projection head between the features and the contrastive loss.",
        architecture.PROJ_HEAD_MODES,
        scope=fields.NETWORK,
        identity=fields.TRAINS,
    )
    num_proj_layers: int = fields.model(
        3,
        "Layers of the nonlinear projection head.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    proj_out_dim: int = fields.model(
        128,
        "Width of the projection head's output.",
        scope=fields.NETWORK,
        identity=fields.TRAINS,
        range="[1, inf)",
    )
    batch_norm_decay: float = fields.model(
        0.9,
        "Decay per step of batch norm's moving statistics.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1)",
    )
    global_bn: bool = fields.model(
        True,
        "Compute batch norm's statistics over the images of all replicas.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    ft_proj_selector: int = fields.finetuning(
        0,
        "Layer of the projection head that feeds the classifier: 0 the features before the "
        "head, 1 its first layer, -1 its last.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[-1, inf)",
        auto=True,
    )
    fine_tune_after_block: int = fields.finetuning(
        -1,
        "Freeze the network up to this block: -1 nothing, 0 the stem, 1 to 4 up to that "
        "block group; 4 is linear evaluation.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[-1, 4]",
        why="-1 trains everything, 4 only the classifier",
    )
    zero_init_logits_layer: bool = fields.model(
        False,
        "Initialize the classifier with zeros instead of small random numbers.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    restore_head: bool = fields.finetuning(
        False,
        "Restore the classifier from --checkpoint too.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    teacher: str = fields.distillation(
        "",
        "Network to learn from: a model_dir, checkpoint, or SavedModel with logits_sup; several, "
        "separated by commas, are averaged.",
        scope=fields.PER_STAGE,
        identity=fields.STARTS,
    )
    distill_temperature: float = fields.distillation(
        1.0,
        "Divisor of the logits of teacher and student in the distillation loss.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="(0, inf)",
    )
    distill_alpha: float = fields.distillation(
        1.0,
        "Weight of the distillation loss; the loss on labels has weight 1 minus this. 1 uses no "
        "labels.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
        why="it weighs the teacher's predictions against the labels",
    )
    distill_scale_by_t2: bool = fields.distillation(
        False,
        "Multiply the distillation loss by the squared temperature; the paper does not.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )

    eval_batch_size: int = fields.evaluation(
        256,
        "Images per evaluation step.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[1, inf)",
    )
    eval_steps: int = fields.evaluation(
        0,
        "Evaluation steps; 0 evaluates the whole split exactly.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[0, inf)",
    )
    eval_name: str | None = fields.evaluation(
        None,
        "Name of this evaluation's TensorBoard run, a directory below model_dir.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    eval_timeout: int = fields.evaluation(
        0,
        "Seconds that mode=eval waits for another checkpoint of an unfinished run; "
        "0 waits indefinitely.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )
    eval_knn: str = fields.evaluation(
        "auto",
        "Measure nearest-neighbor accuracy of the features; auto: after pretraining.",
        ("auto", "on", "off"),
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
    )
    probes: str = fields.evaluation(
        "knn,logistic",
        "Probes that mode=probe fits on frozen features, separated by commas: knn, logistic "
        "(L-BFGS, L2 strength chosen on a validation set), sgd.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    endpoint: str = fields.evaluation(
        "final_avg_pool",
        "Features that mode=probe and mode=embed use: an endpoint, or proj_0, proj_1, ... for "
        "the projection head's layers.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    output: str | None = fields.evaluation(
        None,
        "File that mode=embed (.npz or .parquet) or mode=predict (.csv) writes.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    knn_every_epochs: int = fields.evaluation(
        0,
        "Epochs between measurements of the features' nearest-neighbor accuracy while "
        "pretraining; 0 for none, -1 for about ten in all. Needs labels.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[-1, inf)",
    )
    knn_neighbors: int = fields.evaluation(
        20,
        "Number of neighbors k.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[1, inf)",
    )
    knn_bank_size: int = fields.evaluation(
        50000,
        "Maximum number of training images to search for neighbors.",
        scope=fields.PER_STAGE,
        identity=fields.RESULTS,
        range="[1, inf)",
    )
    plots: bool = fields.evaluation(
        True,
        "Draw the run after mode=train_then_eval, in model_dir/plots and for TensorBoard: curves, "
        "features (also in the projector), neighbors, similarities, confusion matrix.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    export: bool = fields.evaluation(
        True,
        "Export a SavedModel at the end of the run.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
    keep_hub_module_max: int = fields.evaluation(
        1,
        "Newest SavedModel exports to keep; 0 keeps all.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
        range="[0, inf)",
    )

    strategy: str = fields.machine(
        "auto",
        "Devices: one, mirrored over this machine's GPUs, multiworker "
        "(TF_CONFIG), or tpu; auto is mirrored on a machine with several GPUs.",
        ("auto", "one", "mirrored", "multiworker", "tpu"),
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    use_tpu: bool = fields.machine(
        False,
        "Same as --strategy=tpu.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    tpu_name: str | None = fields.machine(
        None,
        "Cloud TPU to use.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    tpu_zone: str | None = fields.machine(
        None,
        "Zone of the Cloud TPU.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    gcp_project: str | None = fields.machine(
        None,
        "Project of the Cloud TPU.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    master: str | None = fields.machine(
        None,
        "Address of the TPU, instead of tpu_name.",
        scope=fields.SHARED,
        identity=fields.FREE,
    )
    mixed_precision: str = fields.machine(
        "off",
        "bf16 computes in bfloat16, with losses in float32.",
        ("off", "bf16"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    jit_compile: bool = fields.machine(
        False,
        "Compile the training step with XLA; slower on a CPU.",
        scope=fields.PER_STAGE,
        identity=fields.FREE,
    )
