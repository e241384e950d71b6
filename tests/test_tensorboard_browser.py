"""TensorBoard in a browser shows what a real run wrote.

Needs Chromium with its driver (Debian: apt-get install chromium chromium-driver) and
`pip install -e .[browser]`. The screenshots are in pytest's temporary directory (--basetemp);
`pytest -m slow -s tests/test_tensorboard_browser.py` prints the path.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import time
import types

import browser
import numpy as np
import pytest
import small
from PIL import Image

from tf2 import metrics, study

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 180  # for anything to appear on a busy machine
RUN_COLOR = (255, 112, 67)  # TensorBoard's first
# TensorBoard uses shadow trees, which selectors do not enter. Here "a // b" selects every b below
# every a, through them.
BELOW = """
    const below = (root, selector) => [
        ...root.querySelectorAll(selector),
        ...[...root.querySelectorAll('*')].flatMap(
            e => e.shadowRoot ? below(e.shadowRoot, selector) : [])
    ];
    return arguments[0].split(' // ').reduce(
        (roots, selector) => roots.flatMap(root => below(root.shadowRoot || root, selector)),
        [document]);
"""
ROWS = [
    {
        **{"method": method, "labels": labels, "seed": 0, "top_1": top_1 * labels**0.3},
        **{"parameters": 1000, "seconds": 1.0},
    }
    for method, top_1 in (("fine-tuned", 0.5), ("supervised baseline", 0.3))
    for labels in (1, 2, 4)
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium():
    """Paths of the browser and of its driver."""
    return browser.find()


@pytest.fixture(scope="module")
def logs(chromium, tmp_path_factory):
    """A directory with a pretraining of six steps from the command line, and a study."""
    directory = tmp_path_factory.mktemp("logs")
    flags = {"mode": "train_then_eval", "train_steps": 6, "width_multiplier": 0.0625}
    flags |= {"image_size": 8, "use_blur": False, "plots": True}
    command = [sys.executable, *small.command(directory / "run", **flags)]
    command[1] = "tf2/run.py"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    study.write(ROWS, str(directory / "study"), title="Synthetic accuracy")
    return directory


@contextlib.contextmanager
def serving(logdir, log):
    """Runs TensorBoard on a free port; yields its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    command += ["--host", "127.0.0.1", "--port", "0"]
    with open(log, "w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + SECONDS
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield found[0]
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def page(chromium, logs, tmp_path_factory):
    """The browser, TensorBoard's address and where screenshots go."""
    home = tmp_path_factory.mktemp("browser")
    shots = tmp_path_factory.mktemp("tensorboard_screenshots", numbered=False)
    print(f"\nScreenshots: {shots}")
    with serving(logs, home / "tensorboard.txt") as address:
        with browser.driving(chromium, home / "profile") as driver:
            yield types.SimpleNamespace(driver=driver, address=address, shots=shots)


def wait(page, what, condition):
    """Waits until a condition is true, and returns its value."""
    from selenium.common import exceptions
    from selenium.webdriver.support import ui

    # Elements that TensorBoard replaces meanwhile are looked up again.
    ignored = (exceptions.StaleElementReferenceException, exceptions.NoSuchElementException)
    waiting = ui.WebDriverWait(page.driver, SECONDS, ignored_exceptions=ignored)
    try:
        return waiting.until(lambda _: condition())
    except exceptions.TimeoutException:
        page.driver.save_screenshot(str(page.shots / "timeout.png"))
        raise AssertionError(f"{what} did not appear: {page.shots / 'timeout.png'}") from None


def text(page):
    return page.driver.find_element("tag name", "body").text


def open_tab(page, name):
    page.driver.switch_to.default_content()
    page.driver.get("about:blank")  # a change of the fragment alone loads nothing
    page.driver.get(page.address + "#" + name)


def find_tags(page, pattern, expected):
    """Types a pattern into the filter for tags, and waits for the expected tags."""

    def matching():
        for field in page.driver.execute_script(BELOW, "tf-tag-filterer // input"):
            if field.get_property("value") != pattern:
                field.clear()
                field.send_keys(pattern)
        found = re.findall(r"^tag: (\S+)$", text(page), re.MULTILINE)
        return sorted(found[: len(expected)]) == sorted(expected)

    wait(page, f"Tags {sorted(expected)}", matching)


def shoot(page, name):
    """Saves a screenshot; returns its pixels (height, width, 3)."""
    path = page.shots / f"{name}.png"
    page.driver.save_screenshot(str(path))
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_scalars_tab_shows_the_runs_losses(page, logs):
    history = metrics.read_scalars(str(logs / "run"))
    losses = {name for name in history if name.endswith("_loss")}
    assert {"train/contrast_loss", "train/total_loss", "eval/supervised_loss"} <= losses
    open_tab(page, "scalars")
    find_tags(page, "_loss$", losses)

    def drawn():
        charts = shoot(page, "scalars")[100:, 360:]
        colored = np.abs(charts.astype(int) - RUN_COLOR).max(axis=2) < 24
        return colored.sum() > 500

    wait(page, "Curves in the color of the run", drawn)


def test_the_images_tab_shows_our_figures_in_full(page, logs):
    sizes = {}
    for path in (logs / "run" / "plots").iterdir():
        with Image.open(path) as image:
            sizes[f"plots/{path.stem}"] = image.size
    with Image.open(logs / "study" / "study.png") as image:
        sizes["study"] = image.size
    assert len(sizes) == 8
    for group in ("plots", "study"):
        expected = {name for name in sizes if name.startswith(group)}
        open_tab(page, "images")
        find_tags(page, f"^{group}", expected)

        def drawn(expected=expected):
            images = page.driver.execute_script(BELOW, "tf-image-loader // img")[: len(expected)]
            found = [
                tuple(image.get_property(name) for name in ("naturalWidth", "naturalHeight"))
                for image in images
            ]
            return sorted(found) == sorted(sizes[name] for name in expected)

        wait(page, f"The figures {sorted(expected)}", drawn)
        assert shoot(page, f"images_{group}").std() > 20


def test_the_projector_shows_each_image_at_its_features(page, logs):
    open_tab(page, "projector")
    features = np.loadtxt(logs / "run" / "projector" / "features.tsv", delimiter="\t")
    assert features.shape == (360, 32)  # the test digits; 512 / 16 features

    def inside():
        page.driver.switch_to.default_content()
        for _ in range(2):  # the plugin's frame, and the projector's inside it
            page.driver.switch_to.frame(page.driver.find_element("tag name", "iframe"))
        return text(page)

    shown = wait(page, "360 points", lambda: (t := inside()) and "Points: 360" in t and t)
    assert "Dimension: 32" in shown and "final_avg_pool" in shown
    wait(page, "The principal components", lambda: "Total variance described" in inside())
    (holder,) = page.driver.execute_script(BELOW, "#scatter")
    box = holder.rect
    page.driver.switch_to.default_content()
    frame = page.driver.find_element("tag name", "iframe").rect
    top, left = int(frame["y"] + box["y"]), int(frame["x"] + box["x"])

    def thumbnails():  # white digits on black, on a white page
        pixels = shoot(page, "projector")
        cloud = pixels[top : top + int(box["height"]), left : left + int(box["width"])]
        black = (np.ptp(cloud, axis=2) < 8) & (cloud.max(axis=2) < 64)
        return 0.01 < black.mean() < 0.9

    time.sleep(2)  # the camera moves first
    wait(page, "Thumbnails", thumbnails)


def test_the_screenshots_are_where_the_test_says(page):
    names = {path.name for path in page.shots.iterdir()}
    assert names == {"scalars.png", "images_plots.png", "images_study.png", "projector.png"}
    assert all(os.path.getsize(page.shots / name) > 10_000 for name in names)
