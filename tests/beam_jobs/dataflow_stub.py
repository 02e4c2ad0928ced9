"""A loopback stub of the Dataflow REST API: it takes one job, keeps it, and runs it through its states.

With `execute` it is a fake service that does the job: before it says DONE it calls that function with the job.
"""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_JOBS = r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "DataflowStub"

    def log_message(self, format, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        match = re.fullmatch(_JOBS, self.path.split("?")[0])
        if match is None:
            return self._send(404, {"error": {"code": 404, "message": self.path}})
        self.server.job = json.loads(body) | match.groupdict() | {
            "id": "2026-01-01_00_00_00-1", "projectId": match["project"], "location": match["region"],
            "currentState": "JOB_STATE_RUNNING", "createTime": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        if self.server.refuse:
            error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded for quota metric"}
            return self._send(429, {"error": error})
        return self._send(200, self.server.job)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.endswith("/messages"):
            return self._send(200, {"jobMessages": []})
        if path.endswith("/metrics"):
            return self._send(200, {"metrics": []})
        with self.server.once:
            if self.server.job["currentState"] == "JOB_STATE_RUNNING":
                self.server.job["currentState"] = (
                    "JOB_STATE_DONE" if self.server.execute(self.server.job) else ("JOB_STATE_FAILED")
                )
        return self._send(200, self.server.job)

    def _send(self, status: int, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class DataflowStub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, execute: Callable[[dict], bool], refuse: bool = False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.execute, self.refuse, self.once = execute, refuse, threading.Lock()
        self.job: dict = {}
        self.url = f"http://localhost:{self.server_port}"
