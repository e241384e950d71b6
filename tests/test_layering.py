"""The layers of the package: permitted imports, and where versions and Configs may be used."""

import ast
import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def read_floors(text):
    """Returns the floors of a docstring's table, top first, each a list of modules and packages.

    A row is indented by four spaces: names separated by commas, then two spaces and what they do.
    """
    rows = re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*)(?:  .*)?$", text, re.MULTILINE)
    return [row.split(", ") for row in rows]


FLOORS = read_floors(ast.get_docstring(ast.parse((ROOT / "tf2" / "__init__.py").read_text())))
PACKAGES = {path.parent.name for path in (ROOT / "tf2").glob("*/__init__.py")} - {"recipes"}
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# Modules that must answer before TensorFlow is imported; some may import it inside functions.
WITHOUT_TENSORFLOW = {
    *("architecture", "checkpoints.catalog", "config", "console", "early_checks", "errors"),
    *("benchmark.cli", "benchmark.plan"),
    *("auto.memory_estimate", "auto.network_shapes", "auto.rules", "auto.time_budget"),
    *("flags.checks", "flags.data", "flags.evaluation", "flags.fields", "flags.flags"),
    *("flags.job", "flags.memory", "flags.network", "flags.training"),
    *("machine", "modes", "precedence", "progress", "recipe", "run", "run_directory", "version"),
    *("processes", "program", "run_lock"),
    *("sources.data_identity", "sources.holdout", "sources.image_facts", "sources.labels_file"),
    *("selection.kernel", "selection.methods", "sources.listing", "sources.scan"),
}
INSIDE_FUNCTIONS = {"benchmark.cli", "console", "run"}
# Who may read the command line.
PROGRAMS_WITH_FLAGS = {"benchmark.cli", "run", "study"}
# Where a Config may be taken apart: at the edge, and in functions named build_*.
CONFIG_READERS = {
    *("apply.commands", "apply.features", "apply.inference", "apply.network"),
    *("auto.choices", "auto.memory_estimate", "auto.rules", "auto.time_budget"),
    *(
        "benchmark.plan",
        "config",
        "early_checks",
        "evaluation",
        "flags.checks",
        "identity",
        "job",
        "modes",
    ),
    *("pipeline", "precedence", "resolve", "run", "run_directory", "stage_results", "stages"),
    *("select_study", "study", "training"),
}
# The counterparts of build_* where a Config is written down or asked about.
CONFIG_FUNCTIONS = {
    "data.model_channels",
    "data.preprocessing_contract",
    "checkpoints.model_json.describe",
}


def sources():
    """Returns module -> source of the package: `objective`, `checkpoints.export`."""
    package = ROOT / "tf2"
    paths = {path.relative_to(package): path for path in sorted(package.rglob("*.py"))}
    return {".".join(name.with_suffix("").parts): path.read_text() for name, path in paths.items()}


def unit(module):
    """Returns what has a place on a floor: the module, or the package that it is in."""
    return module.partition(".")[0]


def imports(tree):
    """Yields (dotted module, name imported from it or None, whether at the top level).

    Imports below `if typing.TYPE_CHECKING:` are for annotations alone and are left out.
    """
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for_annotations = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "typing.TYPE_CHECKING"
        for node in branch.body
    }
    for node in ast.walk(tree):
        if id(node) in for_annotations:
            continue
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((base, alias.name, top) for alias in node.names)


def import_violations(module, source):
    """Returns what is wrong with a module's imports, as sentences."""
    if module in ("__init__", "recipes.__init__"):
        return []
    own = unit(module)
    if own not in FLOOR:
        return [f"{own} is on no floor of the table in tf2/__init__.py."]
    found = []
    for base, name, top in imports(ast.parse(source)):
        first, _, rest = base.partition(".")
        if base.startswith("."):
            found.append(f"{module} imports {base}{name} relatively.")
        elif first == "tf2":
            found += _inside_violations(module, own, rest, name)
        elif first in ("checkpoints_tools", "tests"):
            found.append(f"{module} may not import {base}.")
        elif (first, name) == ("absl", "flags") or base == "absl.flags":
            if module not in PROGRAMS_WITH_FLAGS:
                found.append(f"{module} may not use absl.flags.")
        elif (first, name) == ("tensorflow", "keras") or base.startswith("tensorflow.keras"):
            found.append(f"{module} must `import keras`, not tensorflow's.")
        elif first in ("tensorflow", "keras", "tensorflow_datasets", "tensorflow_addons"):
            if module in WITHOUT_TENSORFLOW and (top or module not in INSIDE_FUNCTIONS):
                found.append(f"{module} may not import {base}.")
            if first == "tensorflow_addons" and module != "compat":
                found.append(f"{module} may not import {base}: it exists on one stack only.")
    return found


