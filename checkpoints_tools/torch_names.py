"""Names and axes of weights in PyTorch, as functions of ours; PyTorch is not imported.

A state_dict has our names with dots: `backbone/block_group1/0/conv1/kernel` is
`backbone.block_group1.0.conv1.weight`. Kernels are (h, w, in, out) and (in, out) in TensorFlow,
(out, in, h, w) and (out, in) in PyTorch.
"""

from __future__ import annotations

# What we call a weight of a layer -> what PyTorch calls it.
ROLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_NORM_ROLES = {ROLES[role]: role for role in ("gamma", "beta", "moving_mean", "moving_variance")}
_OTHER_ROLES = {ROLES[role]: role for role in ("kernel", "bias")}


def state_name(our_name: str) -> str:
    """Returns the state_dict's name of a weight."""
    *path, role = our_name.split("/")
    return ".".join([*path, ROLES[role]])


def our_name(state_name: str) -> str:
    """Returns our name of an entry of the state_dict."""
    *path, role = state_name.split(".")
    roles = _NORM_ROLES if "bn" in path[-1] else _OTHER_ROLES
    return "/".join([*path, roles[role]])


def axes_from_torch(our_name: str, rank: int) -> tuple[int, ...] | None:
    """Returns the permutation that turns PyTorch's weight into ours; None where they agree."""
    if not our_name.endswith("/kernel"):
        return None
    return (2, 3, 1, 0) if rank == 4 else (1, 0)
