"""Benchmarks of the model, the loader, the annotation file and the evaluation: ``python -m benchmarks``."""
