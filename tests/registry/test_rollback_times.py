"""How long `ratchet rollback` takes as a whole process: during an upload, without its git remote, with a long history."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.registry import grown
from ratchet.git import git
from tasks.promote import promote
from tests.helpers.toy import ROOT, Toy

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
REPEATS = 7
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class _Trickle(BaseHTTPRequestHandler):
    """A DVC remote that takes 20 kB of an upload per second."""

    def do_HEAD(self) -> None:
        self.send_error(404)

    do_GET = do_HEAD

    def do_POST(self) -> None:
        assert isinstance(self.server, Trickling)
        self.server.reached.set()
        left = int(self.headers.get("Content-Length", 1 << 60))
        content = b""
        while left > 0 and not content.endswith(b"0\r\n\r\n"):  # the end of a chunked body
            content = self.rfile.read1(1000)
            left -= len(content)
            self.server.received += len(content)
            time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Trickling(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Trickle)
        self.reached, self.received = threading.Event(), 0


@pytest.fixture
def store() -> Iterator[Trickling]:
    with Trickling() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def published(toy: Toy, tmp_path: Path) -> Toy:
    toy.set("register.push_to", "origin")
    toy.commit("Publish")
    git("clone", "--quiet", "--bare", str(toy.tree), str(tmp_path / "origin.git"), cwd=tmp_path)
    git("remote", "add", "origin", str(tmp_path / "origin.git"), cwd=toy.tree)
    for number in range(REPEATS + 3):
        toy.release(f"{number}" * 2_000_000)
    return toy


def rollbacks(name: str, tree: Path, count: int = REPEATS) -> tuple[float, list[str]]:
    """Roll back `count` times.

    Returns the median in seconds, and what each said of the git remote.
    """
    seconds, unpushed = [], []
    for _ in range(count):
        started = time.monotonic()
        command = [sys.executable, "-m", "cli", "rollback", "--json"]
        done = subprocess.run(
            command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        seconds.append(time.monotonic() - started)
        assert done.returncode == 0, done.stderr
        unpushed.append(json.loads(done.stdout)["unpushed"])
    median = statistics.median(seconds)
    print(
        f"\n{name}: median {median:.2f} s, at most {max(seconds):.2f} s of {count}; load {os.getloadavg()[0]:.1f}"
    )
    return median, unpushed


def bound(limit_s: float) -> float:
    """A limit for an idle machine, on this one."""
    return limit_s * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_during_an_upload_to_a_slow_store(published: Toy, store: Trickling) -> None:
    url = f"http://127.0.0.1:{store.server_port}/store"
    published.write(
        {".dvc/config": f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n"}
    )
    published.commit("Set a remote")
    command = [sys.executable, "-m", "cli", "push", "--all"]
    with subprocess.Popen(command, cwd=published.tree, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as uploading:  # fmt: skip
        try:
            assert store.reached.wait(120)
            before = store.received
            median, unpushed = rollbacks("during an upload", published.tree)
            assert uploading.poll() is None
            assert store.received > before
        finally:
            uploading.kill()
    assert unpushed == [""] * REPEATS
    assert published.serves() == "v1.0.2"
    assert median < bound(1.0)


@pytest.mark.parametrize("kind", ["dead port", "black hole"])
def test_without_the_git_remote(published: Toy, kind: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "black hole":
            listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/ratchet.git"
        git("remote", "set-url", "origin", url, cwd=published.tree)
        median, unpushed = rollbacks(kind, published.tree)
    assert all("git fetch got no answer from the remote" in reason for reason in unpushed)
    assert published.serves() == "v1.0.2"
    assert median < bound(2.0)


def test_with_ten_thousand_versions(tmp_path: Path) -> None:
    toy = grown(tmp_path / "large", 10_000)
    promote.fn(toy.tree, "v1.9998.0", "prod")
    median, _ = rollbacks("10,000 versions", toy.tree)
    assert median < bound(1.0)
