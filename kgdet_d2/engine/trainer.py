"""Training and evaluation of every model here, by Detectron2's default trainer."""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    default_argument_parser,
    default_setup,
    launch,
)
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.evaluation import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_on_dataset,
    verify_results,
)
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kgdet_d2.checkpoint.checkpointer import FashionCheckpointer, find_model_config
from kgdet_d2.config import check_weights
from kgdet_d2.config_files import find_config
from kgdet_d2.data import (
    FashionDatasetMapper,
    ImagePairs,
    TestPhotos,
    build_pair_train_loader,
    build_train_loader,
    fashion_dataset,
)
from kgdet_d2.data.stream import TrainStream, seed_all
from kgdet_d2.engine.coco_evaluator import build_coco_evaluator
from kgdet_d2.engine.ema import EMAHook
from kgdet_d2.engine.exact_resume import MetricsHook, RunningValuesHook
from kgdet_d2.engine.hooks import check_losses
from kgdet_d2.engine.optimizer import build_optimizer
from kgdet_d2.engine.output_folder import check_output_folder
from kgdet_d2.engine.summary import log_retrieval, log_summary
from kgdet_d2.evaluation import FashionEvaluator, RetrievalEvaluator
from kgdet_d2.modeling import optimize_for_inference
from kgdet_d2.modeling.match_rcnn import GTBoxMatchRCNN
from kgdet_d2.utils.catalog import check_mirroring, check_schema_of_datasets, schema_of_config
from kgdet_d2.utils.processes import end_with_parent

DESCRIPTION = """Train a model, or evaluate one with --eval-only.

--num-gpus 0 runs on the CPU. META_ARCHITECTURE "MatchRCNN" learns from pairs of photos, and is tested on
retrieval, too."""
EXAMPLES = """examples:
  kgdet train --config-file kgdet_R50.yaml --num-gpus 4
  kgdet train --config-file kgdet_R50.yaml --num-gpus 4 --resume
  kgdet train --eval-only --weights output/kgdet_R50/model_final.pth

on several machines, each with its --machine-rank:
  kgdet train --config-file kgdet_R50.yaml --num-machines 2 --machine-rank 0 --dist-url URL
"""


