"""The notebooks: each runs without network access and shows what its metadata promises.

The metadata of a notebook has "simclr": {"promises": [patterns that its printed output must
match], "figures": least number of figures, "stamp": hash of the code that gave the outputs}.
"""

import ast
import importlib
import os
import pathlib
import re
import sys

import nbclient
import nbformat
import pytest

from tf2 import config, version

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "colabs"))

import execute  # noqa: E402

NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
FASTEST = ROOT / "colabs" / "imagenet_results.ipynb"

INSTALL = f"""\
import importlib.util
import pathlib
import sys

if pathlib.Path("../tf2").is_dir():  # in a clone: use its code
    sys.path.insert(0, "..")
elif importlib.util.find_spec("tf2") is None:
    %pip install -q git+{version.REPOSITORY}"""
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{}/blob/main/colabs/{}.ipynb)"
)
MAX_DEFINITION_LINES, MAX_CELL_LINES = 12, 30
SECONDS = 600  # for a cell, on a busy machine
# Of one machine: home directories, temporary ones, drives.
PATHS = re.compile(r"(?<![\w.:/])/(?:work|home|root|tmp|Users|content|usr|var|opt)/|\b[A-Z]:\\")


def outputs(notebook):
    """Returns all outputs, in order."""
    return [output for cell in execute.code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    """Returns all text of the outputs."""
    texts = []
    for output in outputs(notebook):
        texts.append(output.get("text", ""))
        data = output.get("data", {})
        texts += [data.get("text/plain", ""), data.get("text/markdown", "")]
    return "\n".join(texts)


def count_figures(notebook):
    """Returns the number of figures among the outputs."""
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def broken_promises(notebook):
    """Returns what is missing in the outputs or should not be there, as sentences."""
    promised = notebook.metadata.get("simclr", {})
    problems = []
    if not promised.get("promises"):
        problems.append("The metadata promises nothing.")
    text = printed(notebook)
    for pattern in promised.get("promises", []):
        if not re.search(pattern, text, re.M):
            problems.append(f"No printed line matches {pattern!r}.")
    if count_figures(notebook) < promised.get("figures", 1):
        problems.append(f"There are {count_figures(notebook)} figures.")
    for output in outputs(notebook):
        if output.output_type == "error":
            problems.append(f"An error: {output.ename}: {output.evalue}")
        elif output.get("name") == "stderr":
            problems.append(f"On standard error: {output.text[:300]}")
    for pattern in (PATHS.pattern, re.escape(str(ROOT))):
        for path in re.finditer(rf".*(?:{pattern}).*", text):
            problems.append(f"A path of this machine: {path[0]}")
    return problems


def syntax_trees(notebook):
    """Returns the syntax trees of the code cells, without IPython's own lines."""
    sources = [re.sub(r"^(\s*)[%!].*$", r"\1pass", c.source, flags=re.M)
               for c in execute.code_cells(notebook)]  # fmt: skip
    return [ast.parse(source) for source in sources]


def definitions(trees):
    """Yields the functions and classes that are defined anywhere in some trees."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    yield from (node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds))


def package_names():
    """Returns the names of all functions and classes of the packages, except dunder names."""
    files = [*(ROOT / "tf2").rglob("*.py"), *(ROOT / "checkpoints_tools").rglob("*.py")]
    names = {node.name for node in definitions(ast.parse(file.read_text()) for file in files)}
    return {name for name in names if not name.startswith("__")}


def faults(notebook, name="name"):
    """Returns what is wrong with the sources of a notebook, as sentences."""
    cells, problems = execute.code_cells(notebook), []
    if not cells or cells[0].source != INSTALL:
        problems.append("The first code cell is not the one that installs.")
    if any("%pip" in cell.source or "!pip" in cell.source for cell in cells[1:]):
        problems.append("More than the first cell installs.")
    if not any("import tf2 as simclr" in cell.source for cell in cells):
        problems.append("tf2 is not imported.")
    for node in definitions(syntax_trees(notebook)):
        if node.end_lineno - node.lineno >= MAX_DEFINITION_LINES:
            problems.append(f"The definition of {node.name} is long: move it to the package.")
        if node.name in package_names():
            problems.append(f"{node.name} is defined in the package: import it.")
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code" and (before is None or before.cell_type != "markdown"):
            problems.append(f"There is no text before the cell {cell.source[:60]!r}.")
        if cell.cell_type == "code" and len(cell.source.splitlines()) > MAX_CELL_LINES:
            problems.append(f"The cell {cell.source[:60]!r} is long.")
        if PATHS.search(cell.source):
            problems.append(f"A path of one machine in {cell.source[:60]!r}.")
    problems += title_faults(notebook.cells[0], name)
    if "what next" not in notebook.cells[-1].source.lower():
        problems.append("The last cell does not say what next.")
    return problems


def title_faults(cell, name):
    """Returns what is wrong with the first cell: a title, then the badge that opens Colab."""
    badge = BADGE.format(version.REPOSITORY.removeprefix("https://github.com/"), name)
    if cell.cell_type != "markdown" or not cell.source.startswith("# "):
        return ["There is no title."]
    if cell.source.splitlines()[1:3] != ["", badge]:
        return ["The title is not followed by the badge of this notebook."]
    return []


def unknown_names(notebook):
    """Returns imports of the packages that fail, attributes they lack and unknown flags."""
    tree = ast.Module([node for tree in syntax_trees(notebook) for node in tree.body], [])
    modules, problems = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports = [(alias.asname, alias.name, None) for alias in node.names if alias.asname]
        elif isinstance(node, ast.ImportFrom):
            imports = [
                (alias.asname or alias.name, node.module, alias.name) for alias in node.names
            ]
        else:
            continue
        for name, base, attribute in imports:
            if base.partition(".")[0] not in ("tf2", "checkpoints_tools"):
                continue
            try:
                modules[name] = importlib.import_module(
                    f"{base}.{attribute}" if attribute else base
                )
            except ModuleNotFoundError:
                if not hasattr(importlib.import_module(base), attribute):
                    problems.append(f"{base} has no {attribute}.")
    flags = {field.name for field in config.flag_fields()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and not hasattr(module, node.attr):
                problems.append(f"{module.__name__} has no {node.attr}.")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "simclr.configure":
            names = {keyword.arg for keyword in node.keywords if keyword.arg}
            problems += [f"{name} is no flag." for name in sorted(names - flags)]
    return problems


def test_a_notebook_runs_without_network_and_keeps_its_promises(tmp_path):
    executed = execute.execute(execute.read(FASTEST), tmp_path, timeout=SECONDS)
    assert broken_promises(executed) == []


@pytest.mark.slow  # the whole way of each notebook, at half a minute to two minutes each
@every_notebook
def test_it_runs_without_network_and_keeps_its_promises(path, tmp_path):
    executed = execute.execute(execute.read(path), tmp_path, timeout=SECONDS)
    assert broken_promises(executed) == []


@every_notebook
def test_it_pastes_nothing_and_is_laid_out_like_the_others(path):
    assert faults(execute.read(path), path.stem) == []


@every_notebook
def test_its_imports_names_and_flags_exist(path):
    assert unknown_names(execute.read(path)) == []


@every_notebook
def test_the_outputs_in_it_are_complete_quiet_and_of_this_code(path):
    notebook = execute.read(path)
    nbformat.validate(notebook)
    assert broken_promises(notebook) == []
    counts = [cell.execution_count for cell in execute.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    stamp = notebook.metadata.simclr.get("stamp")
    assert stamp == execute.stamp(notebook), f"Run python colabs/execute.py colabs/{path.name}."


@every_notebook
def test_the_list_of_notebooks_has_it(path):
    assert f"`{path.name}`" in (ROOT / "colabs" / "README.md").read_text()


def test_there_is_one_address_of_the_repository():
    paths = [ROOT / "setup.py", ROOT / "mkdocs.yml", *ROOT.glob("*.md"), *NOTEBOOKS]
    paths += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "colabs").glob("*.md")]
    address = re.compile(r"https?://(?:www\.)?github\.com/[\w.-]+/simclr-tf2\b")
    addresses = {a for path in paths if path.exists() for a in address.findall(path.read_text())}
    assert addresses == {version.REPOSITORY}
    badges = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/")
    owners = {o for path in paths if path.exists() for o in badges.findall(path.read_text())}
    assert {f"https://github.com/{owner}" for owner in owners} == {version.REPOSITORY}


# ---- the checks themselves, on notebooks that break one rule each

TITLE = "# A title\n\n" + BADGE.format(
    version.REPOSITORY.removeprefix("https://github.com/"), "name"
)


def notebook(*sources, title=TITLE, end="What next", **promises):
    """Returns a notebook of code cells, after a start that breaks no rule."""
    cells = [nbformat.v4.new_markdown_cell(title)]
    for source in (INSTALL, "import tf2 as simclr", *sources):
        cells += [nbformat.v4.new_code_cell(source), nbformat.v4.new_markdown_cell("A sentence.")]
    cells[-1].source = end
    new = nbformat.v4.new_notebook(cells=cells)
    new.metadata["simclr"] = {"promises": ["top-1"], "figures": 0, **promises}
    return new


LONG = "def f():\n" + "    x = 1\n" * 12
BROKEN = [
    notebook(LONG),
    notebook(f"if True:\n    class A:\n{''.join('        y = 2' + chr(10) for _ in range(12))}"),
    notebook("def add_contrastive_loss(): pass"),
    notebook("def write_embeddings(): pass"),  # of a package below tf2
    notebook("%pip install -q other"),
    notebook("open('/home/me/x')"),
    notebook("x = 1\n" * 31),
    notebook(title=TITLE.removeprefix("# ")),
    notebook(title="# A title"),
    notebook(title=TITLE.replace("name.ipynb", "other.ipynb")),
    notebook(end="Done."),
]


def test_a_correct_notebook_has_no_faults():
    assert faults(notebook("def short(x):\n    return 'runs/digits'")) == []


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_a_fault_is_reported(broken):
    assert len(faults(broken)) == 1


def test_a_notebook_without_install_import_or_text_is_reported():
    without_install = notebook("x = 1")
    del without_install.cells[1]
    assert "The first code cell is not the one that installs." in faults(without_install)
    without_import = notebook("x = 1")
    without_import.cells[3].source = "import tf2.model"
    assert faults(without_import) == ["tf2 is not imported."]
    without_text = notebook("x = 1")
    del without_text.cells[4]
    assert len(faults(without_text)) == 1


@pytest.mark.parametrize(
    "source, problem",
    [
        ("from tf2.visuals import plots\nplots.curves", None),
        ("from tf2.checkpoints.checkpoint import load_model", None),
        ("simclr.configure(train_mode='pretrain', **{'finetune.seed': 1})", None),
        ("from tf2.visuals import pictures", "tf2.visuals has no pictures."),
        ("from tf2.visuals import plots\nplots.spirals", "tf2.visuals.plots has no spirals."),
        ("simclr.fly()", "tf2 has no fly."),
        ("simclr.configure(fly=1)", "fly is no flag."),
    ],
)
def test_an_unknown_name_is_reported(source, problem):
    assert unknown_names(notebook(source)) == ([problem] if problem else [])


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """An executed notebook that printed on both streams."""
    new = notebook("print('top-1 90.0 %')", "import sys; print('Oh', file=sys.stderr)", "1 + 1")
    new.cells = new.cells[4:]  # without TensorFlow
    return execute.execute(new, tmp_path_factory.mktemp("executed"), timeout=SECONDS)


def test_execution_uses_this_interpreter_this_package_and_no_network(tmp_path):
    new = notebook(
        "import sys; print(sys.executable)",
        "print(simclr.__file__)",
        "import urllib.request, urllib.error\n"
        "try:\n    urllib.request.urlopen('https://storage.googleapis.com/')\n"
        "except urllib.error.URLError as error: print(error)",
    )
    text = printed(execute.execute(new, tmp_path, timeout=SECONDS))
    interpreter, package, refusal = filter(None, text.splitlines())
    assert interpreter == sys.executable
    assert pathlib.Path(package) == ROOT / "tf2" / "__init__.py"
    assert "refused" in refusal


def test_outputs_are_compared_with_the_promises(executed):
    assert broken_promises(executed) == ["On standard error: Oh\n"]
    executed.metadata.simclr["promises"] = ["top-5"]
    executed.metadata.simclr["figures"] = 1
    assert len(broken_promises(executed)) == 3
    executed.metadata.simclr = {}
    assert "The metadata promises nothing." in broken_promises(executed)


def test_a_path_of_the_machine_in_an_output_is_reported(executed):
    outputs(executed)[0].text = f"top-1, in {ROOT}/x"
    assert any("A path" in line for line in broken_promises(executed))
    outputs(executed)[0].text = "top-1, in /home/me/x"
    assert any("A path" in line for line in broken_promises(executed))


def test_a_failing_cell_raises_and_ends_the_kernel(tmp_path):
    new = notebook("import os, pathlib; pathlib.Path('id').write_text(str(os.getpid()))", "1 / 0")
    new.cells = new.cells[4:]
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        execute.execute(new, tmp_path, timeout=SECONDS)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "work" / "id").read_text()), 0)


def test_the_stamp_depends_on_the_code_alone():
    assert execute.stamp(notebook("x = 1")) != execute.stamp(notebook("x = 2"))
    first, second = notebook("x = 1"), notebook("x = 1")
    second.cells[-1].source = "Another text."
    assert execute.stamp(first) == execute.stamp(second)
