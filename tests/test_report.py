"""A run's page: complete, escaped, without network, and readable on a phone (headless Chromium)."""

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tf2.visuals import plots, report

NASTY = "<script>alert(\"x\")</script> & 'quotes'"


def picture(seed=0, kind="PNG", size=32):
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def row(method, top_1, **more):
    return {
        **{"method": method, "labels": "100 of 1,950", "top_1": top_1, "knn": 0.5},
        **{"parameters": 701754, "seconds": 300.0, "top_1_low": None, "top_1_high": None},
        **{"mean_per_class": top_1, "majority_class": 0.53, "num_images": 230.0},
        **more,
    }


def example(number, **changes):
    values = {"image": picture(number, "JPEG"), "path": f"animals/cats/IMG_{number:04d}.jpg"}
    values |= {"predicted": "cat", "probability": 0.9 - 0.02 * number}
    return report.Example(**{**values, **changes})


@pytest.fixture(scope="module")
def full():
    """A report with every part."""
    history = {
        "train/total_loss": [(step, 5 / step) for step in range(1, 50)],
        "eval/knn_accuracy": [(10, 0.3), (49, 0.6)],
    }
    random = np.random.RandomState(0)
    labels = random.randint(-1, 5, 300)
    points = random.standard_normal((300, 2)) + labels[:, None]
    names = ["cat", "dog", "a very long name of a class of images", NASTY, "bird"]
    counts = random.randint(0, 30, (5, 5)) + 40 * np.eye(5, dtype=int)
    rows = [row("pretrained", None, labels="none")]
    for method, top_1 in (
        ("fine-tuned", 0.872),
        ("self-distilled", 0.869),
        ("distilled student", 0.851),
        ("supervised baseline", 0.71),
    ):
        rows.append(row(method, top_1, top_1_low=top_1 - 0.05, top_1_high=top_1 + 0.03))
    return report.Report(
        title=f"Photos {NASTY}",
        found=["Found: 1,950 images in photos, flat.", f"Labels: 150 of {NASTY}."],
        decided=[
            ("image_size", "64", "the 25th percentile of the short side is 71 pixels"),
            ("train_epochs", "84", "0.21 s a step: 84 epochs in 12 of the 30 minutes"),
            ("width_multiplier", "0.25", "on a CPU"),
        ],
        rows=rows,
        result="distilled student",
        notes=[
            "Cross-validation of a logistic probe on 120 labeled images: 81.2 % (73.1 to 87.4)."
        ],
        warnings=["The student is below its teacher by more than its interval."],
        curves=[report.Figure(plots.curves(history, title="Training"), "Pretraining")],
        feature_maps=[
            report.Figure(
                plots.feature_map(points, labels, names, title="t-SNE"), "300 held-out images"
            )
        ],
        confusion=[
            report.Figure(plots.confusion(counts, names, title="Confusion"), "Distilled student")
        ],
        examples_of="1,800 images without a label",
        most_certain=[example(n) for n in range(12)],
        least_certain=[
            example(n, probability=0.3, true_class="dog", path=f"{NASTY}/{'x' * 90}.jpg")
            for n in range(12)
        ],
        files=[
            ("results.csv", "the table above", 812),
            ("student/saved_model/2400/", "the exported network", 4_200_000),
            (f"predictions {NASTY}.csv", "classes of all images without a label", 183_000),
        ],
        next_steps="Next: predict other images:\n\n  python tf2/run.py --mode=predict "
        f"--checkpoint=runs/photos/student --data_dir={'very_long_' * 12}OTHER",
    )


