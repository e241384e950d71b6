"""Lists the released networks: `python -m checkpoints_tools.catalog [WORD ...]`."""

from __future__ import annotations

if not __package__:  # run as a script
    import script_path  # noqa: F401

from collections.abc import Sequence

from tf2.checkpoints import catalog


def table(words: Sequence[str] = ()) -> str:
    """Returns a table of the releases whose names contain all of the words."""
    rows = [("name", "top-1", "classifier on layer", "address")]
    for release in catalog.RELEASES.values():
        if all(word in release.name for word in words):
            layer = "0, online" if release.ft_proj_selector is None else release.ft_proj_selector
            layer = "unknown" if release.metadata is None else layer
            address = release.address + (" (inferred)" if release.inferred else "")
            rows.append((release.name, f"{release.accuracy}%", str(layer), address))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    from checkpoints_tools import cli

    cli.run(lambda arguments: print(table(arguments[1:])))
