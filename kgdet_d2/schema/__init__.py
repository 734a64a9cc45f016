"""What a landmark is. Imports numpy alone, so that every part of the project may import it."""

from kgdet_d2.schema.deepfashion2 import DEEPFASHION2
from kgdet_d2.schema.fld import FLD
from kgdet_d2.schema.keypoint_schema import KeypointSchema
from kgdet_d2.schema.lookup import schema_of

__all__ = ["DEEPFASHION2", "FLD", "KeypointSchema", "schema_of"]
