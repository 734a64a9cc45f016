"""Refinement of detections' keypoints: each is located again on a fine map, in a window around where it is.

n garments, m keypoints of the class that has most (39 in DeepFashion2), C classes, K keypoints of all
classes, D channels, w positions on the side of a window. Coordinates are pixels of the network's input.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from torch import Tensor, nn

from kgdet_d2.layers.bilinear_gather import neighbors_1d
from kgdet_d2.utils.catalog import schema_of_config


class Garments(NamedTuple):
    """Garments whose keypoints are to be refined.

    Attributes:
        image: (n,) index of the garment's image.
        classes: (n,).
        boxes: (n, 4) x1, y1, x2, y2.
        keypoints: (n, m, 2) x, y of the class's own keypoints, in its order; what follows has no effect.
    """

    image: Tensor
    classes: Tensor
    boxes: Tensor
    keypoints: Tensor

    @property
    def size(self) -> Tensor:
        """Square roots of the boxes' areas, (n,), at least 1 pixel."""
        return (self.boxes[:, 2:] - self.boxes[:, :2]).clamp(min=1).prod(dim=1).sqrt()

    def relative_keypoints(self) -> Tensor:
        """Return the keypoints (n, m, 2) from the box's centre, in its width and height."""
        centre = (self.boxes[:, None, :2] + self.boxes[:, None, 2:]) / 2
        return (self.keypoints - centre) / (self.boxes[:, None, 2:] - self.boxes[:, None, :2]).clamp(min=1)


class Refinement(NamedTuple):
    """The outcome of a round.

    Attributes:
        keypoints: (n, m, 2) x, y.
        window: (n, m, w^2, 2) x, y of the positions that were read.
        heat: (n, m, w^2) logits of these, of a softmax over the window.
        quality: (n, m) logits of the keypoints' similarity to the truth (OKS of one keypoint), or None.
        verification: (n,) logits of the IoU that the box has with a garment of this very class, or None.
        boxes: (n, 4) x1, y1, x2, y2, or None.
    """

    keypoints: Tensor
    window: Tensor
    heat: Tensor
    quality: Tensor | None
    verification: Tensor | None
    boxes: Tensor | None

    def select(self, rows: slice) -> "Refinement":
        """Return the outcome for some of the garments."""
        return Refinement(*(None if field is None else field[rows] for field in self))  # type: ignore[arg-type]


class Exchange(nn.Module):
    """A transformer's layer, pre-norm, in which each keypoint of a garment attends to all of them.

    PyTorch's own layer fails where there is no garment.

    Args:
        channels: D.
        num_heads: of the attention.
    """

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
        )

    def forward(self, tokens: Tensor, absent: Tensor) -> Tensor:
        """Exchange within tokens (n, m, D); those that are absent (n, m) are not attended to."""
        heads = self.qkv(self.norm(tokens)).unflatten(
            -1, (3, self.num_heads, -1)
        )  # (n, m, 3, heads, D / heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (n, heads, m, D / heads) each
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=~absent[:, None, None])
        tokens = tokens + self.out(read.transpose(1, 2).flatten(-2))
        return tokens + self.mlp(tokens)


class RefinementRound(nn.Module):
    """One round: read the heat around each keypoint, exchange within the garment, move the keypoint.

    Args:
        channels: D.
        window: w.
        predicts_quality: otherwise the quality is None.
        verifies: otherwise the verification is None.
        refines_boxes: otherwise the boxes are None.
        num_heads: of the attention between a garment's keypoints.
    """

    grid: Tensor

    def __init__(
        self,
        channels: int,
        window: int,
        *,
        predicts_quality: bool,
        verifies: bool,
        refines_boxes: bool,
        num_heads: int = 4,
    ):
        super().__init__()
        self.window = window
        side = torch.arange(window, dtype=torch.float32) - window // 2
        y, x = torch.meshgrid(side, side, indexing="ij")
        self.register_buffer("grid", torch.stack([x, y], dim=-1).view(-1, 2), persistent=False)  # (w^2, 2)
        self.encode_place = nn.Linear(2, channels)
        self.encode_heat = nn.Linear(window**2, channels)
        self.encode_content = nn.Linear(channels, channels)
        self.exchange = Exchange(channels, num_heads)
        self.norm = nn.LayerNorm(channels)
        self.heat_scale = nn.Parameter(torch.ones(()))
        self.heat_bias = nn.Linear(channels, window**2)
        self.offset = nn.Linear(channels, 2)
        self.quality = nn.Linear(channels, 1) if predicts_quality else None
        self.verification = nn.Linear(2 * channels, 1) if verifies else None
        self.box = BoxRefiner(2 * channels) if refines_boxes else None
        for layer in (self.heat_bias, self.offset):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(
        self, tokens: Tensor, absent: Tensor, garments: Garments, maps: "FineMaps", spacing: float
    ) -> tuple[Tensor, Refinement]:
        """Refine the garments' keypoints.

        Args:
            tokens: (n, m, D), what is known of each keypoint.
            absent: (n, m) bool, True where the class has fewer keypoints.
            garments: with the keypoints as they are.
            maps: to read.
            spacing: of a window's positions, in square roots of the box's area.

        Returns:
            The tokens after the round, and its outcome.
        """
        steps = (spacing * garments.size)[:, None, None]  # (n, 1, 1) pixels
        window = garments.keypoints[:, :, None] + self.grid * steps[..., None]  # (n, m, w^2, 2)
        side = self.grid[: self.window, 0] * steps  # (n, 1, w) pixels
        heat = maps.read_heat(*(garments.keypoints[..., axis, None] + side for axis in (0, 1)))
        tokens = tokens + self.encode_place(garments.relative_keypoints())
        tokens = tokens + self.encode_heat(heat) + self.encode_content(maps.read_features(garments.keypoints))
        tokens = self.exchange(tokens, absent)
        state = self.norm(tokens)
        heat = heat * self.heat_scale + self.heat_bias(state)
        shift = heat.softmax(dim=-1) @ self.grid + self.offset(state)  # (n, m, 2) in steps
        keypoints = garments.keypoints + shift * steps
        garment = pool(state, absent)
        quality = None if self.quality is None else self.quality(state).squeeze(-1)
        verification = None if self.verification is None else self.verification(garment).squeeze(-1)
        boxes = None
        if self.box is not None:
            # The loss of boxes would cost the landmarks more than it gives the boxes, see docs/DESIGN.md.
            known, around = garment.detach(), extents(keypoints.detach(), absent)
            boxes = self.box(known, garments.boxes, around, garments.size)
        return tokens, Refinement(keypoints, window, heat, quality, verification, boxes)


