"""What the columnar containers share."""


def stored_name(column: str) -> str:
    """Return a column's name on disk, where keypoints are called landmarks."""
    return column.replace("keypoint", "landmark")
