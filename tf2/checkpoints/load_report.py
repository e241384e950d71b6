"""Compares the weights of a checkpoint with those of a network, by name and shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from tf2 import variables

Shape = tuple[int, ...]


@dataclasses.dataclass
class LoadReport:
    """Which weights of a checkpoint are loaded into a network, and which are not.

    Attributes:
        matched: names of the weights to load.
        missing: names in the network that the checkpoint lacks.
        unexpected: names in the checkpoint that the network lacks.
        shape_mismatch: (name, shape in the checkpoint, shape in the network).
        not_needed: names of projection layers that the network does not have.
        head_skipped: names of the supervised head, left out on purpose.
        notes: sentences that say what was left out, and why.
    """

    matched: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    unexpected: list[str] = dataclasses.field(default_factory=list)
    shape_mismatch: list[tuple[str, Shape, Shape]] = dataclasses.field(default_factory=list)
    not_needed: list[str] = dataclasses.field(default_factory=list)
    head_skipped: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every weight on both sides is accounted for."""
        return not (self.missing or self.unexpected or self.shape_mismatch)

    def summary(self) -> str:
        """Returns one line: the counts, and the first names that do not match."""
        total = len(self.matched) + len(self.missing) + len(self.shape_mismatch)
        shapes = [f"{name} {_text(a)} for {_text(b)}" for name, a, b in self.shape_mismatch]
        parts = [
            f"{len(self.matched)}/{total} matched",
            _some("missing", self.missing),
            _some("unexpected", self.unexpected),
            _some("shape mismatch", shapes),
        ]
        return ", ".join(parts)

    def __str__(self) -> str:
        """Returns the whole report: the counts, the notes, and every name that does not match."""
        total = len(self.matched) + len(self.missing) + len(self.shape_mismatch)
        lines = [
            f"{len(self.matched)}/{total} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.shape_mismatch)} shape mismatch.",
            *(f"  {note}" for note in self.notes),
        ]
        rows = [(name, "missing in the checkpoint") for name in self.missing]
        rows += [(name, "not in the network") for name in self.unexpected]
        stored_width = max((len(_text(row[1])) for row in self.shape_mismatch), default=0)
        rows += [
            (name, f"checkpoint {_text(a):{stored_width}}  network {_text(b)}")
            for name, a, b in self.shape_mismatch
        ]
        width = max((len(name) for name, _ in rows), default=0)
        lines += [f"  {name:{width}}  {text}" for name, text in rows]
        return "\n".join(lines)


def compare(
    stored: Mapping[str, Shape], wanted: Mapping[str, Shape], *, restore_head: bool = False
) -> LoadReport:
    """Compares the weights of a checkpoint with those of a network.

    The supervised head is skipped unless `restore_head` is set (its classes are those of its
    training set), and if its number of classes differs. Projection layers after the one that
    fine-tuning starts from are not needed: the fine-tuning form does not have them.

    Args:
        stored: name -> shape in the checkpoint.
        wanted: name -> shape in the network.
        restore_head: whether to load the supervised head.
    """
    report = LoadReport()
    skip = _skip_head(stored, wanted, restore_head, report)
    for name, shape in wanted.items():
        if skip and variables.place(name) == "supervised_head":
            continue
        if name not in stored:
            report.missing.append(name)
        elif tuple(stored[name]) != tuple(shape):
            report.shape_mismatch.append((name, tuple(stored[name]), tuple(shape)))
        else:
            report.matched.append(name)
    for name in stored:
        place = variables.place(name)
        if place == "supervised_head" and skip:
            report.head_skipped.append(name)
        elif name not in wanted:
            unneeded = place == "projection_head"
            (report.not_needed if unneeded else report.unexpected).append(name)
    if report.not_needed:
        layers = sorted({name.split("/")[1] for name in report.not_needed}, key=int)
        report.notes.append(
            f"Projection layer {', '.join(layers)} of the checkpoint isn't needed: the network "
            "doesn't have it."
        )
    return report


def _skip_head(
    stored: Mapping[str, Shape], wanted: Mapping[str, Shape], restore_head: bool, report: LoadReport
) -> bool:
    """Returns whether to skip the supervised head; adds the reason to the notes."""
    in_checkpoint = {name: tuple(stored[name]) for name in stored if _in_head(name)}
    in_network = {name: tuple(wanted[name]) for name in wanted if _in_head(name)}
    if not in_checkpoint:
        return not restore_head
    classes = next(iter(in_checkpoint.values()))[-1]
    if not in_network:
        report.notes.append(
            f"The checkpoint's supervised head ({classes} classes) isn't loaded: the network has "
            "none."
        )
        return True
    if not restore_head:
        report.notes.append(
            f"The checkpoint's supervised head ({classes} classes) isn't loaded; --restore_head "
            "loads it."
        )
        return True
    wanted_classes = next(iter(in_network.values()))[-1]
    if classes != wanted_classes:
        report.notes.append(
            f"The supervised head isn't loaded: it has {classes} classes in the checkpoint and "
            f"{wanted_classes} in the network."
        )
        return True
    return False


def _in_head(name: str) -> bool:
    return variables.place(name) == "supervised_head"


def _some(what: str, items: Sequence[str]) -> str:
    shown = "; ".join(items[:3]) + ("; ..." if len(items) > 3 else "")
    return f"{len(items)} {what}" + (f" ({shown})" if items else "")


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
