r"""Time and memory of KGDet and its peers, whole and by part, or of the aggregation alone.

    python -m benchmarks model
    python -m benchmarks model --batch 1 8 --device cuda --precision float16 --channels-last --json speed.json
    git worktree add /tmp/before HEAD~1 && python -m benchmarks model --checkout /tmp/before
    python -m benchmarks model configs/kgdet_R50.yaml --variant fused MODEL.INFERENCE.FUSE_BN True \
        --variant bfloat16 MODEL.INFERENCE.PRECISION bfloat16 MODEL.INFERENCE.CHANNELS_LAST True
    python -m benchmarks model configs/kgdet_R50.yaml --modes head --checkout /tmp/before \
        --variant "300 locations" MODEL.KGDET.SPARSE_CELLS 300
    python -m benchmarks model configs/sample/kgdet_tiny.yaml --scores --repetitions 50 \
        --variant fused MODEL.INFERENCE.FUSE_BN True --opts MODEL.WEIGHTS output/demo/model_final.pth
    python -m benchmarks model --aggregation --threads 2 --checkout /tmp/before

Weights are random and images noise, the same for all. Each detector's threshold is set so that --candidates
pairs of location and class pass it. Every detector is built in a process of its own; they take turns, run by
run, after a warm-up each. --checkout lets another working tree's package take part, with its own file of the
same name under configs/: a change is measured against what it replaces. --variant, a name and KEY VALUE
overrides, is one more detector for each config: the same model as kgdet_d2.modeling.optimize_for_inference
makes it of MODEL.INFERENCE, without training. Ratios are of medians, to the same variant of this checkout's
RetinaNet and bare backbone, "/ plain" to the config as it stands, "/ here" to the same in this checkout.

--scores evaluates each detector with MODEL.WEIGHTS on DATASETS.TEST, which all must share, and times it on
the images of that, one after the other, instead of noise. Changes of AP are to the config as it stands.

Modes: "inference" and "training" of the whole; "head", inference from the features of the neck on, which are
computed once. Parts: "preprocess", "backbone" (bottom-up), "neck", "head", "postprocess", "refiner", in
training "loss", "backward" and "optimiser", and the "rest". A compiled neck counts as "backbone". On CUDA all
is timed by events. "backbone alone" is the first config's run by itself, in training there and back. Memory
is what a run needs beyond what was there before it: of CUDA's allocator, or of the process' resident memory.

--aggregation times what both branches of a stage sample at their points, on 256 channels at --size locations,
beside torchvision's deformable convolution.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks import _worker
from benchmarks._process import new_process
from benchmarks._report import Report, add_opts, at_least, markdown
from kgdet_d2.config import CHOICES
from kgdet_d2.utils.timing import quartiles

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("kgdet_R50", "retinanet_R50", "fcos_R50", "reppoints_R50", "reppoints_kp_R50")
MODES = ["inference", "training", "head"]
BACKBONE, TORCHVISION, RETINANET, HERE, PLAIN = "backbone alone", "torchvision", "retinanet", "here", "plain"
SIZE, LOCATIONS = [800, 1333], [25, 42]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    add, size = parser.add_argument, ("HEIGHT", "WIDTH")
    configs, variant = [str(ROOT / f"configs/{name}.yaml") for name in NAMES], ("NAME", "KEY VALUE")
    add("configs", nargs="*", default=configs, metavar="YAML", help="default: KGDet and its peers")
    add("--aggregation", action="store_true", help="time this part of KGDet's head alone")
    add("--columns", type=int, nargs="+", default=[9, 25, 49], help="of --aggregation; default: 9 25 49")
    add("--scores", action="store_true", help="evaluate trained weights, too")
    add("--checkout", type=Path, action="append", default=[], metavar="PATH", help="another working tree")
    add("--variant", dest="variants", action="append", nargs="+", default=[], metavar=variant)
    add("--modes", nargs="+", choices=MODES, help="default: inference training; with --scores inference")
    add("--batch", type=at_least(1), nargs="+", default=[1], metavar="N", help="default: 1")
    add("--size", type=int, nargs=2, metavar=size, help=f"default: {SIZE}, or {LOCATIONS} locations")
    add("--own-size", action="store_true", help="of a photo of --size as each config resizes it")
    add("--candidates", type=at_least(1), default=100, metavar="N", help="of an image; default: 100")
    add("--repetitions", type=at_least(1), default=7, metavar="N", help="default: 7")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--precision",
        choices=CHOICES["MODEL.INFERENCE.PRECISION"],
        default="float32",
        help="autocast; default: float32",
    )
    add("--threads", type=at_least(1), default=torch.get_num_threads(), metavar="N")
    add("--channels-last", action="store_true", help="memory format of the weights")
    add_opts(parser)


class Worker:
    """A process that builds one detector or aggregation and times it on request.

    Args:
        name: of what is timed.
        checkout: the working tree whose package it is built of.
        request: the arguments of ``_worker.start``.
    """

    def __init__(self, name: str, checkout: Path, request: dict):
        self.name, self.checkout, self.request = name, checkout, request
        self.variant = request.get("variant", "")
        self.pool = new_process(checkout, request["threads"])

    def start(self) -> list[str] | None:
        """Build what is timed, and return its weights and datasets.

        Raises:
            RuntimeError: it cannot be built, or not of the checkout's package.
        """
        started = self.call(_worker.start, **self.request)
        if Path(started["package"]).parent.resolve() != self.checkout.resolve():
            raise RuntimeError(f"expected the package in {self.checkout}, got {started['package']}")
        return started["inputs"]

    def call(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Return what a function of the worker's module gives in the worker's process."""
        try:
            return self.pool.submit(function, *args, **kwargs).result()
        except Exception as error:  # of any kind, in the other process
            name = ", ".join(filter(None, (self.name, self.variant)))
            raise RuntimeError(f"{name} of {self.checkout}: {error}") from error


