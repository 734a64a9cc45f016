"""Checkpoints that say what model they are of, and weights that are checked when they are read."""

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import nn

from kgdet_d2.checkpoint.convert import RELEASE_CONFIG, from_release, origin_of
from kgdet_d2.checkpoint.files import check_finite, read_arrays, read_checkpoint
from kgdet_d2.checkpoint.transfer import transfer
from kgdet_d2.config import check_weights, config_from_text, load_config
from kgdet_d2.schema import DEEPFASHION2, KeypointSchema, register_under_a_name
from kgdet_d2.utils.catalog import schema_of_config
from kgdet_d2.utils.io import atomic_write

_DESCRIPTION = "kgdet_d2"  # the checkpoint's key of what describe() returns
_SHOWN = 3  # names in a message


class FashionCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which checks what it reads, and whose files hold config and landmarks.

    :meth:`load` expects a file of the whole model; with ``checkpointables=[]``, as where a training starts,
    it takes the weights that fit, and logs in one line what it has left out. Of a file of other classes or
    landmarks it then takes those of the same name, and logs a table. The release's own files are taken as
    they are. Nothing of a file is executed, and weights that are no numbers are refused.

    Args:
        model: to save and load.
        save_dir: the folder of checkpoints.
        cfg: of the model, which goes into the checkpoints; None where none are saved, and weights are
            compared by their shapes alone.
        checkpointables: with ``state_dict`` and ``load_state_dict``, by name.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, cfg: CfgNode | None = None, **checkpointables: Any
    ):
        super().__init__(model, save_dir, **checkpointables)
        self._cfg = cfg
        self._path, self._whole = "", True

    def save(self, name: str, **kwargs: Any) -> None:
        """Write a checkpoint, with the config and the landmarks, as a whole file or not at all.

        Raises:
            OSError: it cannot be written; those that were there before are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict(), **kwargs}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        if self._cfg is not None:
            content[_DESCRIPTION] = describe(self._cfg)
        file = Path(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", file)
        with atomic_write(file, sync=True) as stream:
            torch.save(content, stream)
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which file was written last."""
        with atomic_write(Path(self.save_dir, "last_checkpoint"), sync=True) as stream:
            stream.write(last_filename_basename.encode())

    def get_checkpoint_file(self) -> str:
        """Return the path of the last checkpoint, or of the newest whole one where that is cut off.

        Raises:
            ValueError: none of those that are there is whole.
        """
        last = super().get_checkpoint_file()
        if not last or is_whole(last):
            return last
        others = sorted(Path(self.save_dir).glob("*.pth"), key=os.path.getmtime, reverse=True)
        for other in others:
            if is_whole(other):
                self.logger.warning("%s: the last checkpoint is cut off or missing; %s is taken", last, other)
                return str(other)
        raise ValueError(f"{last}: the last checkpoint is cut off or missing, and so are all in its folder")

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint, and return what is in it beside the model.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: names the file and what is wrong with it: no weights, or not those of this model.
        """
        self._path, self._whole = path, checkpointables is None
        return super().load(path, checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            return _from_model_zoo(read_arrays(Path(filename)), filename)
        checkpoint = read_checkpoint(Path(filename))
        schema = _schema_of(checkpoint, filename)
        checkpoint.pop(_DESCRIPTION, None)
        ours = as_ours(checkpoint, Path(filename))
        check_finite(ours["model"], filename)
        return self._of_our_schema(ours, schema, filename)

    def _of_our_schema(
        self, checkpoint: dict[str, Any], schema: KeypointSchema | None, filename: str
    ) -> dict[str, Any]:
        """Take what is of the same name from a file of another schema; None where that is not known.

        Raises:
            ValueError: the file is expected to be of the whole model, and has other classes or landmarks.
        """
        if self._cfg is None or schema is None:
            return checkpoint
        own = schema_of_config(self._cfg)
        difference = own.difference(schema)
        if not difference and own.kind_names == schema.kind_names:
            return checkpoint
        if self._whole:
            reason = difference or "other names of the landmarks' kinds"
            raise ValueError(
                f"{filename}: expected weights of the landmarks of {own.name!r}, got those of "
                f"{schema.name!r}: {shorten(reason, 200)}"
            )
        weights, table = transfer(checkpoint["model"], self.model.state_dict(), schema, own)
        self.logger.info("%s: weights of the same names are taken\n%s", filename, table)
        return checkpoint | {"model": weights}

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        """Refuse weights that do not fit, or log what was left out.

        Raises:
            ValueError: none of the model's weights is in the file, or not all where it is of a whole model.
        """
        names = set(filter(_is_weight, self.model.state_dict()))
        missing = [name for name in incompatible.missing_keys if name in names]
        shapes = [
            f"{name} (expected {tuple(expected)}, got {tuple(found)})"
            for name, found, expected in incompatible.incorrect_shapes
        ]
        numbers = f"{len(names) - len(missing) - len(shapes)} of {len(names)} weights of the model"
        problems = {
            "not in the file": missing,
            "of another shape": shapes,
            "not of the model": list(incompatible.unexpected_keys),
        }
        listed = "; ".join(
            f"{len(found)} {kind}: {_first(found)}" for kind, found in problems.items() if found
        )
        if len(missing) + len(shapes) >= len(names) or (self._whole and (missing or shapes)):
            raise ValueError(
                f"{self._path}: expected the weights of this model, found {numbers}; {listed}. Another "
                "--config-file may be theirs; kgdet convert turns the release's files into this project's"
            )
        if listed:
            self.logger.info("%s: took %s; %s", self._path, numbers, listed)


def _from_model_zoo(content: dict[str, Any], path: str) -> dict[str, Any]:
    """Return what Detectron2's checkpointer makes of a file of its model zoo, or of Caffe2's.

    Raises:
        ValueError: a weight holds a NaN or an infinity.
    """
    if not ("model" in content and "__author__" in content):
        blobs = content.get("blobs", content)
        weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
        content = {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
    check_finite(content["model"], path)
    return content


def is_whole(path: str | Path) -> bool:
    """Return whether a file is there that PyTorch wrote to its end, with all its check sums right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def _schema_of(checkpoint: dict[str, Any], path: str) -> KeypointSchema | None:
    """Return the schema that a checkpoint has with it; the release's has DeepFashion2's, others none."""
    if _DESCRIPTION not in checkpoint:
        return DEEPFASHION2 if "state_dict" in checkpoint else None
    try:
        return KeypointSchema.from_dict(json.loads(checkpoint[_DESCRIPTION]["schema"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: what it says of its model cannot be read: {error}") from error


def _is_weight(name: str) -> bool:
    """Return whether files must have it: not what the config says, nor counters, which nothing reads."""
    return not name.endswith("num_batches_tracked") and name not in ("pixel_mean", "pixel_std")


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def describe(cfg: CfgNode) -> dict[str, str]:
    """Return what a checkpoint says of its model: ``config``, YAML, and ``schema``, JSON."""
    return {"config": cfg.dump(), "schema": json.dumps(schema_of_config(cfg).to_dict())}


def as_ours(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a checkpoint with ``model``; the release's is converted, and weights alone are put there.

    Raises:
        ValueError: names the file, whose weights are under ``state_dict`` and not the release's.
    """
    if "state_dict" in checkpoint:
        return _from_release(checkpoint, path)[0]
    return checkpoint if "model" in checkpoint else {"model": checkpoint}


def _from_release(checkpoint: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our checkpoint, and the changes that :data:`RELEASE_CONFIG` needs."""
    try:
        return from_release(checkpoint, RELEASE_CONFIG, origin_of(path))
    except ValueError as error:
        raise ValueError(
            f"{path}: the weights are under 'state_dict', as mmdetection and Lightning write them, and are "
            "not those of the released KGDet, which kgdet convert (tools/convert_official_weights.py) takes: "
            f"{error}"
        ) from error


def find_model_config(config_file: str | None, weights: str | Path | None, opts: Sequence[str]) -> CfgNode:
    """Return the config of a model: that of a yaml file, or else the one that its weights hold.

    Args:
        config_file: its path or its name in the package; "" or None for none.
        weights: the path of a checkpoint, for MODEL.WEIGHTS; None where ``opts`` may name it.
        opts: KEY VALUE overrides.

    Raises:
        FileNotFoundError, ValueError: see :func:`config_of` and :func:`kgdet_d2.config.load_config`; or there
            is neither config nor weights.
    """
    opts = [*opts, *([] if weights is None else ["MODEL.WEIGHTS", str(weights)])]
    if config_file:
        return load_config(config_file, opts)
    named = dict(zip(opts[::2], opts[1::2], strict=False)).get("MODEL.WEIGHTS")
    if not named:
        raise ValueError("expected --config-file, or --weights of a checkpoint that says what model it is of")
    return config_of(named, opts)


def config_of(path: str | Path, opts: list[str]) -> CfgNode:
    """Return the config of the model that a checkpoint is of, with MODEL.WEIGHTS for it.

    Landmarks that are not known yet are registered.

    Args:
        path: written by :class:`FashionCheckpointer`, or the release's.
        opts: KEY VALUE overrides.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, which does not say what model it is of, or says something impossible.
    """
    checkpoint = read_checkpoint(Path(path))
    opts = ["MODEL.WEIGHTS", str(path), *opts]
    if _DESCRIPTION in checkpoint:
        schema = _schema_of(checkpoint, str(path))
        assert schema is not None
        try:
            opts = ["MODEL.KGDET.SCHEMA", register_under_a_name(schema), *opts]
            return config_from_text(checkpoint[_DESCRIPTION]["config"], opts)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: what it says of its model cannot be read: {error}") from error
    if "state_dict" in checkpoint:
        changes = _from_release(checkpoint, Path(path))[1]
        return load_config(RELEASE_CONFIG, [*(item for pair in changes.items() for item in pair), *opts])
    raise ValueError(f"{path}: it does not say what model it is of; name its config with --config-file")


def load_model(cfg: CfgNode) -> nn.Module:
    """Build the config's model for inference, with the weights of MODEL.WEIGHTS.

    Raises:
        FileNotFoundError, ValueError: see :meth:`FashionCheckpointer.load`; or no weights are named.
    """
    check_weights(cfg, required=True)
    model = build_model(cfg).eval()
    FashionCheckpointer(model, cfg=cfg).load(cfg.MODEL.WEIGHTS)
    return model
