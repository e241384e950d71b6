"""Small networks, batches and runs that several tests train on.

A test takes the cheapest of these that can fail for the fault in question (CPU seconds, of which
almost all is building and tracing graphs, not computing; starting TensorFlow takes 6 more):

    make_state(), train()      a step of a ResNet-18, without data, directory or command line
    run_config(), command()    flags of a run of 4 steps: 6 s with a ResNet, 9 s with evaluation
    one_convolution            a fixture: Backbone in place of the ResNet, the same runs in 1 to
                               3 s: `pytestmark = pytest.mark.usefixtures("one_convolution")`;
                               small_backbone does the same for one test
    one_block_per_group        a fixture: ResNet-18 with half of its blocks, for what needs a
                               ResNet's names and parts and not its depth
    pretrained_run             fixtures of the session, trained once for all processes: a model
    supervised_run             directory with checkpoint, results and export, to be read only
    refusal()                  a command line that ends with one sentence, in this process
    python -m, subprocess      only for what belongs to a process: signals, imports, exit codes
"""

import signal

import keras
import numpy as np
import tensorflow as tf

from tf2 import (
    config,
    loop,
    momentum_encoder,
    optimization,
    resnet,
    training,
    variables,
)
from tf2 import distribute as distribute_lib
from tf2 import model as model_lib
from tf2.checkpoints import checkpoint_reader

IMAGE_SIZE = 16
CLASSES = 6


# Flags of a run of a second or two. Color jitter and blur take half as long to trace as all else:
# test_data.py and test_distribute.py have them, and the runs of test_run.py and test_smoke.py.
FLAGS = {
    "dataset": "digits",
    "image_size": 16,
    "resnet_depth": 18,
    "width_multiplier": 0.125,
    "num_proj_layers": 2,
    "proj_out_dim": 16,
    "train_batch_size": 32,
    "train_steps": 4,
    "warmup_epochs": 0.0,
    "learning_rate": 0.1,
    "eval_split": "test",
    "flip": False,
    "color_jitter_strength": 0.0,
    "use_blur": False,
    "eval_knn": "off",
    "export": False,
    "plots": False,
    "log_every_steps": 1,
}


def run_config(model_dir, **changes):
    """Returns the configuration of a short run; None leaves a flag at its default."""
    flags = {**FLAGS, "model_dir": str(model_dir), **changes}
    return config.Config(**{name: value for name, value in flags.items() if value is not None})


def command(model_dir, **changes):
    """Returns the command line of a short run."""
    flags = {**FLAGS, "model_dir": str(model_dir), **changes}
    return ["run.py", *(f"--{name}={value}" for name, value in flags.items() if value is not None)]


def refusal(capsys, argv):
    """Runs a command line that has to be refused; returns its one sentence."""
    from tf2 import run

    capsys.readouterr()
    assert run.run_argv(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if not line.startswith("step ")]  # progress before it
    assert len(lines) == 1 and lines[0].startswith("run.py: "), lines
    return lines[0]


def saved(model_dir):
    """Returns all that the latest checkpoint holds, section/name -> array."""
    reader = checkpoint_reader.CheckpointReader(checkpoint_reader.find_checkpoint(str(model_dir)))
    sections = ("model", "optimizer", "ema", "memory")
    return {f"{s}/{name}": v for s in sections for name, v in reader.arrays(s).items()}


class SecondReport:
    """In place of `loop.StopSignal`: a signal that arrives with the second report."""

    def __init__(self):
        self.asked = 0

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda *_: None  # noqa: E731

    @property
    def received(self):
        self.asked += 1
        return signal.SIGTERM if self.asked == 2 else None


def assert_resumes_as_if_never_stopped(run, whole, stopped, monkeypatch):
    """Runs one directory through, stops and continues another, and compares all they saved."""
    run(whole)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopSignal", SecondReport)
        try:
            run(stopped)
        except loop.Interrupted as error:
            assert error.step == 2
        else:
            raise AssertionError("the run was not stopped")
    halfway = saved(stopped)
    run(stopped)
    expected, found = saved(whole), saved(stopped)
    assert expected.keys() == found.keys()
    assert any(np.any(halfway[name] != value) for name, value in expected.items())
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    return expected


