"""Endless batches for training, in which a place decides what stands there.

The photo at a place of the stream follows from the seed and the place; so do the random choices of its
augmentation. A stream that begins at a later batch gives what one from the start would have given there, with
any number of worker processes, and decodes nothing to get there.
"""

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from kgdet_d2.data.images import UNUSABLE_PHOTO, PhotoError

logger = logging.getLogger(__name__)

_ATTEMPTS = 100  # to draw an item that can be used

MakeSampler = Callable[[int], Iterable[int]]  # of a seed: the rows of this process, without end


class TrainStream(Iterable[list[dict]]):
    """Batches of mapped items; :meth:`start_at` moves to another place.

    In the place of an item whose photo cannot be read, or is not of the size that its annotation says, there
    is another one, drawn by the place; a warning says so.

    Args:
        dataset: of the items.
        mapper: item -> what the model takes, or a list of that, whose parts follow one another in the batch.
        make_sampler: one of Detectron2's training samplers.
        batch_size: items of this process.
        num_workers: of this process.
        groups: int (items,), a batch has items of one group alone; None: of any.
        seed: the same in all processes; None for one that they agree on.
        max_bad_share: of the items that may be unusable, 0..1; one always may.
    """

    def __init__(
        self,
        dataset: Dataset,
        mapper: Callable,
        make_sampler: MakeSampler,
        *,
        batch_size: int,
        num_workers: int,
        groups: np.ndarray | None = None,
        seed: int | None = None,
        max_bad_share: float = 0.0,
    ) -> None:
        self.dataset = dataset
        self.mapper = mapper
        self.make_sampler = make_sampler
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.groups = groups
        self.seed = comm.shared_random_seed() if seed is None else seed
        self.max_bad_share = max_bad_share
        self.first_batch = 0

    def start_at(self, batch: int, seed: int) -> None:
        """Begin the next iteration over the stream at a batch, 0.., of the stream of a seed."""
        self.first_batch, self.seed = batch, seed

    def __iter__(self) -> Iterator[list[dict]]:
        """Generate batches; a worker maps one ahead of those that are asked for, or two items at least."""
        loader = DataLoader(
            _Mapped(self),
            batch_sampler=islice(self._batches(), self.first_batch, None),
            num_workers=self.num_workers,
            prefetch_factor=max(1, 2 // self.batch_size) if self.num_workers else None,
            collate_fn=trivial_batch_collator,
            worker_init_fn=_end_with_the_training,
            generator=torch.Generator(),  # or it would draw from the one that the model draws from
        )
        for batch in loader:
            yield [part for item in batch for part in (item if isinstance(item, list) else [item])]

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """Generate all batches, as the place, among those of all processes, and the row of each item."""
        waiting: dict[int, list[tuple[int, int]]] = {}
        processes, rank = comm.get_world_size(), comm.get_rank()
        for number, row in enumerate(self.make_sampler(self.seed)):
            group = 0 if self.groups is None else int(self.groups[row])
            batch = waiting.setdefault(group, [])
            batch.append((number * processes + rank, row))
            if len(batch) == self.batch_size:
                yield batch
                waiting[group] = []


def _end_with_the_training(worker: int) -> None:
    """End this worker when the process that trains is gone, be it killed.

    PyTorch's own watch does not end one that has a batch to hand over: the other workers keep its pipe open.
    """
    training = os.getppid()

    def watch() -> None:
        while os.getppid() == training:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Mapped(Dataset):
    """A stream's items, mapped with random choices that follow from their place."""

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream
        self._bad: set[int] = set()

    def __getitem__(self, item: tuple[int, int]) -> dict | list[dict]:
        """Map an item, or another one where it cannot be used.

        Raises:
            PhotoError: more items than allowed cannot be used.
        """
        stream = self.stream
        place, row = item
        for attempt in range(_ATTEMPTS):
            try:
                with random_choices_of(stream.seed, place):
                    return stream.mapper(stream.dataset[row])
            except UNUSABLE_PHOTO as error:
                self._report(row, error)
            row = int(np.random.default_rng([stream.seed, place, attempt]).choice(self._alike(row)))
        raise PhotoError(f"none of {_ATTEMPTS} photos that were drawn one after another can be used")

    def _report(self, row: int, error: Exception) -> None:
        if row in self._bad:
            return
        self._bad.add(row)
        number = len(self.stream.dataset)  # type: ignore[arg-type]
        if len(self._bad) > max(1, self.stream.max_bad_share * number):
            raise PhotoError(
                f"{error}: {len(self._bad)} of {number} photos cannot be used, more than the share of "
                f"DATALOADER.MAX_BAD_SHARE = {self.stream.max_bad_share:g}"
            ) from error
        logger.warning("%s; another photo takes its place", error)

    def _alike(self, row: int) -> np.ndarray:
        """Return the rows of the items that may stand in a batch with this one."""
        groups = self.stream.groups
        if groups is None:
            return np.arange(len(self.stream.dataset))  # type: ignore[arg-type]
        return np.flatnonzero(groups == groups[row])


@contextmanager
def random_choices_of(*numbers: int) -> Iterator[None]:
    """Seed Python's, numpy's and PyTorch's CPU generators in the block, and leave them as they were.

    Args:
        numbers: see :func:`seed_all`.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed_all(*numbers)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def seed_all(*numbers: int) -> None:
    """Seed Python's, numpy's and PyTorch's generators, which Detectron2 draws from.

    Args:
        numbers: not negative; others, as many, give other draws.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
