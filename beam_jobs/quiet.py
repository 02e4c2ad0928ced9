"""Keeping Beam's own messages off the terminal: what matters to a user is raised, not logged."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silence logging, warnings and stderr, also of child processes, while Beam is imported or runs."""
    logging_before = logging.root.manager.disable
    sys.stderr.flush()
    stderr_before = os.dup(2)
    logging.disable(logging.CRITICAL)
    try:
        # Worker processes log before any option reaches them, so their stderr goes nowhere from the start.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr_before, 2)
        os.close(stderr_before)
        logging.disable(logging_before)
        # Dask takes leave of its workers when the program ends, after this block.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
