"""Schemas by name."""

from dataclasses import replace

import pytest

from kgdet_d2.schema import DEEPFASHION2, FLD, get_schema, register_schema


def test_schemas_are_known_by_name(monkeypatch):
    monkeypatch.setattr("kgdet_d2.schema._SCHEMAS", {"deepfashion2": DEEPFASHION2, "fld": FLD})
    assert get_schema("deepfashion2") is DEEPFASHION2 and get_schema("fld") is FLD
    own = replace(FLD, name="own")
    with pytest.raises(ValueError, match=r"expected one of \['deepfashion2', 'fld'\], got 'own'"):
        get_schema("own")
    register_schema(own)
    register_schema(own)
    assert get_schema("own") is own
    with pytest.raises(ValueError, match="schema 'own': another one is registered"):
        register_schema(replace(DEEPFASHION2, name="own"))
