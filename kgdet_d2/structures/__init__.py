"""Columnar containers of annotations and predictions."""
