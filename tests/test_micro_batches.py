"""Parts of a batch, one after another: the gradients of the whole batch, in one program a step.

Networks of one convolution with the real heads, in two steps with large updates.
"""

import functools

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import distribute, errors, loop, training

pytestmark = pytest.mark.usefixtures("one_convolution")

PLAIN = {"train_mode": "pretrain"}
MODES = {
    "pretrain": PLAIN,
    "lars": {**PLAIN, "optimizer": "lars"},
    "memory": {**PLAIN, "memory_size": 40, "memory_loss": "hybrid", "ema_decay": 0.5},
    "finetune": {"train_mode": "finetune"},
    "distill": {"train_mode": "distill"},
}


def modes(*default, slow=()):
    """Parametrizes a test by names of modes."""
    marked = [pytest.param(name, marks=pytest.mark.slow) for name in slow]
    return pytest.mark.parametrize("mode", [*default, *marked])


class InParts:
    """A network that takes its batch in parts within one gradient tape: the definition.

    A part has some rows of the first views and the same rows of the second ones.
    """

    def __init__(self, model, parts, views):
        self.model, self.parts, self.views = model, parts, views

    def __call__(self, images, training):
        of_views = [tf.split(view, self.parts) for view in tf.split(images, self.views)]
        parts = zip(*of_views, strict=True)
        outputs = [self.model(tf.concat(part, 0), training=training) for part in parts]

        def join(*of_parts):
            views = zip(*(tf.split(part, self.views) for part in of_parts), strict=True)
            return tf.concat([row for view in views for row in view], 0)

        return tf.nest.map_structure(join, *outputs)


def make(parts, *, train_mode, one_tape=False, **arguments):
    """Builds a network and its step in parts: ours, or `InParts` with the step for one part."""
    of_optimizer = {"optimizer": "momentum", "learning_rate": 0.05}
    state = small.make_state(train_mode=train_mode, **{**of_optimizer, **arguments})
    model, options = state.model, {"micro_batches": parts}
    if one_tape:
        model, options = InParts(model, parts, 2 if train_mode == "pretrain" else 1), {}
    if train_mode == "pretrain":
        of_head = [0.5 if v.shape[-1] == small.CLASSES else None for v in state.trained.values()]
        options |= {"temperature": 0.2, "memory": state.memory, "classifier_rates": of_head}
    if train_mode == "distill":
        options |= {"teacher": small.linear_teacher, "temperature": 2.0, "alpha": 0.7}
    options["trained"] = list(state.trained.values())
    options["l2_variables"] = [state.named[name] for name in state.masks.l2_in_loss]
    step = getattr(training, f"{train_mode}_step")
    state.step = lambda batch: step(model, state.optimizer, batch, weight_decay=1e-2, **options)
    return state


def batches(mode, count=2, size=12):
    """Makes batches in which some images have no label, more of them in the second half."""
    views = 2 if MODES[mode]["train_mode"] == "pretrain" else 1
    made = small.make_batches(count, size, views=views)
    for batch in made:
        batch["label"][[1, size - 4, size - 3, size - 1]] = 0.0
    return made


def train(mode, made, parts, replicas=1, jit_compile=False, **arguments):
    """Trains; returns each step's scalars, and all that a checkpoint holds after it."""
    strategy = small.mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        state = make(parts, **MODES[mode], **arguments)

    @tf.function
    def run(batch):
        return strategy.run(tf.function(state.step, jit_compile=jit_compile), args=(batch,))

    def values():
        held = {"": {"step": state.optimizer.iterations}, **state.checkpoint_variables()}
        del held["global_step"]
        return {f"{part}/{k}": v.numpy() for part, named in held.items() for k, v in named.items()}

    steps = []
    for batch in made:
        scalars = run(small.distribute(strategy, batch))
        means = {k: strategy.reduce("MEAN", v, axis=None).numpy() for k, v in scalars.items()}
        steps.append((means, values()))
    return steps


@functools.cache
def in_three_parts(mode):
    """Trains on one device, once for all comparisons."""
    return train(mode, batches(mode), 3)


