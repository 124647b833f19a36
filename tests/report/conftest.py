"""A headless Chromium for the tests of the page, where the machine has one."""

import importlib.util
import os
import shutil
import time
from pathlib import Path

import pytest
from report.made_run import make_run

# Debian's own binary first: its wrapper reads the settings of a desktop.
CHROMIUM = ("/usr/lib/chromium/chromium", "chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu-sandbox",
         "--enable-unsafe-swiftshader", "--remote-debugging-pipe", "--hide-scrollbars",
         "--disable-background-networking", "--window-size=1100,900")  # fmt: skip


def _browser():
    """(chromium, chromedriver), or why there is none."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed"
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        return "no Chromium with its driver: apt-get install chromium chromium-driver"
    return chromium, driver


@pytest.fixture(scope="session")
def browser():
    """A browser for all tests; `wide` sets its size, `drawn` waits for the page."""
    found = _browser()
    if isinstance(found, str):
        pytest.skip(found)
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = found[0]
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(found[1], env={**os.environ, "HOME": "/tmp"}))
    yield driver
    driver.quit()


def wide(browser, width, height=900):
    """Sets the width of the view, in CSS pixels."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def scheme(browser, name):
    """What the system asks for: "light" or "dark"."""
    features = [{"name": "prefers-color-scheme", "value": name}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def until(condition, seconds=60):
    """Waits; the condition's value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)
    return value


def drawn(browser, times=1):
    """Waits until all figures have been drawn so often."""
    script = "return Number(document.documentElement.dataset.drawn || 0)"
    until(lambda: browser.execute_script(script) >= times)


def errors(browser):
    """What the console holds since it was asked last."""
    return [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "seed0")


@pytest.fixture(scope="session")
def html(run_folder, tmp_path_factory) -> Path:
    from zopro.report import write_report

    return write_report([run_folder], tmp_path_factory.mktemp("page") / "report.html")
