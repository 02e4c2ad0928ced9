"""A dry run: prints each gcloud command as it would run, copyable, and answers as if all went well."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipelines.launch.errors import CallError


@dataclass
class Rehearsal:
    """Stands in for `Gcloud`; calls nothing.

    Attributes:
        num_workers: machines that the slice would have.
        show: takes each command.
        labels: what the TPU VM would be labelled with.
    """

    num_workers: int
    show: Callable[[str], None]
    labels: dict[str, str]
    _created: bool = field(default=False, init=False)
    _shown: set[str] = field(default_factory=set, init=False)

    def __call__(self, words: Sequence[str], timeout_s: float) -> str:
        """Show a command, the same one once, and return a good answer."""
        command = shlex.join(["gcloud", *words])
        if command not in self._shown:
            self._shown.add(command)
            self.show(command)
        if "describe" in words:
            return self._describe(words)
        self._created |= "create" in words
        for action, answer in (
            (" install", {"installed": True, "cached": False}),
            (" start ", {"state": "running", "attempt": "1"}),
            (" status ", {"state": "exited", "exit_code": 0, "finished": 0.0, "attempt": "1"}),
            (" stop ", {"state": "exited", "exit_code": 75, "finished": 0.0, "attempt": "1"}),
        ):
            if "--command" in command and f"worker.py{action}" in command:
                return f"VDM {json.dumps(answer)}\n"
        return json.dumps({"core": {"account": "you", "project": "yours"}})

    def stop(self) -> None:
        """Do nothing: no call is under way."""

    def _describe(self, words: Sequence[str]) -> str:
        if not self._created:
            raise CallError("NOT_FOUND", "nothing is there in a dry run")
        if "queued-resources" in words:
            return json.dumps({"state": {"state": "ACTIVE"}})
        endpoints = [{"ipAddress": f"10.0.0.{worker}"} for worker in range(self.num_workers)]
        return json.dumps({"state": "READY", "labels": self.labels, "networkEndpoints": endpoints})