def workers(args: argparse.Namespace, batch: int) -> Iterator[Worker]:
    """Yield the workers of one batch size, not started yet; the first is this checkout's."""
    shared = {name: getattr(args, name) for name in ("device", "precision", "threads", "size")}
    trees = [ROOT, *args.checkout]
    if args.aggregation:
        shared |= {"subject": "aggregation", "columns": args.columns, "batch": batch}
        yield Worker(TORCHVISION, ROOT, shared | {"torchvision": True})
        for tree in trees:
            yield Worker("aggregation", tree, shared | {"torchvision": False})
        return
    shared |= {"subject": "detector", "images": None if args.scores else batch}
    shared |= {name: getattr(args, name) for name in ("channels_last", "candidates", "own_size")}
    for config in args.configs:
        for tree in trees:
            path = config_in(tree, Path(config))
            if tree == ROOT or path.is_file():
                for variant, *overrides in [("",), *args.variants]:
                    request = {"config": str(path), "variant": variant, "opts": args.opts + overrides}
                    yield Worker(path.stem, tree, shared | request)


def config_in(tree: Path, config: Path) -> Path:
    """Return the tree's file of the same name, where the config is one of this checkout's."""
    folder, path = ROOT / "configs", config.resolve()
    return tree / "configs" / path.relative_to(folder) if path.is_relative_to(folder) else path


def measure_batch(args: argparse.Namespace, batch: int) -> list[dict]:
    """Return a row for each worker and mode at one size of the batch."""
    with ExitStack() as stack:
        started, inputs = [], []
        for worker in workers(args, batch):
            stack.callback(worker.pool.shutdown)
            started.append(worker)
            inputs.append(worker.start())
        if args.scores and (inputs.count(inputs[0]) < len(inputs) or len(inputs[0]) != 2):
            raise ValueError(f"MODEL.WEIGHTS, DATASETS.TEST: expected the same ones for all, got {inputs}")
        scores = {worker: worker.call(_worker.score) if args.scores else {} for worker in started}
        runs = [(worker, worker.name, mode, mode) for worker in started for mode in args.modes]
        if not args.aggregation:  # the backbone of each variant of the first config
            first = [
                worker for worker in started if (worker.name, worker.checkout) == (started[0].name, ROOT)
            ]
            bare = [mode for mode in args.modes if mode != "head"]
            runs += [(worker, BACKBONE, mode, f"backbone_{mode}") for worker in first for mode in bare]
        runs = [run for run in runs if not (run[0].variant and run[2] == "training")]
        answers: list[list[dict]] = [[] for _ in runs]
        for repetition in range(1 + args.repetitions):
            for (worker, _, _, method), figures in zip(runs, answers, strict=True):
                figures.append(worker.call(_worker.run, method, repetition))
    return [
        row(worker, name, mode, batch, figures) | {"scores": {} if name == BACKBONE else scores[worker]}
        for (worker, name, mode, _), figures in zip(runs, answers, strict=True)
    ]


