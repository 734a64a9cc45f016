"""Take docs/app.jpg, the page of ``kgdet app`` in Chromium: ``python -m tests.helpers.make_app_screenshot``.

After ``make demo``, whose model and drawn photos it takes.
"""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from kgdet_d2 import FashionPredictor
from kgdet_d2.engine.app.command import draw_photos
from tests.helpers.browser import Page, open_chromium
from tests.helpers.served_page import served

WEIGHTS = "output/demo/model_final.pth"
PHOTO = Path("datasets/synthfashion/validation/image/000010.jpg")
SCREENSHOT = Path("docs/app.jpg")


def main() -> None:
    predictor = FashionPredictor.from_checkpoint(WEIGHTS, "cpu", 0.05)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with (
            served(predictor, folder, score_threshold=0.3, examples=draw_photos(folder)) as (_, address),
            open_chromium(folder) as driver,
        ):
            page = Page(driver, address, folder)
            page.upload(PHOTO.resolve())
            page.wait(lambda: PHOTO.stem in page.picture())
            driver.set_window_size(1280, 1030)  # all of the page
            screenshot = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
            screenshot.convert("RGB").save(SCREENSHOT, quality=85)
    print(f"{SCREENSHOT}: {SCREENSHOT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
