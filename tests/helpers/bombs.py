"""Files that are made to do harm: pickles that write, archives and photos of hostile sizes, deep JSON."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

DEPTH = 100_000
DEEP = {
    "lists": "[" * DEPTH + "]" * DEPTH,
    "objects": '{"a":' * DEPTH + "1" + "}" * DEPTH,
    "in COCO's object": f'{{"images": [], "categories": [], "annotations": {"[" * DEPTH + "]" * DEPTH}}}',
    "in a result": f'[{{"image_id": {"[" * DEPTH + "]" * DEPTH}}}]',
    "never closed": "[" * DEPTH,
}


class _Writes:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def hostile_weights(canary: Path, weights: Path) -> dict[str, bytes]:
    """Files of weights by name: pickles that would write the canary, archives that say they are of 1 TB."""
    hostile = {"model": {"w": _Writes(canary)}}
    saved = io.BytesIO()
    torch.save(hostile, saved)
    return {
        "pickle.pth": pickle.dumps(hostile),
        "saved.pth": saved.getvalue(),
        "pickle.pkl": pickle.dumps(hostile),
        "huge.pth": _rewritten(weights.read_bytes(), 2**40),
        "header.safetensors": (2**40).to_bytes(8, "little") + b"{}",
    }


def _rewritten(content: bytes, size: int) -> bytes:
    """The archive with one member more, of which the directory says that it unpacks to ``size`` bytes."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        member = zipfile.ZipInfo("archive/data/more")
        archive.writestr(member, b"0")
        archive.getinfo(member.filename).file_size = size
    return file.getvalue()


def arrays_that_unpack_to(size: int) -> dict[str, bytes]:
    """Archives of arrays by name: the directory, or an array's header, says that it has ``size`` bytes."""
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (size // 8,)}
    np.lib.format.write_array_header_1_0(header, shape)
    files = {}
    for name, said in (("header.npz", None), ("directory.npz", size)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("format_version.npy", header.getvalue() + bytes(2**20))
            if said:
                archive.getinfo("format_version.npy").file_size = said
        files[name] = file.getvalue()
    return files


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it has that size, and has a line of it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(3 * min(width, 10_000) + 1))
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
