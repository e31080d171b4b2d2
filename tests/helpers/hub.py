"""A Hub on loopback with one data set, for the real client."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "friends/toys"


def commit(files: dict[str, bytes]) -> str:
    """The id of the newest commit, which has these files."""
    return hashlib.sha1(
        json.dumps({name: etag(body) for name, body in files.items()}).encode()
    ).hexdigest()


@contextmanager
def hub(
    files: dict[str, bytes], cut: set[str] | None = None, token: str | None = None
) -> Iterator[str]:
    """Serve `files` (by their name in the repository); yields the endpoint. What is in `cut` breaks off half way.
    With a `token` it is a private data set.

    Parquet files are kept in LFS, as the Hub does. What was downloaded is listed at `/fetched`.
    """
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            route, _, query = self.path.partition("?")
            info = f"/api/datasets/{REPOSITORY}"
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                self.missing(status=401)
                return
            if route == info or route.startswith(f"{info}/revision/"):
                self.answer(about(files))
            elif route.startswith(f"{info}/tree/"):
                below = "/".join(route[len(f"{info}/tree/") :].split("/")[1:])
                self.answer(listing(files, below, "recursive=true" in query.lower()))
            elif route.startswith(f"/datasets/{REPOSITORY}/resolve/"):
                self.file(
                    route.split("/", 6)[6] if commit(files) in route or "/main/" in route else ""
                )
            elif route == "/fetched":
                self.answer(fetched)
            else:
                self.missing()

        do_HEAD = do_GET

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.answer(
                [
                    entry(name, body)
                    for name, body in files.items()
                    if name in asked or name.replace("/", "%2F") in asked
                ]
            )

        def file(self, name: str) -> None:
            if name not in files:
                self.missing("EntryNotFound")
                return
            body, linked = files[name], {}
            if name.endswith(".parquet"):
                linked = {
                    "X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"',
                    "X-Linked-Size": str(len(body)),
                }
            if self.command == "GET":
                fetched.append(name)
            self.respond(
                body, {"ETag": f'"{etag(body)}"', "X-Repo-Commit": commit(files), **linked}
            )

        def answer(self, content: Any) -> None:
            self.respond(json.dumps(content).encode(), {"Content-Type": "application/json"})

        def missing(self, code: str = "RepoNotFound", status: int = 404) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def respond(self, body: bytes, headers: dict[str, str]) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and self.command != "HEAD":
                first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
                headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
                body = body[first : last + 1]
            self.send_response(206 if "Content-Range" in headers else 200)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                broken = any(self.path.endswith(name) for name in cut or ())
                self.wfile.write(body[: len(body) // 2] if broken else body)
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def etag(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def entry(name: str, body: bytes) -> dict[str, Any]:
    file = {"type": "file", "path": name, "size": len(body), "oid": etag(body)}
    if name.endswith(".parquet"):
        file["lfs"] = {
            "oid": hashlib.sha256(body).hexdigest(),
            "size": len(body),
            "pointerSize": 130,
        }
    return file


def listing(files: dict[str, bytes], below: str, deep: bool) -> list[dict[str, Any]]:
    """What lies in a folder, directly or `deep`."""
    start = f"{below}/" if below else ""
    inside = [name for name in files if name.startswith(start)]
    if deep:
        return [entry(name, files[name]) for name in inside]
    folders = {
        start + name[len(start) :].split("/")[0] for name in inside if "/" in name[len(start) :]
    }
    made = [
        {"type": "directory", "path": name, "size": 0, "oid": etag(name.encode())}
        for name in sorted(folders)
    ]
    return made + [entry(name, files[name]) for name in inside if "/" not in name[len(start) :]]


def about(files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "id": REPOSITORY,
        "sha": commit(files),
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "cardData": {"license": "mit"},
        "siblings": [{"rfilename": name} for name in files],
    }
