"""The command ``kgdet predict``."""

import argparse
from pathlib import Path

from detectron2.config import CfgNode

from kgdet_d2.checkpoint.checkpointer import load_model
from kgdet_d2.engine.predict.job import Engine, Job, Settings
from kgdet_d2.engine.predict.on_ray import ActorPool
from kgdet_d2.engine.predict.parts import FORMATS, PartPredictor
from kgdet_d2.engine.predict.sources import dataset_sources, find_sources
from kgdet_d2.engine.predict.stopping import stopped_by_signals
from kgdet_d2.predictor import FashionPredictor, predictor_config
from kgdet_d2.utils.command import at_least, command_parser

DESCRIPTION = """Find the garments of photos.

    kgdet predict photos/ more/*.jpg film.mp4 --weights model_final.pth --output output/found
    find photos -name '*.jpg' | kgdet predict --list - --weights model_final.pth --output output/found
    kgdet predict --dataset deepfashion2_val --weights model_final.pth --output output/found --resume
    kgdet predict s3://bucket/photos --weights model_final.pth --output output/found \\
        --engine ray --num-actors 8 --num-gpus-per-actor 1

Inputs are photos, folders with all that is below them, patterns, URIs of photos or of folders of them, and
films, each picture of which counts. A photo's name in what is written is its path below the folder that all
inputs share. What is hidden, or in the output folder, is no input.

    garments.parquet   a row a garment: photo, class, score, box, and its own landmarks as lists; their names,
                       by class, are in the metadata, "kgdet_schema"
    photos.parquet     a row a photo: its size, how many garments, or why it could not be read

and, by --formats,

    coco               coco_results.json and, what its ids mean, coco_images.json
    jsonl              garments.jsonl, a line a photo, landmarks by name
    pictures           pictures/<photo's name>.jpg, garments drawn
    crops              crops/<photo's name>/, a picture a garment
    figures            figures/<how many photos are before it>.jpg, a page of 25 photos, garments drawn

A photo that cannot be read is reported and the others go on; the exit status then is 1. Photos are done in
parts of --part-size. What was broken off, at any moment, goes on with --resume, does what is missing, and
ends with the same files. --engine ray deals the parts to actors, on this machine or, with --address, on a
cluster; docs/SCALE.md has more.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet predict``."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="photos, folders, patterns, URIs, films")
    add("--list", metavar="FILE", help="with an input a line; - for the standard input")
    add("--dataset", metavar="NAME", help="a registered one, in place of inputs")
    add("--weights", required=True, metavar="FILE")
    add("--output", required=True, type=Path, metavar="DIR")
    add("--config-file", metavar="YAML", help="of weights that do not say what model they are of")
    add("--device", help="cpu, cuda, ...; default: the GPU where there is one")
    add("--score-threshold", type=float, default=0.5, metavar="S", help="0..1; default 0.5")
    add("--formats", nargs="+", choices=FORMATS, default=[], help="beside the tables")
    add("--batch-size", type=at_least(1), default=8, metavar="N", help="photos; default 8")
    add("--part-size", type=at_least(1), default=200, metavar="N", help="photos; default 200")
    add("--workers", type=at_least(1), default=2, metavar="N", help="that read photos ahead; default 2")
    add("--resume", action="store_true", help="go on with what was broken off")
    add("--engine", choices=("plain", "ray"), default="plain", help="default plain: in this process")
    add("--num-actors", type=at_least(1), metavar="N", help="of Ray, each with the model; default 1")
    add("--num-gpus-per-actor", type=float, metavar="G", help="may be a fraction; default 0")
    add("--address", help="of a Ray cluster, or auto; default: Ray starts on this machine alone")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides of the config")
    return parser


def run(args: argparse.Namespace) -> int:
    """Predict all photos; return 1 where one could not be read.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: inputs, weights or an output that cannot be used.
        OSError: what was predicted cannot be written.
        KeyboardInterrupt: the command was told to stop.
    """
    if args.dataset and (args.inputs or args.list):
        raise ValueError("--dataset: expected no other inputs beside it")
    for name in ("num_actors", "num_gpus_per_actor", "address"):
        if args.engine != "ray" and getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: expected --engine ray with it")
    with stopped_by_signals("--resume goes on") as check:
        if args.dataset:
            sources = dataset_sources(args.dataset)
        else:
            sources = find_sources(args.inputs, args.list, output=args.output)
        engine, settings = _on_ray(args) if args.engine == "ray" else _plain(args)
        job = Job(args.output, sources, settings)
        job.begin(resume=args.resume)
        job.predict(engine, check)
        return job.finish()


def _plain(args: argparse.Namespace) -> tuple[Engine, Settings]:
    predictor = FashionPredictor.from_checkpoint(
        args.weights, args.device, args.score_threshold, args.config_file, args.opts
    )
    engine = PartPredictor(predictor, args.formats, args.batch_size, args.workers)
    return engine, _settings(args, predictor.cfg)


def _on_ray(args: argparse.Namespace) -> tuple[Engine, Settings]:
    gpus = args.num_gpus_per_actor or 0
    device = args.device or ("cuda" if gpus else "cpu")
    cfg = predictor_config(args.weights, device, args.config_file, args.opts)
    here = cfg.clone()
    here.defrost()
    here.MODEL.DEVICE = "cpu"
    load_model(here)  # weights that do not fit are told before anything starts
    settings = _settings(args, cfg)
    return ActorPool(settings, args.workers, args.num_actors or 1, gpus, args.address), settings


def _settings(args: argparse.Namespace, cfg: CfgNode) -> Settings:
    return Settings(cfg, args.score_threshold, tuple(args.formats), args.batch_size, args.part_size)
