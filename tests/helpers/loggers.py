"""Trainings inside the tests' own process, whose loggers Detectron2 sets up for good."""

import logging

import pytest
from detectron2.utils.logger import setup_logger

NAMES = ("detectron2", "fvcore", "kgdet_d2", None)


@pytest.fixture
def restored_loggers():
    """Put the loggers back as they were."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
    setup_logger.cache_clear()
