"""A page on which a person labels images: one HTML file, which needs no server and fits a phone.

Classes are typed once; then the keys 1 to 9, or a tap, assign one to an image. "Save" downloads
labels.csv as `--labels` reads it. The browser keeps unsaved labels. Every text reaches the page as
data, since file and class names are the user's.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
from collections.abc import Sequence

from tf2.visuals import label_page_parts, page_style

FILE_NAME = "label.html"


@dataclasses.dataclass(frozen=True)
class Image:
    """An image to label.

    Attributes:
        path: its name, as the labels file will have it.
        jpeg: the bytes of a small version.
        suggestion: the predicted class; None without a classifier.
        probability: of that class, a fraction.
    """

    path: str
    jpeg: bytes
    suggestion: str | None = None
    probability: float | None = None


@dataclasses.dataclass(frozen=True)
class LabelPage:
    """What the page shows.

    Attributes:
        title: of the page.
        images: most useful first.
        classes: names that are known already.
        earlier: (path, label, split) of images labeled before, which are saved too; split may be
            empty.
        command: to continue with the labels.
    """

    title: str
    images: Sequence[Image]
    classes: Sequence[str] = ()
    earlier: Sequence[tuple[str, str, str]] = ()
    command: str = ""


def render(page: LabelPage) -> str:
    """Returns the page."""
    paths = "\n".join(image.path for image in page.images)
    data = {
        # Of the labels that the browser keeps: other images are another page.
        "key": hashlib.sha256(paths.encode("utf-8", "surrogateescape")).hexdigest()[:16],
        "images": [
            {
                "path": image.path,
                "source": "data:image/jpeg;base64," + base64.b64encode(image.jpeg).decode(),
                "suggestion": image.suggestion,
                "probability": image.probability,
            }
            for image in page.images
        ],
        "classes": list(page.classes),
        "earlier": [list(row) for row in page.earlier],
    }
    # "</script>" in a name must not end the data.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    title = html.escape(page.title)
    earlier = f" {len(page.earlier):,} earlier labels are saved too." if page.earlier else ""
    command = ""
    if page.command:
        command = f"<p>Then continue:</p>\n<pre>{html.escape(page.command)}</pre>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{page_style.CSS}{label_page_parts.CSS}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{label_page_parts.BODY}
<section class="next">
<h2>Next</h2>
<p>"Save" downloads labels.csv with all that is labeled so far, here and at any time; images may
stay without a label.{earlier}</p>
{command}
</section>
</main>
<script type="application/json" id="data">{text}</script>
<script>{label_page_parts.SCRIPT}</script>
</body>
</html>
"""
