"""A loopback object store that speaks as much of Cloud Storage's JSON API as gcsfs and Beam's client use.

Our own and in memory: the emulators on PyPI lack batch requests or preconditions, and none can be told to fail.
"""

import base64
import email.parser
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

import google_crc32c

_TIME = "2026-01-01T00:00:00.000Z"


@dataclass
class Store:
    """Objects by bucket and name; `failures` are statuses that the next requests get, by HTTP method."""

    objects: dict[str, dict[str, bytes]] = field(default_factory=dict)
    generations: Counter = field(default_factory=Counter)
    uploads: dict[str, dict] = field(default_factory=dict)
    failures: list[tuple[str, int]] = field(default_factory=list)
    always: int | None = None
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, bucket: str, name: str, data: bytes) -> dict:
        self.objects[bucket][name] = data
        self.generations[bucket, name] += 1
        return self.describe(bucket, name)

    def describe(self, bucket: str, name: str) -> dict:
        data = self.objects[bucket][name]
        crc = google_crc32c.value(data).to_bytes(4, "big")
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/1",
            "bucket": bucket,
            "name": name,
            "size": str(len(data)),
            "generation": str(self.generations[bucket, name]),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "timeCreated": _TIME,
            "updated": _TIME,
            "etag": "x",
            "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
            "crc32c": base64.b64encode(crc).decode(),
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Emulator"

    def log_message(self, format, *args):
        pass

    def handle_any(self):
        body = self._body()
        with self.server.store.lock:
            self.server.store.requests.append(f"{self.command} {self.path}")
            if self.path.startswith("/batch"):
                return self._batch(body)
            status, headers, data = self._answer(self.command, self.path, dict(self.headers), body)
        return self._send(status, headers, data)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _batch(self, body: bytes) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        answers = []
        for number, part in enumerate(email.parser.BytesParser().parsebytes(head + body).get_payload()):
            line = part.get_payload().lstrip().split("\n")[0].split()
            status, _, data = self._answer(line[0], re.sub(r"^https?://[^/]+", "", line[1]), {}, b"")
            identity = (part["Content-ID"] or f"<{number}>").strip("<>")
            answers.append(
                f"--b\r\nContent-Type: application/http\r\nContent-ID: <response-{identity}>\r\n\r\n"
                f"HTTP/1.1 {status} X\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                + data
                + b"\r\n"
            )
        self._send(200, {"Content-Type": "multipart/mixed; boundary=b"}, b"".join(answers) + b"--b--\r\n")

    def _answer(self, method: str, target: str, headers: dict, body: bytes) -> tuple[int, dict[str, str], bytes]:
        store = self.server.store
        url = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path == "/token":
            return _json({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})
        if store.always:
            return _error(store.always)
        for failure in store.failures:
            if failure[0] == method:
                store.failures.remove(failure)
                return _error(failure[1])
        if match := re.fullmatch(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o", url.path):
            return self._upload(method, unquote(match[1]), query, headers, body)
        if match := re.fullmatch(r"/(?:download/)?storage/v1/b/([^/]+)(?:/(.*))?", url.path):
            bucket, rest = unquote(match[1]), match[2]
            if bucket not in store.objects:
                return _error(404)
            if not rest:
                return _json({"kind": "storage#bucket", "name": bucket, "location": "US", "timeCreated": _TIME,
                              "updated": _TIME, "storageClass": "STANDARD", "metageneration": "1"})  # fmt: skip
            if rest == "storageLayout":
                return _json({"bucket": bucket, "hierarchicalNamespace": {"enabled": False}})
            if rest == "o":
                return self._list(bucket, query)
            return self._object(method, bucket, rest.removeprefix("o/"), query, headers)
        return _error(404)

    def _list(self, bucket: str, query: dict) -> tuple[int, dict[str, str], bytes]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names, prefixes = [], set()
        for name in sorted(self.server.store.objects[bucket]):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                names.append(name)
        items = [self.server.store.describe(bucket, name) for name in names[: int(query.get("maxResults", 5000))]]
        return _json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def _object(self, method: str, bucket: str, path: str, query: dict, headers: dict):
        objects = self.server.store.objects[bucket]
        if match := re.fullmatch(r"(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", path):
            if unquote(match[1]) not in objects:
                return _error(404)
            made = self.server.store.put(unquote(match[2]), unquote(match[3]), objects[unquote(match[1])])
            if "/copyTo/" in path:
                return _json(made)
            size = made["size"]
            return _json({"kind": "storage#rewriteResponse", "done": True, "resource": made, "objectSize": size,
                          "totalBytesRewritten": size})  # fmt: skip
        if match := re.fullmatch(r"(.+)/moveTo/o/(.+)", path):
            if unquote(match[1]) not in objects:
                return _error(404)
            return _json(self.server.store.put(bucket, unquote(match[2]), objects.pop(unquote(match[1]))))
        name = unquote(path)
        if name not in objects:
            return _error(404)
        if method == "DELETE":
            del objects[name]
            return 204, {}, b""
        if query.get("alt") != "media":
            return _json(self.server.store.describe(bucket, name))
        data = objects[name]
        extra = {"Content-Type": "application/octet-stream", "X-Goog-Generation": "1", "ETag": "x"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", headers.get("range", ""))):
            start, stop = int(match[1]), min(int(match[2] or len(data)), len(data) - 1) + 1
            if start >= len(data):
                return _error(416)
            return 206, extra | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop]
        return 200, extra, data

    def _upload(self, method: str, bucket: str, query: dict, headers: dict, body: bytes):
        store = self.server.store
        if bucket not in store.objects:
            return _error(404)
        if query.get("uploadType") == "multipart":
            content = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body
            boundary = re.search(r"boundary=[\"']?([^\"';]+)", headers["Content-Type"])[1].encode()
            head, data = [part.split(b"\n\n" if b"\r\n\r\n" not in part else b"\r\n\r\n", 1)[1]
                          for part in content.split(b"--" + boundary)[1:3]]  # fmt: skip
            data = data[:-2] if data.endswith(b"\r\n") else data[:-1]
            name = json.loads(head).get("name") or query["name"]
            if query.get("ifGenerationMatch") == "0" and name in store.objects[bucket]:
                return _error(412)
            return _json(store.put(bucket, name, data))
        if "upload_id" not in query:
            name = query.get("name") or json.loads(body or b"{}")["name"]
            if query.get("ifGenerationMatch") == "0" and name in store.objects[bucket]:
                return _error(412)
            if query.get("uploadType") == "media":
                return _json(store.put(bucket, name, body))
            key = str(len(store.uploads))
            store.uploads[key] = {"name": name, "data": b""}
            place = f"{self.server.url}/upload/storage/v1/b/{quote(bucket)}/o?uploadType=resumable&upload_id={key}"
            return 200, {"Location": place, "X-GUploader-UploadID": key}, b"{}"
        upload = store.uploads[query["upload_id"]]
        if method == "DELETE":
            return 499, {}, b""
        span = headers.get("Content-Range", headers.get("content-range", "bytes 0-/0"))
        upload["data"] += body
        if span.endswith("/*"):
            return 308, {"Range": f"bytes=0-{len(upload['data']) - 1}"}, b""
        return _json(store.put(bucket, upload["name"], upload["data"]))


def _json(value: dict) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps(value).encode()


def _error(status: int) -> tuple[int, dict[str, str], bytes]:
    text = {401: "Anonymous caller does not have access", 429: "Quota exceeded", 404: "not found"}.get(status, "failed")
    reason = {429: "rateLimitExceeded"}.get(status, "failed")
    error = {"code": status, "message": text, "errors": [{"message": text, "reason": reason}]}
    return status, {}, json.dumps({"error": error}).encode()


class Emulator(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *buckets: str):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = Store({bucket: {} for bucket in buckets})
        self.url = f"http://localhost:{self.server_port}"

    def environment(self) -> dict[str, str]:
        """Return what makes gcsfs and Beam's client use it."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "EPATH_USE_TF": "false",
            "NO_GCE_CHECK": "true",
        }
