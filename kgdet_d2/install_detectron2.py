"""Install Detectron2 v0.6 as a pure-Python wheel, built from a source distribution on the package index.

Detectron2 has no wheel there, and no release that runs on today's torch, numpy, Pillow and setuptools. The
source distribution ``pb1-detectron2==0.6`` holds exactly v0.6's Python code (Apache-2.0) without the C++
part. :data:`EDITS` are made in it, the wheel is built and pip installs that; no compiler is needed. A
Detectron2 that already imports is kept. Only the standard library is used: Detectron2 is not there yet.
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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DESCRIPTION = """Install Detectron2 v0.6 as a pure-Python wheel, built here from its source distribution.

A Detectron2 that already imports is kept. No compiler is needed.

    kgdet install-detectron2 --constraint constraints.txt
    kgdet install-detectron2 --wheel-dir dist        # build the wheel, install nothing
"""

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


@dataclass(frozen=True)
class Edit:
    """Replace ``old`` by ``new`` in ``detectron2/<file>``, where it must occur exactly ``count`` times."""

    file: str
    why: str
    old: str
    new: str
    count: int = 1


def _optional_ops(file: str) -> Edit:
    """Return the edit that lets a module import without the compiled part."""
    return Edit(
        file,
        "there is no compiled part",
        "from detectron2 import _C\n",
        "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None\n",
    )


# What must change in Detectron2 v0.6 to run on today's libraries without its compiled part.
EDITS = (
    _optional_ops("layers/deform_conv.py"),
    _optional_ops("layers/roi_align_rotated.py"),
    _optional_ops("layers/rotated_boxes.py"),
    Edit(
        "evaluation/coco_evaluation.py",
        "the fast COCO evaluation is compiled; pycocotools gives the same numbers",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval\n",
    ),
    Edit("data/transforms/transform.py", "gone in Pillow 10", "Image.LINEAR", "Image.BILINEAR"),
    Edit("model_zoo/model_zoo.py", "gone in setuptools 81", "import pkg_resources\n", ""),
    Edit(
        "model_zoo/model_zoo.py",
        "gone in setuptools 81",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'os.path.join(os.path.dirname(__file__), "configs", config_path)',
    ),
    Edit("data/build.py", "gone in numpy 1.24", "dtype=np.int\n", "dtype=int\n"),
    Edit("data/build.py", "gone in numpy 1.24", "dtype=np.int)", "dtype=int)"),
    Edit("evaluation/sem_seg_evaluation.py", "gone in numpy 1.24", "np.int)", "int)", 2),
    Edit("evaluation/sem_seg_evaluation.py", "gone in numpy 1.24", "np.float)", "float)", 5),
    Edit("data/datasets/pascal_voc.py", "gone in numpy 1.24", "dtype=np.str)", "dtype=str)"),
    Edit(
        "export/__init__.py",
        "torch no longer brings caffe2",
        "from .api import *\n",
        "try:\n    from .api import *\nexcept ImportError:  # caffe2\n    pass\n",
    ),
    Edit(
        "checkpoint/detection_checkpoint.py",
        "DistributedDataParallel lost this method in torch 1.12",
        "            self.model._sync_params_and_buffers()\n",
        "            for tensor in (*self.model.parameters(), *self.model.buffers()):\n"
        "                torch.distributed.broadcast(tensor.detach(), src=0)\n",
    ),
    Edit(
        "data/common.py",
        "random.sample refuses sets since Python 3.11",
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(tuple(self._fallback_candidates), k=1)",
    ),
    Edit(
        "engine/hooks.py",
        "renamed in torch 2.0; under the old name the scheduler's state is silently not saved",
        "lr_scheduler._LRScheduler",
        "lr_scheduler.LRScheduler",
        2,
    ),
    Edit(
        "engine/hooks.py",
        "renamed in torch 2",
        "profile(use_cuda=self._use_cuda)",
        'profile(\n                use_device="cuda" if self._use_cuda else None\n            )',
    ),
    Edit(
        "modeling/anchor_generator.py",
        "torch warns when the indexing is not named",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
    ),
    Edit(
        "engine/launch.py",
        "data-parallel training on CPU",
        '    assert torch.cuda.is_available(), "cuda is not available. Please check your installation."\n',
        "    has_cuda = torch.cuda.is_available()\n",
    ),
    Edit(
        "engine/launch.py",
        "data-parallel training on CPU",
        'backend="NCCL"',
        'backend="NCCL" if has_cuda else "GLOO"',
    ),
    Edit(
        "engine/launch.py",
        "data-parallel training on CPU",
        "    assert num_gpus_per_machine <= torch.cuda.device_count()\n"
        "    torch.cuda.set_device(local_rank)\n",
        "    if has_cuda:\n"
        "        assert num_gpus_per_machine <= torch.cuda.device_count()\n"
        "        torch.cuda.set_device(local_rank)\n",
    ),
    Edit(
        "engine/defaults.py",
        "data-parallel training on CPU, where there are no device ids",
        '    if "device_ids" not in kwargs:\n',
        '    if "device_ids" not in kwargs and torch.cuda.is_available():\n',
    ),
    Edit(
        "engine/train_loop.py",
        "mixed precision on CPU; bfloat16 has float32's range, so its gradients need no scaling",
        "            from torch.cuda.amp import GradScaler\n\n            grad_scaler = GradScaler()\n",
        "            device_type = next(model.parameters()).device.type\n"
        '            grad_scaler = torch.amp.GradScaler(device_type, enabled=device_type != "cpu")\n',
    ),
    Edit(
        "engine/train_loop.py",
        "mixed precision on CPU",
        '        assert torch.cuda.is_available(), "[AMPTrainer] CUDA is required for AMP training!"\n'
        "        from torch.cuda.amp import autocast\n",
        "        device_type = next(self.model.parameters()).device.type\n"
        '        amp_dtype = torch.bfloat16 if device_type == "cpu" else torch.float16\n',
    ),
    Edit(
        "engine/train_loop.py",
        "mixed precision on CPU",
        "        with autocast():\n",
        "        with torch.autocast(device_type, dtype=amp_dtype):\n",
    ),
)


class InstallError(RuntimeError):
    """A failure on which the user can act; its message says what was expected, found, and what to do."""


def installed_detectron2() -> str | None:
    """Return version and folder of the Detectron2 that this interpreter imports, None when there is none.

    Raises:
        InstallError: one is found that does not import.
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
    """Download the pinned source distribution into ``folder`` by pip, from where it is configured to look."""
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
    """Return the tar's regular files, by their name below its top folder; nothing is written to disk.

    Raises:
        InstallError: a name leads out of the top folder, or there is a link or a device.
    """
    tree = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                raise InstallError(f"{path}: refused, {member.name!r} is not a plain file inside its folder.")
            content = tar.extractfile(member)
            if content is not None:  # None: a folder
                tree["/".join(name.parts[1:])] = content.read()
    return tree


