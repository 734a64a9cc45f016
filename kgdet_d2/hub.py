"""Models as the Hugging Face Hub keeps them: a folder of safetensors, config, landmarks and a model card."""

from collections.abc import Mapping
from pathlib import Path

from detectron2.config import CfgNode
from torch import nn

from kgdet_d2.checkpoint.checkpointer import describe
from kgdet_d2.checkpoint.files import DESCRIPTION_KEY, write_weights
from kgdet_d2.schema import KeypointSchema, schema_to_yaml
from kgdet_d2.utils.catalog import schema_of_config
from kgdet_d2.utils.io import atomic_write
from kgdet_d2.utils.version import VERSION

Results = Mapping[str, Mapping[str, float]]

WEIGHTS, CONFIG, SCHEMA, CARD = "model.safetensors", "config.yaml", "schema.yaml", "README.md"
_TASK = "keypoint-detection"  # of the Hub's own list
_MISSING = "huggingface_hub is missing: pip install 'kgdet_d2[hub]'"


def write_pretrained(folder: Path, model: nn.Module, cfg: CfgNode, results: Results) -> None:
    """Write a model's folder; the weights last, each file whole or not at all.

    Args:
        folder: is made where it is missing; of what is there the files of these names are replaced.
        model: with its trained weights.
        cfg: its config; where its weights and outputs are on this machine is left out.
        results: measured scores of each dataset, for the card.

    Raises:
        ValueError: ``MODEL.INFERENCE`` has changed the weights.
        ImportError: huggingface_hub is missing.
    """
    inference = cfg.MODEL.INFERENCE
    if inference.FUSE_BN or inference.COMPILE or inference.PRECISION != "float32":
        raise ValueError(
            "MODEL.INFERENCE: expected FUSE_BN and COMPILE False and PRECISION 'float32', for a model whose "
            f"weights are as they were trained; got {inference.FUSE_BN}, {inference.COMPILE} and "
            f"{inference.PRECISION!r}"
        )
    cfg, schema = cfg.clone(), schema_of_config(cfg)
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "", "./output"
    texts = {
        CARD: _model_card(folder.resolve().name, cfg, schema, results),
        CONFIG: cfg.dump(),
        SCHEMA: schema_to_yaml(schema),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    write_weights(folder / WEIGHTS, {"model": model.state_dict(), DESCRIPTION_KEY: describe(cfg)})


def find_pretrained(name: str | Path, revision: str | None = None) -> Path:
    """Return the weights of a folder that :func:`write_pretrained` wrote, or of one like it on the Hub.

    Nothing but safetensors is fetched and read: a pickle is none. With ``HF_HUB_OFFLINE=1`` in the
    environment what was fetched before is found again.

    Args:
        name: the folder, or the Hub's "namespace/name".
        revision: of the latter, a branch, tag or commit.

    Raises:
        FileNotFoundError: there are no such weights in it.
        OSError: there is no such folder, and the Hub cannot be reached or does not have it.
        ImportError: huggingface_hub is missing.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = Path(_fetch(str(name), revision))
    if not (folder / WEIGHTS).is_file():
        found = sorted(path.name for path in folder.iterdir())
        raise FileNotFoundError(f"{name}: expected {WEIGHTS}, got {', '.join(found) or 'an empty folder'}")
    return folder / WEIGHTS


def _fetch(name: str, revision: str | None) -> str:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{name}: there is no such folder, and {_MISSING}", name="huggingface_hub"
        ) from error
    try:
        return snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS])
    except (OSError, ValueError) as error:
        raise OSError(f"{name}: there is no such folder, and the Hub does not have it: {error}") from error


def _model_card(name: str, cfg: CfgNode, schema: KeypointSchema, results: Results) -> str:
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError as error:
        raise ImportError(_MISSING, name="huggingface_hub") from error
    measured = [
        EvalResult(
            task_type=_TASK,
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=metric,
            metric_value=value,
        )
        for dataset, scores in results.items()
        for metric, value in scores.items()
    ]
    data = ModelCardData(
        library_name="kgdet_d2",
        tags=["fashion", "object-detection", "landmarks", cfg.MODEL.META_ARCHITECTURE],
        pipeline_tag=_TASK,
        model_name=name,
        eval_results=measured or None,
    )
    rows = [f"| {each.dataset_name} | {each.metric_type} | {each.metric_value:.2f} |" for each in measured]
    scores = "\n".join(["| data | score | value |", "|---|---|---|", *rows]) if rows else "None was given."
    return f"""---
{data.to_yaml()}
---

# {name}

{cfg.MODEL.META_ARCHITECTURE}, which finds the garments of a photo: {schema.num_classes} classes, with
{schema.num_keypoints} landmarks together. Written by kgdet_d2 {VERSION}.

```python
from kgdet_d2 import FashionPredictor

predictor = FashionPredictor.from_pretrained("{name}")  # a folder, or the Hub's namespace/name
garments = predictor("photo.jpg")
```

Classes: {", ".join(schema.class_names)}.

## Measured

{scores}

## Files

`{WEIGHTS}` has the weights and says what model they are of; `{CONFIG}` is its config, `{SCHEMA}` its
classes and landmarks. Trained on: {", ".join(cfg.DATASETS.TRAIN) or "unknown"}. The data's licence bears on
what the model may be used for.
"""
