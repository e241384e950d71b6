"""Runs the notebooks and stores their outputs in them.

    python colabs/execute.py [NOTEBOOK ...]

Each runs in a new directory and without network access, with this interpreter and the package of
this clone, as in the tests. A notebook is written only if all of its cells succeed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time

import jupyter_client
import nbclient
import nbformat
from jupyter_client import kernelspec

HERE = pathlib.Path(__file__).resolve().parent
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
# Nothing listens at this address, so that a connection is refused at once.
UNREACHABLE = "http://127.0.0.1:9"
PROXIES = [name for plain in ("http_proxy", "https_proxy") for name in (plain, plain.upper())]


def read(path) -> nbformat.NotebookNode:
    """Reads a notebook."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    """Returns the code cells that are not empty."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def stamp(notebook) -> str:
    """Returns a hash of the code, stored with the outputs to detect outdated ones."""
    sources = json.dumps([cell.source for cell in code_cells(notebook)])
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def execute(notebook, directory, *, timeout: float | None = None) -> nbformat.NotebookNode:
    """Runs a notebook with this interpreter; returns a copy with outputs.

    Args:
        notebook: what `read` returns.
        directory: an empty directory to run in; nothing is written elsewhere.
        timeout: seconds per cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an exception.
    """
    directory = pathlib.Path(directory)
    jupyter = directory / "jupyter"
    work = directory / "work"
    work.mkdir()
    _write_kernel(jupyter / "kernels" / KERNEL["name"])
    # Our own kernel, so that the user's kernels have no effect.
    specs = kernelspec.KernelSpecManager(
        kernel_dirs=[str(jupyter / "kernels")], ensure_native_kernel=False
    )
    manager = jupyter_client.KernelManager(
        kernel_name=KERNEL["name"],
        kernel_spec_manager=specs,
        connection_file=str(jupyter / "kernel.json"),
    )
    executed = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        executed,
        km=manager,
        timeout=timeout,
        startup_timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(work)}},
    )
    try:
        client.execute(env=_environment(jupyter), cwd=str(work))
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
    executed.metadata.kernelspec = dict(KERNEL)
    executed.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(c for c in executed.cells if c.cell_type == "code"):
        cell.metadata.pop("execution", None)
        cell.execution_count = number + 1
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number + 1
    return executed


def _write_kernel(directory: pathlib.Path) -> None:
    directory.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command.append("--IPKernelApp.log_level=ERROR")
    spec = {"argv": command, "display_name": KERNEL["display_name"], "language": "python"}
    (directory / "kernel.json").write_text(json.dumps(spec))


def _environment(jupyter: pathlib.Path) -> dict[str, str]:
    """Returns the kernel's environment: this package, no network, no settings of the user."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # TensorFlow logs what it logs by default.
        if name.lower() not in ("no_proxy", "tf_cpp_min_log_level", "simclr_mirror")
    }
    return {
        **inherited,
        **dict.fromkeys(PROXIES, UNREACHABLE),
        "PYTHONPATH": str(HERE.parent),
        "IPYTHONDIR": str(jupyter / "ipython"),
        "JUPYTER_CONFIG_DIR": str(jupyter / "config"),
        "JUPYTER_RUNTIME_DIR": str(jupyter / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "SIMCLR_CACHE": "cache",  # an empty one, in the working directory
        "PYTHONWARNINGS": "",
    }


def refresh(path: pathlib.Path) -> None:
    """Runs a notebook and writes it with its new outputs."""
    with tempfile.TemporaryDirectory() as directory:
        executed = execute(read(path), directory)
    executed.metadata.setdefault("simclr", {})["stamp"] = stamp(executed)
    nbformat.validate(executed)
    text = nbformat.writes(executed)
    path.write_text(text if text.endswith("\n") else f"{text}\n")


def main(names: list[str]) -> None:
    """Refreshes the given notebooks, or all."""
    for path in [pathlib.Path(name) for name in names] or sorted(HERE.glob("*.ipynb")):
        start = time.monotonic()
        refresh(path)
        print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", help="paths; all notebooks by default")
    main(parser.parse_args().notebooks)
