"""The page to label images on: its data, and in a browser labeling, saving and training."""

import csv
import io
import json
import re
import time

import browser
import numpy as np
import pytest
from PIL import Image

from tf2 import run
from tf2.sources import listing
from tf2.visuals import label_page

NAMES = ["plain.png", 'sub/a, "b";c.png', "sub/caf\u00e9 </script>.png", "<b>.png"]


def jpeg(seed, size=(40, 30)):
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def page(names, **changes):
    images = [label_page.Image(name, jpeg(number)) for number, name in enumerate(names)]
    return label_page.LabelPage(title="Images to <label>", images=images, **changes)


def test_the_page_is_one_file_whatever_the_names_are():
    text = label_page.render(page(NAMES, classes=["</script>"], command="a <b>"))
    assert text.count("</script>") == 2  # of the data and of the program
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [image["path"] for image in data["images"]] == NAMES
    assert data["classes"] == ["</script>"]
    assert "<title>Images to &lt;label&gt;</title>" in text and "a &lt;b&gt;" in text
    assert "http" not in text and "@import" not in text and "url(" not in text


def test_other_images_have_other_labels_in_the_browser():
    keys = [re.search(r'"key": "(\w+)"', label_page.render(page(n)))[1] for n in (NAMES, NAMES[1:])]
    assert keys[0] != keys[1]


# ---- in a browser


@pytest.fixture(name="driver")
def _driver(tmp_path):
    """The browser, which saves downloads in tmp_path / downloads."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    preferences = {"download.default_directory": str(downloads)}
    with browser.driving(browser.find(), tmp_path / "profile", **preferences) as driver:
        yield driver


def press(driver, *keys):
    body = driver.find_element("tag name", "body")
    for key in keys:
        body.send_keys(key)


def save(driver, directory):
    """Presses "Save"; returns the path of the download."""
    before = set(directory.glob("*.csv"))
    driver.find_element("id", "save").click()
    end = time.monotonic() + 60
    while not (new := set(directory.glob("*.csv")) - before):
        assert time.monotonic() < end
        time.sleep(0.1)
    return new.pop()


def progress(driver):
    return driver.find_element("id", "progress").text


@pytest.mark.slow
def test_labels_are_assigned_undone_kept_and_saved(driver, tmp_path):
    from selenium.webdriver.common.keys import Keys

    earlier = [("old, 1.png", "cat", ""), ("old2.png", "dog", "val")]
    (tmp_path / "label.html").write_text(label_page.render(page(NAMES, earlier=earlier)))
    driver.get(f"file://{tmp_path}/label.html")
    assert progress(driver) == "0 of 4 labeled"
    assert not driver.find_element("id", "save").is_enabled()
    driver.find_element("id", "name").send_keys("cat, sea dog", Keys.ENTER)
    press(driver, "1", "2", "2", "9")  # there is no ninth class
    assert progress(driver) == "3 of 4 labeled"
    press(driver, "u", Keys.ARROW_LEFT, "1")  # undoes the third; the second becomes a cat
    assert progress(driver) == "2 of 4 labeled"
    driver.find_element("id", "grid").find_elements("tag name", "button")[3].click()
    driver.find_elements("css selector", "#classes .class")[1].click()
    saved = save(driver, tmp_path / "downloads")
    assert saved.name == "labels.csv"
    rows = list(csv.reader(saved.open(encoding="utf-8")))
    assert rows == [
        ["path", "label", "split"],
        ["old, 1.png", "cat", ""],
        ["old2.png", "dog", "val"],
        [NAMES[0], "cat", ""],
        [NAMES[1], "cat", ""],
        [NAMES[3], "sea dog", ""],
    ]
    driver.refresh()
    assert progress(driver) == "3 of 4 labeled"


@pytest.mark.slow
def test_enter_accepts_the_suggestion(driver, tmp_path):
    from selenium.webdriver.common.keys import Keys

    images = [label_page.Image("1.png", jpeg(1), "fox", 0.9), label_page.Image("2.png", jpeg(2))]
    (tmp_path / "label.html").write_text(label_page.render(label_page.LabelPage("t", images)))
    driver.get(f"file://{tmp_path}/label.html")
    assert driver.find_element("id", "accept").text == "Predicted: fox, 90 %"
    press(driver, Keys.ENTER)
    assert not driver.find_element("id", "accept").is_displayed()
    assert save(driver, tmp_path / "downloads").read_text() == "path,label\n1.png,fox\n"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_five_hundred_images_fit_the_screen(driver, tmp_path, width):
    names = [f"some long folder name/{number}.png" for number in range(500)]
    classes = [f"class {number}" for number in range(30)]
    (tmp_path / "label.html").write_text(label_page.render(page(names, classes=classes)))
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(f"file://{tmp_path}/label.html")
    press(driver, "1", "2", "3")
    assert progress(driver) == "3 of 500 labeled"
    wide = """return [...document.querySelectorAll("main *")].filter(
        (e) => e.getBoundingClientRect().right > innerWidth + 1).length;"""
    assert driver.execute_script(wide) == 0
    broken = "return [...document.images].filter((i) => !i.naturalWidth).length;"
    assert driver.execute_script(broken) == 0
    assert driver.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_convolution")
def test_what_is_labeled_on_the_page_of_a_run_trains_a_classifier(driver, tmp_path):
    from selenium.webdriver.common.keys import Keys
    from small import command

    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):  # dark and bright images
        low = 0 if number % 2 else 180
        pixels = np.random.RandomState(number).randint(low, low + 76, (12, 12), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    flags = {"dataset": "folder", "data_dir": folder, "image_size": 8, "eval_split": "train"}
    assert run.run_argv(command(tmp_path / "run", **flags)) == 0
    select = {"mode": "select", "checkpoint": tmp_path / "run", "count": 12, "data_dir": folder}
    argv = [f"--{name}={value}" for name, value in select.items()]
    assert run.run_argv(["run.py", *argv, f"--model_dir={tmp_path / 'chosen'}"]) == 0
    driver.get(f"file://{tmp_path}/chosen/select/label.html")
    driver.find_element("id", "name").send_keys("dark, bright", Keys.ENTER)
    for _ in range(12):
        number = int(driver.find_element("id", "path").text.removesuffix(".png"))
        press(driver, "1" if number % 2 else "2")
    labels = save(driver, tmp_path / "downloads")
    found = listing.list_images(str(folder), labels=str(labels))
    assert found.num_labeled == 12 and found.class_names == ("bright", "dark")
    assert all(
        image.class_name in (None, "dark" if int(image.path[:2]) % 2 else "bright")
        for image in found.images
    )
    flags |= {"labels": labels, "train_mode": "finetune", "checkpoint": tmp_path / "run"}
    argv = command(tmp_path / "tuned", **flags, mode="train_then_eval", train_batch_size=8)
    assert run.run_argv(argv) == 0
    assert (tmp_path / "tuned" / "result.json").exists()
