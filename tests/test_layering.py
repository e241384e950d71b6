"""Who may import whom, and who may know what: the layer map of the package, held by its syntax."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Module -> what it may import of the package, directly. Every module has its line here. All may
# use what stands below everything: compat (what differs between Keras versions) and errors.
BELOW_ALL = {"compat", "errors"}
MAY_IMPORT = {
    # Programs.
    "run": {
        *("apply", "config", "config_checks", "console", "loop", "pipeline", "recipe", "steps"),
    },
    "benchmark": {"config", "data", "folder", "input_benchmark", "training"},
    "input_benchmark": {"config", "data", "datasets", "folder"},
    "study": {
        *(
            "console",
            "distribute",
            "errors",
            "files",
            "loop",
            "metrics",
            "progress",
            "report",
            "run",
        ),
        "steps",
    },
    # Uses of a trained network.
    "apply": {
        *("distribute", "export", "features", "files", "inference", "job"),
        *("linear_probes", "probes", "progress"),
    },
    "inference": {
        *("checkpoint", "config", "data", "datasets", "distribute", "evaluation", "features"),
        *("gallery", "job", "source"),
    },
    "features": {"data", "evaluation", "files", "progress", "variables"},
    # SimCLRv2's three steps.
    "steps": {
        *("config", "config_checks", "datasets", "distribute", "download", "files", "job"),
        *("loop", "pipeline", "progress", "report"),
    },
    # The whole of a run.
    "pipeline": {
        *("checkpoint", "checkpoint_reader", "config", "data", "datasets", "distribute"),
        *("evaluation", "export", "files", "gallery", "job", "loop", "metrics", "model"),
        "model_json",
        *("momentum_encoder", "probes", "progress", "report", "teacher", "training", "variables"),
    },
    "gallery": {
        *("data", "distribute", "evaluation", "files", "job", "metrics", "plots", "projector"),
    },
    "plots": set(),
    "projector": {"files"},
    "job": {
        "download",
        *("checkpoint_reader", "config", "data", "datasets", "distribute", "evaluation"),
        *("files", "metrics", "model", "model_json", "teacher"),
    },
    # Its parts.
    "training": {
        *("checkpoint", "config", "data", "data_util", "distribute", "metrics", "model"),
        *("momentum_encoder", "objective", "optimization", "variables"),
    },
    "evaluation": {
        *("checkpoint", "config", "data", "distribute", "metrics", "model"),
        *("momentum_encoder", "objective", "optimization", "probes", "variables"),
    },
    "report": {"files", "metrics", "progress"},
    "loop": set(),
    "progress": set(),
    "distribute": set(),
    # What is learned.
    "model": {"resnet"},
    "momentum_encoder": {"variables"},
    "teacher": {"checkpoint", "model", "model_json"},
    "resnet": set(),
    "objective": set(),
    "optimization": {"lars_optimizer", "variables"},
    "lars_optimizer": set(),
    "variables": set(),
    # What it is learned from.
    "data": {"data_util", "distribute", "source"},
    "datasets": {"folder", "source", "tfds_source"},
    "folder": {"files", "picture_check", "source"},
    "picture_check": {"files", "source"},
    "tfds_source": {"files", "source"},
    "source": set(),
    "data_util": {"color_ops", "extra_ops"},
    "extra_ops": {"color_ops"},
    "color_ops": set(),
    # What is kept, and what others released.
    "download": {"archive", "catalog", "files", "model_json"},
    "archive": {"files"},
    "catalog": set(),
    "checkpoint": {"checkpoint_reader", "files", "merge", "model", "model_json", "variables"},
    "checkpoint_reader": {"files", "model_json", "published"},
    "published": {"layouts", "variables"},
    "layouts": {"model", "resnet", "variables"},
    "merge": {"variables"},
    "export": {"data_util", "files", "model_card", "model_json", "variables"},
    "model_card": {"report", "variables"},
    "model_json": {"config", "files"},
    "metrics": {"files"},
    "linear_probes": set(),
    "probes": set(),
    "files": set(),
    # Comparisons with the reference's numbers.
    "parity": {
        *("parity_data", "parity_evaluation", "parity_losses", "parity_network", "parity_runs"),
    },
    "parity_evaluation": {
        *("color_ops", "data_util", "evaluation", "parity_data", "parity_runs"),
    },
    "parity_runs": {
        *("optimization", "parity_data", "parity_losses", "parity_network"),
        *("resnet", "training", "variables"),
    },
    "parity_losses": {
        *("distribute", "lars_optimizer", "objective", "optimization"),
        *("parity_data", "parity_network"),
    },
    "parity_network": {"model", "parity_data", "variables"},
    "parity_data": {"variables"},
    # Settings, before TensorFlow is there.
    "recipe": {"config", "config_checks"},
    "config": {"config_checks"},
    "config_checks": set(),
    "console": set(),
    "errors": set(),
    "compat": set(),
    "version": set(),
}
# The public API is made of all of them.
MAY_IMPORT["__init__"] = set(MAY_IMPORT)

# Modules that must answer before TensorFlow is imported; some may import it inside functions.
WITHOUT_TENSORFLOW = {
    *("catalog", "config", "config_checks", "console", "errors", "recipe", "version", "run"),
}
INSIDE_FUNCTIONS = {"console", "run"}
# Who may read the command line.
PROGRAMS_WITH_FLAGS = {"run", "study"}
# Where a Config may be taken apart: at the edge, and in functions named build_*.
CONFIG_READERS = {
    *("apply", "config", "config_checks", "evaluation", "features", "inference", "job"),
    *("pipeline", "run", "steps", "study", "training"),
}
# The counterparts of build_* where a Config is written down or asked about.
CONFIG_FUNCTIONS = {
    "data.model_channels",
    "data.preprocessing_contract",
    "model_json.check_same_run",
    "model_json.describe",
}


def sources():
    """Returns module name -> source of the package."""
    return {path.stem: path.read_text() for path in sorted((ROOT / "tf2").glob("*.py"))}


def imports(tree):
    """Yields (dotted module, name imported from it or None, whether at the top level)."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((base, alias.name, top) for alias in node.names)


