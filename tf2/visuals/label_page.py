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

from tf2.visuals import label_page_parts, page

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


def render(content: LabelPage) -> str:
    """Returns the page."""
    paths = "\n".join(image.path for image in content.images)
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
            for image in content.images
        ],
        "classes": list(content.classes),
        "earlier": [list(row) for row in content.earlier],
    }
    # "</script>" in a name must not end the data.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    earlier = f" {len(content.earlier):,} earlier labels are saved too." if content.earlier else ""
    command = ""
    if content.command:
        command = f"<p>Then continue:</p>\n<pre>{html.escape(content.command)}</pre>"
    next_steps = f"""<section class="next">
<h2>Next</h2>
<p>"Save" downloads labels.csv with all that is labeled so far, here and at any time; images may
stay without a label.{earlier}</p>
{command}
</section>"""
    return page.document(
        content.title,
        [label_page_parts.BODY, next_steps],
        style=label_page_parts.CSS,
        after=f"""
<script type="application/json" id="data">{text}</script>
<script>{label_page_parts.SCRIPT}</script>""",
    )
