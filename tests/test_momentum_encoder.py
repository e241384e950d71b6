"""The memory of negatives: its queue, its moving average, and its loss."""

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import model as model_lib
from tf2 import momentum_encoder, objective, variables

# Networks of one convolution with the real heads; test_distribute.py trains whole ResNets.
pytestmark = pytest.mark.usefixtures("one_convolution")


BUSY = {"optimizer": "momentum", "learning_rate": 0.1}  # large updates of every weight


def values(model):
    return {name: v.numpy() for name, v in variables.named_variables(model).items()}


def twin(model):
    """Returns a copy of the network."""
    copy = model_lib.SimCLR(**model.hyperparameters)
    for name, variable in variables.named_variables(copy).items():
        variable.assign(variables.named_variables(model)[name])
    return copy


# ---- the moving average


def test_an_empty_queue_and_decay_0_equal_plain_pretraining_exactly():
    batches = small.make_batches(5, 8, views=2)
    strategy = tf.distribute.get_strategy()
    plain, weights, slots = small.train(strategy, batches, use_blur=True, **BUSY)
    memory = {"memory_size": 0, "ema_decay": 0.0}
    history, held, momenta = small.train(strategy, batches, use_blur=True, **memory, **BUSY)
    for expected, found in zip(plain, history, strict=True):
        assert found.pop("memory_filled") == 0.0
        assert found == expected
    for name, value in weights.items():
        np.testing.assert_array_equal(held[name], value, err_msg=name)
    for name, value in slots.items():
        np.testing.assert_array_equal(momenta[name], value, err_msg=name)
    for name, value in weights.items():
        if not name.startswith("supervised_head") and "moving" not in name:
            np.testing.assert_array_equal(held[f"ema/{name}"], value, err_msg=name)