class _Stem(keras.layers.Layer):
    def __init__(self, channels, features, momentum, synchronized, dtype):
        super().__init__(dtype=dtype)
        self.conv = keras.layers.Conv2D(features, 4, 4, use_bias=False, dtype=dtype)
        self.conv.build((None, None, None, channels))
        self.bn = resnet.BatchNormalization(
            features, momentum=momentum, synchronized=synchronized, dtype=dtype
        )
        self.built = True

    def call(self, images, training=False):
        return tf.nn.relu(self.bn(self.conv(images), training=training))


class Backbone(keras.layers.Layer):
    """In place of `resnet.ResNet`: one convolution with batch norm, built and traced at once."""

    def __init__(
        self, depth, *, width_multiplier, channels, frozen_blocks, batch_norm_decay, global_bn,
        dtype, **_
    ):  # fmt: skip
        super().__init__(dtype=dtype)
        self._frozen = frozen_blocks >= 0
        self.feature_dim = int(64 * width_multiplier)
        self.stem = _Stem(channels, self.feature_dim, batch_norm_decay, global_bn, dtype)
        self.built = True

    def call(self, images, training=False):
        features = self.stem(images, training=training and not self._frozen)
        features = tf.stop_gradient(features) if self._frozen else features
        return {"final_avg_pool": tf.reduce_mean(features * self._waves(features), [1, 2])}

    def _waves(self, features):
        """Weighs places, a cosine per feature, so that it matters where something is."""
        f = tf.range(features.shape[-1])

        def wave(size, turns):  # (size, number)
            places = (tf.range(tf.cast(size, tf.float32)) + 0.5) / tf.cast(size, tf.float32)
            return tf.cos(np.pi * places[:, tf.newaxis] * tf.cast(turns, tf.float32))

        y, x = wave(tf.shape(features)[1], f % 3), wave(tf.shape(features)[2], f // 3 % 3)
        return tf.cast(y[:, tf.newaxis] * x, features.dtype)  # (height, width, number)


def make_batches(count, batch_size, *, views, channels=3, seed=0):
    """Makes `count` global batches as NumPy arrays.

    Images have coarse patches of their own: were they all alike, batch norm would blow rounding
    errors up to visible differences. Half of the ids are those of the batch before.
    """
    rng = np.random.RandomState(seed)
    cell = np.ones((1, IMAGE_SIZE // 4, IMAGE_SIZE // 4, 1))

    def batch(number):
        patches = np.kron(rng.uniform(size=(batch_size, 4, 4, channels)), cell)
        noise = rng.uniform(size=(views, batch_size, IMAGE_SIZE, IMAGE_SIZE, channels))
        images = np.concatenate([0.75 * patches + 0.25 * part for part in noise], axis=-1)
        labels = np.eye(CLASSES, dtype="float32")[rng.randint(0, CLASSES, batch_size)]
        ids = np.arange(batch_size) + number * (batch_size // 2)
        return {"image": images.astype("float32"), "label": labels, "id": ids}

    return [batch(number) for number in range(count)]


def make_state(
    *,
    train_mode="pretrain",
    optimizer="lars",
    learning_rate=3e-5,
    use_blur=False,
    global_bn=True,
    seed=1,
    memory_size=None,
    ema_decay=0.9,
    memory_loss="momentum",
    memory_weight=1.0,
    memory_views=1,
    teacher=None,
    distill=None,
    **model_arguments,
):
    """Builds a narrow ResNet-18 with its optimizer and its step, weights fixed by the seed.

    A `memory_size` gives pretraining a memory. The teacher of train_mode 'distill' is
    `linear_teacher` by default; `distill` holds further arguments of `training.distill_step`.
    """
    keras.utils.set_random_seed(seed)
    finetuning = train_mode in ("finetune", "distill")
    arguments = {
        "depth": 18,
        "width_multiplier": 0.125,
        "num_classes": CLASSES,
        "num_proj_layers": 2,
        "proj_out_dim": 16,
        "stem": "cifar",
        "global_bn": global_bn,
        "ft_proj_selector": 1 if finetuning else None,
    }
    model = model_lib.SimCLR(**{**arguments, **model_arguments})
    named = variables.named_variables(model)
    rng = np.random.RandomState(seed)
    for name, variable in named.items():  # no zero gammas, so that every block takes part
        if variables.role(name) == "gamma":
            variable.assign(1.0 + 0.1 * rng.standard_normal(variable.shape))
    masks = optimization.build_masks(
        named,
        optimizer=optimizer,
        weight_decay=1e-4,
        fine_tune_after_block=model.hyperparameters["fine_tune_after_block"],
    )
    schedule = optimization.WarmUpAndCosineDecay(learning_rate, 100)
    built = optimization.make_optimizer(optimizer, schedule, weight_decay=1e-4)
    trained = {name: named[name] for name in masks.trained}
    slots = optimization.build_slots(built, trained)
    arguments = {
        "trained": list(trained.values()),
        "l2_variables": [named[name] for name in masks.l2_in_loss],
        "weight_decay": 1e-4,
    }
    memory = None
    if memory_size is not None:
        memory = momentum_encoder.make_memory(
            model,
            size=memory_size,
            decay=ema_decay,
            loss=memory_loss,
            weight=memory_weight,
            views=memory_views,
        )
    if train_mode == "distill":
        arguments.update(teacher=teacher or linear_teacher, **(distill or {}))

        def step(batch):
            return training.distill_step(model, built, batch, **arguments)

    elif finetuning:

        def step(batch):
            return training.finetune_step(model, built, batch, **arguments)

    else:

        def step(batch):
            return training.pretrain_step(
                model, built, batch, temperature=0.2, use_blur=use_blur, memory=memory, **arguments
            )

    return training.TrainState(
        model=model,
        optimizer=built,
        schedule=schedule,
        named=named,
        trained=trained,
        slots=slots,
        masks=masks,
        step=step,
        global_step=tf.Variable(0, dtype=tf.int64),
        memory=memory,
    )


def linear_teacher(images):
    """Maps images to probabilities of the classes: a fixed linear function of their means."""
    means = tf.reduce_mean(images, [1, 2])  # (n, c)
    directions = np.random.RandomState(3).standard_normal((means.shape[-1], CLASSES)) * 20.0
    return tf.nn.softmax(tf.matmul(means - 0.5, directions.astype("float32")))


def mirrored(replicas):
    """Returns a strategy over logical CPUs."""
    return distribute_lib.mirrored([f"/cpu:{i}" for i in range(replicas)])


def run_on(strategy, parts, step):
    """Runs a step on one part per replica; returns the results as tuples over the replicas."""
    given = strategy.experimental_distribute_values_from_function(
        lambda c: tf.nest.map_structure(tf.constant, parts[c.replica_id_in_sync_group])
    )

    @tf.function
    def run(value):
        return strategy.run(step, args=(value,))

    return tf.nest.map_structure(strategy.experimental_local_results, run(given))


def distribute(strategy, batch):
    """Gives each replica its part of a global batch, in order."""
    replicas = strategy.num_replicas_in_sync

    def part(context):
        r = context.replica_id_in_sync_group
        return {name: tf.constant(np.split(value, replicas)[r]) for name, value in batch.items()}

    return strategy.experimental_distribute_values_from_function(part)


def train(strategy, batches, *, jit_compile=False, **kwargs):
    """Trains on global batches; returns each step's scalars, the weights and the momenta.

    With a memory, the weights hold it too, under ema/ and memory/.

    The rate is small on purpose: with larger ones rounding errors grow tenfold per step.
    """
    with strategy.scope():
        state = make_state(**kwargs)

    @tf.function
    def run(batch):
        step = tf.function(state.step, jit_compile=jit_compile)
        return strategy.run(step, args=(batch,))

    history = []
    for batch in batches:
        scalars = run(distribute(strategy, batch))
        history.append(
            {k: float(strategy.reduce("MEAN", v, axis=None)) for k, v in scalars.items()}
        )
    weights = {name: v.numpy() for name, v in state.named.items()}
    if state.memory is not None:
        for replica in strategy.experimental_local_results(state.memory.queue):
            np.testing.assert_array_equal(replica.numpy(), state.memory.queue.numpy())
        for section, held in state.memory.checkpoint_variables().items():
            weights.update({f"{section}/{name}": v.numpy() for name, v in held.items()})
    return history, weights, {name: v.numpy() for name, v in state.slots.items()}
