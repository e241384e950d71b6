"""Small networks and batches that several tests train on."""

import keras
import numpy as np
import tensorflow as tf

from tf2 import distribute as distribute_lib
from tf2 import model as model_lib
from tf2 import optimization, training, variables

IMAGE_SIZE = 16
CLASSES = 6


def make_batches(count, batch_size, *, views, channels=3, seed=0):
    """Makes `count` global batches as NumPy arrays.

    Images have coarse patches of their own: were they all alike, batch norm would blow rounding
    errors up to visible differences.
    """
    rng = np.random.RandomState(seed)
    cell = np.ones((1, IMAGE_SIZE // 4, IMAGE_SIZE // 4, 1))

    def batch():
        patches = np.kron(rng.uniform(size=(batch_size, 4, 4, channels)), cell)
        noise = rng.uniform(size=(views, batch_size, IMAGE_SIZE, IMAGE_SIZE, channels))
        images = np.concatenate([0.75 * patches + 0.25 * part for part in noise], axis=-1)
        labels = np.eye(CLASSES, dtype="float32")[rng.randint(0, CLASSES, batch_size)]
        return {"image": images.astype("float32"), "label": labels}

    return [batch() for _ in range(count)]


def make_state(
    *,
    train_mode="pretrain",
    optimizer="lars",
    learning_rate=3e-5,
    use_blur=False,
    global_bn=True,
    seed=1,
    **model_arguments,
):
    """Builds a narrow ResNet-18 with its optimizer and its step, weights fixed by the seed."""
    keras.utils.set_random_seed(seed)
    finetuning = train_mode == "finetune"
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
    if finetuning:

        def step(batch):
            return training.finetune_step(model, built, batch, **arguments)

    else:

        def step(batch):
            return training.pretrain_step(
                model, built, batch, temperature=0.2, use_blur=use_blur, **arguments
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
    )


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
    return history, weights, {name: v.numpy() for name, v in state.slots.items()}
