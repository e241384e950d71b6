"""MkDocs hooks: pages of the site that are generated or stand outside of docs/.

The flag and recipe references are written from `tf2.config` and `tf2/recipes`, so that they cannot
differ from the code. Links to files of the repository become links to its address.
"""

from __future__ import annotations

import html
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tf2 import config as config_lib  # noqa: E402
from tf2 import recipe, version  # noqa: E402

# A link from a file in docs/ to one outside of it, such as ../tests/test_export.py.
_OUTSIDE = re.compile(r"\]\(\.\./([^)]+)\)")
# Files outside of docs/ -> the page of the site that shows them.
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files, config):
    """Adds CONTRIBUTING.md, CHANGELOG.md and the notebooks."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = _from_root((ROOT / source).read_text())
        files.append(File.generated(config, page, content=text))
    for notebook in sorted((ROOT / "colabs").glob("*.ipynb")):
        path = f"{notebook.parent.name}/{notebook.name}"
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


try:  # before mkdocs-jupyter's, which renders the notebooks among the files
    from mkdocs.plugins import event_priority

    on_files = event_priority(100)(on_files)
except ImportError:  # the tests call the functions below without MkDocs
    pass


def on_page_markdown(markdown, page, config, files):
    """Adds generated sections, and points links that leave docs/ to the repository."""
    if page.file.src_uri in SECTIONS:
        markdown += SECTIONS[page.file.src_uri]()

    def target(match):
        path = match[1]
        if path in PAGES:
            return f"]({PAGES[path]})"
        if path.startswith("colabs/") and path.endswith(".ipynb"):
            return f"]({path})"
        return f"]({version.REPOSITORY}/blob/main/{path})"

    return _OUTSIDE.sub(target, markdown)


def _from_root(text: str) -> str:
    """Makes the links of a file in the repository's root those of a file in docs/."""
    text = re.sub(r"\]\((?!https?:|#|docs/)([^)]+)\)", r"](../\1)", text)
    return re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", text)


def flag_sections() -> str:
    """Returns the sections of flags.md: all flags, grouped as in `python tf2/run.py --help`."""
    fields = list(config_lib.flag_fields())
    lines = []
    for group, title in config_lib.GROUPS.items():
        lines.append(f"\n## {title}\n")
        for field in fields:
            if field.metadata["group"] == group:
                lines += _flag(field)
    return "\n".join(lines) + "\n"


def _flag(field) -> list[str]:
    metadata = field.metadata
    default = field.default
    facts = [metadata["kind"]]
    if choices := config_lib.choices(field):
        facts = [", ".join(f"`{choice}`" for choice in choices if choice)]
    if metadata["auto"]:
        facts.append("or `auto`")
    facts.append("no default" if default in (None, "") else f"default `{default}`")
    if not any(config_lib.may_differ(field.name, stage) for stage in config_lib.STAGES):
        facts.append("the same in all stages")
    help_text = re.sub(r"[*_\[\]]", r"\\\g<0>", html.escape(metadata["help"], quote=False))
    return [
        f"### --{field.name} {{ #{field.name} }}\n",
        help_text + "\n",
        f"*{'; '.join(facts)}*\n",
    ]


def recipe_sections() -> str:
    """Returns the sections of recipes.md: each recipe's opening comment and flags."""
    lines = []
    for name in recipe.names():
        text = (recipe.RECIPES / f"{name}.flags").read_text()
        comment = re.match(r"((?:#.*\n)+)", text)[1]
        comment = "\n".join(line[1:].strip() for line in comment.splitlines())
        prose, _, command = comment.partition("python tf2/run.py")
        lines += [f"\n## {name}\n", prose.strip() + "\n"]
        if command:
            command, *rest = re.split(r"(?<!\\)\n", command, maxsplit=1)
            command = command.replace("\\\n", " ").split()
            lines += ["```bash", *_wrapped(["python", "tf2/run.py", *command], " \\"), "```\n"]
            lines += [*rest, ""]
        lines += ["Sets:\n", "```text", *_wrapped(recipe.lines(name)), "```\n"]
    return "\n".join(lines) + "\n"


def _wrapped(words: list[str], continuation: str = "", width: int = 78) -> list[str]:
    """Puts words on lines of at most this width; a continuation ends all lines but the last."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines[-1] += continuation
            lines.append(" " if continuation else "")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


SECTIONS = {"flags.md": flag_sections, "recipes.md": recipe_sections}
