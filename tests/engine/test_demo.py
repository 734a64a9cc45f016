"""``demo.py`` with a model of random weights."""

import cv2
import numpy as np
import pytest
from PIL import Image

from kgdet_d2 import FashionPredictor
from kgdet_d2.cli import main
from kgdet_d2.engine import demo
from tests.helpers.untrained import CONFIG, save_untrained

RATE, SIZE = 10.0, (64, 48)  # of the film: pictures a second; width, height


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three photos of one name but for folder and kind."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("a/1.png", "a/1.jpg", "b/1.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE, SIZE)
    for grey in (0, 120, 240):
        writer.write(np.full((*SIZE[::-1], 3), grey, np.uint8))
    writer.release()
    return path


def run(weights, *arguments):
    threshold = ["--confidence-threshold", "0"]
    return main(["demo", *map(str, arguments), *threshold, "--opts", "MODEL.WEIGHTS", str(weights)])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_photos_into_a_folder(weights, photos, tmp_path):
    assert run(weights, "--input", photos, "--output", tmp_path) == 0
    assert files(tmp_path) == ["a/1.jpg", "a/1.png.jpg", "b/1.jpg"]


def test_the_picture_is_the_predictor_s(weights, photos, tmp_path):
    photo = photos / "a/1.png"
    assert run(weights, "--input", photo, "--output", tmp_path / "drawn.jpg") == 0
    expected = FashionPredictor.from_checkpoint(weights, "cpu", 0.0)(photo).draw(photo)
    drawn = cv2.imread(str(tmp_path / "drawn.jpg"))[:, :, ::-1]
    assert drawn.shape == expected.shape
    assert np.abs(drawn.astype(int) - expected).mean() < 12  # JPEG on noise


def test_one_file_for_several_photos(weights, photos, tmp_path, capsys):
    assert run(weights, "--input", photos, "--output", tmp_path / "drawn.jpg") == 1
    assert "expected a folder for 3 photos" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["", "drawn.mp4"])
def test_a_film(weights, film, tmp_path, output):
    assert run(weights, "--video-input", film, "--output", tmp_path / "out" / output) == 0
    assert files(tmp_path / "out") == [output or "film.mp4"]
    written = cv2.VideoCapture(str(tmp_path / "out" / (output or "film.mp4")))
    pictures = list(demo._frames(written, "film"))
    assert len(pictures) == 3
    greys = [np.median(picture) for picture in pictures]
    np.testing.assert_allclose(greys, [0, 120, 240], atol=30)
    assert cv2.VideoCapture(str(tmp_path / "out" / (output or "film.mp4"))).get(cv2.CAP_PROP_FPS) == RATE


def test_no_film(weights, tmp_path, capsys):
    assert run(weights, "--video-input", tmp_path / "none.mp4", "--output", tmp_path / "out") == 1
    assert "none.mp4: expected a film" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_a_film_that_breaks_off_leaves_nothing(weights, film, tmp_path, monkeypatch):
    def fail(predictor, picture):
        raise RuntimeError("broken off")

    monkeypatch.setattr(demo, "draw", fail)
    with pytest.raises(RuntimeError, match="broken off"):
        run(weights, "--video-input", film, "--output", tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_windows_are_shown_until_escape(weights, photos, monkeypatch):
    shown = []
    monkeypatch.setattr(cv2, "namedWindow", lambda name: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda milliseconds: demo._ESCAPE)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    assert run(weights, "--input", photos) == 0
    assert len(shown) == 1


def test_no_windows(weights, photos, monkeypatch, capsys):
    def none(name):
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", none)
    assert run(weights, "--input", photos) == 1
    assert "no windows" in capsys.readouterr().err


def test_a_webcam_has_no_output(weights, tmp_path, capsys):
    assert run(weights, "--webcam", "--output", tmp_path) == 1
    assert "--webcam: expected no --output" in capsys.readouterr().err


def test_detectron2_s_arguments():
    words = ["--config-file", CONFIG, "--input", "1.jpg", "2.jpg", "--output", "drawn"]
    words += ["--confidence-threshold", "0.6", "--opts", "MODEL.WEIGHTS", "x.pth"]
    args = demo.make_parser().parse_args(words)
    assert args.input == ["1.jpg", "2.jpg"] and args.confidence_threshold == 0.6
    assert args.opts == ["MODEL.WEIGHTS", "x.pth"] and not args.webcam and args.video_input is None
