"""Flags: the memory of pretraining, and how stale its queue may be."""

import dataclasses
import math

from tf2.flags import fields

# Most that the average may change over the age of the queue: MoCo's settings give 0.26.
MOST_STALE = 0.25


@dataclasses.dataclass(frozen=True)
class Memory:
    """The memory of pretraining (SimCLRv2, section 2)."""

    use_memory: bool = fields.memory(
        False,
        "Add a memory of negatives: a queue of embeddings of earlier batches, computed by a "
        "moving average of the network (SimCLRv2, section 2).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    memory_loss: str = fields.memory(
        "momentum",
        "What an image is contrasted with: momentum, embeddings by the average only, of the batch "
        "and of the queue; hybrid, the batch as without a memory and, in a second cross entropy, "
        "the queue.",
        ("hybrid", "momentum"),
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
    )
    memory_weight: float = fields.memory(
        1.0,
        "Weight of the queue's cross entropy in memory_loss=hybrid.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
    )
    memory_views: int = fields.memory(
        1,
        "Views of each image that are enqueued: 1, the second one, or 2, both.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[1, 2]",
    )
    memory_size: int = fields.memory(
        65536,
        "Embeddings in the memory; new ones replace the oldest.",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, inf)",
        auto=True,
    )
    ema_decay: float = fields.memory(
        0.999,
        "Decay per step of the moving average of the weights; after t steps at most "
        "(1 + t) / (10 + t).",
        scope=fields.PER_STAGE,
        identity=fields.TRAINS,
        range="[0, 1]",
        auto=True,
    )


def staleness(size: int, decay: float, enqueued: int) -> float:
    """Returns about how much the average changes over the age of a queue, relative to the network.

    Args:
        size: slots of the queue.
        decay: of the average, per step.
        enqueued: embeddings per step.
    """
    return round((1 - decay) * size / enqueued, 4)


def largest_size(decay: float, enqueued: int) -> int:
    """Returns the slots of the largest queue that is not stale; see `staleness`."""
    return math.floor(round(MOST_STALE * enqueued / max(1 - decay, 1e-6), 4))


def least_decay(size: int, enqueued: int) -> float:
    """Returns the least decay, in steps of 0.0001, with which a queue is not stale."""
    return max(
        0.0, math.ceil(round(10_000 * (1 - MOST_STALE * enqueued / max(size, 1)), 4)) / 10_000
    )
