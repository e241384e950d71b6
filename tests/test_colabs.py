"""The notebooks: each runs to its end without network, and shows what it promises.

What a notebook promises is in its metadata: "simclr": {"promises": [patterns that its printed
output has], "pictures": least number of pictures}.
"""

import ast
import os
import pathlib
import re
import sys

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "colabs"))

import execute  # noqa: E402

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

INSTALL = """\
import importlib.util
import pathlib
import sys

if pathlib.Path("../tf2").is_dir():  # inside a clone: its code is used
    sys.path.insert(0, "..")
elif importlib.util.find_spec("tf2") is None:
    %pip install -q simclr-tf2"""
MOST_LINES_OF_A_DEFINITION, MOST_LINES_OF_A_CELL = 12, 30
SECONDS = 600  # for a cell, on a machine that does other things as well
# Of one machine: home directories, temporary ones, drives.
PATHS = re.compile(r"(?<![\w.:/])/(?:work|home|root|tmp|Users|content|usr|var|opt)/|\b[A-Z]:\\")


def outputs(notebook):
    """Returns all outputs, in order."""
    return [output for cell in execute.code_cells(notebook) for output in cell.outputs]


def told(notebook):
    """Returns all text that the outputs show."""
    texts = []
    for output in outputs(notebook):
        texts.append(output.get("text", ""))
        data = output.get("data", {})
        texts += [data.get("text/plain", ""), data.get("text/markdown", "")]
    return "\n".join(texts)


def pictures(notebook):
    """Counts the pictures among the outputs."""
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def broken_promises(notebook):
    """Returns what the outputs lack or have too much, as sentences."""
    promised = notebook.metadata.get("simclr", {})
    found = []
    if not promised.get("promises"):
        found.append("The metadata promises nothing.")
    text = told(notebook)
    for pattern in promised.get("promises", []):
        if not re.search(pattern, text, re.M):
            found.append(f"Nothing printed matches {pattern!r}.")
    if pictures(notebook) < promised.get("pictures", 1):
        found.append(f"There are {pictures(notebook)} pictures.")
    for output in outputs(notebook):
        if output.output_type == "error":
            found.append(f"An error: {output.ename}: {output.evalue}")
        elif output.get("name") == "stderr":
            found.append(f"On standard error: {output.text[:300]}")
    for pattern in (PATHS.pattern, re.escape(str(ROOT))):
        for path in re.finditer(rf".*(?:{pattern}).*", text):
            found.append(f"A path of this machine: {path[0]}")
    return found


def syntax(notebook):
    """Returns the trees of the cells' code, without the lines that are IPython's."""
    sources = [re.sub(r"^(\s*)[%!].*$", r"\1pass", c.source, flags=re.M)
               for c in execute.code_cells(notebook)]  # fmt: skip
    return [ast.parse(source) for source in sources]


def defined(trees):
    """Yields the functions and classes that are defined anywhere in some trees."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    yield from (node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds))


def package_names():
    """Returns the names of all functions and classes of the packages, but dunder names."""
    files = [*(ROOT / "tf2").glob("*.py"), *(ROOT / "checkpoints_tools").glob("*.py")]
    names = {node.name for node in defined(ast.parse(file.read_text()) for file in files)}
    return {name for name in names if not name.startswith("__")}


def faults(notebook):
    """Returns what is wrong with a notebook's sources, as sentences."""
    cells, found = execute.code_cells(notebook), []
    if not cells or cells[0].source != INSTALL:
        found.append("The first cell of code isn't the one that installs.")
    if any("%pip" in cell.source or "!pip" in cell.source for cell in cells[1:]):
        found.append("More than the first cell installs.")
    if not any("import tf2 as simclr" in cell.source for cell in cells):
        found.append("tf2 isn't imported.")
    for node in defined(syntax(notebook)):
        if node.end_lineno - node.lineno >= MOST_LINES_OF_A_DEFINITION:
            found.append(f"The definition of {node.name} is long: it belongs in the package.")
        if node.name in package_names():
            found.append(f"{node.name} is defined in the package: import it.")
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code" and (before is None or before.cell_type != "markdown"):
            found.append(f"No sentence stands before the cell {cell.source[:60]!r}.")
        if cell.cell_type == "code" and len(cell.source.splitlines()) > MOST_LINES_OF_A_CELL:
            found.append(f"The cell {cell.source[:60]!r} is long.")
        if PATHS.search(cell.source):
            found.append(f"A path of one machine in {cell.source[:60]!r}.")
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        found.append("There is no title.")
    elif "Colab" not in first.source:
        found.append("The title's cell doesn't say how to open it in Colab.")
    if "what next" not in notebook.cells[-1].source.lower():
        found.append("The end doesn't say what next.")
    return found


@every_notebook
def test_it_runs_without_network_and_keeps_its_promises(path, tmp_path):
    made = execute.execute(execute.read(path), tmp_path, timeout=SECONDS)
    assert broken_promises(made) == []