def select_files(tree: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files that go into the wheel, under their names there."""
    files = {}
    for source, target in FOLDERS.items():
        names = [name for name in tree if name.startswith(source + "/")]
        if not names:
            raise InstallError(f"the source has no folder {source}; expected the contents of {SDIST}.")
        files.update({target + name.removeprefix(source): tree[name] for name in names})
    return files


def apply_edits(files: dict[str, bytes], edits: tuple[Edit, ...] = EDITS) -> dict[str, bytes]:
    """Return a copy of ``files`` with every edit made.

    Raises:
        InstallError: a file, or an edit's old text, is not there as expected.
    """
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
                f"{found}. This is not the source that these edits were written for."
            )
        # The licence asks that changed files say so.
        notice = f"# Changed from Detectron2 v0.6 by kgdet_d2's installer: {edit.why}.\n"
        text = text.replace(edit.old, edit.new)
        edited[name] = (text if text.endswith(notice) else text + notice).encode()
    return edited


def wheel_metadata() -> str:
    """Return the wheel's METADATA (core metadata 2.1)."""
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


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet install-detectron2``."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--sdist", type=Path, metavar="PATH", help=f"use this {SDIST_FILE} instead of downloading it")
    add("--wheel-dir", type=Path, metavar="DIR", help="only build the wheel, into DIR")
    add("--constraint", type=Path, metavar="FILE", help="pip constraints file for the installation")
    add("--force", action="store_true", help="install over a Detectron2 that is already there")
    return parser


def run(args: argparse.Namespace) -> None:
    """Install Detectron2, or build its wheel alone.

    Raises:
        InstallError: see there.
    """
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


if __name__ == "__main__":  # as a file, where the package cannot be imported: Detectron2 is missing or broken
    try:
        run(make_parser().parse_args())
    except InstallError as error:
        sys.exit(f"error: {error}")
