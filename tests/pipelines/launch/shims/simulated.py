"""What the ssh and scp of this directory share: a host is a directory, `$SIMULATED_ROOT/hosts/ADDRESS`."""

import json
import os
import sys
import time
from pathlib import Path

HOSTS = Path(os.environ["SIMULATED_ROOT"]) / "hosts"


def record(program: str, argv: list[str]) -> None:
    """Keep the call for the tests."""
    with (HOSTS.parent / "calls.jsonl").open("a") as file:
        file.write(json.dumps([program, argv]) + "\n")


def home_of(host: str, program: str) -> Path:
    """Return the home directory of a host, or end as the real program does when it does not answer."""
    address = host.rpartition("@")[2]
    home = HOSTS / address
    slow = HOSTS.parent / f"slow.{address}"
    if slow.exists():
        time.sleep(float(slow.read_text()))
    storm = HOSTS.parent / f"storm.{address}"
    left = int(storm.read_text()) if storm.exists() else 0
    if left:
        storm.write_text(str(left - 1))
    if left or not home.exists():
        sys.stderr.write(f"{program}: connect to host {address} port 22: Connection timed out\r\n")
        sys.exit(255)
    return home.resolve()


def options(argv: list[str], with_value: str) -> int:
    """Return the index of the first argument that is not an option."""
    index = 0
    while index < len(argv) and argv[index].startswith("-"):
        if argv[index] == "--":
            return index + 1
        takes_next = len(argv[index]) == 2 and argv[index][1] in with_value
        index += 2 if takes_next else 1
    return index
