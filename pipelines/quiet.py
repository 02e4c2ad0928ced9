"""What libraries print about errors that are also raised is kept back, so that a command's error is one line."""

import logging
import os
import sys
from typing import Any


def keep_quiet() -> None:
    """Silence XLA's start-up lines, orbax's remarks and the late reports of its storage threads in this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # That there are no credentials here is said when a bucket refuses, not when one is public.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    before = sys.unraisablehook

    def report(unraisable: Any) -> None:
        # After a failed restore, threads that still read find the event loop closed and say so by this hook.
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = report
