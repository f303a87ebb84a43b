"""A small Hugging Face hub on the loopback interface: enough of its HTTP interface to download a repository from."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """Serves `repositories` (name to files); what it was asked is in `requests`.

    refusals: repositories that answer with a status and the hub's error code. drop_after: a file whose first transfer ends
    after so many bytes, by name.
    """

    repositories: Mapping[str, Mapping[str, bytes]]
    refusals: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    drop_after: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            owner = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    owner: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.owner.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        repository, rest = "/".join(parts[2:4] if listing else parts[:2]), parts[4:] if listing else parts[2:]
        if repository in self.owner.refusals:
            self._refuse(*self.owner.refusals[repository])
        elif repository not in self.owner.repositories:
            self._refuse(401, "RepoNotFound")
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif listing and rest[:1] == ["tree"]:
            self._send_json([_entry(name, data) for name, data in self.owner.repositories[repository].items()])
        elif listing:
            files = [{"rfilename": name} for name in self.owner.repositories[repository]]
            self._send_json({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": files, "tags": []})
        elif "/".join(rest[2:]) in self.owner.repositories[repository]:
            self._send_file("/".join(rest[2:]), self.owner.repositories[repository]["/".join(rest[2:])], body)
        else:
            self._refuse(404, "EntryNotFound")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_file(self, name: str, data: bytes, body: bool) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{_digest(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            limit = self.owner.drop_after.pop(name, None)
            self.wfile.write(data[start : None if limit is None else start + limit])
            self.close_connection = limit is not None


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
