#!/usr/bin/env python
"""Train or evaluate a kgdet_d2 model, the Detectron2 way.

    train_net.py --config-file configs/kgdet_R50.yaml --num-gpus 4
    train_net.py --config-file configs/kgdet_R50.yaml --num-gpus 4 --resume
    train_net.py --config-file configs/kgdet_R50.yaml --eval-only MODEL.WEIGHTS path/to/model.pth

``--num-gpus 0`` runs on the CPU. META_ARCHITECTURE "MatchRCNN" learns from pairs of photos, and is tested on
retrieval, too.
"""

import logging
import os

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import DatasetEvaluators, inference_on_dataset, verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from torch.nn.parallel import DistributedDataParallel

from kgdet_d2.config import check_weights, load_config
from kgdet_d2.data import FashionDatasetMapper, ImagePairs, build_pair_train_loader, build_train_loader
from kgdet_d2.engine.hooks import check_losses
from kgdet_d2.engine.optimizer import build_optimizer
from kgdet_d2.evaluation import FashionEvaluator, RetrievalEvaluator
from kgdet_d2.modeling import optimize_for_inference
from kgdet_d2.modeling.match_rcnn import GTBoxMatchRCNN

logger = logging.getLogger("kgdet_d2.train_net")


class Trainer(DefaultTrainer):
    """Detectron2's default trainer with fashion's mapper, evaluator and optimiser."""

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        model.register_forward_hook(check_losses)
        # Parameters that reach no output must not be waited for by data-parallel training.
        model._ddp_params_and_buffers_to_ignore = unused_parameters(model)
        # On CPU convolutions run faster on channels-last maps; the results are the same.
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        mapper = FashionDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return FashionEvaluator(dataset_name, kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS, output_dir=folder)

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            log_summary(cfg, results)
        return results

    def run_step(self):
        try:
            super().run_step()
        except FloatingPointError as error:
            last_good = self.checkpointer.get_checkpoint_file() or "none yet"
            raise FloatingPointError(
                f"training stopped at iteration {self.iter}: {error}. The last good checkpoint: {last_good}"
            ) from error

    # Detectron2 v0.6 leaves the optimiser's momentum out of its checkpoints; later versions do as here.
    def state_dict(self):
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])


class MatchingTrainer(Trainer):
    """For Match R-CNN's matching network: pairs of photos to learn from, and a test of retrieval, too."""

    @classmethod
    def build_train_loader(cls, cfg):
        if len(cfg.DATASETS.TRAIN) != 1:
            raise ValueError(
                f"DATASETS.TRAIN: expected one dataset, whose photos pair, got {cfg.DATASETS.TRAIN}"
            )
        return build_pair_train_loader(
            ImagePairs(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])),
            mapper=FashionDatasetMapper(cfg, is_train=True),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Results have "retrieval" among what is detected, and "retrieval_gt_boxes" with annotated boxes."""
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        names, similarity = cfg.DATASETS.TEST, bare.roi_heads.matching_head.log_odds
        retrievals = [RetrievalEvaluator(name, similarity=similarity) for name in names]
        evaluators = [
            DatasetEvaluators([cls.build_evaluator(cfg, name), retrieval])
            for name, retrieval in zip(names, retrievals, strict=True)
        ]
        results = super().test(cfg, model, evaluators)
        told = GTBoxMatchRCNN(bare).train(model.training)
        mapper = FashionDatasetMapper(
            cfg, is_train=True, augmentations=build_augmentation(cfg, is_train=False)
        )
        for name, retrieval in zip(names, retrievals, strict=True):
            loader = build_detection_test_loader(cfg, name, mapper=mapper)
            found = inference_on_dataset(told, loader, retrieval)  # which makes it forget what was detected
            if comm.is_main_process():
                own = results if len(names) == 1 else results[name]
                own["retrieval_gt_boxes"] = found["retrieval"]
                log_retrieval(name, own)
        return results


def unused_parameters(model: torch.nn.Module) -> list[str]:
    """Names of parameters that never get a gradient, as the backbone tells (FPN.FULL)."""
    names = getattr(model.backbone, "unused_parameters", list)()
    return [f"backbone.{name}" for name in names]


def setup(args) -> CfgNode:
    """The checked config, with logging and output folder set up."""
    opts = list(args.opts)
    if args.num_gpus == 0:
        opts += ["MODEL.DEVICE", "cpu"]
    cfg = load_config(args.config_file, opts)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device was found; train on the CPU with --num-gpus 0")
    check_weights(cfg, required=args.eval_only)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="kgdet_d2")
    return cfg


def log_summary(cfg: CfgNode, results: dict) -> None:
    """Box AP and landmark AP of each dataset as one table."""
    names = cfg.DATASETS.TEST
    by_dataset = {names[0]: results} if len(names) == 1 else results
    columns = [(task, metric) for task in ("bbox", "keypoints") for metric in ("AP", "AP50", "AP75")]
    rows = [
        [name, *(scores.get(task, {}).get(metric, float("nan")) for task, metric in columns)]
        for name, scores in by_dataset.items()
    ]
    titles = {"bbox": "box", "keypoints": "landmark"}
    headers = ["", *(f"{titles[task]} {metric}" for task, metric in columns)]
    logger.info("Results:\n%s", tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="pipe"))


def log_retrieval(dataset: str, results: dict) -> None:
    """Top-k accuracy with detected and with annotated boxes."""
    kinds = {"detected": results["retrieval"], "annotated": results["retrieval_gt_boxes"]}
    rows = [[f"{boxes} boxes", *scores.values()] for boxes, scores in kinds.items()]
    headers = [dataset, *results["retrieval"]]
    logger.info("Retrieval, %%:\n%s", tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="pipe"))


def main(args) -> dict:
    cfg = setup(args)
    trainer_class = MatchingTrainer if cfg.MODEL.META_ARCHITECTURE == "MatchRCNN" else Trainer
    if args.eval_only:
        model = trainer_class.build_model(cfg).eval()
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).load(cfg.MODEL.WEIGHTS)
        results = trainer_class.test(cfg, optimize_for_inference(model, cfg))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
