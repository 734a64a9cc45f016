#!/usr/bin/env python
r"""Time and memory of KGDet and its peers, whole and by part, or of the aggregation alone.

    python tools/benchmark.py
    python tools/benchmark.py --batch 1 8 --device cuda --precision float16 --channels-last --json speed.json
    git worktree add /tmp/before HEAD~1 && python tools/benchmark.py --checkout /tmp/before
    python tools/benchmark.py configs/kgdet_R50.yaml --variant fused MODEL.INFERENCE.FUSE_BN True \
        --variant bfloat16 MODEL.INFERENCE.PRECISION bfloat16 MODEL.INFERENCE.CHANNELS_LAST True
    python tools/benchmark.py --aggregation --threads 2 --checkout /tmp/before

Weights are random and photos noise, the same for all. Each detector's threshold is set so that --candidates
pairs of cell and class pass it. Every contestant is a process of its own; they take turns, run by run, after
a warm-up each. --checkout lets another working tree's package take part: a change is measured against what it
replaces. --variant, a name and KEY VALUE overrides, is one more contestant for each config: the same model as
kgdet_d2.modeling.for_inference makes it of MODEL.INFERENCE, in inference alone. Its ratios are to the same
variant of RetinaNet and of the bare backbone; "/ plain" is that to the config as it stands.

Parts: "preprocess", "backbone" (bottom-up), "neck", "head", "postprocess", in training "loss", "backward" and
"optimiser", and the "rest". What a head is asked for only once detections are known counts as "postprocess",
a compiled neck as "backbone". On CUDA all is timed by events. "backbone alone" is the first config's run by
itself, in training there and back.

Memory is what a run needs beyond what was there before it: of CUDA's allocator, or of the process' resident
memory.

--aggregation times what both branches of a stage read at their points, on 256 channels at --size cells,
beside torchvision's deformable convolution.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import torch
from tabulate import tabulate
from taking_turns import quartiles
from variants import add_variants

from kgdet_d2.modeling.optimize import PRECISIONS
from kgdet_d2.utils.environment import ROOT, measured_with
from kgdet_d2.utils.io import write_json

WORKER = Path(__file__).with_name("benchmark_worker.py")
NAMES = ("kgdet_R50", "retinanet_R50", "fcos_R50", "reppoints_R50", "reppoints_kp_R50")
MODES = ("inference", "training")
BACKBONE, TORCHVISION, HERE, PLAIN = "backbone alone", "torchvision", "here", "plain"
RETINANET = "retinanet"
SIZE, CELLS = [800, 1333], [25, 42]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    configs = [str(ROOT / f"configs/{name}.yaml") for name in NAMES]
    parser.add_argument(
        "configs", nargs="*", default=configs, metavar="YAML", help="default: KGDet and peers"
    )
    parser.add_argument("--aggregation", action="store_true", help="time this part of KGDet's head alone")
    parser.add_argument("--columns", type=int, nargs="+", default=[9, 25, 49], help="of --aggregation")
    parser.add_argument(
        "--checkout", type=Path, action="append", default=[], metavar="PATH", help="another working tree"
    )
    add_variants(parser, required=False)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="default: both")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"default: {SIZE}, or {CELLS} cells"
    )
    parser.add_argument("--candidates", type=int, default=100, metavar="N", help="default: 100 of a photo")
    parser.add_argument("--repetitions", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="autocast; default: float32"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument("--channels-last", action="store_true", help="memory format of the weights")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there, too")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="changes to the configs")
    args = parser.parse_args(arguments)
    args.size = args.size or (CELLS if args.aggregation else SIZE)
    if args.variants and (args.aggregation or "inference" not in args.modes):
        parser.error("--variant is of a detector's inference")
    return args


class Contestant:
    """A process that builds one thing and times it on request."""

    def __init__(self, name: str, checkout: Path, request: dict):
        """
        Args:
            name: of what is timed.
            checkout: the working tree whose package is used.
            request: what the worker builds it from.
        """
        self.name = name
        self.variant = request.get("variant", "")
        self.checkout = checkout
        path = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(request["threads"])}
        self._process = subprocess.Popen(
            [sys.executable, WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        package = Path(self.ask(request)["package"])
        if package.parent.resolve() != checkout.resolve():
            raise RuntimeError(f"expected the package in {checkout}, got {package}")

    def ask(self, request: dict) -> dict:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} of {self.checkout} stopped; its error stands above")
        return json.loads(answer)

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()  # ends it
        self._process.stdout.close()
        self._process.wait()


def contestants(args: argparse.Namespace, batch: int) -> Iterator[Contestant]:
    """Started one by one."""
    shared = {name: getattr(args, name) for name in ("device", "precision", "threads", "size")}
    trees = [ROOT, *args.checkout]
    if args.aggregation:
        request = shared | {"subject": "aggregation", "columns": args.columns, "batch": batch}
        yield Contestant(TORCHVISION, ROOT, request | {"torchvision": True})
        for tree in trees:
            yield Contestant("aggregation", tree, request | {"torchvision": False})
        return
    request = shared | {"subject": "detector", "photos": batch}
    request |= {"channels_last": args.channels_last, "candidates": args.candidates}
    for config in args.configs:
        for tree in trees:
            if tree == ROOT or (tree / "configs" / Path(config).name).is_file():
                for variant, *overrides in [("",), *args.variants]:
                    own = {"config": config, "variant": variant, "opts": args.opts + overrides}
                    yield Contestant(Path(config).stem, tree, request | own)


def measure(args: argparse.Namespace, batch: int) -> list[dict]:
    """A row for each contestant and mode, at one size of the batch."""
    with ExitStack() as stack:
        started = [stack.enter_context(one) for one in contestants(args, batch)]
        turns = [(one, mode) for one in started for mode in (["inference"] if one.variant else args.modes)]
        runs = [(one, one.name, mode, mode) for one, mode in turns]
        if not args.aggregation:
            first = started[0].name, started[0].checkout
            runs += [
                (one, BACKBONE, mode, f"backbone_{mode}")
                for one, mode in turns
                if (one.name, one.checkout) == first
            ]
        answers = defaultdict(list)
        for repetition in range(1 + args.repetitions):
            for index, (one, _, _, method) in enumerate(runs):
                request = {"mode": method, "batch": batch, "memory": repetition == 0}
                answers[index].append(one.ask(request))
        return [
            row(name, one, mode, batch, answers[index]) for index, (one, name, mode, _) in enumerate(runs)
        ]


def row(name: str, contestant: Contestant, mode: str, batch: int, answers: list[dict]) -> dict:
    """The figures of one contestant: the first answer is the warm-up, which tells the memory."""
    warm_up, *timed = answers
    ms = {part: quartiles([answer["ms"].get(part, 0.0) for answer in timed]) for part in timed[0]["ms"]}
    return {
        "name": name,
        "variant": contestant.variant,
        "checkout": HERE if contestant.checkout == ROOT else str(contestant.checkout),
        "mode": mode,
        "batch": batch,
        "ms": ms.pop("all"),
        "parts": {} if name == BACKBONE else ms,
        "peak_mb": warm_up["peak_mb"],
        "detections": timed[0].get("detections"),
    }


def add_ratios(rows: list[dict]) -> None:
    """Give each row its ratios of medians to RetinaNet and to the backbone alone, or to torchvision.

    A variant's are to those of the same variant; it has one to the plain config, too.
    """
    for row in rows:
        row["ratios"] = {}
        for other in rows:
            if any(row[key] != other[key] for key in ("mode", "batch")):
                continue
            ratio = row["ms"]["median"] / other["ms"]["median"]
            reference = other["name"] in (BACKBONE, TORCHVISION) or other["name"].startswith(RETINANET)
            if reference and other["checkout"] == HERE and other["variant"] == row["variant"]:
                row["ratios"][other["name"]] = ratio
            same = all(row[key] == other[key] for key in ("name", "checkout"))
            if row["variant"] and not other["variant"] and same:
                row["ratios"][PLAIN] = ratio


def table(rows: list[dict], mode: str, batch: int) -> str:
    rows = [row for row in rows if (row["mode"], row["batch"]) == (mode, batch)]
    parts = list(dict.fromkeys(part for row in rows for part in row["parts"]))
    if len(parts) == 1:  # an aggregation's "rest"
        parts = []
    references = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    headers = [f"{mode}, batch {batch}: ms", "of", "median", "quartiles"]
    headers += [*parts, "MB", *(f"/ {name}" for name in references)]
    cells = []
    for row in rows:
        ms, ratios = row["ms"], row["ratios"]
        cells.append(
            [
                ", ".join(filter(None, (row["name"], row["variant"]))),
                row["checkout"],
                f"{ms['median']:.1f}",
                f"{ms['lower']:.1f} - {ms['upper']:.1f}",
                *(f"{row['parts'][part]['median']:.1f}" if part in row["parts"] else "" for part in parts),
                "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}",
                *(f"{ratios[name]:.2f}" if name in ratios else "" for name in references),
            ]
        )
    alignment = ["left", "left", *["right"] * (len(headers) - 2)]
    return tabulate(cells, headers, tablefmt="pipe", colalign=alignment, disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    rows = []
    try:
        for batch in args.batch:
            rows += measure(args, batch)
        add_ratios(rows)
        for batch in args.batch:
            for mode in args.modes:
                print(table(rows, mode, batch), end="\n\n")
        if args.json:
            settings = {name: value for name, value in vars(args).items() if name not in ("json", "checkout")}
            write_json(args.json, {"settings": settings, **measured_with(args.device), "results": rows})
    except (OSError, RuntimeError, ValueError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
