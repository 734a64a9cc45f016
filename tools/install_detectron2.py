"""Install Detectron2 v0.6 as a pure-Python wheel, built from a source distribution on the package index.

Detectron2 has no wheel there, and no release that runs on today's torch, numpy, Pillow and setuptools. The
source distribution ``pb1-detectron2==0.6`` holds exactly v0.6's Python code (Apache-2.0) without the C++
part. This program makes the edits of detectron2_edits.py in it, builds the wheel and installs that with pip;
no compiler is needed. A Detectron2 that already imports is kept. Only the standard library is used.

    python tools/install_detectron2.py --constraint constraints.txt
    python tools/install_detectron2.py --wheel-dir dist        # build the wheel, install nothing
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from detectron2_edits import EDITS, Edit

SDIST = "pb1-detectron2==0.6"
SDIST_FILE = "pb1-detectron2-0.6.tar.gz"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6+pure"

# Folder in the source -> folder in the wheel.
FOLDERS = {
    "detectron2": "detectron2",
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}

REQUIRES = (
    "torch>=2.4",
    "torchvision>=0.19",
    "numpy>=2.0",
    "Pillow>=10",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.2",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "packaging",
)

WHEEL = b"""\
Wheel-Version: 1.0
Generator: kgdet_d2
Root-Is-Purelib: true
Tag: py3-none-any
"""


class InstallError(RuntimeError):
    """Something the user can act on; the message says what was expected, what was found and what to do."""


def installed_detectron2() -> str | None:
    """Version and folder of the Detectron2 that this interpreter imports, or None when there is none.

    Raises InstallError when one is found that does not import.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:  # origin is None for a mere folder of that name
        return None
    folder = Path(spec.origin).parent
    try:
        importlib.import_module("detectron2.engine")  # imports nearly all of it
    except Exception as error:  # an unfit build fails in many ways
        raise InstallError(
            f"detectron2 in {folder} is found but does not import ({error!r}). "
            "Mend or uninstall it, or run this program again with --force to install over it."
        ) from error
    return f"{importlib.import_module('detectron2').__version__} in {folder}"


def run_pip(*arguments: str, hint: str) -> None:
    """Run this interpreter's pip as the user has configured it; InstallError with the hint on failure."""
    command = [sys.executable, "-m", "pip", *arguments]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise InstallError(f"'{' '.join(command)}' failed with status {status}, see above. {hint}")


