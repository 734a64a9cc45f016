"""The page of ``kgdet app`` in headless Chromium, with a model of random weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kgdet_d2 import FashionPredictor
from kgdet_d2.synthetic import generate_photo
from tests.helpers.browser import CHROMIUM, DRIVER, Page, open_chromium
from tests.helpers.served_page import Spread, served
from tests.helpers.untrained import save_untrained

pytest.importorskip("gradio")
pytest.importorskip("selenium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium and its driver are not here"),
]
NUMBER = 5  # of garments that are found on each photo


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three drawn photos."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"photo_{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.fromarray(generate_photo(index, size=200).image[:, :, ::-1]).save(path)
    return paths


@pytest.fixture(scope="module")
def app(photos, tmp_path_factory):
    opts = ["TEST.DETECTIONS_PER_IMAGE", str(NUMBER)]
    weights = save_untrained(tmp_path_factory.mktemp("weights"), opts=opts)
    predictor = Spread(FashionPredictor.from_checkpoint(weights, "cpu", 0.0))
    with served(predictor, tmp_path_factory.mktemp("gradio"), examples=photos[:1]) as (_, address):
        yield SimpleNamespace(predictor=predictor, address=address)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    with open_chromium(downloads) as driver:
        yield SimpleNamespace(driver=driver, downloads=downloads)


@pytest.fixture
def page(app, chromium):
    """The page, just opened; at the end it has asked no other host and logged no error."""
    page = Page(chromium.driver, app.address, chromium.downloads)
    yield page
    assert page.hosts() == {"127.0.0.1"}
    assert page.errors() == []


@pytest.fixture
def rubbish(tmp_path):
    path = tmp_path / "rubbish.jpg"
    path.write_text("not a photo")
    return path


def upload_while_at_work(page, app, photo):
    """Upload a photo; return when the model works on it, which lasts until ``app.predictor.free`` is set."""
    calls = len(app.predictor.seen)
    app.predictor.free.clear()
    page.upload(photo)
    page.wait(lambda: len(app.predictor.seen) == calls + 1)


def test_from_an_upload_to_the_files(page, app, photos):
    page.upload(photos[1])
    page.wait(lambda: page.shows(photos[1], NUMBER))
    calls, before = len(app.predictor.seen), page.picture()
    page.type_score(0.5)
    page.wait(lambda: page.shows(photos[1], 3) and page.picture() != before)
    before = page.picture()
    page.find("input[name=names]")[0].click()
    page.wait(lambda: page.shows(photos[1], 3) and page.picture() != before)
    assert len(app.predictor.seen) == calls  # the model ran once

    garments = json.loads(page.download("Download JSON").read_text())
    assert garments["file"] == photos[1].name
    assert [garment["class"] for garment in garments["garments"]] == page.names()
    results = json.loads(page.download("Download COCO results").read_text())
    assert [result["score"] for result in results] == [each["score"] for each in garments["garments"]]
    with Image.open(page.download("Download picture")) as picture:
        assert max(picture.size) == 768 and np.asarray(picture).std() > 5


def test_what_is_no_photo_gets_a_message(page, photos, rubbish):
    """Nothing of the photo before is left, and the next one is as welcome."""
    page.upload(photos[1])
    page.wait(lambda: page.shows(photos[1], NUMBER))
    page.upload(rubbish)
    page.wait(lambda: "rubbish.jpg: cannot read the image" in page.text())
    page.wait(page.shows_nothing)
    assert "Traceback" not in page.text()
    page.upload(photos[2])
    page.wait(lambda: page.shows(photos[2], NUMBER))


def test_an_example(page, app, photos):
    calls = len(app.predictor.seen)
    page.find(".gallery-item")[0].click()
    page.wait(lambda: page.shows(photos[0], NUMBER))
    assert len(app.predictor.seen) == calls + 1


def test_a_photo_that_is_taken_away(page, photos):
    page.upload(photos[1])
    page.wait(lambda: page.shows(photos[1], NUMBER))
    page.find("button[title='Remove Image']")[0].click()
    page.wait(page.shows_nothing)


def test_of_two_photos_the_last_counts(page, app, photos):
    upload_while_at_work(page, app, photos[1])
    page.upload(photos[2])
    app.predictor.free.set()
    page.wait(lambda: page.shows(photos[2], NUMBER))


def test_after_a_photo_that_is_no_photo(page, app, photos, rubbish):
    upload_while_at_work(page, app, photos[1])
    page.upload(rubbish)
    app.predictor.free.set()
    page.wait(lambda: "rubbish.jpg: cannot read the image" in page.text())
    page.wait(page.shows_nothing)


def test_a_choice_while_the_model_works(page, app, photos):
    upload_while_at_work(page, app, photos[1])
    page.type_score(0.5)
    app.predictor.free.set()
    page.wait(lambda: page.shows(photos[1], 3))