@every_notebook
def test_it_pastes_nothing_and_is_laid_out_like_the_others(path):
    assert faults(execute.read(path)) == []


@every_notebook
def test_the_outputs_in_it_are_whole_quiet_and_of_this_code(path):
    notebook = execute.read(path)
    nbformat.validate(notebook)
    assert broken_promises(notebook) == []
    counts = [cell.execution_count for cell in execute.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    kept = notebook.metadata.simclr.get("stamp")
    assert kept == execute.stamp(notebook), f"python colabs/execute.py colabs/{path.name}"


@every_notebook
def test_the_list_of_notebooks_has_it(path):
    assert f"`{path.name}`" in (ROOT / "colabs" / "README.md").read_text()


# ---- the checks themselves, on notebooks that break one rule each


def notebook(*sources, title="# A title\nOpen in Colab.", end="What next", **promises):
    """Makes a notebook of cells of code, the first two after a legal start."""
    cells = [nbformat.v4.new_markdown_cell(title)]
    for source in (INSTALL, "import tf2 as simclr", *sources):
        cells += [nbformat.v4.new_code_cell(source), nbformat.v4.new_markdown_cell("A sentence.")]
    cells[-1].source = end
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["simclr"] = {"promises": ["top-1"], "pictures": 0, **promises}
    return made


LONG = "def f():\n" + "    x = 1\n" * 12
BROKEN = [
    notebook(LONG),
    notebook(f"if True:\n    class A:\n{''.join('        y = 2' + chr(10) for _ in range(12))}"),
    notebook("def add_contrastive_loss(): pass"),
    notebook("%pip install -q other"),
    notebook("open('/home/me/x')"),
    notebook("x = 1\n" * 31),
    notebook(title="A title\nOpen in Colab."),
    notebook(title="# A title"),
    notebook(end="Done."),
]


def test_a_legal_notebook_has_no_faults():
    assert faults(notebook("def short(x):\n    return 'runs/digits'")) == []


@pytest.mark.parametrize("made", BROKEN, ids=range(len(BROKEN)))
def test_a_fault_is_found(made):
    assert len(faults(made)) == 1


def test_a_notebook_without_install_import_or_sentences_is_found():
    made = notebook("x = 1")
    without = [*made.cells]
    del without[1]
    made.cells = without
    assert "The first cell of code isn't the one that installs." in faults(made)
    made = notebook("x = 1")
    made.cells[3].source = "import tf2.model"
    assert faults(made) == ["tf2 isn't imported."]
    made = notebook("x = 1")
    del made.cells[4]
    assert len(faults(made)) == 1


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook that was run and prints on both streams."""
    made = notebook("print('top-1 90.0 %')", "import sys; print('Oh', file=sys.stderr)", "1 + 1")
    made.cells = made.cells[4:]  # without TensorFlow
    return execute.execute(made, tmp_path_factory.mktemp("executed"), timeout=SECONDS)


def test_execution_uses_this_interpreter_this_package_and_no_network(tmp_path):
    made = notebook(
        "import sys; print(sys.executable)",
        "print(simclr.__file__)",
        "import urllib.request, urllib.error\n"
        "try:\n    urllib.request.urlopen('https://storage.googleapis.com/')\n"
        "except urllib.error.URLError as error: print(error)",
    )
    text = told(execute.execute(made, tmp_path, timeout=SECONDS))
    interpreter, package, refusal = filter(None, text.splitlines())
    assert interpreter == sys.executable
    assert pathlib.Path(package) == ROOT / "tf2" / "__init__.py"
    assert "refused" in refusal


def test_what_is_printed_is_judged(executed):
    assert broken_promises(executed) == ["On standard error: Oh\n"]
    executed.metadata.simclr["promises"] = ["top-5"]
    executed.metadata.simclr["pictures"] = 1
    assert len(broken_promises(executed)) == 3
    executed.metadata.simclr = {}
    assert "The metadata promises nothing." in broken_promises(executed)


def test_a_path_of_the_machine_in_an_output_is_found(executed):
    outputs(executed)[0].text = f"top-1, in {ROOT}/x"
    assert any("A path" in line for line in broken_promises(executed))
    outputs(executed)[0].text = "top-1, in /home/me/x"
    assert any("A path" in line for line in broken_promises(executed))


def test_a_cell_that_fails_is_an_error_and_no_kernel_stays_behind(tmp_path):
    made = notebook("import os, pathlib; pathlib.Path('id').write_text(str(os.getpid()))", "1 / 0")
    made.cells = made.cells[4:]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        execute.execute(made, tmp_path, timeout=SECONDS)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "work" / "id").read_text()), 0)


def test_another_source_has_another_stamp():
    assert execute.stamp(notebook("x = 1")) != execute.stamp(notebook("x = 2"))
    first, second = notebook("x = 1"), notebook("x = 1")
    second.cells[-1].source = "Another text."
    assert execute.stamp(first) == execute.stamp(second)
