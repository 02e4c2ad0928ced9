"""A loopback fake of the TPU REST API v2, as far as the gcloud CLI uses it to make, reach and delete TPU VMs.

It refuses what the API refuses, keeps the requests that came, and can be told to fail. A node's workers are
directories, `hosts/127.0.1.N` below its root, where the ssh and scp of `shims/` run; the processes on them carry the
node's id in their environment, so that a node that goes takes them with it.
"""

import json
import os
import re
import signal
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipelines.planning import accelerators
from vdm_lib.errors import ConfigError

PROJECT = "fake-project"
ZONES = ("us-central1-a", "europe-west4-a", "us-east1-d")
VERSIONS = ("tpu-ubuntu2204-base", "v2-alpha-tpuv5", "v2-alpha-tpuv5-lite", "v2-alpha-tpuv6e")
NODE_MARK = "SIMULATED_TPU_NODE"
STOCKOUT = {"code": 8, "message": 'There is no more capacity in the zone "us-central1-a"; you can try in another zone'}
QUOTA = {"code": 8, "message": "Quota limit 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0"}

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_ROUTE = re.compile(
    r"/v2/projects/([^/]+)/locations/([^/]+)/(nodes|queuedResources|operations)(?:/([^/:]+))?(?::(\w+))?"
)
_NODE_FIELDS = {
    "acceleratorType", "description", "labels", "metadata", "networkConfig", "runtimeVersion", "schedulingConfig",
    "serviceAccount", "shieldedInstanceConfig", "tags", "dataDisks",
}  # fmt: skip
_QUEUED_FIELDS = {"tpu", "spot", "guaranteed", "queueingPolicy", "reservationName"}
_TYPE = "type.googleapis.com/google.cloud.tpu.v2."
Answer = tuple[int, dict[str, Any]]


@dataclass
class Fault:
    """A request that shall fail, `times` times: with an HTTP status, or by an operation that ends in an error."""

    method: str
    path: str
    times: int = 1
    status: int = 0
    operation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One request: to `parent`, about the thing `name` or the whole collection, with a fault that it shall meet."""

    method: str
    parent: str
    name: str | None
    verb: str | None
    query: dict[str, str]
    body: dict[str, Any]
    fault: Fault | None


class ApiError(Exception):
    """An answer of the API that is an error."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.answer: Answer = code, {"error": {"code": code, "status": status, "message": message}}


