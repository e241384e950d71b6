"""The documentation names what the code has: public functions, flags, files and pages."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

import tf2
from tf2 import config, recipe, version

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/*.md"))
MARKDOWN = [*sorted(ROOT.glob("*.md")), *PAGES, ROOT / "colabs" / "README.md"]
ADDED = {"contributing.md", "changelog.md"}  # of files in the root


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(text):
    """Returns the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    given = re.findall(r"\{ #(\w+) \}", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles} | {*given}


def test_the_api_page_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text()
    documented = re.findall(r"^::: tf2\.([\w.]+)$", text, re.M)
    names = [path.rsplit(".", 1)[1] for path in documented]
    assert set(names) | {"__version__"} >= set(tf2.__all__) - ALIASES
    for path in documented:
        module, name = path.rsplit(".", 1)
        assert hasattr(importlib.import_module(f"tf2.{module}"), name)


# Old names that still work and are not documented.
ALIASES = {"run_all_steps"}


def test_the_flag_reference_has_every_flag_with_its_help(hooks):
    page = hooks.flag_sections()
    for field in config.flag_fields():
        assert f"### --{field.name} {{ #{field.name} }}" in page
        assert len(field.metadata["help"]) > 10
    assert page.count("\n### --") == len(list(config.flag_fields()))
    assert all(f"\n## {title}\n" in page for title in config.GROUPS.values())


def test_the_recipe_reference_has_every_recipe_with_its_flags(hooks):
    page = hooks.recipe_sections()
    for name in recipe.names():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert "python tf2/run.py" in section
        assert set(recipe.lines(name)) <= set(section.split())


def test_the_site_shows_every_page():
    text = (ROOT / "mkdocs.yml").read_text()
    shown = set(re.findall(r": ([\w/]+\.(?:md|ipynb))$", text, re.M))
    notebooks = {f"colabs/{path.name}" for path in ROOT.glob("colabs/*.ipynb")}
    assert shown == {path.name for path in PAGES} | ADDED | notebooks
    assert f"repo_url: {version.REPOSITORY}" in text
    assert "font: false" in text


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page, hooks):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        text = file.read_text() if anchor else ""
        if anchor and file.name in hooks.SECTIONS:
            text += hooks.SECTIONS[file.name]()
        assert not anchor or anchor in anchors(text), target


def test_no_page_has_html():
    for page in MARKDOWN:
        text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(r"</?[a-z]+[ >]", text), page.name


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs", reason="needs pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    html = (tmp_path / "index.html").read_text()
    assert "fonts.googleapis.com" not in html
    assert "add_contrastive_loss" in (tmp_path / "api" / "index.html").read_text()