def import_violations(module, source):
    """Returns what is wrong with a module's imports, as sentences."""
    found = []
    if module not in MAY_IMPORT:
        return [f"{module} has no line in the layer map (MAY_IMPORT)."]
    allowed = MAY_IMPORT[module] | (BELOW_ALL - {module})
    if module in BELOW_ALL:
        allowed = set()
    for base, name, top in imports(ast.parse(source)):
        first, _, rest = base.partition(".")
        if base.startswith("."):
            found.append(f"{module} imports {base}{name} relatively.")
        elif first == "tf2" and (rest or name is None):
            found.append(f"{module} imports {base}: write `from tf2 import module`.")
        elif first == "tf2" and name not in allowed:
            found.append(f"{module} may not import {name}.")
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
            told = isinstance(parent, ast.Dict | ast.FormattedValue) or (
                isinstance(parent, ast.Call) and ast.unparse(parent.func) in _TELLING
            )
            if not told:
                found.append(f"{module} line {node.lineno}: a version may be told, not judged.")
    return found


_TELLING = {"logging.info", "print"}


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
    if module in CONFIG_READERS or module.startswith("parity_"):  # there it is a table's row
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


RULES = (import_violations, version_violations, keras_violations, config_violations)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    modules = sources()
    assert {"run", "config", "compat", "pipeline"} <= set(modules)
    found = [line for module, source in modules.items() for line in rule(module, source)]
    assert not found, "\n".join(found)


def test_the_layer_map_goes_downwards_only():
    lower = {module: set(below) for module, below in MAY_IMPORT.items()}
    while lower:
        bottom = {module for module, below in lower.items() if not below & set(lower)}
        assert bottom, f"a circle among {sorted(lower)}"
        for module in bottom:
            del lower[module]


def test_flags_are_used_by_programs_only_outside_the_package_too():
    for path in (ROOT / "checkpoints_tools").glob("*.py"):
        source = path.read_text()
        if any((base, name) == ("absl", "flags") for base, name, _ in imports(ast.parse(source))):
            assert 'if __name__ == "__main__"' in source, f"{path.name} is no program"


# ---- the checks themselves, on sources that break one rule each

BROKEN = [
    (import_violations, "resnet", "from tf2 import config"),
    (import_violations, "objective", "def f():\n    from tf2 import model"),
    (import_violations, "data", "from tf2 import training"),
    (import_violations, "config", "from tf2 import compat, datasets"),
    (import_violations, "config", "import tensorflow as tf"),
    (import_violations, "config", "def f():\n    import keras"),
    (import_violations, "run", "import tensorflow"),
    (import_violations, "compat", "from tf2 import variables"),
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
]
KEPT = [
    (import_violations, "model", "import keras\nfrom absl import logging\nfrom tf2 import resnet"),
    (import_violations, "run", "from absl import flags\ndef f():\n    from tf2 import pipeline"),
    (import_violations, "metrics", "import tensorflow as tf\nfrom tf2 import compat, errors"),
    (import_violations, "compat", "import keras\nimport tensorflow_addons"),
    (version_violations, "pipeline", "logging.info('%s', tf.__version__)"),
    (version_violations, "model_json", "d = {'keras': keras.__version__}"),
    (version_violations, "compat", "NEW = int(keras.__version__[0]) >= 3"),
    (keras_violations, "model", "keras.layers.Dense(3)"),
    (config_violations, "model", "def build_model(config): pass"),
    (config_violations, "training", "def anything(config): pass"),
]


@pytest.mark.parametrize(
    "rule, module, source", BROKEN, ids=lambda value: getattr(value, "__name__", value)[:40]
)
def test_a_broken_rule_is_found(rule, module, source):
    assert rule(module, source)


@pytest.mark.parametrize(
    "rule, module, source", KEPT, ids=lambda value: getattr(value, "__name__", value)[:40]
)
def test_a_kept_rule_is_no_finding(rule, module, source):
    assert rule(module, source) == []
