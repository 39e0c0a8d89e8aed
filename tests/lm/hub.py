"""A small Hugging Face hub on this machine: the few addresses that an upload asks for, answered as the hub's own does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_a_token_of_nobody"
READER = "hf_may_only_read"


class Hub:
    """What it holds: `repos`, {name: {"private": bool, "files": {path: bytes}, "commits": number}}."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.url = ""

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON, headers)."""
        if path.startswith("/objects/"):
            self.objects[path.removeprefix("/objects/")] = body
            return 200, {}, {}
        if token not in (TOKEN, READER):
            return 401, {"error": "Invalid credentials in Authorization header"}, {}
        if method == "POST" and token == READER and not path.endswith("validate-yaml"):
            return 403, {"error": "You don't have the rights to create a model under this namespace"}, {}
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            return 200, {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.repos[name] = {"private": wanted.get("private", wanted.get("visibility") == "private"), "commits": 0}
            self.repos[name]["files"] = {".gitattributes": b""}
            return 200, {"url": f"{self.url}/{name}", "name": name}, {}
        name = "/".join(path.removeprefix("/api/models").lstrip("/").split("/")[:2]).removesuffix(".git")
        if name not in self.repos:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        repo = self.repos[name]
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._object(x) for x in json.loads(body)["objects"]]}, {}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = {f["path"]: "lfs" if f["path"].endswith(".safetensors") else "regular" for f in files}
            return 200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}, {}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repo["files"][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo["files"][value["path"]] = self.objects[value["oid"]]
            repo["commits"] += 1
            url = f"{self.url}/{name}/commit/{repo['commits']:040d}"
            return 200, {"success": True, "commitOid": f"{repo['commits']:040d}", "commitUrl": url}, {}
        if "/tree/" in path:
            files = repo["files"].items()
            return (
                200,
                [{"type": "file", "path": p, "size": len(x), "oid": hashlib.sha1(x).hexdigest()} for p, x in files],
                {},
            )
        return 200, {"id": name, "private": repo["private"], "siblings": [{"rfilename": p} for p in repo["files"]]}, {}

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.url}/objects/{wanted['oid']}", "header": {}}}}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers at its `url` while entered."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            chunked = self.headers.get("Transfer-Encoding") == "chunked"
            body = (
                b"".join(self._chunks()) if chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
            )
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status, found, headers = hub.answer(self.command, self.path.partition("?")[0], body, token)
            content = json.dumps(found).encode()
            self.send_response(status)
            for key, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                **headers,
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        do_GET = do_POST = do_PUT = do_HEAD = _answer

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
