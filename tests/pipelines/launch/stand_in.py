"""A program that behaves like a training run on several workers, in milliseconds: it counts in its run directory.

Worker 0 writes `step`, and each goes on from it. SIGTERM ends it with 75. argv: directory, last step; then what shall
happen: `wait` (until the file `go` is there), `fail` (exit 3), `usage` (exit 2), `lease` (exit 1 at the second start).
"""

import os
import signal
import sys
import time
from pathlib import Path

directory, last, *rest = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
worker = int(os.environ.get("TPU_WORKER_ID", "0"))
stopped: list[int] = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
with (directory / f"starts.{worker}").open("a") as file:
    file.write(f"{os.getpid()}\n")
if "usage" in rest or "fail" in rest:
    print("stand-in: this cannot work", flush=True)
    sys.exit(2 if "usage" in rest else 3)
if "lease" in rest and len((directory / f"starts.{worker}").read_text().splitlines()) == 2:
    # As on gs://, where an attempt that was killed holds the run directory for a while.
    print("stand-in: another process trains here", flush=True)
    sys.exit(1)
file = directory / "step"
step = int(file.read_text()) if file.exists() else 0
print(f"from step {step}", flush=True)
while step < last:
    if stopped:
        print(f"stopped at step {step}", flush=True)
        sys.exit(75)
    if "wait" in rest and step >= last // 2 and not (directory / "go").exists():
        time.sleep(0.02)
        continue
    step += 1
    if worker == 0:
        (directory / "step.tmp").write_text(str(step))
        (directory / "step.tmp").replace(file)
        print(f"step {step}", flush=True)
    time.sleep(0.01)
print("done", flush=True)
