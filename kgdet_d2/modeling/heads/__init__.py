"""Heads of KGDet and RepPoints."""
