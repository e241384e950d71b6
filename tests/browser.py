"""Chromium, driven by selenium, for tests that look at a page.

Needs Chromium with its driver (Debian: apt-get install chromium chromium-driver) and
`pip install -e .[browser]`; without them the tests skip.
"""

import contextlib
import shutil
import types

import pytest

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-proxy-server", "--window-size=1400,1000"),
)


def find():
    """Returns the paths of the browser and of its driver, or skips the test."""
    pytest.importorskip("selenium", reason="selenium isn't installed: pip install -e .[browser]")
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        pytest.skip("Chromium isn't installed: apt-get install chromium chromium-driver")
    return types.SimpleNamespace(program=found[0], driver=found[1])


@contextlib.contextmanager
def driving(chromium, profile, **preferences):
    """Starts the browser with a profile directory; yields its driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium.program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", preferences)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromium.driver))
    try:
        yield driver
    finally:
        driver.quit()
