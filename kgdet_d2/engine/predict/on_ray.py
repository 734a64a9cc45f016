"""Parts that are dealt to Ray's actors, on this machine or on a cluster; each actor holds the model.

The actors read photos and give back the files of their parts, which this process writes. So machines share
nothing but what the photos are read from, and a part is written once, however often actors died over it.
"""

import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from kgdet_d2.engine.predict.job import Files, Settings
from kgdet_d2.engine.predict.parts import Part, PartPredictor
from kgdet_d2.predictor import FashionPredictor
from kgdet_d2.schema import KeypointSchema, register_schema
from kgdet_d2.utils.catalog import schema_of_config

_LEAST_CPUS = 4  # that Ray is told of; of fewer its own tasks may leave none to the actors, and all wait


@dataclass(frozen=True)
class ActorPool:
    """Predicts parts with Ray's actors.

    Attributes:
        settings: of the prediction.
        workers: threads of each actor that read photos ahead.
        actors: how many.
        gpus: of each actor; a fraction where actors share one.
        address: of a cluster, or "auto"; None: that of RAY_ADDRESS, else Ray is started here and ends with
            this process.
    """

    settings: Settings
    workers: int
    actors: int
    gpus: float
    address: str | None

    def __call__(
        self, parts: Sequence[Part], on_photos: Callable[[int], object]
    ) -> Iterator[tuple[Part, Files]]:
        """Generate parts and their files as they are done, see :data:`kgdet_d2.engine.predict.job.Engine`.

        An actor that dies is started again, and its part is done again.

        Raises:
            ImportError: ray is missing.
            OSError: there is no cluster at the address.
            RuntimeError: what Ray or an actor could not do.
        """
        if not parts:
            return
        ray = _import_ray()
        by_first = {part.first: part for part in parts}
        with self._cluster(ray):
            try:
                for row in self._dataset(ray, parts).iter_rows():
                    part = by_first[row["first"]]
                    yield part, pickle.loads(row["files"])
                    on_photos(len(part.sources))
            except Exception as error:
                if not type(error).__module__.startswith("ray."):
                    raise
                raise RuntimeError(f"ray: {str(error).strip().splitlines()[-1]}") from error

    @contextmanager
    def _cluster(self, ray: Any) -> Iterator[None]:
        """Join a cluster, or start one without dashboard and without reports of its use."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        if address:
            _check_address(address)
        options: dict[str, Any] = {"address": address}
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cpus = max(os.cpu_count() or 1, self.actors, _LEAST_CPUS)
            options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        at_sigterm = signal.getsignal(signal.SIGTERM)
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        signal.signal(signal.SIGTERM, at_sigterm)  # in the place of Ray's own
        try:
            if not address:
                self._check_gpus(ray.cluster_resources().get("GPU", 0))
            yield
        finally:
            ray.shutdown()

    def _check_gpus(self, found: float) -> None:
        """Refuse more than there is: Ray would wait for it."""
        if self.gpus > found:
            raise ValueError(
                f"--num-gpus-per-actor: expected at most this machine's {found:g}, got {self.gpus:g}"
            )

    def _dataset(self, ray: Any, parts: Sequence[Part]) -> Any:
        """Return Ray Data's dataset of a row a part, with its files."""
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised, too
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # there is one of the whole
        context.raise_original_map_exception = True
        rows = [{"part": pickle.dumps(part)} for part in parts]
        cfg = self.settings.cfg
        arguments = {
            "weights": ray.put(Path(cfg.MODEL.WEIGHTS).read_bytes()),
            "schema": schema_of_config(cfg),
            "settings": self.settings,
            "workers": self.workers,
        }
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Actor,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(
                size=min(self.actors, len(parts)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=1,
            num_gpus=self.gpus,
        )


class _Actor:
    """A process that holds the model; Ray Data starts it again when it dies."""

    def __init__(self, weights: Any, schema: KeypointSchema, settings: Settings, workers: int):
        register_schema(schema)
        cfg = settings.cfg.clone()
        cfg.defrost()
        with NamedTemporaryFile(suffix=Path(cfg.MODEL.WEIGHTS).suffix) as file:
            file.write(_import_ray().get(weights))
            file.flush()
            cfg.MODEL.WEIGHTS = file.name
            predictor = FashionPredictor.from_config(cfg, score_threshold=settings.score_threshold)
        self._predict = PartPredictor(predictor, settings.formats, settings.batch_size, workers)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Predict a part."""
        part = pickle.loads(row["part"])
        [files] = [list(files) for _, files in self._predict([part])]
        return {"first": part.first, "files": pickle.dumps(files)}


def _check_address(address: str) -> None:
    """Refuse a machine on which no Ray listens: Ray itself would try it again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(f"--address: no Ray cluster at {address}: {error}") from error


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("ray is missing: pip install 'kgdet_d2[ray]'", name="ray") from error
    return ray
