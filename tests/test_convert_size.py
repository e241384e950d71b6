"""Large checkpoints convert in little more memory than their weights take."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

SUFFIX = {"safetensors": ".safetensors", "pytorch": ".pth"}
PROGRAM = pathlib.Path(__file__).parent / "convert_program.py"


def run(*arguments):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), [("r50_1x_sk0", 15), ("r152_3x_sk1", 180)])
def test_time_and_memory_of_a_conversion(name, seconds, tmp_path):
    if shutil.disk_usage(tmp_path).free < 12e9:
        pytest.skip("needs 12 GB of disk space")
    source = tmp_path / "source"
    size = run("make", name, source)["bytes"]
    for to in ("ours", "safetensors", "pytorch", "tf1"):
        path = tmp_path / (to + SUFFIX.get(to, ""))
        found = run("convert", source, path, to)
        share = found["peak"] / size
        print(f"{name} to {to}: {found['seconds']:.1f} s, peak {share:.2f} of the weights")
        assert found["seconds"] < seconds
        # TensorFlow itself takes some hundred megabytes, which is much beside a small network.
        assert share < 1.3 or size < 1e9
        shutil.rmtree(source) if source.is_dir() else source.unlink()
        source = path
    assert run("check", source)["bytes"] == size