class Page(html.parser.HTMLParser):
    """The texts, headings and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.styles = [], [], [], []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.extend((tag, name, value) for name, value in attrs)
        self._inside = tag

    def handle_data(self, data):
        (self.styles if self._inside == "style" else self.texts).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_a_page_has_every_part_of_its_run(full):
    page = Page(report.render(full))
    for words in (
        *(*full.found, *full.notes, *full.warnings, full.title, "Measured on 230 images"),
        *("87.2 % (82.2 to 90.2)", "87.2 %", "53.0 %", "0.21 s a step", "701,754", "100 of 1,950"),
        *("results.csv", "4.2 MB", "true: dog", "cat 90 %", "1,800 images without a label"),
        "python tf2/run.py --mode=predict",
    ):
        assert " ".join(words.split()) in page.text, words
    headline = re.search(r"<strong>(.*?)</strong>", report.render(full))[1]
    assert headline == "85.1 %"  # of the network that is the result


def test_every_text_of_the_user_is_escaped(full):
    text = report.render(full)
    assert "<script" not in text and text.count(NASTY) == 0
    page = Page(text)
    assert "script" not in page.tags and page.text.count(NASTY) >= 4
    assert not [a for a in page.attributes if a[1].startswith("on")]


def test_a_page_needs_no_network_and_its_images_are_inside(full):
    text = report.render(full)
    page = Page(text)
    sources = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 3 + 24 and all(s.startswith("data:image/") for s in sources)
    assert "@import" not in text and "url(" not in text and "http" not in "".join(page.styles)
    decoded = Image.open(io.BytesIO(base64.b64decode(sources[-1].split(",")[1])))
    assert decoded.size[0] > 300


def test_bars_are_the_accuracies_with_their_intervals(full):
    text = report.render(full)
    widths = re.findall(r'class="fill" style="width: ([\d.]+)%', text)
    assert widths == ["87.20", "86.90", "85.10", "71.00"]
    whiskers = re.findall(r'class="interval" style="left: ([\d.]+)%; width: ([\d.]+)%', text)
    assert whiskers[0] == ("82.20", "8.00")
    assert text.count('class="majority" style="left: 53.00%"') == 4


def test_parts_without_content_are_left_out():
    page = report.render(report.Report(title="Nothing yet"))
    assert "<section>" not in page and "Nothing yet" in page
    rows = [row("pretrained", None, majority_class=None)]
    page = report.render(report.Report(title="t", rows=rows))
    assert page.count("<section>") == 1 and "headline" not in Page(page).text
    assert '<p class="headline"' not in page


def test_a_path_that_is_no_text_is_written(tmp_path):
    bad = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    made = report.Report(title="t", least_certain=[example(0, path=bad)])
    path = report.write(made, str(tmp_path / "new"))
    assert (tmp_path / "new" / "report.html").read_bytes().decode("utf-8").count("caf?.jpg") == 3
    assert path == str(tmp_path / "new" / "report.html")


CHECK = """
<script>
window.addEventListener("load", () => {
  const wide = [...document.querySelectorAll("main *")].filter(
    (e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
  const broken = [...document.images].filter((i) => !i.complete || !i.naturalWidth);
  document.title = "CHECKED " + JSON.stringify({
    width: document.documentElement.clientWidth,
    scroll: document.documentElement.scrollWidth,
    wide: wide.map((e) => e.className || e.tagName), broken: broken.length,
    images: document.images.length,
    background: getComputedStyle(document.body).backgroundColor,
  });
});
</script>
</body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_nothing_overflows_and_no_image_is_missing(full, width, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    page = report.render(full).replace("</body>", CHECK)
    (tmp_path / "page.html").write_text(page)
    # Headless windows have a minimum width; a frame has the width of a phone.
    frame = f'<iframe id="f" style="width: {width}px; height: 900px; border: 0"></iframe>'
    script = "<script>f.srcdoc = decodeURIComponent(document.getElementById('p').textContent);"
    script += "f.onload = () => setTimeout(() => document.title = f.contentDocument.title, 300);"
    outer = f'<script type="text/plain" id="p">{urllib.parse.quote(page)}</script>{frame}{script}'
    (tmp_path / "outer.html").write_text(f"<!DOCTYPE html><title></title>{outer}</script>")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += ["--virtual-time-budget=20000", "--dump-dom", f"file://{tmp_path}/outer.html"]
    command += [f"--user-data-dir={tmp_path}/profile"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r"<title>CHECKED (\{.*?\})</title>", shown)
    assert found, shown[:500]
    found = json.loads(html.unescape(found[1]))
    assert width - 20 <= found["width"] <= width  # without the scroll bar
    assert found["scroll"] <= found["width"] and found["wide"] == []
    assert found["images"] == 27 and found["broken"] == 0