def row(worker: Worker, name: str, mode: str, batch: int, answers: list[dict]) -> dict:
    """Return the times of one worker; its first answer is the warm-up, which has the memory."""
    warm_up, *timed = answers
    parts = {part: quartiles([answer["ms"].get(part, 0.0) for answer in timed]) for part in timed[0]["ms"]}
    return {
        "name": name,
        "variant": worker.variant,
        "checkout": HERE if worker.checkout == ROOT else str(worker.checkout),
        "mode": mode,
        "batch": batch,
        "ms": parts.pop("all"),
        "parts": parts if len(parts) > 1 else {},
        "peak_mb": warm_up["peak_mb"],
        "detections": timed[0]["detections"],
        "ratios": {},
    }


def compare(report: Report, *, variants: bool, checkouts: bool) -> None:
    """Give each row its ratios of time, and changes of scores to the config as it stands."""
    same = ["mode", "batch"]
    for name in dict.fromkeys(row["name"] for row in report.rows):
        if name in (BACKBONE, TORCHVISION) or name.startswith(RETINANET):
            report.add_ratios(name, "ms", [*same, "variant"], name=name, checkout=HERE)
    if variants:
        report.add_ratios(PLAIN, "ms", [*same, "name", "checkout"], variant="")
    if checkouts:
        report.add_ratios(HERE, "ms", [*same, "name", "variant"], checkout=HERE)
    plain = {(row["name"], row["checkout"]): row["scores"] for row in report.rows if not row["variant"]}
    for row in report.rows:
        before = plain[row["name"], row["checkout"]]
        row["changes"] = {name: score - before[name] for name, score in row["scores"].items()}


def table(rows: list[dict], mode: str, batch: int) -> str:
    """Return the table of one mode and size of the batch; scores have their changes beside them."""
    lines, formats = [], {"default": ".1f", "MB": ".0f"}
    for row in rows:
        if (row["mode"], row["batch"]) != (mode, batch):
            continue
        name, ms = ", ".join(filter(None, (row["name"], row["variant"]))), row["ms"]
        line = {f"{mode}, batch {batch}: ms": name, "of": row["checkout"], "median": ms["median"]}
        line |= {"quartiles": f"{ms['lower']:.1f} - {ms['upper']:.1f}"}
        line |= {part: times["median"] for part, times in row["parts"].items()} | {"MB": row["peak_mb"]}
        line |= {f"/ {name}": f"{ratio:.2f}" for name, ratio in row["ratios"].items()}
        for score, value in row["scores"].items():
            line |= {score: f"{value:.2f}", f"change of {score}": f"{row['changes'][score]:+.2f}"}
        lines.append(line)
    return markdown(lines, **formats)


def measure(args: argparse.Namespace, report: Report) -> None:
    """Fill the report with a row for each detector, mode and size of the batch.

    Raises:
        ValueError: the options contradict one another.
        RuntimeError: something cannot be built, or does not run.
    """
    args.modes = args.modes or (MODES[:1] if args.scores else MODES[:2])
    args.size = args.size or (LOCATIONS if args.aggregation else SIZE)
    names = [name for name, *_ in args.variants]
    if args.variants and (args.aggregation or args.modes == ["training"] or len({*names}) < len(names)):
        raise ValueError(f"--variant: expected different names, for inference of detectors, got {names}")
    if args.aggregation and (args.scores or "head" in args.modes):
        raise ValueError("--aggregation: has neither scores nor a mode 'head'")
    if args.scores and ("training" in args.modes or args.batch != [1]):
        raise ValueError("--scores: expected no training and batches of 1")
    for batch in args.batch:
        report.rows += measure_batch(args, batch)
    compare(report, variants=bool(args.variants), checkouts=bool(args.checkout))
    for batch in args.batch:
        for mode in args.modes:
            print(table(report.rows, mode, batch), end="\n\n")
