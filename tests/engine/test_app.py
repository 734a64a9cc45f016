"""``kgdet app`` without a browser: what is found, shown and refused, in Python and through the server."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import httpx
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import kgdet_d2.engine.app
from kgdet_d2 import FashionPredictor, Garments
from kgdet_d2.cli import main
from kgdet_d2.data.images import read_image
from kgdet_d2.engine.app.finder import HEADERS, LONG_SIDE, Found, GarmentFinder, RefusedPhoto
from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.visualizer import PARTS
from tests.helpers.served_page import MAX_MEGABYTES, Spread, free_port, served, write_photos
from tests.helpers.untrained import save_untrained


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("weights"), opts=["TEST.DETECTIONS_PER_IMAGE", "3"])


@pytest.fixture(scope="module")
def predictor(weights):
    return Spread(FashionPredictor.from_checkpoint(weights, "cpu", 0.0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def garment(image_size, box, keypoints=None):
    skirt = DEEPFASHION2.class_names.index("skirt")
    found = {"boxes": np.float32([box]), "scores": np.float32([0.5]), "classes": np.array([skirt])}
    return Garments(schema=DEEPFASHION2, image_size=image_size, keypoints=keypoints, **found)


# --- what is found and shown ---


def test_the_garments_from_a_score_on(predictor, photos):
    found = GarmentFinder(predictor, time_limit=60).find(photos[0])
    whole = predictor(photos[0])
    assert len(whole) == 3
    for number, score in enumerate(whole.scores.tolist(), start=1):
        kept = found.above(score)
        np.testing.assert_array_equal(kept.scores, whole.scores[:number])
        np.testing.assert_array_equal(kept.boxes, whole.boxes[:number])
        np.testing.assert_array_equal(kept.keypoints[-1], whole.keypoints[number - 1])
        assert [row[0] for row in found.table(score)] == whole.names[:number]
    assert len(found.above(0.91)) == 0 and found.table(0.91) == []


def test_a_row_of_the_table():
    found = Found(
        garment((40, 30), (1, 2, 10.25, 20), (np.zeros((8, 3), np.float32),)), np.zeros((40, 30, 3))
    )
    assert found.table(0.5) == [["skirt", 0.5, 1.0, 2.0, 10.2, 20.0, 8]]
    assert len(found.table(0.5)[0]) == len(HEADERS)


def test_a_large_photo_is_drawn_reduced(tmp_path, predictor, monkeypatch):
    """The box is where it is on the photo, and the files keep the photo's own pixels."""
    Image.new("RGB", (2 * LONG_SIDE, LONG_SIDE), (99, 99, 99)).save(tmp_path / "large.png")
    box = (500, 600, 1500, 1000)
    monkeypatch.setattr(predictor, "predictor", lambda photo: garment(photo.shape[:2], box))
    finder = GarmentFinder(predictor, time_limit=60)
    found = finder.find(tmp_path / "large.png")
    drawing = found.draw(0, ["boxes"])
    assert drawing.shape == (LONG_SIDE // 2, LONG_SIDE, 3)
    rows, columns = np.nonzero((drawing != 99).any(axis=2))
    np.testing.assert_allclose(
        [columns.min(), rows.min(), columns.max(), rows.max()], np.divide(box, 2), atol=4
    )
    files = found.write(tmp_path / "out", 0, ["boxes"])
    assert json.loads(files.garments.read_text())["garments"][0]["box"] == list(box)


def test_parts_of_a_drawing(predictor, photos):
    found = GarmentFinder(predictor, time_limit=60).find(photos[0])
    bare = found.draw(0, [])
    np.testing.assert_array_equal(bare, found.draw(1, PARTS))
    drawings = [bare, *(found.draw(0, [part]) for part in PARTS), found.draw(0, PARTS)]
    different = [(one != other).any() for i, one in enumerate(drawings) for other in drawings[:i]]
    assert all(different)
    np.testing.assert_array_equal(drawings[-1], found.above(0).draw(found.photo))


def test_files(predictor, photos, tmp_path):
    found = GarmentFinder(predictor, time_limit=60).find(photos[0])
    files = found.write(tmp_path, 0.5, PARTS)
    assert [path.name for path in files] == ["turned_picture.jpg", "turned_garments.json", "turned_coco.json"]
    expected = found.above(0.5)
    assert json.loads(files.garments.read_text()) == expected.to_dict()
    assert expected.to_dict()["file"] == "turned.jpg"
    assert json.loads(files.coco.read_text()) == expected.to_coco(1)
    with Image.open(files.picture) as picture:
        assert picture.size == found.draw(0.5, PARTS).shape[1::-1]


def test_the_time_limit(predictor, photos):
    finder, calls = GarmentFinder(predictor, time_limit=0.2), len(predictor.seen)
    predictor.free.clear()
    for path in photos[:2]:  # at work, and waiting behind it
        with pytest.raises(RefusedPhoto, match=rf"{path.name}: no answer within 0.2 s"):
            finder.find(path)
    predictor.free.set()
    finder.time_limit = 60
    assert finder.find(photos[2]).garments.file == photos[2].name
    assert len(predictor.seen) == calls + 2  # the second one never began: nobody waits for it


# --- through the server ---


@pytest.fixture(scope="module")
def app(predictor, tmp_path_factory):
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("gradio")
    with served(predictor, folder) as (page, address):
        yield SimpleNamespace(page=page, address=address, folder=folder)


@pytest.fixture
def connect(app, tmp_path):
    """Return clients of the page, each with a session of its own."""
    from gradio_client import Client

    return lambda: Client(app.address, verbose=False, download_files=tmp_path)


def send(client, path):
    from gradio_client import handle_file

    client.predict(handle_file(path), api_name="/find")


def shown(client, score=0.0, parts=PARTS):
    """Return the picture's path, the table's rows, and the paths of the files."""
    picture, table, *files = client.predict(score, list(parts), api_name="/show")
    return picture, table["data"], [file["value"] for file in files]


def read(path):
    return json.loads(Path(path).read_text())


def test_every_kind_of_photo_arrives_as_it_is(connect, predictor, photos):
    """To our reader, as if from disk: 16 bits, four channels, EXIF."""
    client = connect()
    for path in photos:
        send(client, path)
        np.testing.assert_array_equal(predictor.seen[-1], read_image(str(path), "RGB"), path.name)


def test_choices_do_not_run_the_model(connect, predictor, photos):
    client = connect()
    send(client, photos[0])
    calls = len(predictor.seen)
    numbers = [len(shown(client, score)[1]) for score in (0.0, 0.5, 0.95)]
    assert numbers == [3, 2, 0]
    pictures = {Path(shown(client, 0.0, parts)[0]).read_bytes() for parts in (["boxes"], [])}
    assert len(pictures) == 2 and len(predictor.seen) == calls


def test_visitors_do_not_see_each_other_s_garments(connect, photos):
    first, second, third = connect(), connect(), connect()
    send(first, photos[0])
    send(second, photos[3])
    names = [read(shown(client)[2][1])["file"] for client in (first, second)]
    assert names == [photos[0].name, photos[3].name]
    assert shown(third) == (None, [], [None, None, None])


def test_nothing_is_left_beside_gradio_s_own_files(connect, app, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client = connect()
    send(client, photos[0])
    shown(client)
    assert not list(tmp_path.glob("tmp*"))
    tracked = set().union(*app.page.temp_file_sets)
    left = {str(path) for path in app.folder.rglob("*") if path.is_file()}
    assert left and left <= tracked and app.page.delete_cache is not None


def bad_file(folder, kind):
    """Write something that is not a photo to be found garments on; return its path and what is said of it."""
    if kind == "text":
        path, said = folder / "text.jpg", "cannot read the image: cannot identify image file"
        path.write_text("not a photo")
    elif kind == "empty":
        path, said = folder / "empty.png", "cannot"
        path.touch()
    elif kind == "truncated":
        path, said = folder / "truncated.jpg", "cannot read the image: image file is truncated"
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "bomb":
        path, said = folder / "bomb.png", r"Image size \(100000000 pixels\) exceeds limit of 2000000 pixels"
        Image.new("1", (10_000, 10_000)).save(path)
    else:
        path, said = folder / "eps.jpg", "cannot read the image: Unable to locate Ghostscript"
        Image.new("RGB", (8, 8)).save(path, "EPS")
    return path, said


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "bomb", "eps"])
def test_a_bad_file_gets_a_message(connect, photos, tmp_path, capfd, kind):
    """Of the reader, without the folders of the server; what was found before is gone; nothing is logged."""
    path, said = bad_file(tmp_path, kind)
    client = connect()
    send(client, photos[0])
    with pytest.raises(Exception, match=rf"^{path.name}: .*{said}") as refused:
        send(client, path)
    assert "gradio" not in str(refused.value)
    assert shown(client) == (None, [], [None, None, None])
    assert "Traceback" not in capfd.readouterr().err


