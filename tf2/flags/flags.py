"""All flags of a run."""

import dataclasses

from tf2.flags import data, evaluation, job, memory, network, training


@dataclasses.dataclass(frozen=True)
class Flags(  # a dataclass has the fields of its last base first
    evaluation.Evaluation,
    network.Network,
    memory.Memory,
    training.Training,
    data.Data,
    job.Job,
):
    """The flags of a run, in the order of --help."""
