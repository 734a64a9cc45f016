"""The formats: how a traced graph becomes a file's bytes, and how these run where they are meant to."""

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision  # noqa: F401  registers the operators of .pt2 files
from torch.export import ExportedProgram

from kgdet_d2.export.metadata import KEY

# GridSample of a volume came with 20, DeformConv with 19; onnxruntime runs both on every processor.
_OPSET = 20
INPUTS = ("images", "sizes")

# images uint8 (N, 3, H, W) and sizes int64 (N, 2) -> the outputs by name.
Runtime = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class Format(NamedTuple):
    """A format of exported files.

    Attributes:
        write: graph, names of the outputs, metadata -> the file's bytes.
        load: the file's bytes -> what runs them on the CPU.
        describe: the file -> its metadata.
    """

    write: Callable[[ExportedProgram, list[str], dict[str, Any]], bytes]
    load: Callable[[bytes], Runtime]
    describe: Callable[[str | Path], dict[str, Any]]


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what an exported file says about itself, see ``docs/EXPORT.md``.

    Raises:
        OSError, ValueError: it cannot be read, or is none that this package has exported.
        ImportError: a package that the format takes is missing.
    """
    suffix = Path(path).suffix[1:]
    if suffix not in FORMATS:
        raise ValueError(f"{path}: expected a file of {', '.join(FORMATS)}")
    return FORMATS[suffix].describe(path)


def _write_onnx(program: ExportedProgram, outputs: list[str], metadata: dict[str, Any]) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=_OPSET,
        input_names=list(INPUTS),
        output_names=outputs,
        verbose=False,
    )
    model = exported.model_proto
    for name, value in zip(outputs, model.graph.output, strict=True):
        if value.name != name:
            raise RuntimeError(f"onnx: expected an output {name!r}, the exporter wrote {value.name!r}")
    model.metadata_props.add(key=KEY, value=json.dumps(metadata))
    return model.SerializeToString()


def _load_onnx(content: bytes) -> Runtime:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        return dict(
            zip(names, session.run(names, dict(zip(INPUTS, (images, sizes), strict=True))), strict=True)
        )

    return run


def _describe_onnx(path: str | Path) -> dict[str, Any]:
    import onnx

    properties = {
        entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props
    }
    return _parse(path, properties.get(KEY))


def _write_pt2(program: ExportedProgram, outputs: list[str], metadata: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={KEY: json.dumps(metadata)})
    return file.getvalue()


def _load_pt2(content: bytes) -> Runtime:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = module(torch.from_numpy(images), torch.from_numpy(sizes))
        return {name: values.numpy() for name, values in outputs.items()}

    return run


def _describe_pt2(path: str | Path) -> dict[str, Any]:
    files = {KEY: ""}
    torch.export.load(path, extra_files=files)
    return _parse(path, files[KEY])


def _parse(path: str | Path, text: str | None) -> dict[str, Any]:
    if not text:
        raise ValueError(
            f"{path}: expected a file that kgdet_d2 has exported, found no {KEY!r} in its metadata"
        )
    return json.loads(text)


FORMATS = {
    "onnx": Format(_write_onnx, _load_onnx, _describe_onnx),
    "pt2": Format(_write_pt2, _load_pt2, _describe_pt2),
}
