"""CUDA's rules without a GPU: tensors whose device is ``cuda:0`` and which compute on the CPU.

An operator on tensors of both devices fails, as it does on a GPU; so does ``numpy``. Kernels are
not simulated, nor is the backward pass, which autograd would run in a GPU's thread.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
_INDEXING = {aten.index.Tensor, aten.index_put_.default}  # a GPU's tensor may be indexed by the CPU's


class CudaTensor(torch.Tensor):
    """Tensor that appears to be on CUDA; its numbers are in ``content``, on the CPU."""

    @staticmethod
    def __new__(cls, content: torch.Tensor) -> "CudaTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device="cuda:0",
        )
        tensor.content = content
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    # These read memory without an operator.
    def tolist(self):
        return self.content.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def new_tensor(self, data, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=self.device)


class _Simulation(TorchDispatchMode):
    """Dispatch mode that makes CUDA's tensors where an operator's device is CUDA."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Callable, args: tuple, kwargs: dict):
    """Run an operator on the CPU; its results are on CUDA where a GPU's would be."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    _check_devices(func, args, tensors)
    cuda = any(isinstance(tensor, CudaTensor) for tensor in tensors)
    if func is aten.copy_.default:
        cuda = isinstance(args[0], CudaTensor)
    elif kwargs.get("device") is not None:
        cuda = torch.device(kwargs["device"]).type == "cuda"
        kwargs = kwargs | {"device": "cpu"}
    args, kwargs = tree_map_only(CudaTensor, lambda tensor: tensor.content, (args, kwargs))
    out = func(*args, **kwargs)
    if not cuda:
        return out
    # What works in place gives back its argument.
    itself = {id(tensor.content): tensor for tensor in tensors if isinstance(tensor, CudaTensor)}
    return tree_map_only(
        torch.Tensor, lambda tensor: itself[id(tensor)] if id(tensor) in itself else CudaTensor(tensor), out
    )


def _check_devices(func: Callable, args: tuple, tensors: list[torch.Tensor]) -> None:
    """Refuse tensors of both devices; one without dimensions may be on the CPU."""
    if func is aten.copy_.default or (func in _INDEXING and isinstance(args[0], CudaTensor)):
        return
    if len({isinstance(tensor, CudaTensor) for tensor in tensors if tensor.dim()}) > 1:
        devices = [(tuple(tensor.shape), str(tensor.device)) for tensor in tensors]
        raise RuntimeError(f"{func}: expected all tensors on the same device, got {devices}")


def _tensor(data, dtype=None, device=None) -> torch.Tensor:
    """Replace ``torch.tensor``, which would copy to a GPU without an operator."""
    made = _make_tensor(data, dtype=dtype)
    return made if device is None else made.to(device)


def _as_tensor(data, dtype=None, device=None) -> torch.Tensor:
    """Replace ``torch.as_tensor`` likewise."""
    if not isinstance(data, torch.Tensor):
        return _tensor(data, dtype, device)
    return data.to(device=device or data.device, dtype=dtype or data.dtype)


_make_tensor = torch.tensor


@contextmanager
def simulated_cuda() -> Iterator[None]:
    """Make ``cuda`` a device within the context."""
    torch._C._ensureCUDADeviceGuardSet()
    with (
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        # A module's parameters are replaced, not filled.
        patch.object(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True),
        patch.object(torch, "tensor", _tensor),
        patch.object(torch, "as_tensor", _as_tensor),
        torch.backends.cudnn.flags(enabled=False),  # its kernels have names of their own
        _Simulation(),
    ):
        yield
