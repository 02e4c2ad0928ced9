"""What libraries print about errors that are also raised is kept back, so that a command's error is one line."""

import importlib.util
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

_GOOGLE_PCI_VENDOR = "0x1ae0"
# The compiler of `vdm plan` is also the driver of TPUs. Without these it asks the metadata server of a cloud VM for
# them, and on a machine that is none complains in five lines whenever jax starts.
NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def has_tpu() -> bool:
    """Return whether a chip of Google's is in this machine, or jax is told to look for one."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return "JAX_FORCE_TPU_INIT" in os.environ or any(v.read_text().strip() == _GOOGLE_PCI_VENDOR for v in vendors)


def _interrupt_soon() -> None:
    """Interrupt the main thread once more: a destructor or a callback that an interrupt met could not pass it on."""
    plain = signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN)
    number = signal.SIGINT if plain else signal.SIGTERM
    # Later, for in the hook that calls this it would be lost again.
    again = threading.Timer(0.01, signal.pthread_kill, [threading.main_thread().ident, number])
    again.daemon = True
    again.start()


def keep_quiet() -> None:
    """Silence XLA's start-up lines, orbax's remarks and the late reports of its storage threads in this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("libtpu") and not has_tpu():
        for name, value in NO_TPU_HERE.items():
            os.environ.setdefault(name, value)
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # Without a home that can be written it keeps its cache in a temporary directory, and says so in two lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # That there are no credentials here is said when a bucket refuses, not when one is public.
    logging.getLogger("google.auth").setLevel(logging.ERROR)
    before = sys.unraisablehook

    def report(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _interrupt_soon()
            return
        # After a failed restore, threads that still read find the event loop closed and say so by this hook.
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = report