class BoxRefiner(nn.Module):
    """Boxes between what they are and the extents of their keypoints, and what is missing from there.

    Args:
        channels: of what is known of a garment.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gate = nn.Linear(channels, 4)
        self.delta = nn.Linear(channels, 4)
        for layer in (self.gate, self.delta):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, garment: Tensor, boxes: Tensor, extents: Tensor, size: Tensor) -> Tensor:
        """Refine boxes (n, 4).

        Args:
            garment: (n, channels).
            boxes: x1, y1, x2, y2.
            extents: (n, 4), likewise.
            size: (n,) square roots of the boxes' areas.
        """
        merged = torch.lerp(boxes, extents, self.gate(garment).sigmoid())
        refined = merged + self.delta(garment) * size[:, None]
        # A side must not pass the opposite one.
        centre, half = (
            (refined[:, :2] + refined[:, 2:]) / 2,
            (refined[:, 2:] - refined[:, :2]).clamp(min=1) / 2,
        )
        return torch.cat([centre - half, centre + half], dim=1)


def extents(keypoints: Tensor, absent: Tensor) -> Tensor:
    """Return the smallest boxes (n, 4) around keypoints (n, m, 2), but for those absent (n, m)."""
    lowest = keypoints.masked_fill(absent[..., None], torch.inf).amin(dim=1)
    highest = keypoints.masked_fill(absent[..., None], -torch.inf).amax(dim=1)
    return torch.cat([lowest, highest], dim=1)


def pool(state: Tensor, absent: Tensor) -> Tensor:
    """Return mean and maximum (n, 2D) of a garment's states (n, m, D), but for those absent (n, m)."""
    absent = absent[..., None]
    mean = state.masked_fill(absent, 0).sum(dim=1) / (~absent).sum(dim=1)
    highest = state.masked_fill(absent, torch.finfo(state.dtype).min).amax(dim=1)
    return torch.cat([mean, highest], dim=1)


class FineMaps:
    """The fine map and the heat maps made of it, as the garments' keypoints read them.

    Args:
        features: (N, D, H, W).
        heat: (N, J, H, W), a map for each kind of keypoint.
        stride: of both, in pixels.
        image: (n,) index of each garment's image.
        kinds: (n, m) index of each keypoint's map, 0..J-1.
    """

    def __init__(self, features: Tensor, heat: Tensor, *, stride: int, image: Tensor, kinds: Tensor):
        self.features = features
        self.heat = heat
        self.stride = stride
        self.image = image
        self.kinds = kinds

    def read_features(self, points: Tensor) -> Tensor:
        """Return the features (n, m, D) at the location nearest to each of points (n, m, 2)."""
        height, width = self.features.shape[-2:]
        x, y = (points / self.stride).round().unbind(dim=-1)
        # Clamped as integers: a point that is not finite must not become an index out of range.
        column, row = x.long().clamp(0, width - 1), y.long().clamp(0, height - 1)
        locations = (self.image[:, None] * height + row) * width + column  # (n, m)
        return F.embedding(locations, self.features.permute(0, 2, 3, 1).flatten(0, 2))

    def read_heat(self, x: Tensor, y: Tensor) -> Tensor:
        """Interpolate each keypoint's own map bilinearly on a grid; outside of the map heat is 0.

        Args:
            x: (n, m, w), the grid's columns in pixels.
            y: (n, m, w), its rows.

        Returns:
            (n, m, w^2), row by row.
        """
        num_kinds, height, width = self.heat.shape[1:]
        maps = (self.image[:, None] * num_kinds + self.kinds)[..., None]  # (n, m, 1), of N J maps
        flat_heat = self.heat.flatten()
        values = torch.zeros((), device=x.device)
        for row, y_weight in neighbors_1d(y / self.stride, height):
            starts = (maps * height + row) * width  # (n, m, w)
            along_row = torch.zeros((), device=x.device)
            for column, x_weight in neighbors_1d(x / self.stride, width):
                indices = starts[..., None] + column[..., None, :]  # (n, m, w, w)
                along_row = along_row + flat_heat[indices] * x_weight[..., None, :]
            values = values + along_row * y_weight[..., None]
        return values.flatten(-2)