class FakeTpu:
    """The API and the machines behind it; a context manager."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "hosts").mkdir(parents=True)
        self.nodes: dict[str, dict[str, Any]] = {}
        self.queued: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, Any] | None]] = []
        self.created: list[str] = []
        self.waits = 1
        """How many looks an operation takes to be done and a queued resource to be active."""
        self.lock = threading.RLock()
        self._count = 0
        self._looks: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> "FakeTpu":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for node in list(self.nodes.values()):
            self._end_processes(node)

    # What a test does to the machines.

    def fail(self, method: str, path: str, **how: Any) -> None:
        """Let the next requests of this method whose path matches fail; see Fault."""
        with self.lock:
            self.faults.append(Fault(method, path, **how))

    def preempt(self, name: str, warn: bool = False) -> None:
        """Take a node away as Google does: its machines end, the node stays in the state PREEMPTED."""
        with self.lock:
            (node,) = (each for key, each in self.nodes.items() if key.endswith(f"/nodes/{name}"))
            self._end_processes(node, warn)
            node["state"] = "PREEMPTED"
            self._unlink_hosts(node)
            for queued in self.queued.values():
                if queued["tpu"]["nodeSpec"][0]["nodeId"] == name:
                    queued["state"] = {"state": "SUSPENDED"}

    def make_ready_node(self, zone: str, name: str, body: dict[str, Any]) -> None:
        """Make a node that somebody else has."""
        with self.lock:
            self._make_node(f"projects/{PROJECT}/locations/{zone}/nodes/{name}", body)["state"] = "READY"

    def remove(self, name: str) -> None:
        """Delete a node behind the launcher's back."""
        with self.lock:
            (full,) = (key for key in self.nodes if key.endswith(f"/nodes/{name}"))
            self._remove_node(full)

    def node_names(self) -> list[str]:
        with self.lock:
            return [key.rpartition("/")[2] for key in self.nodes]

    def host(self, worker: int) -> Path:
        """Home directory of a worker of the node that is up."""
        return self.root / "hosts" / f"127.0.1.{worker + 1}"

    def processes(self, node: dict[str, Any]) -> list[int]:
        """Processes that run on the machines of a node."""
        wanted = f"{NODE_MARK}={node['id']}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    # The API.

    def answer(self, method: str, url: str, body: dict[str, Any] | None) -> Answer:
        parts = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        with self.lock:
            self.requests.append((method, url, body))
            try:
                fault = self._fault(method, parts.path)
                if fault and fault.status:
                    raise ApiError(
                        fault.status,
                        {503: "UNAVAILABLE", 409: "ABORTED", 403: "PERMISSION_DENIED"}[fault.status],
                        "faked",
                    )
                if match := re.fullmatch(r"/compute/v1/projects/([^/]+)", parts.path):
                    metadata = {"kind": "compute#metadata", "items": []}
                    return 200, {"kind": "compute#project", "name": match[1], "commonInstanceMetadata": metadata}
                match = _ROUTE.fullmatch(parts.path)
                if match is None:
                    raise ApiError(404, "NOT_FOUND", f"the fake has no route {method} {parts.path}")
                project, zone, kind, name, verb = match.groups()
                if project != PROJECT or zone not in (*ZONES, "-"):
                    raise ApiError(403, "PERMISSION_DENIED", f"Location {zone} is not found or access is unauthorized.")
                parent = f"projects/{project}/locations/{zone}"
                serve = {"nodes": self._nodes, "queuedResources": self._queues, "operations": self._operation}[kind]
                return serve(Call(method, parent, name, verb, query, body or {}, fault))
            except ApiError as error:
                return error.answer

    def _nodes(self, call: Call) -> Answer:
        if call.name is None and call.method == "POST":
            full = f"{call.parent}/nodes/{call.query['nodeId']}"
            self._check_node(call.query["nodeId"], full, call.body)
            if call.fault:
                return self._start_operation(call.parent, "create", error=call.fault.operation)
            node = self._make_node(full, call.body)
            return self._start_operation(call.parent, "create", response={"@type": f"{_TYPE}Node", **node}, node=node)
        if call.name is None:
            here = "" if call.parent.endswith("/-") else call.parent
            return 200, {"nodes": [node for key, node in self.nodes.items() if key.startswith(here)]}
        full = f"{call.parent}/nodes/{call.name}"
        if full not in self.nodes:
            raise ApiError(404, "NOT_FOUND", f"Resource '{full}' was not found")
        node = self.nodes[full]
        self._looks[full] = self._looks.get(full, 0) + 1
        if node["state"] == "CREATING" and self._looks[full] > 2:
            node["state"] = "READY"
        if call.verb == "getGuestAttributes":
            empty = {"queryPath": "", "queryValue": {"items": []}}
            return 200, {"guestAttributes": [empty for _ in node["networkEndpoints"]]}
        if call.method == "GET":
            return 200, node
        if call.method == "PATCH":
            node.update({key: call.body[key] for key in call.query["updateMask"].split(",") if key in call.body})
            return self._start_operation(call.parent, "update", response={"@type": f"{_TYPE}Node", **node})
        if call.method == "DELETE":
            if node["state"] == "CREATING":
                raise ApiError(400, "FAILED_PRECONDITION", "Cloud TPU is being created and cannot be deleted")
            self._remove_node(full)
            return self._start_operation(call.parent, "delete", response={})
        raise ApiError(501, "UNIMPLEMENTED", f"{call.method} of a node, verb {call.verb}")

    def _queues(self, call: Call) -> Answer:
        if call.name is None and call.method == "POST":
            full = f"{call.parent}/queuedResources/{call.query['queuedResourceId']}"
            self._check_queued(full, call.parent, call.query["queuedResourceId"], call.body)
            state = {"state": "ACCEPTED"}
            if call.fault:
                state = {"state": "FAILED", "failedData": {"error": call.fault.operation}}
            self.queued[full] = {
                **call.body,
                "name": full,
                "state": state,
                "looks": 0,
            }
            shown = {"@type": f"{_TYPE}QueuedResource", **self._shown(self.queued[full])}
            return self._start_operation(call.parent, "create", response=shown)
        if call.name is None:
            here = "" if call.parent.endswith("/-") else call.parent
            shown = [self._shown(queued) for key, queued in self.queued.items() if key.startswith(here)]
            return 200, {"queuedResources": shown}
        full = f"{call.parent}/queuedResources/{call.name}"
        if full not in self.queued:
            raise ApiError(404, "NOT_FOUND", f"Resource '{full}' was not found")
        queued = self.queued[full]
        spec = queued["tpu"]["nodeSpec"][0]
        node_name = f"{spec['parent']}/nodes/{spec['nodeId']}"
        if call.method == "GET":
            self._advance(queued, node_name, spec)
            return 200, self._shown(queued)
        if call.method == "DELETE":
            if node_name in self.nodes and call.query.get("force", "").lower() != "true":
                raise ApiError(400, "FAILED_PRECONDITION", "the queued resource has nodes: delete them or use force")
            self._remove_node(node_name)
            del self.queued[full]
            return self._start_operation(call.parent, "delete", response={})
        raise ApiError(501, "UNIMPLEMENTED", f"{call.method} of a queued resource, verb {call.verb}")

    def _operation(self, call: Call) -> Answer:
        operation = self.operations.get(f"{call.parent}/operations/{call.name}")
        if operation is None:
            raise ApiError(404, "NOT_FOUND", f"operation {call.name} was not found")
        operation["looks"] += 1
        if operation["looks"] >= self.waits:
            operation["done"] = True
            if (node := operation.get("node")) and node["state"] == "CREATING":
                node["state"] = "READY"
        return 200, self._shown_operation(operation)

    def _check_node(self, name: str, full: str, body: dict[str, Any]) -> None:
        if not _NAME.fullmatch(name):
            raise ApiError(400, "INVALID_ARGUMENT", f"node id {name!r} is not a valid name")
        if unknown := set(body) - _NODE_FIELDS:
            raise ApiError(400, "INVALID_ARGUMENT", f"Invalid JSON payload received. Unknown name {sorted(unknown)}")
        if body.get("runtimeVersion") not in VERSIONS:
            raise ApiError(400, "INVALID_ARGUMENT", f"runtime version {body.get('runtimeVersion')!r} does not exist")
        try:
            accelerators.find(body.get("acceleratorType", ""))
        except ConfigError:
            kind = body.get("acceleratorType")
            text = f'Accelerator type "{kind}" could not be found in the zonal accelerator configurations'
            raise ApiError(400, "INVALID_ARGUMENT", text) from None
        scheduling = body.get("schedulingConfig", {})
        if sum(bool(scheduling.get(key)) for key in ("spot", "preemptible", "reserved")) > 1:
            raise ApiError(400, "INVALID_ARGUMENT", "spot, preemptible and reserved exclude each other")
        for key, value in body.get("labels", {}).items():
            if not (_LABEL.fullmatch(key) and _LABEL.fullmatch(value)):
                raise ApiError(400, "INVALID_ARGUMENT", f"label {key}={value} is not valid")
        if full in self.nodes:
            raise ApiError(409, "ALREADY_EXISTS", f"Resource '{full}' already exists")

    def _check_queued(self, full: str, parent: str, name: str, body: dict[str, Any]) -> None:
        if unknown := set(body) - _QUEUED_FIELDS:
            raise ApiError(400, "INVALID_ARGUMENT", f"Invalid JSON payload received. Unknown name {sorted(unknown)}")
        (spec,) = body["tpu"]["nodeSpec"]
        if "spot" in body and "guaranteed" in body:
            raise ApiError(400, "INVALID_ARGUMENT", "a queued resource is either spot or guaranteed")
        if not _NAME.fullmatch(name):
            raise ApiError(400, "INVALID_ARGUMENT", f"queued resource id {name!r} is not a valid name")
        if spec["parent"] != parent:
            raise ApiError(400, "INVALID_ARGUMENT", f"the node's parent {spec['parent']} is not {parent}")
        self._check_node(spec["nodeId"], f"{parent}/nodes/{spec['nodeId']}", spec["node"])
        if full in self.queued:
            raise ApiError(409, "ALREADY_EXISTS", f"Resource '{full}' already exists")

    def _advance(self, queued: dict[str, Any], node_name: str, spec: dict[str, Any]) -> None:
        """Move a queued resource on by one state; every look takes it one further."""
        state, queued["looks"] = queued["state"]["state"], queued["looks"] + 1
        if state == "ACCEPTED" and queued["looks"] > self.waits:
            queued["state"] = {"state": "WAITING_FOR_RESOURCES"}
        elif state == "WAITING_FOR_RESOURCES":
            queued["state"] = {"state": "PROVISIONING"}
        elif state == "PROVISIONING":
            node = self._make_node(node_name, {**spec["node"], "queuedResource": queued["name"]})
            node["state"] = "READY"
            queued["state"] = {"state": "ACTIVE"}

    def _make_node(self, full: str, body: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        workers = accelerators.find(body["acceleratorType"]).num_hosts
        addresses = [f"127.0.1.{worker + 1}" for worker in range(workers)]
        node = {
            **body,
            "name": full,
            "id": str(uuid.uuid4().int)[:19],  # no other test's, for processes are found and ended by it
            "state": "CREATING",
            "health": "HEALTHY",
            "createTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "networkEndpoints": [
                {"ipAddress": address, "port": 8470, "accessConfig": {"externalIp": address}} for address in addresses
            ],
        }
        self.nodes[full] = node
        self.created.append(full)
        for address in addresses:
            home = self.root / "disks" / f"{node['id']}-{address}"
            home.mkdir(parents=True)
            (self.root / "hosts" / address).unlink(missing_ok=True)  # only one node at a time can be reached
            (self.root / "hosts" / address).symlink_to(home)
        machines = {"id": node["id"], "addresses": addresses}
        (self.root / "hosts" / "node.json").write_text(json.dumps(machines))
        return node

    def _remove_node(self, full: str) -> None:
        self._looks.pop(full, None)
        if node := self.nodes.pop(full, None):
            self._end_processes(node)
            if node["state"] != "PREEMPTED":
                self._unlink_hosts(node)

    def _unlink_hosts(self, node: dict[str, Any]) -> None:
        for endpoint in node["networkEndpoints"]:
            (self.root / "hosts" / endpoint["ipAddress"]).unlink(missing_ok=True)

    def _end_processes(self, node: dict[str, Any], warn: bool = False) -> None:
        """End what runs on the machines of a node; with `warn` politely first, as a machine that shuts down does."""
        if warn:
            for pid in self.processes(node):
                _kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and self.processes(node):
                time.sleep(0.05)
        for pid in self.processes(node):
            _kill(pid, signal.SIGKILL)

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def _start_operation(
        self, parent: str, verb: str, *, response: Any = None, error: Any = None, node: Any = None
    ) -> Answer:
        self._count += 1
        name = f"{parent}/operations/operation-{self._count}"
        operation = {"name": name, "verb": verb, "done": False, "looks": 0, "response": response, "node": node}
        operation["error"] = error
        self.operations[name] = operation
        return 200, self._shown_operation(operation)

    def _shown_operation(self, operation: dict[str, Any]) -> dict[str, Any]:
        metadata = {"@type": f"{_TYPE}OperationMetadata", "verb": operation["verb"], "apiVersion": "v2"}
        shown: dict[str, Any] = {"name": operation["name"], "metadata": metadata, "done": operation["done"]}
        if operation["done"]:
            key = "error" if operation["error"] else "response"
            shown[key] = operation[key] or {"@type": "type.googleapis.com/google.protobuf.Empty"}
        return shown

    @staticmethod
    def _shown(queued: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in queued.items() if key != "looks"}

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def serve(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                code, answer = fake.answer(self.command, self.path, json.loads(raw) if raw else None)
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json; charset=UTF-8")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_DELETE = serve  # noqa: N815

        return Handler


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