def _inside_violations(module, own, package, name):
    """Returns what is wrong with `from tf2[.package] import name`."""
    if name is None or package not in ("", *PACKAGES) or (not package and name in PACKAGES):
        return [f"{module} imports {package} {name}: write `from tf2[.package] import module`."]
    other = package or name
    if other not in FLOOR:
        return [f"{module} imports {other}, which is on no floor."]
    if other != own and FLOOR[other] <= FLOOR[own]:
        return [f"{module} may not import {other}, which isn't below {own}."]
    return []


def version_violations(module, source):
    """Returns where a module other than compat decides by a version."""
    if module == "compat":
        return []
    found = []
    for parent in ast.walk(ast.parse(source)):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Attribute) and node.attr == "KERAS_3":
                found.append(f"{module} line {node.lineno}: only compat looks at KERAS_3.")
            if not _reads_version(node):
                continue
            displayed = isinstance(parent, ast.Dict | ast.FormattedValue) or (
                isinstance(parent, ast.Call) and ast.unparse(parent.func) in _DISPLAYS
            )
            if not displayed:
                found.append(
                    f"{module} line {node.lineno}: versions may be displayed, not compared."
                )
    return found


_DISPLAYS = {"logging.info", "print"}


def _reads_version(node):
    names = ("__version__", "VERSION", "GIT_VERSION")
    return isinstance(node, ast.Attribute) and node.attr in names


def keras_violations(module, source):
    """Returns the uses of tf.keras, which differs from keras in some installations."""
    return [
        f"{module} line {node.lineno}: tf.keras."
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr == "keras"
        and isinstance(node.value, ast.Name)
        and node.value.id in ("tf", "tensorflow")
    ]


def config_violations(module, source):
    """Returns the functions below the edge that take a Config, unless they are build_*."""
    if module in CONFIG_READERS or unit(module) == "parity":  # there it is a table's row
        return []
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            takes = any(argument.arg == "config" for argument in arguments)
            name = f"{module}.{node.name}"
            if takes and not node.name.startswith("build_") and name not in CONFIG_FUNCTIONS:
                found.append(f"{name} takes a Config.")
    return found


def annotation_violations(module, source):
    """Returns the parameters named `config` that are not annotated as a Config."""
    if f"tf2.{module}" in UNTYPED or module == "modes" or unit(module) == "parity":
        return []  # modes is below config; in parity, config is a row of a table
    permitted = {"Config", "config_lib.Config", "config_lib.Config | None"}
    return [
        f"{module}.{node.name}: annotate config as config_lib.Config."
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for argument in node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        if argument.arg == "config"
        and (argument.annotation is None or ast.unparse(argument.annotation) not in permitted)
    ]