def download_sdist(folder: Path) -> Path:
    """Let pip fetch the pinned source distribution into ``folder``, from where pip is configured to look."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n")
    # pip runs the sdist's setup.py for its metadata, hence pip is given the hash to check first. That
    # setup.py imports torch: without build isolation it finds the one already installed.
    run_pip(
        *("download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"),
        *("--dest", str(folder), "--requirement", str(requirement)),
        hint="Check that torch and setuptools are installed here and that pip reaches its package index, "
        f"or fetch {SDIST_FILE} (of {SDIST}) on another machine and pass it with --sdist.",
    )
    return folder / SDIST_FILE


def check_sha256(path: Path, expected: str) -> None:
    """Raise InstallError unless the file is there and is byte for byte the one the edits were written for."""
    if not path.is_file():
        raise InstallError(f"{path}: no such file; expected the source distribution {SDIST_FILE}.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise InstallError(
            f"{path}: expected sha256 {expected}, found {found}. "
            f"It is another file or a damaged one; fetch {SDIST} again."
        )


def read_sdist(path: Path) -> dict[str, bytes]:
    """Regular files of the tar, by their name below its top folder; nothing is written to disk.

    Raises InstallError for a name that leads out of the top folder and for links and devices.
    """
    tree = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                raise InstallError(f"{path}: refused, {member.name!r} is not a plain file inside its folder.")
            if member.isfile():
                tree["/".join(name.parts[1:])] = tar.extractfile(member).read()
    return tree


def select_files(tree: dict[str, bytes]) -> dict[str, bytes]:
    """The files that go into the wheel, under their names there."""
    files = {}
    for source, target in FOLDERS.items():
        names = [name for name in tree if name.startswith(source + "/")]
        if not names:
            raise InstallError(f"the source has no folder {source}; expected the contents of {SDIST}.")
        files.update({target + name.removeprefix(source): tree[name] for name in names})
    return files


def apply_edits(files: dict[str, bytes], edits: tuple[Edit, ...] = EDITS) -> dict[str, bytes]:
    """A copy of ``files`` with every edit made; InstallError where the old text is not there as expected."""
    edited = dict(files)
    for number, edit in enumerate(edits, start=1):
        name = f"detectron2/{edit.file}"
        if name not in edited:
            raise InstallError(f"{name}: not in the source; edit {number} ({edit.why}) expected it.")
        text = edited[name].decode()
        found = text.count(edit.old)
        if found != edit.count:
            raise InstallError(
                f"{name}: edit {number} ({edit.why}) expected {edit.old!r} {edit.count} time(s), found "
                f"{found}. This is not the source that tools/detectron2_edits.py was written for."
            )
        # The licence asks that changed files say so.
        notice = f"# Changed from Detectron2 v0.6 by kgdet_d2's tools/install_detectron2.py: {edit.why}.\n"
        text = text.replace(edit.old, edit.new)
        edited[name] = (text if text.endswith(notice) else text + notice).encode()
    return edited


def wheel_metadata() -> str:
    """METADATA of the wheel (core metadata 2.1)."""
    fields = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        f"Summary: Detectron2 v0.6 without its compiled part, from {SDIST} with edits for current libraries",
        "License: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.10",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    return "\n".join(fields) + "\n"


def build_wheel(files: dict[str, bytes], licence: bytes, folder: Path) -> Path:
    """Write the wheel into ``folder`` and return its path; the same input gives the same bytes."""
    info = f"detectron2-{VERSION}.dist-info"
    contents = {
        **dict(sorted(files.items())),
        f"{info}/LICENSE": licence,
        f"{info}/METADATA": wheel_metadata().encode(),
        f"{info}/WHEEL": WHEEL,
    }
    record = []
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}\n")
    record.append(f"{info}/RECORD,,\n")
    contents[f"{info}/RECORD"] = "".join(record).encode()

    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # moved into place only when complete
        unfinished = Path(scratch) / wheel.name
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name, data in contents.items():
                entry = zipfile.ZipInfo(name)  # dated 1980, so that the bytes do not depend on the day
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
        os.replace(unfinished, wheel)
    return wheel


def install_wheel(wheel: Path, *, constraint: Path | None, force: bool) -> None:
    """Install the wheel and what it requires into the running interpreter."""
    hint = "Nothing but pip's own work has been changed; settle what pip complains about and run this again."
    constraints = () if constraint is None else ("--constraint", str(constraint))
    run_pip("install", "--quiet", *constraints, str(wheel), hint=hint)
    if force:  # pip keeps an equal version otherwise; its requirements are settled by now
        run_pip("install", "--quiet", "--no-deps", "--force-reinstall", str(wheel), hint=hint)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--sdist", type=Path, metavar="PATH", help=f"use this {SDIST_FILE} instead of downloading it")
    add("--wheel-dir", type=Path, metavar="DIR", help="only build the wheel, into DIR")
    add("--constraint", type=Path, metavar="FILE", help="pip constraints file for the installation")
    add("--force", action="store_true", help="install over a Detectron2 that is already there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.wheel_dir is None and not args.force:
        present = installed_detectron2()
        if present is not None:
            print(f"Keeping detectron2 {present}.")
            return
    with tempfile.TemporaryDirectory(prefix="install_detectron2_") as scratch:
        sdist = args.sdist or download_sdist(Path(scratch))
        check_sha256(sdist, SDIST_SHA256)
        tree = read_sdist(sdist)
        wheel = build_wheel(apply_edits(select_files(tree)), tree["LICENSE"], args.wheel_dir or Path(scratch))
        print(f"Built {wheel.name} with {len(EDITS)} edits.")
        if args.wheel_dir is None:
            install_wheel(wheel, constraint=args.constraint, force=args.force)
            print(f"Installed detectron2 {VERSION} into {sys.prefix}.")


if __name__ == "__main__":
    try:
        main()
    except InstallError as error:
        sys.exit(f"install_detectron2: {error}")
