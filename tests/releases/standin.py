"""A hub of one's own: enough of the Hugging Face hub's HTTP interface for downloads, listings and uploads, on 127.0.0.1."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """`with StandIn() as hub: hub.put("owner/name", "file", b"…")`; `hub.url` is what HF_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        """(method, path) of every request."""
        self.gated: set[str] = set()
        self.created: list[dict[str, Any]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, repo: str, name: str, data: bytes) -> None:
        self.repos.setdefault(repo, {})[name] = data

    def downloads(self) -> list[str]:
        """Files that were fetched."""
        return [
            path.partition("/resolve/")[2].partition("/")[2]
            for method, path in self.asked
            if method == "GET" and "/resolve/" in path
        ]

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def _get(self, *, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append((self.command, path))
        if path.startswith("/api/models/"):
            return self._listing(path.removeprefix("/api/models/"))
        owner_name, _, rest = path.lstrip("/").partition("/resolve/")
        files = self.hub.repos.get(owner_name)
        if owner_name in self.hub.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if files is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        revision, _, name = rest.partition("/")
        if revision not in ("main", COMMIT):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if name not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        etag = hashlib.sha1(files[name]).hexdigest()
        self._send(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body=body)

    def _listing(self, rest: str) -> None:
        repo, _, where = rest.partition("/tree/")
        path = where.partition("/")[2]
        files = self.hub.repos.get(repo)
        if files is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        found = [n for n in files if not path or n.startswith(f"{path}/")]
        if path and not found:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        self._json([{"type": "file", "path": n, "size": len(files[n]), "oid": "0" * 40} for n in found])

    def do_POST(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(("POST", path))
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            asked = json.loads(data)
            repo = f"{asked['organization']}/{asked['name']}"
            self.hub.created.append(asked)
            self.hub.repos.setdefault(repo, {})
            return self._json({"url": f"{self.hub.url}/{repo}", "id": repo})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        repo = path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")[0]
        if "/preupload/" in path:
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]]
            return self._json({"files": files})
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "file":
                self.hub.put(repo, line["value"]["path"], base64.b64decode(line["value"]["content"]))
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.hub.url}/{repo}/commit/{COMMIT}"})

    def _json(self, data: Any) -> None:
        self._send(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, data: bytes, headers: dict[str, str], *, body: bool = True) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)
