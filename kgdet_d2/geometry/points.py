"""Locations of feature maps, the points that a network places relative to them, and boxes around points.

N images, L locations of all levels, P points, H x W locations of one level, k side of a square kernel.

A location (row, column) of a level with stride s lies at pixel (x, y) = (column * s, row * s). The network's
offsets are relative to their location, in units of s, with y before x, the order of deformable convolution.
This is the only file that knows that order.
"""

import torch
from torch import Tensor

# Image, row and column, (n,) each, of n chosen locations of one level.
GridIndex = tuple[Tensor, Tensor, Tensor]


def make_locations(
    sizes: list[tuple[int, int]], strides: list[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the locations of all levels, level after level, row by row.

    Args:
        sizes: per level, (H, W).
        strides: per level, pixels per location.
        device: of the result.

    Returns:
        (L, 2) x, y of each location in pixels of the network's input, and (L,) its stride; both float32.
    """
    locations, location_strides = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y = torch.arange(height, device=device, dtype=torch.float32) * stride
        x = torch.arange(width, device=device, dtype=torch.float32) * stride
        yy, xx = torch.meshgrid(y, x, indexing="ij")  # (H, W)
        locations.append(torch.stack([xx, yy], dim=-1).reshape(-1, 2))
        location_strides.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(locations), torch.cat(location_strides)


def gather_locations(maps: Tensor, grid_index: GridIndex) -> Tensor:
    """Gather maps (N, D, H, W) at chosen locations: (n, D)."""
    image, row, column = grid_index
    return maps[image, :, row, column]


def flatten_grid_indices(grid_indices: list[GridIndex], maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Count chosen locations through all levels, in the order of :func:`make_locations`.

    Args:
        grid_indices: of each level.
        maps: (N, D, H, W) of each level; their sizes count.

    Returns:
        The images (n,), and the location's indices 0..L-1 (n,); n over all levels.
    """
    start, images, location_ids = 0, [], []
    for (image, row, column), level_map in zip(grid_indices, maps, strict=True):
        height, width = level_map.shape[-2:]
        images.append(image)
        location_ids.append(start + row * width + column)
        start += height * width
    return torch.cat(images), torch.cat(location_ids)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return the values of ``x``, in any precision bit for bit; its gradient is multiplied by ``factor``."""
    scaled = x.view_as(x)
    if scaled.requires_grad:
        scaled.register_hook(lambda gradient: gradient * factor)
    return scaled


def to_float32(x: Tensor) -> Tensor:
    """Convert to float32 what is of half precision, in which neither points nor scores are exact enough."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def split_points(offsets: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Split offsets of P points, y and x in turn along ``dim`` (size 2P), into P x's and P y's, as views."""
    yx = offsets.unflatten(dim, (-1, 2))
    axis = dim if dim < 0 else dim + 1
    return yx.select(axis, 1), yx.select(axis, 0)


def offsets_to_points(offsets: Tensor, locations: Tensor, strides: Tensor) -> Tensor:
    """Convert offsets in strides to points in pixels.

    Args:
        offsets: (..., 2P), y first.
        locations: (..., 2) x, y in pixels.
        strides: (...,) pixels.

    Returns:
        (..., P, 2) x, y.
    """
    x, y = split_points(offsets)  # (..., P)
    return torch.stack([x, y], dim=-1) * strides[..., None, None] + locations[..., None, :]


def boxes_to_pixels(boxes: Tensor, locations: Tensor, strides: Tensor) -> Tensor:
    """Convert boxes relative to their location, in strides, to pixels.

    Args:
        boxes: (..., 4) x1, y1, x2, y2.
        locations: (..., 2) x, y in pixels.
        strides: (...,) pixels.

    Returns:
        (..., 4), likewise.
    """
    return boxes * strides[..., None] + torch.cat([locations, locations], dim=-1)


def moment_box(x: Tensor, y: Tensor, log_scale: Tensor, dim: int) -> Tensor:
    """Compute boxes around the means of points, with half-sizes of exp(log_scale) standard deviations.

    Args:
        x: coordinates of P >= 2 points along ``dim``, in any unit.
        y: likewise.
        log_scale: (2,), logarithms of the learned multipliers lambda_x and lambda_y.
        dim: the points' dimension.

    Returns:
        x1, y1, x2, y2 along ``dim``, in the points' unit. The standard deviation is the unbiased one; where
        all points coincide the box has no area and the points get no gradient from its size.
    """
    scale_x, scale_y = log_scale.exp()
    half_width, half_height = x.std(dim) * scale_x, y.std(dim) * scale_y
    centre_x, centre_y = x.mean(dim), y.mean(dim)
    sides = [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height]
    return torch.stack(sides, dim=dim)


def kernel_grid(kernel_size: int) -> Tensor:
    """Return the taps' own places in a k x k kernel as offsets (2 k^2,), in locations, y first."""
    radius = kernel_size // 2
    side = torch.arange(-radius, radius + 1, dtype=torch.float32)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([y, x], dim=-1).flatten()


def sampling_positions(offset: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Compute the positions at which a stride-1, same-size deformable convolution samples.

    Args:
        offset: (N, 2 k^2, H, W), displacement of each tap, in locations, y first.
        kernel_size: k.

    Returns:
        x and y, (N, k^2, H, W) each: columns and rows of the feature map, continuous.
    """
    height, width = offset.shape[-2:]
    grid_x, grid_y = split_points(kernel_grid(kernel_size).to(offset))  # (k^2,)
    offset_x, offset_y = split_points(offset, dim=1)  # (N, k^2, H, W)
    columns = torch.arange(width, device=offset.device, dtype=offset.dtype)
    rows = torch.arange(height, device=offset.device, dtype=offset.dtype)
    x = offset_x + grid_x[:, None, None] + columns
    y = offset_y + grid_y[:, None, None] + rows[:, None]
    return x, y
