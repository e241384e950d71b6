"""The memory of pretraining: its queue, its moving average, and both of its losses."""

import numpy as np
import pytest
import small
import tensorflow as tf

from tf2 import config, momentum_encoder, objective, variables
from tf2 import model as model_lib

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


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.99])
def test_the_average_of_weights_and_statistics_follows_its_recurrence(decay):
    """With min(decay, (1 + t) / (10 + t)), t = 0, 1, ...: below 0.15, in part and wholly a ramp."""
    state = small.make_state(memory_size=6, ema_decay=decay, **BUSY)
    expected = {name: v.astype(np.float64) for name, v in values(state.memory.encoder).items()}
    assert not [name for name in expected if name.startswith("supervised_head")]
    for name, value in values(state.model).items():
        if name in expected:
            np.testing.assert_array_equal(expected[name], value, err_msg=name)
    for t, batch in enumerate(small.make_batches(4, 4, views=2)):
        state.step(batch)
        online, d = values(state.model), min(decay, (1 + t) / (10 + t))
        for name, value in expected.items():
            assert np.abs(online[name] - value).max() > 1e-6, name
            expected[name] = d * value + (1 - d) * online[name]
    averaged = values(state.memory.encoder)
    assert averaged.keys() == expected.keys() and any("moving" in name for name in averaged)
    for name, value in expected.items():
        if decay == 0:
            np.testing.assert_array_equal(averaged[name], value, err_msg=name)
        np.testing.assert_allclose(averaged[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


# ---- the queue


def bare_memory(size, width, views=1):
    """Returns a memory without networks."""
    return momentum_encoder.Memory(
        encoder=None,
        decay=0.0,
        loss="momentum",
        weight=1.0,
        views=views,
        queue=momentum_encoder._replicated(tf.zeros([size, width]), "queue"),
        ids=momentum_encoder._replicated(-tf.ones([size], tf.int64), "ids"),
        written=momentum_encoder._replicated(tf.zeros([], tf.int64), "written"),
        averages=[],
    )


class Ring:
    """A ring buffer in NumPy, written one row at a time."""

    def __init__(self, size, width):
        self.rows, self.ids = np.zeros((size, width), np.float32), np.full(size, -1)
        self.next = self.filled = 0

    def enqueue(self, keys, ids, views=1):
        """Writes keys (n, 2, width): of each image the second view, or both."""
        for both, number in zip(keys, ids, strict=True):
            for row in both if views == 2 else both[1:]:
                self.rows[self.next], self.ids[self.next] = row, number
                self.next = (self.next + 1) % len(self.rows)
                self.filled = min(self.filled + 1, len(self.rows))


def make_keys(random, count, width):
    return random.standard_normal((count, 2, width)).astype(np.float32)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(
    ("size", "batch"), [(12, 4), (4, 4), (10, 4), (67, 5), (3, 4), (7, 16), (1, 4), (5, 1)]
)
def test_the_queue_equals_a_ring_buffer_over_50_steps(size, batch, views):
    memory, ring = bare_memory(size, 3, views), Ring(size, 3)
    enqueue = tf.function(memory.enqueue)
    random = np.random.RandomState(0)
    for step in range(50):
        keys, ids = make_keys(random, batch, 3), random.randint(0, 99, batch)
        enqueue(tf.constant(keys), tf.constant(ids))
        ring.enqueue(keys, ids, views)
        np.testing.assert_array_equal(memory.queue.numpy(), ring.rows, err_msg=str(step))
        np.testing.assert_array_equal(memory.ids.numpy(), ring.ids, err_msg=str(step))
        assert int(memory.filled()) == ring.filled
        assert int(memory.written.numpy()) == views * batch * (step + 1)


def test_a_queue_without_slots_stays_empty():
    memory = bare_memory(0, 3)
    memory.enqueue(tf.ones([4, 2, 3]), tf.range(4, dtype=tf.int64))
    assert memory.queue.shape == (0, 3) and int(memory.filled()) == 0
    assert memory.excluded(tf.range(4, dtype=tf.int64)).shape == (4, 0)


def test_empty_slots_and_an_image_s_own_are_excluded_and_unknown_images_never():
    memory = bare_memory(5, 2)
    memory.ids.assign([7, -1, 8, 7, 9])  # the last two slots are empty
    memory.written.assign(3)
    excluded = memory.excluded(tf.constant([7, 8, 9, 5], tf.int64))
    expected = [[1, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    np.testing.assert_array_equal(excluded, expected)


@pytest.mark.parametrize("replicas", [2, 4])
def test_every_replica_has_the_same_queue_in_order(replicas):
    strategy, ring = small.mirrored(replicas), Ring(10, 2)
    with strategy.scope():
        memory = bare_memory(10, 2)

    def step(part):
        memory.enqueue(objective.gather(part["keys"]), objective.gather(part["ids"]))
        return tf.identity(memory.queue), tf.identity(memory.ids), memory.filled()

    random = np.random.RandomState(0)
    for _ in range(4):
        keys, ids = make_keys(random, 3 * replicas, 2), random.randint(0, 99, 3 * replicas)
        ours = [slice(3 * r, 3 * r + 3) for r in range(replicas)]
        parts = [{"keys": keys[own], "ids": ids[own]} for own in ours]
        queues, slots, filled = small.run_on(strategy, parts, step)
        ring.enqueue(keys, ids)
        for r in range(replicas):
            np.testing.assert_array_equal(queues[r], ring.rows)
            np.testing.assert_array_equal(slots[r], ring.ids)
            assert int(filled[r]) == ring.filled
    assert len({int(v) for v in strategy.experimental_local_results(memory.written)}) == 1


# ---- the losses


def cross_entropy(positive, negatives):
    return np.log(np.sum(np.exp([positive, *negatives]))) - positive


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def nt_xent(z, temperature):
    """Twice SimCLR's equation 1 of embeddings (2n, d), in plain loops and float64."""
    n, total = len(z) // 2, 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        others = [z[i] @ z[j] / temperature for j in range(2 * n) if j not in (i, p)]
        total += cross_entropy(z[i] @ z[p] / temperature, others)
    return total / n


def hybrid(z, k, queues, temperature, weight=1.0):
    """NT-Xent, and each embedding's key of the other view against its queue.

    Args:
        z, k: embeddings and keys (2n, d).
        queues: of each of the n images the rows that it is contrasted with.
        temperature, weight: numbers.
    """
    n, total = len(z) // 2, 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        negatives = [z[i] @ row / temperature for row in queues[i % n]]
        total += cross_entropy(z[i] @ k[p] / temperature, negatives)
    return nt_xent(z, temperature) + weight * total / n


def momentum(z, k, queues, temperature):
    """Each embedding against the keys of all views but itself, and its queue; as `hybrid`."""
    n, total = len(z) // 2, 0.0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        negatives = [z[i] @ k[j] / temperature for j in range(2 * n) if j not in (i, p)]
        negatives += [z[i] @ row / temperature for row in queues[i % n]]
        total += cross_entropy(z[i] @ k[p] / temperature, negatives)
    return total / n


def oracle(name, z, k, queues, temperature, weight):
    if name == "momentum":
        return momentum(z, k, queues, temperature)
    return hybrid(z, k, queues, temperature, weight)


def as_keys(k, queue, excluded):
    """Returns k (2n, d), the queue (m, d) and what is excluded (n, m) as the losses take them."""
    batch = np.stack(np.split(k, 2), axis=1)
    given = (tf.constant(v, tf.float32) for v in (batch, queue, excluded))
    return objective.Keys(*given)


def made_up(n, d, slots, filled, *, seed=1):
    """Returns z, k, queue, excluded (n, slots), and the rows that each image is left with."""
    random = np.random.RandomState(seed)
    z, k = random.standard_normal((2, 2 * n, d)).astype(np.float32)
    queue = unit(random.standard_normal((slots, d))).astype(np.float32)
    excluded = random.uniform(size=(n, slots)) < 0.3  # the image itself
    excluded |= np.arange(slots) >= filled
    return z, k, queue, excluded, [queue[~row] for row in excluded]


SLOTS = pytest.mark.parametrize(("slots", "filled"), [(7, 7), (7, 3), (7, 0), (0, 0)])
LOSSES = pytest.mark.parametrize("name", ["hybrid", "momentum"])


@LOSSES
@SLOTS
@pytest.mark.parametrize("normalize", [True, False])
def test_a_loss_and_its_gradient_are_those_of_plain_loops(name, slots, filled, normalize):
    z, k, queue, excluded, queues = made_up(3, 4, slots, filled)
    k = unit(k).astype(np.float32) if normalize else k

    def expected(hidden):
        return oracle(name, unit(hidden) if normalize else hidden, k, queues, 0.5, 0.7)

    with tf.GradientTape() as tape:
        given = tf.constant(z)
        tape.watch(given)
        keys = as_keys(k, queue, excluded)
        tape.watch((keys.batch, keys.queue))
        loss, logits, labels = objective.MEMORY_LOSSES[name](
            given, normalize, 0.5, keys=keys, weight=0.7
        )
    np.testing.assert_allclose(loss, expected(z.astype(np.float64)), rtol=1e-5)
    assert logits.shape == (3, 3) and labels.shape == (3, 6)  # as without a memory
    gradient = tape.gradient(loss, given).numpy()
    base, step = z.astype(np.float64), 1e-6
    for index in np.ndindex(base.shape):
        up, down = base.copy(), base.copy()
        up[index] += step
        down[index] -= step
        slope = (expected(up) - expected(down)) / (2 * step)
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-3, atol=2e-6)


@LOSSES
def test_replicas_together_are_one_process_for_a_memory_loss(name):
    n, d, temperature = 4, 5, 0.5
    z, k, queue, excluded, queues = made_up(n, d, 6, 5)
    k = unit(k).astype(np.float32)

    def step(part):
        keys = objective.Keys(objective.gather(part["keys"]), tf.constant(queue), part["excluded"])
        with tf.GradientTape() as tape:
            tape.watch(part["z"])
            loss = objective.MEMORY_LOSSES[name](
                part["z"], True, temperature, tf.distribute.get_strategy(), keys=keys
            )[0]
            share = loss / 2
        return loss, tape.gradient(share, part["z"])

    def rows(values, own):  # both views of a replica's images
        return np.concatenate([part[own] for part in np.split(values, 2)])

    parts = [
        {
            "z": rows(z, own),
            "keys": np.stack(np.split(rows(k, own), 2), axis=1),
            "excluded": excluded[own].astype(np.float32),
        }
        for own in (slice(0, 2), slice(2, 4))
    ]
    losses, gradients = small.run_on(small.mirrored(2), parts, step)
    expected = oracle(name, unit(z), k, queues, temperature, 1.0)
    np.testing.assert_allclose(np.mean(losses), expected, rtol=1e-5)
    with tf.GradientTape() as tape:
        given = tf.constant(z)
        tape.watch(given)
        loss = objective.MEMORY_LOSSES[name](
            given, True, temperature, keys=as_keys(k, queue, excluded)
        )[0]
    whole = tape.gradient(loss, given).numpy()
    for own, found in zip((slice(0, 2), slice(2, 4)), gradients, strict=True):
        np.testing.assert_allclose(found, rows(whole, own), atol=1e-6)


def test_the_momentum_loss_of_the_embeddings_themselves_is_nt_xent():
    z = unit(np.random.RandomState(0).standard_normal((8, 5))).astype(np.float32)
    keys = as_keys(z, np.zeros((0, 5)), np.zeros((4, 0)))
    loss, logits, _ = objective.add_momentum_loss(z, True, 0.3, keys=keys)
    plain, wanted, _ = objective.add_contrastive_loss(z, True, 0.3)
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    np.testing.assert_allclose(logits, wanted, atol=1e-6)


def test_the_flag_has_every_loss():
    assert config.choices(config.field("memory_loss")) == tuple(objective.MEMORY_LOSSES)


# ---- the step


def test_hybrid_without_queue_or_weight_is_pretraining_without_memory_to_the_digit():
    batches, strategy = small.make_batches(3, 8, views=2), tf.distribute.get_strategy()
    plain, weights, slots = small.train(strategy, batches, **BUSY)
    for memory in ({"memory_size": 0}, {"memory_size": 6, "memory_weight": 0.0}):
        memory["memory_loss"] = "hybrid"
        history, held, momenta = small.train(strategy, batches, **memory, **BUSY)
        for expected, found in zip(plain, history, strict=True):
            assert found.pop("memory_filled") == (1.0 if memory["memory_size"] else 0.0)
            assert found == expected
        for name, value in weights.items():
            np.testing.assert_array_equal(held[name], value, err_msg=name)
        for name, value in slots.items():
            np.testing.assert_array_equal(momenta[name], value, err_msg=name)


@LOSSES
@pytest.mark.parametrize("views", [1, 2])
def test_a_step_contrasts_with_earlier_batches_then_updates_queue_and_average(name, views):
    size, temperature = 10, 0.2  # as small.make_state
    state = small.make_state(
        memory_size=size, ema_decay=0.5, memory_loss=name, memory_weight=0.7,
        memory_views=views, num_classes=0, **BUSY,
    )  # fmt: skip
    ring, added = Ring(size, 16), []
    for batch in small.make_batches(4, 4, views=2):
        both = np.concatenate(np.split(batch["image"], 2, axis=-1))
        z = unit(twin(state.model)(both, training=True)["proj_head_output"].numpy())
        before = twin(state.memory.encoder)
        k = unit(before(both, training=False)["proj_head_output"].numpy())
        scalars = state.step(batch)
        own = [ring.rows[: ring.filled][ring.ids[: ring.filled] != i] for i in batch["id"]]
        expected = oracle(name, z, k, own, temperature, 0.7)
        np.testing.assert_allclose(scalars["contrast_loss"], expected, rtol=1e-4)
        without = oracle(name, z, k, [ring.rows[:0]] * 4, temperature, 0.7)
        added.append(expected - without)
        ring.enqueue(np.stack(np.split(k, 2), axis=1), batch["id"], views)
        np.testing.assert_allclose(state.memory.queue.numpy(), ring.rows, atol=1e-5)
        np.testing.assert_array_equal(state.memory.ids.numpy(), ring.ids)
        assert float(scalars["memory_filled"]) == pytest.approx(ring.filled / size)
    assert added[0] == 0 and min(added[1:]) > 0.05  # each negative adds to the loss


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
def test_keys_are_normalized_as_in_the_loss(normalize):
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
