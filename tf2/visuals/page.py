"""The parts of an HTML page that needs no network and fits a phone: sections, tables, images.

Every text is escaped, since file and class names are the user's.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from tf2.visuals import page_style


def document(title: str, sections: Iterable[str], *, style: str = "", after: str = "") -> str:
    """Returns a page with its style; empty sections are left out.

    Args:
        title: of the page.
        sections: HTML.
        style: rules beside those of all pages.
        after: HTML below the content: scripts and their data.
    """
    title = html.escape(title)
    body = "\n".join(section for section in sections if section)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{page_style.CSS}{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>{after}
</body>
</html>
"""


def encode(text: str) -> bytes:
    """Returns the bytes of a page's file."""
    # A file name that is no text has lone surrogates, which UTF-8 cannot hold.
    return text.encode("utf-8", "replace")


def section(title: str, content: str) -> str:
    """Returns a section; "" without content, which is HTML."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def paragraphs(sentences: Iterable[str], css_class: str = "") -> str:
    """Returns one paragraph per sentence."""
    attribute = f' class="{css_class}"' if css_class else ""
    return "\n".join(f"<p{attribute}>{html.escape(text)}</p>" for text in sentences)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table, which is a list of cards on a phone."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = [
        "".join(
            f'<td data-column="{html.escape(name)}">{html.escape(cell)}</td>'
            for name, cell in zip(columns, row, strict=True)
        )
        for row in rows
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def image(data: bytes, description: str) -> str:
    """Returns an image, a JPEG or PNG, inside the page."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/{kind};base64,{encoded}">'


def example(data: bytes, path: str, caption: str, wrong: str = "") -> str:
    """Returns an image with a caption, what is wrong with it, and its path."""
    name = html.escape(path)
    wrong = f'<span class="wrong">{html.escape(wrong)}</span>' if wrong else ""
    return (
        f'<div class="example">{image(data, path)}'
        f'<span class="class">{html.escape(caption)}</span>{wrong}'
        f'<span class="path" title="{name}">{name}</span></div>'
    )


def examples(cells: Iterable[str]) -> str:
    """Returns a grid of examples."""
    return '<div class="examples">\n' + "\n".join(cells) + "\n</div>"


def columns(blocks: Iterable[str]) -> str:
    """Returns blocks side by side where there is room."""
    return '<div class="columns">\n' + "\n".join(blocks) + "\n</div>"