def read_untyped():
    """Returns the modules that mypy doesn't check yet, by pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    lists = [o["module"] for o in settings["overrides"] if o.get("ignore_errors")]
    return {module for modules in lists for module in modules}


UNTYPED = read_untyped()
RULES = (
    import_violations,
    version_violations,
    keras_violations,
    config_violations,
    annotation_violations,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_follows_the_rule(rule):
    modules = sources()
    assert {"run", "config", "compat", "pipeline"} <= set(modules)
    found = [line for module, source in modules.items() for line in rule(module, source)]
    assert not found, "\n".join(found)


def test_every_module_and_package_is_on_one_floor():
    names = [name for names in FLOORS for name in names]
    assert len(names) == len(set(names))
    modules = {unit(module) for module in sources()} - {"__init__", "recipes"}
    assert modules == set(names)


def test_a_package_docstring_states_contents_and_permitted_imports():
    for package in PACKAGES:
        text = ast.get_docstring(ast.parse((ROOT / "tf2" / package / "__init__.py").read_text()))
        assert len(text.splitlines()) <= 4 and "ay import" in text, package


def test_only_programs_use_flags_outside_the_package_too():
    for path in (ROOT / "checkpoints_tools").glob("*.py"):
        source = path.read_text()
        if any((base, name) == ("absl", "flags") for base, name, _ in imports(ast.parse(source))):
            assert 'if __name__ == "__main__"' in source, f"{path.name} is no program"


# ---- the checks themselves, on sources that break one rule each

BROKEN = [
    (import_violations, "resnet", "from tf2 import model"),
    (import_violations, "objective", "def f():\n    from tf2 import model"),
    (import_violations, "data", "from tf2 import training"),
    (import_violations, "config", "from tf2 import compat\nfrom tf2.sources import loaders"),
    (import_violations, "config", "import tensorflow as tf"),
    (import_violations, "config", "def f():\n    import keras"),
    (import_violations, "run", "import tensorflow"),
    (import_violations, "compat", "from tf2 import variables"),
    (import_violations, "checkpoints.export", "from tf2.apply import inference"),
    (import_violations, "visuals.plots", "from tf2.apply import features"),
    (import_violations, "sources.folder", "from tf2 import sources"),
    (import_violations, "sources.folder", "from tf2.sources.source import Source"),
    (import_violations, "errors", "from tf2 import compat"),
    (import_violations, "model", "from tf2.resnet import ResNet"),
    (import_violations, "model", "import tf2.resnet"),
    (import_violations, "model", "from . import resnet"),
    (import_violations, "model", "from checkpoints_tools import name_map"),
    (import_violations, "model", "import checkpoints_tools.name_map"),
    (import_violations, "training", "from absl import flags"),
    (import_violations, "training", "import absl.flags"),
    (import_violations, "training", "from tensorflow import keras"),
    (import_violations, "training", "from tensorflow.keras import layers"),
    (import_violations, "optimization", "import tensorflow_addons as tfa"),
    (import_violations, "helpers", ""),
    (version_violations, "model", "if keras.__version__ >= '3': pass"),
    (version_violations, "model", "major = keras.__version__.split('.')"),
    (version_violations, "model", "new = int(tf.__version__[0])"),
    (version_violations, "model", "new = parse(tf.version.VERSION)"),
    (version_violations, "model", "x = 1 if compat.KERAS_3 else 2"),
    (keras_violations, "model", "layer = tf.keras.layers.Dense(3)"),
    (config_violations, "objective", "def loss(x, config): pass"),
    (config_violations, "resnet", "class A:\n    def __init__(self, *, config=None): pass"),
    (annotation_violations, "model", "def build_model(config): pass"),
    (annotation_violations, "model", "def build_model(config: dict): pass"),
]
PERMITTED = [
    (import_violations, "model", "import keras\nfrom absl import logging\nfrom tf2 import resnet"),
    (import_violations, "run", "from absl import flags\ndef f():\n    from tf2 import pipeline"),
    (import_violations, "metrics", "import tensorflow as tf\nfrom tf2 import compat, errors"),
    (import_violations, "compat", "import keras\nimport tensorflow_addons"),
    (import_violations, "modes", "if typing.TYPE_CHECKING:\n    from tf2 import config"),
    (import_violations, "sources.folder", "from tf2 import files\nfrom tf2.sources import source"),
    (version_violations, "pipeline", "logging.info('%s', tf.__version__)"),
    (version_violations, "checkpoints.model_json", "d = {'keras': keras.__version__}"),
    (version_violations, "compat", "NEW = int(keras.__version__[0]) >= 3"),
    (keras_violations, "model", "keras.layers.Dense(3)"),
    (config_violations, "model", "def build_model(config): pass"),
    (config_violations, "training", "def anything(config): pass"),
    (annotation_violations, "model", "def build_model(config: config_lib.Config): pass"),
]


@pytest.mark.parametrize(
    "rule, module, source", BROKEN, ids=lambda value: getattr(value, "__name__", value)[:40]
)
def test_a_violation_is_reported(rule, module, source):
    assert rule(module, source)


@pytest.mark.parametrize(
    "rule, module, source", PERMITTED, ids=lambda value: getattr(value, "__name__", value)[:40]
)
def test_permitted_code_is_not_reported(rule, module, source):
    assert rule(module, source) == []