def assert_same(expected, found, tolerance=1e-5):
    for theirs, ours in zip(expected, found, strict=True):
        theirs, ours = theirs[0] | theirs[1], ours[0] | ours[1]
        assert theirs.keys() == ours.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, 1e-5, tolerance, err_msg=name)


def of_the_batch(steps, moving_averages=True):
    """Leaves out measures of a replica's own images, and perhaps moving averages."""
    losses = ("_loss", "_entropy", "weight_decay")
    return [
        (
            {name: value for name, value in scalars.items() if name.endswith(losses)},
            {n: value for n, value in weights.items() if moving_averages or "moving_" not in n},
        )
        for scalars, weights in steps
    ]


@modes("memory", "finetune", slow=["pretrain", "lars", "distill"])
def test_parts_train_as_one_tape_over_all_of_them(mode):
    """Weights, slots, moving averages, the memory and all scalars. Slow: more modes."""
    expected = train(mode, batches(mode), 3, one_tape=True)
    assert_same(expected, in_three_parts(mode))
    before, after = (step[1] for step in expected)
    assert max(np.abs(after[k] - v).max() for k, v in before.items() if "kernel" in k) > 1e-3


@modes("finetune", slow=["pretrain", "distill"])
def test_batch_norm_spans_the_same_part_of_all_replicas(mode):
    """Two replicas train in two parts as one device on reordered images. Slow: more modes."""
    made = batches(mode, 1)
    parts_of_both = [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]
    in_order = [{name: value[parts_of_both] for name, value in batch.items()} for batch in made]
    expected = train(mode, in_order, 2, one_tape=True)
    assert_same(of_the_batch(expected), of_the_batch(train(mode, made, 2, replicas=2)))


@pytest.mark.slow
def test_a_memory_is_filled_by_the_parts_of_all_replicas():
    """With the queue and its order, as one tape on each replica."""
    made = batches("memory")
    expected = train("memory", made, 2, replicas=2, one_tape=True)
    assert_same(expected, train("memory", made, 2, replicas=2))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
@modes("pretrain", "lars", "finetune", "distill")
def test_parts_train_as_replicas_with_batch_norms_of_their_own(mode, parts):
    """As two or four real replicas, which update their moving averages once."""
    made = batches(mode, size=16)
    alone = of_the_batch(train(mode, made, parts), moving_averages=False)
    for replicas in {2, parts}:
        shared = train(mode, made, parts // replicas, replicas=replicas, global_bn=False)
        assert_same(alone, of_the_batch(shared, moving_averages=False))


@modes("memory", slow=["finetune", "distill"])
def test_a_step_in_parts_is_one_xla_program(mode):
    """Pretraining with a memory; slow: the other steps."""
    compiled = train(mode, batches(mode), 3, jit_compile=True)
    assert_same(in_three_parts(mode), compiled, 1e-4)


def test_nothing_is_traced_after_the_first_step():
    """Pretraining in parts with a memory, in the loop of a run."""
    state, traced = make(3, **MODES["memory"]), []

    def step(batch):
        traced.append(1)
        return state.step(batch)

    made = batches("memory", 4)
    stacked = {name: np.stack([batch[name] for batch in made]) for name in made[0]}
    iterator = iter(tf.data.Dataset.from_tensor_slices(stacked))
    run = loop.make_train_loop(tf.distribute.get_strategy(), step)
    run(iterator, 1)
    first = len(traced)
    run(iterator, 2)
    run(iterator, 1)
    assert len(traced) == first


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path, capsys):
    rule = "number of replicas, 2.*train_batch_size=32, micro_batches=3. Use --train_batch_size=30"
    with pytest.raises(errors.UserError, match=rule):
        distribute.check_batch("train_batch_size", 32, 2, 3)
    assert distribute.check_batch("train_batch_size", 36, 2, 3) == 18
    sentence = small.refusal(capsys, small.command(tmp_path, micro_batches=5))
    assert "train_batch_size=32, micro_batches=5" in sentence
