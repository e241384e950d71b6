"""Runs the notebooks and keeps their outputs in them.

    python colabs/execute.py [NOTEBOOK ...]

Each runs in a new directory and without network, on the interpreter and the package of this clone,
as in the tests. Only a notebook that comes to its end is written.
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
# Nothing listens there: what asks for the network is refused at once.
NOWHERE = "http://127.0.0.1:9"
PROXIES = [name for plain in ("http_proxy", "https_proxy") for name in (plain, plain.upper())]


def read(path) -> nbformat.NotebookNode:
    """Reads a notebook."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    """Returns the cells of code that have any."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def stamp(notebook) -> str:
    """Returns a text that changes when the code does."""
    sources = json.dumps([cell.source for cell in code_cells(notebook)])
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def execute(notebook, directory, *, timeout: float | None = None) -> nbformat.NotebookNode:
    """Runs a notebook on this interpreter; returns a copy with outputs.

    Args:
        notebook: what `read` returns.
        directory: an empty directory to run in; nothing is written elsewhere.
        timeout: seconds that a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    directory = pathlib.Path(directory)
    about = directory / "jupyter"
    work = directory / "work"
    work.mkdir()
    _write_kernel(about / "kernels" / KERNEL["name"])
    # A kernel of our own: whatever kernels the user has don't count.
    specs = kernelspec.KernelSpecManager(
        kernel_dirs=[str(about / "kernels")], ensure_native_kernel=False
    )
    manager = jupyter_client.KernelManager(
        kernel_name=KERNEL["name"],
        kernel_spec_manager=specs,
        connection_file=str(about / "kernel.json"),
    )
    made = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        made,
        km=manager,
        timeout=timeout,
        startup_timeout=300,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(work)}},
    )
    try:
        client.execute(env=_environment(about), cwd=str(work))
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
    made.metadata.kernelspec = dict(KERNEL)
    made.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(c for c in made.cells if c.cell_type == "code"):
        cell.metadata.pop("execution", None)
        cell.execution_count = number + 1
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number + 1
    return made


def _write_kernel(directory: pathlib.Path) -> None:
    directory.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command.append("--IPKernelApp.log_level=ERROR")
    about = {"argv": command, "display_name": KERNEL["display_name"], "language": "python"}
    (directory / "kernel.json").write_text(json.dumps(about))


def _environment(about: pathlib.Path) -> dict[str, str]:
    """Returns the kernel's environment: this package, no network, none of the user's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # TensorFlow is to be as loud as it is for others.
        if name.lower() not in ("no_proxy", "tf_cpp_min_log_level", "simclr_mirror")
    }
    return {
        **kept,
        **dict.fromkeys(PROXIES, NOWHERE),
        "PYTHONPATH": str(HERE.parent),
        "IPYTHONDIR": str(about / "ipython"),
        "JUPYTER_CONFIG_DIR": str(about / "config"),
        "JUPYTER_RUNTIME_DIR": str(about / "runtime"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "SIMCLR_CACHE": "cache",  # where it runs, and empty
        "PYTHONWARNINGS": "",
    }


def refresh(path: pathlib.Path) -> None:
    """Runs a notebook and writes it with the outputs of that run."""
    with tempfile.TemporaryDirectory() as directory:
        made = execute(read(path), directory)
    made.metadata.setdefault("simclr", {})["stamp"] = stamp(made)
    nbformat.validate(made)
    text = nbformat.writes(made)
    path.write_text(text if text.endswith("\n") else f"{text}\n")


def main(names: list[str]) -> None:
    """Refreshes the notebooks that were named, or all."""
    for path in [pathlib.Path(n) for n in names] or sorted(HERE.glob("*.ipynb")):
        begin = time.monotonic()
        refresh(path)
        print(f"{path.name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", help="paths; all notebooks by default")
    main(parser.parse_args().notebooks)