def test_a_message_is_no_html(connect, tmp_path):
    """What a file says of itself is shown, not run."""
    (tmp_path / "bad.jpg").write_bytes(b"<img src=x onerror=alert(1)>")
    with pytest.raises(Exception, match=r"bad\.jpg: ") as refused:
        send(connect(), tmp_path / "bad.jpg")
    assert "<" not in str(refused.value) and "&lt;" in str(refused.value)


def test_a_fault_of_the_program_is_not_shown(connect, predictor, photos, monkeypatch, capfd):
    monkeypatch.setattr(predictor, "predictor", None)
    with pytest.raises(Exception) as fault:
        send(connect(), photos[0])
    assert "NoneType" not in str(fault.value)
    assert "'NoneType' object is not callable" in capfd.readouterr().err  # it is logged


def test_large_uploads_are_refused(app):
    for size, status in ((MAX_MEGABYTES << 20, 200), ((MAX_MEGABYTES << 20) + 1, 413)):
        upload = {"files": ("photo.jpg", bytes(size))}
        assert httpx.post(f"{app.address}gradio_api/upload", files=upload).status_code == status


def test_files_that_were_not_uploaded_are_not_read(app, predictor, photos):
    calls, path = len(predictor.seen), f"{app.address}gradio_api/call/find"
    upload = {"path": str(photos[0]), "meta": {"_type": "gradio.FileData"}}
    event = httpx.post(path, json={"data": [upload]}).json()["event_id"]
    assert "event: error" in httpx.get(f"{path}/{event}").text and len(predictor.seen) == calls


