"""docs/extending.md: its code runs as it is shown, in order, and what it adds is trained."""

import json
import pathlib
import re
import runpy

import pytest
import small

from tf2 import backbones, modes, objective, resnet

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "extending.md"
REGISTRIES = (objective.CONTRASTIVE_LOSSES, backbones.BACKBONES, modes.TRAIN_MODES)


@pytest.fixture
def registries():
    """Removes what the page adds."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


def test_the_code_of_the_page_runs(registries, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # The loss and the train mode train on one convolution; the page's backbone is its own.
    monkeypatch.setattr(resnet, "ResNet", small.Backbone)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    program = tmp_path / "page.py"  # TensorFlow reads the source of what it traces
    program.write_text("\n".join(blocks))
    runpy.run_path(str(program))
    printed = capsys.readouterr().out
    assert (
        "['backbone/stem/0/kernel', 'backbone/stem/1/gamma']" in printed and "\n1280\n" in printed
    )
    for name, flag in (
        ("decoupled", "contrastive_loss"),
        ("shallow", "backbone"),
        ("smooth", "train_mode"),
    ):
        flags = json.loads((tmp_path / "runs" / name / "flags.json").read_text())
        assert flags[flag] == name
        assert (tmp_path / "runs" / name / "ckpt-2.index").exists()