@pytest.mark.parametrize("decay", [0.0, 0.7, 0.99, 1.0])
def test_the_average_equals_its_closed_form(decay):
    """After k steps: decay^k w_0 + (1 - decay) sum_i decay^(k - i) w_i."""
    state = small.make_state(memory_size=6, ema_decay=decay, **BUSY)
    online = [values(state.model)]
    for batch in small.make_batches(6, 4, views=2):
        state.step(batch)
        online.append(values(state.model))
    k = len(online) - 1
    averaged = values(state.memory.encoder)
    assert not [name for name in averaged if name.startswith("supervised_head")]
    trained = [name for name in averaged if "moving" not in name]
    assert len(trained) == len(averaged) - 2 * 3  # two batch norms in the head, one before
    for name in trained:
        w = [weights[name].astype(np.float64) for weights in online]
        assert np.abs(w[0] - w[k]).max() > 1e-4, name
        expected = decay**k * w[0]
        expected += (1 - decay) * sum(decay ** (k - i) * w[i] for i in range(1, k + 1))
        if decay in (0.0, 1.0):
            np.testing.assert_array_equal(averaged[name], expected, err_msg=name)
        np.testing.assert_allclose(averaged[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_it_starts_at_the_networks_weights_and_has_its_own_statistics():
    """Both sets of batch norm statistics equal their closed forms."""
    state = small.make_state(memory_size=6, ema_decay=0.5, **BUSY)
    encoder, model = state.memory.encoder, state.model
    mean = {encoder: np.zeros(8), model: np.zeros(8)}
    variance = {encoder: np.ones(8), model: np.ones(8)}
    for batch in small.make_batches(4, 4, views=2):
        view_a, view_b = np.split(batch["image"], 2, axis=-1)
        for network, images in ((encoder, view_b), (model, np.concatenate([view_a, view_b]))):
            x = network.backbone.stem.conv(images).numpy().reshape(-1, 8).astype(np.float64)
            mean[network] = 0.9 * mean[network] + 0.1 * x.mean(0)
            variance[network] = 0.9 * variance[network] + 0.1 * x.var(0)
        state.step(batch)
        for network in mean:
            found = network.backbone.stem.bn
            np.testing.assert_allclose(
                np.asarray(found.moving_mean), mean[network], rtol=1e-4, atol=1e-6
            )
            np.testing.assert_allclose(
                np.asarray(found.moving_variance), variance[network], rtol=1e-4, atol=1e-6
            )
    assert np.abs(mean[encoder] - mean[model]).max() > 1e-3
    momentum_encoder.begin(state.memory, model)
    for name, value in values(encoder).items():
        np.testing.assert_array_equal(value, values(model)[name], err_msg=name)


# ---- the queue


def bare_memory(size, width):
    """Returns a memory without networks."""
    return momentum_encoder.Memory(
        encoder=None,
        decay=0.0,
        queue=momentum_encoder._replicated(tf.zeros([size, width]), "queue"),
        written=momentum_encoder._replicated(tf.zeros([], tf.int64), "written"),
        averages=[],
    )


class Ring:
    """A ring buffer in NumPy, written one row at a time."""

    def __init__(self, size, width):
        self.rows, self.next, self.filled = np.zeros((size, width), np.float32), 0, 0

    def enqueue(self, rows):
        for row in rows:
            self.rows[self.next] = row
            self.next = (self.next + 1) % len(self.rows)
            self.filled = min(self.filled + 1, len(self.rows))


@pytest.mark.parametrize(
    ("size", "batch"), [(12, 4), (4, 4), (10, 4), (67, 5), (3, 4), (7, 16), (1, 4), (5, 1)]
)
def test_the_queue_equals_a_ring_buffer_over_50_steps(size, batch):
    memory, ring = bare_memory(size, 3), Ring(size, 3)
    enqueue = tf.function(memory.enqueue)
    random = np.random.RandomState(0)
    for step in range(50):
        rows = random.standard_normal((batch, 3)).astype(np.float32)
        enqueue(tf.constant(rows))
        ring.enqueue(rows)
        np.testing.assert_array_equal(memory.queue.numpy(), ring.rows, err_msg=str(step))
        assert int(memory.filled()) == ring.filled
        assert int(memory.written.numpy()) == batch * (step + 1)


def test_a_queue_without_slots_stays_empty():
    memory = bare_memory(0, 3)
    memory.enqueue(tf.ones([4, 3]))
    assert memory.queue.shape == (0, 3) and int(memory.filled()) == 0


@pytest.mark.parametrize("replicas", [2, 4])
def test_every_replica_has_the_same_queue_in_order(replicas):
    strategy, ring = small.mirrored(replicas), Ring(10, 2)
    with strategy.scope():
        memory = bare_memory(10, 2)

    def step(rows):
        memory.enqueue(objective.gather(rows))
        return tf.identity(memory.queue), memory.filled()

    for number in range(4):
        parts = np.arange(6.0 * replicas).reshape(replicas, 3, 2).astype(np.float32) + 100 * number
        queues, filled = small.run_on(strategy, list(parts), step)
        ring.enqueue(parts.reshape(-1, 2))
        for r in range(replicas):
            np.testing.assert_array_equal(queues[r], ring.rows)
            assert int(filled[r]) == ring.filled
    assert len({int(v) for v in strategy.experimental_local_results(memory.written)}) == 1


# ---- the step


def nt_xent(hidden, negatives, temperature, normalize=True):
    """Twice SimCLR's equation 1 with additional negatives, in plain loops and float64."""
    z = hidden.astype(np.float64)
    if normalize:
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n, total = len(z) // 2, 0.0
    for i in range(2 * n):
        positive = z[i] @ z[(i + n) % (2 * n)] / temperature
        others = [z[i] @ z[k] / temperature for k in range(2 * n) if k != i]
        others += [z[i] @ row / temperature for row in negatives.astype(np.float64)]
        total += np.log(np.sum(np.exp(others))) - positive
    return total / n


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("slots", "filled"), [(7, None), (7, 7), (7, 3), (7, 0), (0, None)])
def test_the_loss_with_a_memory_is_nt_xent_with_additional_negatives(slots, filled, normalize):
    random = np.random.RandomState(1)
    hidden = random.standard_normal((6, 4)).astype(np.float32)
    memory = random.standard_normal((slots, 4)).astype(np.float32)
    memory /= np.linalg.norm(memory, axis=1, keepdims=True)
    queue = {"memory": memory, "memory_filled": filled}
    with tf.GradientTape() as tape:
        given = tf.constant(hidden)
        tape.watch(given)
        loss, logits, labels = objective.add_contrastive_loss(given, normalize, 0.5, **queue)
    counted = memory[: slots if filled is None else filled]
    np.testing.assert_allclose(loss, nt_xent(hidden, counted, 0.5, normalize), rtol=1e-5)
    assert logits.shape == (3, 3) and labels.shape == (3, 6)  # as without a memory
    gradient = tape.gradient(loss, given).numpy()
    base, step = hidden.astype(np.float64), 1e-6
    for index in np.ndindex(base.shape):
        up, down = base.copy(), base.copy()
        up[index] += step
        down[index] -= step
        slope = nt_xent(up, counted, 0.5, normalize) - nt_xent(down, counted, 0.5, normalize)
        np.testing.assert_allclose(gradient[index], slope / (2 * step), rtol=1e-3, atol=2e-6)


def test_a_step_contrasts_with_earlier_batches_and_enqueues_the_second_views():
    """As in MoCo's algorithm 1: the loss, then the queue, then the average."""
    size, temperature = 10, 0.2  # as small.make_state
    state = small.make_state(memory_size=size, ema_decay=0.5, num_classes=0, **BUSY)
    ring, losses = Ring(size, 16), []
    for batch in small.make_batches(4, 4, views=2):
        view_a, view_b = np.split(batch["image"], 2, axis=-1)
        network, encoder = twin(state.model), twin(state.memory.encoder)
        both = np.concatenate([view_a, view_b])
        hidden = network(both, training=True)["proj_head_output"].numpy()
        embedded = encoder(view_b, training=True)["proj_head_output"].numpy()
        scalars = state.step(batch)
        expected = nt_xent(hidden, ring.rows[: ring.filled], temperature)
        np.testing.assert_allclose(scalars["contrast_loss"], expected, rtol=1e-4)
        losses.append(float(scalars["contrast_loss"]) - nt_xent(hidden, ring.rows[:0], temperature))
        ring.enqueue(embedded / np.linalg.norm(embedded, axis=1, keepdims=True))
        np.testing.assert_allclose(state.memory.queue.numpy(), ring.rows, atol=1e-5)
        assert float(scalars["memory_filled"]) == pytest.approx(ring.filled / size)
    assert abs(losses[0]) < 1e-4 and min(losses[1:]) > 0.1  # each negative adds to the loss


def test_the_memory_has_no_gradient():
    state = small.make_state(memory_size=4)
    images = small.make_batches(1, 4, views=1)[0]["image"]
    weights = [variable for _, variable in state.memory.averages[:-1]]
    own = [average for average, _ in state.memory.averages]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(state.memory.embed(images))
    assert set(tape.gradient(loss, own + weights)) == {None}
    assert not {v.ref() for v in own} & {v.ref() for v in state.trained.values()}


@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_are_normalized_as_in_the_loss(normalize):
    state = small.make_state(memory_size=4)
    images = small.make_batches(1, 4, views=1)[0]["image"]
    lengths = np.linalg.norm(state.memory.embed(images, normalize), axis=1)
    assert np.allclose(lengths, 1.0, atol=1e-5) == normalize


@pytest.mark.parametrize(
    "head", [{"proj_head_mode": "none"}, {"proj_head_mode": "linear"}, {"num_proj_layers": 1}]
)
def test_the_queue_has_the_width_of_the_embeddings(head):
    state = small.make_state(memory_size=3, **head)
    state.step(small.make_batches(1, 4, views=2)[0])
    assert state.memory.queue.shape == (3, 8 if "none" in head.values() else 16)
    assert int(state.memory.filled()) == 3
