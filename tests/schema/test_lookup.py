import pytest

from kgdet_d2.schema import DEEPFASHION2, FLD, schema_of


def test_the_number_of_landmarks_tells_the_dataset():
    assert schema_of(294) is DEEPFASHION2 and schema_of(8) is FLD
    with pytest.raises(ValueError, match=r"one of \[8, 294\], got 17"):
        schema_of(17)
