"""Describes a checkpoint of any format.

    python -m checkpoints_tools.inspect SRC

The architecture is read from its model.json, or else inferred from names and shapes.
"""

from __future__ import annotations

if not __package__:  # run as a script
    import script_path  # noqa: F401

from collections.abc import Mapping

import numpy as np

from checkpoints_tools import network as network_lib
from tf2 import architecture as architecture_lib
from tf2.checkpoints import layouts


def name_of(architecture: Mapping) -> str:
    """Returns the paper's name of a network: `r50_1x_sk1`; sk1 has selective kernels."""
    squeezed = int(architecture["sk_ratio"] > 0)
    return f"r{architecture['depth']}_{architecture['width_multiplier']:g}x_sk{squeezed}"


def inspect(path: str) -> dict:
    """Describes a checkpoint.

    Returns:
        format, name, architecture, heads, projection_layers, step, parameters (of the backbone, the
        heads and all; moving statistics count, as in the paper), momenta.

    Raises:
        errors.UserError: see `network_lib.read`.
    """
    network = network_lib.read(path)
    architecture = network.metadata["architecture"]
    sizes = {"backbone": 0, "projection_head": 0, "supervised_head": 0}
    for name, shape in layouts.weights(architecture).items():
        sizes[name.split("/", 1)[0]] += int(np.prod(shape))
    return {
        "format": network.format.name,
        "name": name_of(architecture),
        "architecture": dict(architecture),
        "heads": [head for head in ("projection_head", "supervised_head") if sizes[head]],
        "projection_layers": architecture_lib.projection_layers(architecture)[1],
        "step": network.metadata["global_step"],
        "parameters": {**sizes, "all": sum(sizes.values())},
        "momenta": len(network.slots),
    }


def table(description: Mapping) -> str:
    """Returns a description by `inspect` as lines of text."""
    architecture = description["architecture"]
    selector = architecture["ft_proj_selector"]
    head = f"{architecture['num_classes']} classes, on projection layer {selector or 0}"
    if selector is None:
        head += " (as far as shapes tell)"
    rows = [
        ("format", description["format"]),
        ("network", description["name"]),
        ("sk_ratio, se_ratio", f"{architecture['sk_ratio']}, {architecture['se_ratio']}"),
        ("stem, channels", f"{architecture['stem']}, {architecture['channels']}"),
        (
            "projection layers",
            f"{description['projection_layers']} ({architecture['proj_head_mode']})",
        ),
        ("supervised head", head if architecture["num_classes"] else "none"),
        ("step", description["step"]),
        ("parameters", f"{description['parameters']['all']:,}"),
        *(
            (f"  {part}", f"{n:,}")
            for part, n in description["parameters"].items()
            if part != "all"
        ),
        ("momenta", description["momenta"]),
    ]
    return "\n".join(f"{name:<20} {value}" for name, value in rows)


if __name__ == "__main__":
    from checkpoints_tools import cli

    def main(arguments: list[str]) -> None:
        """Runs the command line."""
        cli.check_arguments(arguments, 1, "inspect takes one checkpoint.", "Write: inspect SRC.")
        print(table(inspect(arguments[1])))

    cli.run(main)
