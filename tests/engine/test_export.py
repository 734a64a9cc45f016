"""``kgdet export``."""

import pytest

from kgdet_d2.cli import main
from kgdet_d2.engine.export import make_parser
from kgdet_d2.export import options
from tests.helpers.untrained import save_untrained


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(save_untrained(tmp_path_factory.mktemp("weights")))


def export(weights, output, *arguments):
    return main(["export", "--weights", weights, "--output", str(output), *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--opts", "MODEL.KGDET.FLIP_FUSION.ENABLED", "True"],
            "MODEL.KGDET.FLIP_FUSION.ENABLED: expected False",
        ),
        (["--opts", "MODEL.KGDET.SPARSE_CELLS", "9"], "MODEL.KGDET.SPARSE_CELLS: expected 0"),
        (["--config-file", "configs/sample/match_rcnn_tiny.yaml"], "got 'GeneralizedRCNN'"),
        (["--config-file", "configs/sample/match_rcnn_tiny_matching.yaml"], "got 'MatchRCNN'"),
        (["--size", "100x96"], "--size: expected multiples of 32 pixels, got 100x96"),
    ],
)
def test_what_is_not_supported_is_one_line(weights, tmp_path, capsys, arguments, message):
    assert export(weights, tmp_path / "model.pt2", "--format", "pt2", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line_with_the_command(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert export(weights, tmp_path / "model.onnx", "--format", "onnx") == 1
    assert capsys.readouterr().err == "error: onnx is missing: pip install 'kgdet_d2[onnx]'\n"


def test_sizes_and_batches():
    def parse(*arguments):
        required = ["--weights", "w", "--format", "onnx", "--output", "o.onnx"]
        args = make_parser().parse_args([*required, *arguments])
        return args.batch, args.size

    assert parse() == parse("--batch", "dynamic", "--size", "dynamic") == (None, None)
    assert parse("--batch", "4", "--size", "416x640") == (4, (416, 640))
    for wrong in (["--size", "416"], ["--batch", "many"]):
        with pytest.raises(SystemExit):
            parse(*wrong)


@pytest.mark.slow
def test_a_file_is_written(weights, tmp_path, capsys):
    small = ["--opts", "INPUT.MIN_SIZE_TEST", "96", "TEST.DETECTIONS_PER_IMAGE", "300"]
    output = tmp_path / "model.pt2"
    assert export(weights, output, "--format", "pt2", "--no-nms", *small) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{output}: ") and "places compared" in printed and output.stat().st_size > 1e6
