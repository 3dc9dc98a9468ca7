"""A Hugging Face hub on this machine: the few endpoints that a pull uses, and its failures.

What is large (by `LFS_BYTES`) comes by a redirect to another origin, as from the real hub's CDN.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34
LFS_BYTES = 20_000
API = re.compile(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^?]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(frozen=True)
class Seen:
    """A request for a file's bytes."""

    name: str
    range: str | None
    token: str | None


@dataclass
class FakeHub:
    """`repos` are files by name. `cut_after` ends the next transfers of large files early, one
    number of bytes for each. `wrong` are files whose content is not what the hub says. Without
    `has_ranges` each transfer is of the whole file, without `has_hashes` sizes are all it tells."""

    endpoint: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: set[str] = field(default_factory=lambda: {"main", COMMIT})
    gated: set[str] = field(default_factory=set)
    token: str | None = None
    commit: str = COMMIT
    cut_after: list[int] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    has_ranges: bool = True
    has_hashes: bool = True
    status: int | None = None
    listed: int = 0
    seen: list[Seen] = field(default_factory=list)

    def ranges(self, name: str) -> list[str | None]:
        return [each.range for each in self.seen if each.name == name]

    def listing(self, repo: str) -> dict[str, object]:
        siblings = [
            _described(name, data + (b"!" if name in self.wrong else b""), len(data))
            for name, data in self.repos[repo].items()
        ]
        if not self.has_hashes:
            siblings = [{name: each[name] for name in ("rfilename", "size")} for each in siblings]
        return {"id": repo, "sha": self.commit, "siblings": siblings, "private": False}


def _described(name: str, data: bytes, size: int) -> dict[str, object]:
    blob_id = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    described: dict[str, object] = {"rfilename": name, "size": size, "blobId": blob_id}
    if size >= LFS_BYTES:
        sha256 = hashlib.sha256(data).hexdigest()
        described["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 130}
    return described


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if self.hub.status is not None:
            self._fail(self.hub.status)
        elif match := API.fullmatch(path):
            self.hub.listed += 1
            self._list(match[1], match[2] or "main")
        elif path.startswith("/cdn") and (match := FILE.fullmatch(path.removeprefix("/cdn"))):
            self._send(match[1], match[3], 200)
        elif match := FILE.fullmatch(path):
            self._file(match[1], match[3])
        else:
            self._fail(404)

    def log_message(self, *_: Any) -> None:
        pass

    def _list(self, repo: str, revision: str) -> None:
        token = self._token()
        if repo not in self.hub.repos or self.hub.token not in (None, token):
            self._fail(401, "RepoNotFound")  # the hub does not tell which
        elif revision not in self.hub.revisions:
            self._fail(404, "RevisionNotFound")
        else:
            self._answer(json.dumps(self.hub.listing(repo)).encode())

    def _file(self, repo: str, name: str) -> None:
        if repo in self.hub.gated and self._token() is None:
            self._fail(403, "GatedRepo")
        elif name not in self.hub.repos[repo]:
            self._fail(404, "EntryNotFound")
        elif len(self.hub.repos[repo][name]) < LFS_BYTES:
            self._send(repo, name, 200)
        else:
            self.send_response(302)
            port = self.hub.endpoint.rsplit(":", 1)[1]
            self.send_header("Location", f"http://localhost:{port}/cdn{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, repo: str, name: str, status: int) -> None:
        data = self.hub.repos[repo][name]
        wanted = self.headers.get("Range")
        self.hub.seen.append(Seen(name, wanted, self._token()))
        if not self.hub.has_ranges:
            wanted = None
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else status)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = len(data)
        if len(data) >= LFS_BYTES and self.hub.cut_after:
            end = start + self.hub.cut_after.pop(0)
            self.close_connection = True
        self.wfile.write(data[start:end])

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, code: str | None = None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
