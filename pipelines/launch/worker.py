"""What runs on each machine of a slice: installs the project, and starts, watches and stops the program.

Copied there and run by the machine's own python3, so that it needs the standard library of Python 3.8 only. Every
action may be called again at any time, for gcloud repeats a command whose connection broke. Each prints one line,
`VDM {json}`, and exits 0; whoever calls it can so tell its answer from a connection that failed.

    worker.py settle                          copies this file to where the other actions are asked for
    worker.py install                         the same, and makes the venv beside this file, once
    worker.py start RUN ATTEMPT ENV -- ARGV   starts the program under a supervisor that outlives the connection
    worker.py status RUN [ATTEMPT [OFFSET]]   what became of it, and its log from a byte on
    worker.py stop|kill RUN                   SIGTERM (the program saves and exits 75), SIGKILL
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

UV_VERSION = "0.13.9"
PYTHON = ">=3.11,<3.14"
LOG_CHUNK_BYTES = 60_000
RUNS = Path.home() / ".vdm-runs"
HERE = Path(__file__).resolve().parent
VENV = HERE / "venv"
# As the commands that are sent name the python of that environment.
VENV_PYTHON = "venv/bin/python"


def settle():
    """Leave a copy of this file where it is found without knowing which directory was sent."""
    RUNS.mkdir(exist_ok=True)
    temporary = RUNS / f"worker.{os.getpid()}.tmp"
    shutil.copyfile(__file__, str(temporary))
    temporary.replace(RUNS / "worker.py")
    return {"settled": True}


def install():
    """Make the venv from the lock and the wheel beside this file; the name of that directory is their hash."""
    settle()
    with (HERE / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (HERE / "installed").exists():
            return {"installed": True, "cached": True}
        shutil.rmtree(VENV, ignore_errors=True)
        (wheel,) = HERE.glob("*.whl")
        python = str(VENV / "bin" / "python")
        try:
            uv = _uv()
            for words in (
                ["venv", "--python", PYTHON, str(VENV)],
                ["pip", "sync", "--python", python, "--require-hashes", str(HERE / "requirements.lock")],
                ["pip", "install", "--python", python, "--no-deps", str(wheel)],
            ):
                _run([uv, *words])
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or error.stdout or "").strip().splitlines()[-5:]
            return {"installed": False, "error": " / ".join([" ".join(error.cmd[:4]), *lines])}
        except OSError as error:
            return {"installed": False, "error": str(error)}
        (HERE / "installed").touch()
    return {"installed": True, "cached": False}


def _uv():
    """Return the path of uv, which brings a Python of the right version too; TPU VMs have 3.10."""
    own = Path.home() / ".vdm-uv"
    for candidate in (shutil.which("uv"), str(own / "bin" / "uv")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(own), "uv==" + UV_VERSION])
    return str(own / "bin" / "uv")


def _run(argv):
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def start(run, attempt, environment, argv):
    """Start the program of an attempt unless that was done; what runs of an earlier attempt is ended first."""
    directory = RUNS / run / attempt
    directory.mkdir(parents=True, exist_ok=True)
    with (RUNS / run / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "started").exists():
            for earlier in _attempts(run):
                if earlier != attempt:
                    _end(RUNS / run / earlier)
            settings = {"argv": argv, "environment": environment}
            (directory / "command.json").write_text(json.dumps(settings))
            with (directory / "log").open("ab") as log:
                # Closed in the supervisor: the lock of this call, and the connection that it must outlive.
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).resolve()), "supervise", str(directory)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True,
                )  # fmt: skip
            deadline = time.monotonic() + 30
            while not (directory / "child").exists() and not (directory / "exit.json").exists():
                if time.monotonic() > deadline:
                    return {"state": "absent", "error": "the supervisor did not start within 30 s"}
                time.sleep(0.02)
            (directory / "started").touch()
    return status(run, attempt)


def supervise(directory):
    """Run the program and write how it ended; the program dies with this process."""
    directory = Path(directory)
    alive = (directory / "alive").open("w")
    fcntl.flock(alive, fcntl.LOCK_EX)
    os.set_inheritable(alive.fileno(), False)
    settings = json.loads((directory / "command.json").read_text())
    parent = os.getpid()

    def die_with_parent():
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    # A machine that shuts down signals every process. The program must get that once: a second one ends it unsaved.
    signal.signal(signal.SIGTERM, lambda *_: None)
    argv = [str(HERE / word) if word == VENV_PYTHON else word for word in settings["argv"]]
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, env={**os.environ, **settings["environment"]},
            start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
    except OSError as error:
        print("cannot start", argv[0], error.strerror, flush=True)
        _write(directory / "exit.json", json.dumps({"exit_code": 127, "finished": time.time()}))
        return
    _write(directory / "child", str(child.pid))
    code = child.wait()
    # What the program started and left would hold the accelerator.
    _signal_group(child.pid, signal.SIGKILL)
    ended = {"exit_code": code if code >= 0 else 128 - code, "finished": time.time()}
    _write(directory / "exit.json", json.dumps(ended))


def status(run, attempt=None, offset=None):
    """Return the state of an attempt (default: the newest), its exit code, and its log from a byte on or its end."""
    attempts = _attempts(run)
    attempt = attempt or (attempts[-1] if attempts else None)
    if attempt not in attempts:
        return {"state": "absent", "attempt": None}
    directory = RUNS / run / attempt
    found = {"attempt": attempt, "exit_code": None, "finished": None}
    found["stop_requested"] = (directory / "stop_requested").exists()
    if (directory / "exit.json").exists():
        found.update(json.loads((directory / "exit.json").read_text()), state="exited")
    elif _is_alive(directory):
        found["state"] = "running"
    elif (directory / "exit.json").exists():  # it ended between the two looks
        found.update(json.loads((directory / "exit.json").read_text()), state="exited")
    else:
        found["state"] = "lost" if (directory / "started").exists() else "absent"
    with contextlib.suppress(OSError):
        found["command"] = hashlib.sha256((directory / "command.json").read_bytes()).hexdigest()[:12]
    with contextlib.suppress(OSError), (directory / "log").open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        begin = max(0, size - 4_000) if offset is None else min(int(offset), size)
        log.seek(begin)
        chunk = log.read(LOG_CHUNK_BYTES)
        if found["state"] == "running":  # the last line may be half written
            chunk = chunk[: chunk.rfind(b"\n") + 1]
        found.update(log=chunk.decode(errors="replace"), offset=begin + len(chunk))
    return found


def stop(run):
    """Ask the program of the newest attempt, once, to save its state and end."""
    for attempt in _attempts(run)[-1:]:
        directory = RUNS / run / attempt
        with contextlib.suppress(FileExistsError):
            (directory / "stop_requested").touch(exist_ok=False)
            if _is_alive(directory):
                _signal_group(int((directory / "child").read_text()), signal.SIGTERM)
    return status(run)


def kill(run):
    """End the program of every attempt at once."""
    for attempt in _attempts(run):
        _end(RUNS / run / attempt)
    return status(run)


def _end(directory):
    deadline = time.monotonic() + 20
    while _is_alive(directory) and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            _signal_group(int((directory / "child").read_text()), signal.SIGKILL)
        time.sleep(0.02)


def _attempts(run):
    """Return the names of the attempts of a run, oldest first."""
    return sorted((each.parent.name for each in (RUNS / run).glob("*/command.json")), key=int)


def _is_alive(directory):
    """Say whether the supervisor holds its lock; a process id could be another's by now."""
    try:
        with (directory / "alive").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _write(path, text):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _signal_group(pid, number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def main(argv):
    """Run one action and print its answer."""
    action, *rest = argv
    if action == "supervise":
        supervise(*rest)
        return
    if action == "start":
        run, attempt, environment, _, *program = rest
        answer = start(run, attempt, json.loads(environment), program)
    else:
        answer = {"settle": settle, "install": install, "status": status, "stop": stop, "kill": kill}[action](*rest)
    print("\nVDM " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
