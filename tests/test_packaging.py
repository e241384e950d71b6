"""The wheel: its files, its command and what a package index shows."""

import configparser
import email
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from tf2 import recipe, version

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds a wheel from a copy of the sources, without network."""
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    for name in ("tf2", "checkpoints_tools"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next((source / "dist").glob("*.whl"))


def test_the_wheel_has_every_module_and_recipe(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        str(path.relative_to(ROOT))
        for package in ("tf2", "checkpoints_tools")
        for path in (ROOT / package).rglob("*.py")
    }
    recipes = {f"tf2/recipes/{path.name}" for path in recipe.RECIPES.glob("*.flags")}
    assert modules | recipes <= names
    assert not any(name.startswith(("tests", "docs", "colabs")) for name in names)


def test_the_wheel_has_the_command_and_says_what_it_supports(wheel):
    files = zipfile.ZipFile(wheel)
    info = next(name for name in files.namelist() if name.endswith("/METADATA"))
    commands = configparser.ConfigParser()
    commands.read_string(files.read(info.replace("METADATA", "entry_points.txt")).decode())
    assert commands["console_scripts"]["simclr"] == "tf2.run:cli"
    metadata = email.message_from_bytes(files.read(info))
    assert metadata["Version"] == version.__version__
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in metadata.get_all("Classifier")
    assert all(version.REPOSITORY in url for url in metadata.get_all("Project-URL"))
    extras = {"addons", "browser", "colab", "cuda", "dev", "docs", "hub", "litert", "onnx"}
    extras |= {"heic", "test", "torch"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    text = metadata.get_payload()
    assert "](docs/" not in text and f"]({version.REPOSITORY}/blob/main/docs/" in text


@pytest.mark.slow
def test_an_installed_wheel_runs(wheel, tmp_path, monkeypatch):
    """In an environment of its own, outside of the clone, by the console script: the recipes are
    found in the wheel. The requirements are those of this environment."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # the clone, perhaps
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    site = next(environment.glob("lib/python*/site-packages"))
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (site / "requirements.pth").write_text("\n".join(packages))
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--force-reinstall", wheel], check=True, capture_output=True)
    command = [
        environment / "bin" / "simclr", "--mode=train_then_eval", "--recipe=digits",
        "--train_mode=pretrain", "--train_steps=2", "--plots=False",
        f"--model_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "result.json").exists()
    where = [environment / "bin" / "python", "-c", "import tf2; print(tf2.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(site))