class Trainer(DefaultTrainer):
    """Detectron2's default trainer with fashion's mapper, evaluator, optimiser and average of weights.

    With ``SOLVER.EMA.ENABLED`` the averaged model is evaluated, and it is the model of checkpoints, for all
    that read MODEL.WEIGHTS. The weights that learn are in the trainer's state, to be resumed.
    """

    checkpointer: FashionCheckpointer
    iter: int
    _ema: EMAHook | None = None
    _json_writer: JSONWriter | None = None  # of the main process

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the config's model, which stops at losses that are not finite."""
        model = super().build_model(cfg)
        model.register_forward_hook(check_losses)
        # Parameters that reach no output must not be waited for by data-parallel training.
        model._ddp_params_and_buffers_to_ignore = unused_parameters(model)
        # On CPU convolutions run faster on channels-last maps; the results are the same.
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainStream:
        """Build the loader of ``DATASETS.TRAIN``."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> TestPhotos:
        """Build the loader of a test dataset."""
        mapper = FashionDatasetMapper(cfg, is_train=False)
        return TestPhotos(dataset_name, mapper, cfg.DATALOADER.NUM_WORKERS)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build ``TEST.EVALUATOR`` of a test dataset; predictions go to OUTPUT_DIR/inference/<dataset>."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
        if cfg.TEST.EVALUATOR == "coco":
            refiner = cfg.MODEL.KGDET.REFINER
            has_own = refiner.ENABLED and refiner.QUALITY_WEIGHT > 0
            return build_coco_evaluator(
                dataset_name, kpt_oks_sigmas=sigmas, keypoint_scores=has_own, output_dir=folder
            )
        return FashionEvaluator(
            dataset_name,
            kpt_oks_sigmas=sigmas,
            output_dir=folder,
            compact_predictions=cfg.TEST.COMPACT_PREDICTIONS,
        )

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimiser of ``SOLVER.OPTIMIZER``."""
        return build_optimizer(cfg, model)

    def build_hooks(self) -> list[HookBase]:
        """Build Detectron2's hooks, and the average of the weights."""
        self.checkpointer = FashionCheckpointer(
            self.checkpointer.model, self.cfg.OUTPUT_DIR, cfg=self.cfg, **self.checkpointer.checkpointables
        )
        hooks = super().build_hooks()
        # What an iteration gives is in the metrics before the checkpoint from which the next one goes on.
        hooks.sort(key=lambda hook: isinstance(hook, PeriodicCheckpointer))
        metrics = MetricsHook(Path(self.cfg.OUTPUT_DIR, "metrics.json"), self._json_writer)
        hooks[:0] = [metrics, RunningValuesHook(bare(self.model), self.cfg.SOLVER.CHECKPOINT_PERIOD)]
        if not self.cfg.SOLVER.EMA.ENABLED:
            return hooks
        ema = self._ema = EMAHook(bare(self.model), decay=self.cfg.SOLVER.EMA.DECAY)
        self.checkpointer.model = ema.averaged_model

        def test() -> dict:
            self._last_eval_results = self.test(self.cfg, ema.averaged_model)
            return self._last_eval_results

        hooks = [
            EvalHook(self.cfg.TEST.EVAL_PERIOD, test) if isinstance(hook, EvalHook) else hook
            for hook in hooks
        ]
        # The first one, since averaging is a part of an iteration for the hook that times it.
        return [ema, *hooks]

    def build_writers(self) -> list[EventWriter]:
        """Build Detectron2's writers."""
        writers = super().build_writers()
        self._json_writer = next((writer for writer in writers if isinstance(writer, JSONWriter)), None)
        return writers

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint of OUTPUT_DIR where there is one, else load MODEL.WEIGHTS."""
        super().resume_or_load(resume)
        if self._ema:
            self._ema.begin()
        if self._stream:
            self._stream.start_at(self.start_iter, self._stream.seed)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Evaluate on ``DATASETS.TEST`` and log the main scores as a table."""
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            log_summary(cfg, results)
        return results

    def run_step(self) -> None:
        """Run one iteration.

        Detectron2's own check of the losses names neither the photos nor the checkpoint to go back to.

        Raises:
            FloatingPointError: a loss is not finite; names iteration, photos and the last good checkpoint.
        """
        if self._stream:
            seed_all(self._stream.seed, self.iter, comm.get_rank())
        try:
            # TorchScript rewrites fvcore's focal loss after its first calls, and rounds differently then: the
            # first iterations of a training that is resumed would not be those of one that was not stopped.
            with torch.jit.optimized_execution(False):
                super().run_step()
        except FloatingPointError as error:
            last_good = self.checkpointer.get_checkpoint_file() or "none yet"
            raise FloatingPointError(
                f"training stopped at iteration {self.iter}: {error}. The last good checkpoint: {last_good}"
            ) from error

    def after_train(self) -> None:
        """Run the hooks' ends; one that is resumed after its last iteration counts none beyond it."""
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    # Detectron2 v0.6 leaves the optimiser's momentum out of its checkpoints; later versions do as here.
    def state_dict(self) -> dict:
        """Return the state of iteration, hooks and optimiser, and the seed of what is drawn."""
        seed = {"seed": self._stream.seed} if self._stream else {}
        return super().state_dict() | {"_trainer": self._trainer.state_dict(), **seed}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore what :meth:`state_dict` returned."""
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        if self._stream and "seed" in state_dict:
            self._stream.seed = state_dict["seed"]

    @property
    def _stream(self) -> TrainStream | None:
        """The batches; None where a subclass has another loader, which begins anew when it is resumed."""
        loader = self._trainer.data_loader
        return loader if isinstance(loader, TrainStream) else None


class MatchingTrainer(Trainer):
    """The trainer of Match R-CNN's matching network: it learns from pairs and is tested on retrieval, too."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainStream:
        """Build the loader of pairs of photos.

        Raises:
            ValueError: ``DATASETS.TRAIN`` does not name exactly one dataset.
        """
        if len(cfg.DATASETS.TRAIN) != 1:
            raise ValueError(
                f"DATASETS.TRAIN: expected one dataset, whose photos pair, got {cfg.DATASETS.TRAIN}"
            )
        check_mirroring(cfg)
        return build_pair_train_loader(
            ImagePairs(fashion_dataset(cfg.DATASETS.TRAIN[0])),
            mapper=FashionDatasetMapper(cfg, is_train=True),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            seed=cfg.SEED if cfg.SEED >= 0 else None,
            max_bad_share=cfg.DATALOADER.MAX_BAD_SHARE,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Evaluate detection and retrieval on ``DATASETS.TEST``.

        Returns:
            The scores, with "retrieval" by detected boxes and "retrieval_gt_boxes" by annotated ones.
        """
        match_rcnn: Any = bare(model)
        names, similarity = cfg.DATASETS.TEST, match_rcnn.roi_heads.matching_head.log_odds
        retrievals = {name: RetrievalEvaluator(name, similarity=similarity) for name in names}
        evaluators = [
            DatasetEvaluators([cls.build_evaluator(cfg, name), retrieval])
            for name, retrieval in retrievals.items()
        ]
        results = super().test(cfg, model, evaluators)
        gt_box_model = GTBoxMatchRCNN(match_rcnn).train(model.training)
        # A training mapper keeps the annotations, whose boxes this model embeds.
        mapper = FashionDatasetMapper(
            cfg, is_train=True, augmentations=build_augmentation(cfg, is_train=False)
        )
        for name, retrieval in retrievals.items():
            loader = TestPhotos(name, mapper, cfg.DATALOADER.NUM_WORKERS)
            scores = inference_on_dataset(gt_box_model, loader, retrieval)  # resets the evaluator first
            if comm.is_main_process():
                dataset_results = results if len(names) == 1 else results[name]
                dataset_results["retrieval_gt_boxes"] = scores["retrieval"]
                log_retrieval(name, dataset_results)
        return results


def bare(model: nn.Module) -> nn.Module:
    """Return a model without the wrapper for data-parallel training."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def unused_parameters(model: nn.Module) -> list[str]:
    """Return the names of parameters that never get a gradient, by the backbone (MODEL.FPN.FULL)."""
    names: list[str] = getattr(model.backbone, "unused_parameters", list)()
    return [f"backbone.{name}" for name in names]


def setup(args: argparse.Namespace) -> CfgNode:
    """Load and check the config, and set up logging and the output folder.

    Args:
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        ValueError, FileNotFoundError: a config or weights that cannot be used.
        FileExistsError: see :func:`check_output_folder`.
        RuntimeError: a GPU is asked for where there is none.
    """
    opts = list(args.opts)
    if args.num_gpus == 0:
        opts += ["MODEL.DEVICE", "cpu"]
    weights = getattr(args, "weights", None)  # Detectron2's own parser has none
    cfg = find_model_config(args.config_file, weights, opts)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device was found; train on the CPU with --num-gpus 0")
    check_weights(cfg, required=args.eval_only)
    check_schema_of_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), schema_of_config(cfg))
    if not args.eval_only and comm.is_main_process():
        check_output_folder(cfg, resume=args.resume, overwrite=getattr(args, "overwrite", False))
    # Detectron2 logs the file's text, and does not know the names of those that come with the package.
    config_file = str(find_config(args.config_file)) if args.config_file else ""
    default_setup(cfg, argparse.Namespace(**vars(args) | {"config_file": config_file}))
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="kgdet_d2")
    return cfg


def main(args: argparse.Namespace) -> dict:
    """Train the config's model, or evaluate it with ``--eval-only``, and return the last results."""
    cfg = setup(args)
    trainer_class = MatchingTrainer if cfg.MODEL.META_ARCHITECTURE == "MatchRCNN" else Trainer
    if args.eval_only:
        model = trainer_class.build_model(cfg).eval()
        FashionCheckpointer(model, cfg=cfg).load(cfg.MODEL.WEIGHTS)
        results = trainer_class.test(cfg, optimize_for_inference(model, cfg))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def _main_of_a_launched_process(args: argparse.Namespace) -> dict:
    """Run :func:`main`, and not on where the process that launched all of them is killed."""
    end_with_parent()
    return main(args)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet train``: Detectron2's, --weights and --overwrite."""
    parser = default_argument_parser(EXAMPLES)
    parser.description = DESCRIPTION
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew, though there are checkpoints in OUTPUT_DIR"
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="MODEL.WEIGHTS; a checkpoint of this project's needs no --config-file",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Run :func:`main` in as many processes as there are GPUs."""
    launch(
        main if args.num_gpus < 2 else _main_of_a_launched_process,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
