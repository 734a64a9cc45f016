"""The schema of COCO's categories, and which of a file's categories and landmarks are which of a schema's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kgdet_d2.data.convert.coco import Category, CocoFile, Key, composed
from kgdet_d2.schema import KeypointSchema


@dataclass(frozen=True)
class SchemaClass:
    """What a category is in a schema.

    Attributes:
        index: of the class.
        order: for each landmark of the class its place in the file's annotations; None where the file names
            no landmarks: they are those of the class, in its order.
    """

    index: int
    order: tuple[int, ...] | None


def describe_schema(name: str, file: CocoFile) -> dict[str, Any]:
    """Return the description of a schema with a file's categories, in their order.

    Landmarks of several categories that have one set of names have one place each in the network's output.

    Raises:
        ValueError: there is no category, or one with annotations has no landmarks.
    """
    categories = list(file.categories.values())
    if not categories:
        raise ValueError(f"{file.path}: expected categories with the names of their keypoints, got none")
    for category in categories:
        if not category.landmarks:
            raise ValueError(
                f"{file.path}: category {category.name!r}: expected the names of its keypoints, since it has "
                "annotations, got none; add the list 'keypoints' to it, or give the names with --schema"
            )
    description: dict[str, Any] = {"name": name}
    if len(categories) > 1 and len({category.landmarks for category in categories}) == 1:
        description["slots"] = list(categories[0].landmarks)
    return {**description, "classes": {category.name: _describe(category) for category in categories}}


def _describe(category: Category) -> dict[str, Any]:
    names = category.landmarks
    skeleton = [[names[a], names[b]] for a, b in category.skeleton]
    return {"landmarks": list(names), "skeleton": skeleton}


def match_categories(schema: KeypointSchema, source: str, file: CocoFile) -> dict[Key, SchemaClass]:
    """Return the class of each of a file's categories, found by name, and where its landmarks are.

    Args:
        schema: it may have further classes.
        source: the file that the schema is from, for errors.
        file: with the categories.

    Raises:
        ValueError: naming the category and both files: the schema has no such class, or other landmarks.
    """
    indices = {composed(name): index for index, name in enumerate(schema.class_names)}
    matched = {}
    for key, category in file.categories.items():
        if category.name not in indices:
            if not category.used:
                continue
            raise ValueError(
                f"{file.path}: category {category.name!r}: expected one of {source}, which are "
                f"{', '.join(map(repr, schema.class_names))}"
            )
        index = indices[category.name]
        matched[key] = SchemaClass(index, _order(schema, index, source, file, category))
    return matched


def _order(
    schema: KeypointSchema, index: int, source: str, file: CocoFile, category: Category
) -> tuple[int, ...] | None:
    if not category.landmarks:
        return None
    names = [composed(name) for name in schema.keypoint_names[index]]
    if set(names) != set(category.landmarks):
        raise ValueError(
            f"{file.path}: category {category.name!r}: expected the landmarks of {source}, "
            f"got {_differences(names, category.landmarks)}"
        )
    return tuple(category.landmarks.index(name) for name in names)


def check_same_classes(schema: KeypointSchema, source: str, file: CocoFile) -> None:
    """Check that a schema has no class beside a file's categories.

    Raises:
        ValueError: naming them.
    """
    names = {category.name for category in file.categories.values()}
    further = [name for name in schema.class_names if composed(name) not in names]
    if further:
        raise ValueError(
            f"{file.path}: expected the categories of {source}, {', '.join(map(repr, further))} among them"
        )


def _differences(expected: Sequence[str], found: Sequence[str]) -> str:
    parts = {
        "missing": [name for name in expected if name not in found],
        "not among those": [name for name in found if name not in expected],
    }
    return "; ".join(f"{', '.join(map(repr, names))} {what}" for what, names in parts.items() if names)