class KeypointRefiner(nn.Module):
    """Rounds of refinement, each on what the round before has found, with windows of its own size.

    Heat maps are read where the detections' own keypoints are, and there alone. Keypoints of one kind, the
    same point of a garment in whatever class, share a map.

    Args:
        in_channels: of the fine map.
        stride: of the fine map, in pixels.
        slots: (C, m), the slots of each class's keypoints in its order, then -1.
        kinds: (K,), the kind of each slot, 0...
        channels: D.
        norm: normalisation of the first convolution, by Detectron2's names.
        window: w, odd.
        spacings: of a window's positions in each round, in square roots of the box's area.
        predicts_quality: predict the keypoints' similarity to the truth, to score them by.
        verifies: predict whether the garment is of the class whose keypoints these are.
        refines_boxes: refine the garments' boxes by their keypoints, too.
    """

    slots: Tensor
    kinds: Tensor

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        stride: int,
        slots: list[list[int]],
        kinds: list[int],
        channels: int,
        norm: str,
        window: int,
        spacings: list[float],
        predicts_quality: bool,
        verifies: bool,
        refines_boxes: bool,
    ):
        super().__init__()
        num_kinds = max(kinds) + 1
        self.stride = stride
        self.spacings = list(spacings)
        self.register_buffer("slots", torch.tensor(slots), persistent=False)
        self.register_buffer("kinds", torch.tensor(kinds), persistent=False)
        self.conv = Conv2d(
            in_channels,
            channels,
            kernel_size=3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, channels),
            activation=F.relu,
        )
        self.heat = nn.Conv2d(channels, num_kinds, kernel_size=1)
        self.kind_embedding = nn.Embedding(num_kinds, channels)
        self.class_embedding = nn.Embedding(len(slots), channels)
        self.rounds = nn.ModuleList(
            RefinementRound(
                channels,
                window,
                predicts_quality=predicts_quality,
                verifies=verifies,
                refines_boxes=refines_boxes,
            )
            for _ in spacings
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, fine_shape: ShapeSpec) -> dict:
        """Read ``MODEL.KGDET.REFINER`` and ``MODEL.KGDET.SCHEMA``."""
        refiner, schema = cfg.MODEL.KGDET.REFINER, schema_of_config(cfg)
        kinds = schema.kinds.tolist() if refiner.SHARED else list(range(schema.num_keypoints))
        return {
            "in_channels": fine_shape.channels,
            "stride": fine_shape.stride,
            "slots": schema.padded_slots.tolist(),
            "kinds": kinds,
            "channels": refiner.CHANNELS,
            "norm": cfg.MODEL.FPN.NORM,
            "window": refiner.WINDOW,
            "spacings": refiner.SPACINGS,
            "predicts_quality": refiner.QUALITY_WEIGHT > 0,
            "verifies": refiner.VERIFICATION_WEIGHT > 0,
            "refines_boxes": refiner.BOX_WEIGHT > 0,
        }

    def in_class(self, values: Tensor, classes: Tensor) -> Tensor:
        """Gather values (n, K, D) of all slots at those of each garment's class (n,).

        Returns:
            (n, m, D), zeros beyond the class's keypoints.
        """
        slots = self.slots[classes][..., None]  # (n, m, 1)
        gathered = values.gather(1, slots.clamp(min=0).expand(-1, -1, values.shape[-1]))
        return gathered * (slots >= 0)

    def forward(self, fine: Tensor, garments: Garments) -> list[Refinement]:
        """Refine keypoints on the fine map (N, in_channels, H, W); return the outcome of each round."""
        slots = self.slots[garments.classes]  # (n, m)
        absent, kinds = slots < 0, self.kinds[slots.clamp(min=0)]
        features = self.conv(fine)
        maps = FineMaps(features, self.heat(features), stride=self.stride, image=garments.image, kinds=kinds)
        tokens = self.kind_embedding(kinds) + self.class_embedding(garments.classes)[:, None]
        outcomes = []
        for refinement_round, spacing in zip(self.rounds, self.spacings, strict=True):
            tokens, outcome = refinement_round(tokens, absent, garments, maps, spacing)
            outcomes.append(outcome)
            boxes = garments.boxes if outcome.boxes is None else outcome.boxes.detach()
            garments = garments._replace(keypoints=outcome.keypoints.detach(), boxes=boxes)
        return outcomes
