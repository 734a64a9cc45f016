"""The page of ``kgdet report`` opened from disk in headless Chromium."""

import json
import shutil

import pytest
from PIL import Image

from kgdet_d2 import cli
from tests.helpers.registered import NAME

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and its driver are not here"),
]
WIDTH = 1300


@pytest.fixture
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"window-size={WIDTH},1000"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def requested(driver):
    """The addresses that were asked for, other than the pictures in the page itself."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent if not params["request"]["url"].startswith("data:")]


def test_it_is_shown_whole_and_asks_for_no_other_file(scene, stored, tmp_path, chromium):
    for record in scene.records:
        record["file_name"] = str(tmp_path / "photo.png")
    Image.new("RGB", (320, 240), "grey").save(tmp_path / "photo.png")
    page = tmp_path / "report.html"
    arguments = ["--predictions", str(stored), "--dataset", NAME, "--output", str(page), "--max-photos", "3"]
    assert cli.main(["report", *arguments]) == 0
    chromium.get(page.as_uri())
    pictures = "return Array.from(document.images, image => image.complete && image.naturalWidth > 0)"
    assert chromium.execute_script(pictures) == [True] * (4 + 3)
    assert requested(chromium) == [page.as_uri()]
    assert chromium.get_log("browser") == []  # the policy has blocked nothing
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= WIDTH
