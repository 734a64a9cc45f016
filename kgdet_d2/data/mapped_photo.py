"""A mapped photo, and how it travels from the process that mapped it to the one that trains."""

import io
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

# Tensors of up to so many bytes travel in the message. Larger ones arrive sooner through shared memory.
_IN_MESSAGE = 2**17


class MappedPhoto(dict):
    """What a mapper makes of a dataset dict.

    PyTorch sends every tensor to another process as a file of shared memory, over a connection opened for it.
    For the five of a small photo that takes longer than to map it. Here small tensors are in the message.
    """


def _as_message(photo: MappedPhoto) -> tuple[Callable[[bytes], dict], tuple[bytes]]:
    message = io.BytesIO()
    _PhotoPickler(message, pickle.HIGHEST_PROTOCOL).dump(dict(photo))
    return pickle.loads, (message.getvalue(),)


class _PhotoPickler(ForkingPickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.nbytes <= _IN_MESSAGE:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


ForkingPickler.register(MappedPhoto, _as_message)
