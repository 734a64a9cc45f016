"""Informative points by selection (paper, "Reliable-Keypoints-Selection", Figure 3 left).

N images, H x W locations of a level, K keypoints of all classes, P informative points.
"""

from torch import Tensor, nn


class KeypointSelection(nn.Module):
    """The P keypoints that are likeliest in view serve as the informative points, P <= K.

    A classifier scores every keypoint from the features that its offset was regressed from.
    """

    def __init__(self, channels: int, num_keypoints: int, num_points: int):
        super().__init__()
        self.num_points = num_points
        self.visibility = nn.Conv2d(channels, num_keypoints, kernel_size=1)

    def forward(self, features: Tensor, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """Select the informative points.

        Args:
            features: (N, channels, H, W) that the keypoints were regressed from.
            keypoints: (N, 2K, H, W), offsets from the location in strides, y first.

        Returns:
            The points (N, 2P, H, W), and each keypoint's visibility (N, K, H, W) before the sigmoid.
        """
        visibility = self.visibility(features)
        return select_keypoints(keypoints, visibility, self.num_points), visibility


def select_keypoints(keypoints: Tensor, scores: Tensor, num_points: int) -> Tensor:
    """Select the keypoints with the highest scores at every location. The scores get no gradient.

    The selected stand in the order of their slots, not of their scores: a tap of the convolution that samples
    at them then keeps its place along a garment's contour when scores change ranks.

    Args:
        keypoints: (N, 2K, H, W).
        scores: (N, K, H, W).
        num_points: P.

    Returns:
        (N, 2P, H, W).
    """
    slots = scores.topk(num_points, dim=1, sorted=False).indices.sort(dim=1).values  # (N, P, H, W)
    pairs = keypoints.unflatten(1, (-1, 2))  # (N, K, 2, H, W)
    return pairs.gather(1, slots.unsqueeze(2).expand(-1, -1, 2, -1, -1)).flatten(1, 2)
