"""Conversion of native datasets to annotation tables, and from these to official formats."""
