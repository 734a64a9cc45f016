"""A headless Chromium that knows no host but this one, and what a visitor of ``kgdet app`` does in it."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_PATIENCE = 60  # seconds
_ASKING = ("Network.requestWillBeSent", "Network.webSocketCreated")  # events of the browser's log


@contextmanager
def open_chromium(downloads: Path):
    """Yield a driver of selenium's; what is downloaded goes into the folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page, just opened.

    Args:
        driver: of the browser.
        address: of the page.
        downloads: the folder that the browser downloads to.
    """

    def __init__(self, driver, address: str, downloads: Path):
        self.driver, self.downloads = driver, downloads
        driver.get(address)
        self.wait(lambda: self.find("input[type=file]"))

    def wait(self, condition):
        """Wait until a condition holds; return what it returned."""
        from selenium.common import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.driver, _PATIENCE, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition())

    def find(self, selector: str) -> list:
        """Return the elements of a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def text(self) -> str:
        return self.find("body")[0].text

    def button(self, label: str):
        (button,) = (button for button in self.find("button") if button.text == label)
        return button

    def upload(self, photo: Path) -> None:
        """Give the page a file; return when it is the one that the page has."""
        self.find("input[type=file]")[0].send_keys(str(photo))
        self.wait(lambda: self.find(f"[data-testid=image] img[src$='/{photo.name}']"))

    def type_score(self, score: float) -> None:
        from selenium.webdriver import Keys

        (box,) = self.find("input[type=number]")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(str(score), Keys.TAB)

    def picture(self) -> str:
        """Return the address of the drawn picture, "" while there is none."""
        for image in self.find("img[alt='the photo with its garments drawn']"):
            if image.get_property("naturalWidth"):
                return image.get_attribute("src")
        return ""

    def names(self) -> list[str]:
        """Return the names of the garments in the table."""
        return [cell.text for cell in self.find("[role=gridcell][data-col='0']") if cell.text]

    def shows(self, photo: Path, number: int) -> bool:
        """Return whether the picture is of this photo, and the table has so many garments."""
        return photo.stem in self.picture() and len(self.names()) == number

    def shows_nothing(self) -> bool:
        return not (self.picture() or self.names() or self.button("Download JSON").is_enabled())

    def download(self, label: str) -> Path:
        """Press a button; return the file that comes."""
        before = set(self.downloads.iterdir())
        self.button(label).click()
        (path,) = self.wait(lambda: {*self.downloads.glob("*.jp*g"), *self.downloads.glob("*.json")} - before)
        return path

    def hosts(self) -> set[str | None]:
        """Return the hosts that the browser asked for something since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [event["params"] for event in events if event["method"] in _ASKING]
        urls = [urlsplit(params.get("request", params)["url"]) for params in asked]
        return {url.hostname for url in urls if url.scheme not in ("data", "blob")}

    def errors(self) -> list[str]:
        """Return the errors in the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
