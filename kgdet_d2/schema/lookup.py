"""Which dataset's landmarks a network has."""

from kgdet_d2.schema.deepfashion2 import DEEPFASHION2
from kgdet_d2.schema.fld import FLD
from kgdet_d2.schema.keypoint_schema import KeypointSchema


def schema_of(num_keypoints: int) -> KeypointSchema:
    """The schema with so many landmarks: 294 are DeepFashion2's, 8 are FLD's.

    Raises:
        ValueError: there is none.
    """
    schemas = {schema.num_keypoints: schema for schema in (DEEPFASHION2, FLD)}
    if num_keypoints not in schemas:
        raise ValueError(f"number of landmarks: expected one of {sorted(schemas)}, got {num_keypoints}")
    return schemas[num_keypoints]
