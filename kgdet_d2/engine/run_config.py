"""The config of the run that has predicted, for commands on stored predictions."""

from pathlib import Path

from detectron2.config import CfgNode

from kgdet_d2.config import load_config


def find_run_config(predictions: Path) -> Path | None:
    """Return OUTPUT_DIR/config.yaml of predictions that lie in OUTPUT_DIR/inference/<dataset>.

    Args:
        predictions: the file.
    """
    folder = predictions.resolve().parent.parent
    config = folder.parent / "config.yaml"
    return config if folder.name == "inference" and config.is_file() else None


def find_oks_sigmas(config_file: str | None, predictions: Path) -> tuple[list[float], str]:
    """Return ``TEST.KEYPOINT_OKS_SIGMAS``, none where they are the dataset's own, and the file that has them.

    Args:
        config_file: a yaml file or the name of one; None: that of the run, if there is one.
        predictions: the file.

    Raises:
        FileNotFoundError, ValueError: the config file does not exist or is not one.
    """
    if config_file is not None:
        return list(load_config(config_file, []).TEST.KEYPOINT_OKS_SIGMAS), config_file
    run_config = find_run_config(predictions)
    if run_config is None:
        return [], ""
    # The text alone: a run's modules and datasets need not be at hand for its predictions.
    config = CfgNode.load_cfg(run_config.read_text())
    return list(config.get("TEST", {}).get("KEYPOINT_OKS_SIGMAS", [])), str(run_config)