def test_who_can_reach_the_page(app):
    (server,) = app.page.server.servers
    assert [socket.getsockname()[0] for socket in server.sockets] == ["127.0.0.1"]


# --- the command ---


@pytest.mark.slow
def test_the_command_serves_and_leaves_nothing(weights, tmp_path):
    """With photos that it draws; SIGTERM ends it well."""
    pytest.importorskip("gradio")
    port = free_port()
    words = [sys.executable, "-m", "kgdet_d2.cli", "app", "--weights", str(weights), "--device", "cpu"]
    command = subprocess.Popen(
        [*words, "--port", str(port)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = command.stdout.readline().split()[0]
    assert address == f"http://127.0.0.1:{port}/"
    components = httpx.get(f"{address}config").json()["components"]
    (examples,) = (each["props"]["samples"] for each in components if each["type"] == "dataset")
    assert len(examples) == 5
    example = httpx.get(f"{address}gradio_api/file={examples[0][0]['path']}")
    assert example.headers["content-type"] == "image/jpeg" and len(list(tmp_path.iterdir())) == 1
    command.send_signal(signal.SIGTERM)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 0 and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


@pytest.fixture
def process(monkeypatch):
    """What the command changes in its process is undone."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", EpsImagePlugin.gs_binary)
    handler = signal.getsignal(signal.SIGTERM)
    with patch.dict(os.environ):
        yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score-threshold", "50"], "--score-threshold: expected 0..1, got 50"),
        (["--weights", "none.pth"], "none.pth"),
        (["--examples", "no/folder"], "no/folder: expected photos"),
    ],
)
def test_arguments_that_cannot_be_used(process, weights, capsys, options, message):
    pytest.importorskip("gradio")
    assert main(["app", "--weights", str(weights), "--device", "cpu", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("port", ["taken", 70_000])
def test_a_port_that_cannot_be_had(process, app, weights, capsys, port):
    port = app.page.server_port if port == "taken" else port
    assert main(["app", "--weights", str(weights), "--device", "cpu", "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"error: 127.0.0.1:{port}: cannot listen there")


def test_without_gradio(process, weights, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "kgdet_d2.engine.app.page", raising=False)
    monkeypatch.delattr(kgdet_d2.engine.app, "page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--weights", str(weights)]) == 1
    assert capsys.readouterr().err == "error: gradio is missing: pip install 'kgdet_d2[app]'\n"
