"""All flags of a run."""

import dataclasses

from tf2.flags import data, evaluation, job, network, training


@dataclasses.dataclass(frozen=True)
class Flags(
    evaluation.Evaluation, network.Network, training.Training, data.Data, job.Job
):  # a dataclass has the fields of its last base first
    """The flags of a run, in the order of --help."""
