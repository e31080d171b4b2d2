"""A rollback waits for no upload, no collection and no other publication."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ratchet.errors import Busy
from ratchet.git import git
from ratchet.registry import publication, tags
from ratchet.repository import OBJECTS, locked
from ratchet.upkeep.gc import collect
from ratchet.upkeep.withdraw import withdraw
from tasks.promote import promote, rollback
from tests.helpers.toy import ROOT, Toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
BOUND_S = 5.0  # a rollback takes 0.1 s in-process; these tests share their machine


class SlowStore(ThreadingHTTPServer):
    """A DVC remote on loopback that holds every upload until it is released."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Held)
        self.reached, self.released = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/store"


class _Held(BaseHTTPRequestHandler):
    server: SlowStore

    def do_HEAD(self) -> None:
        self.send_error(404)

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        self.server.reached.set()
        self.server.released.wait(60)
        self.send_error(503)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def store() -> Iterator[SlowStore]:
    with SlowStore() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.mark.fault(39)
@pytest.mark.parametrize("command", [["push", "--all"], ["push", "v1.0.0"]])
def test_a_rollback_during_an_upload(toy: Toy, store: SlowStore, command: list[str]) -> None:
    for weights in "ab":
        toy.release(weights)
    toy.write(
        {
            ".dvc/config": f"[core]\n    remote = store\n['remote \"store\"']\n    url = {store.url}\n"
        }
    )
    toy.commit("Set a remote")
    arguments = [sys.executable, "-m", "cli", *command]
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin",
    }
    child = subprocess.Popen(
        arguments, cwd=toy.tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert store.reached.wait(60), child.communicate(timeout=10)[1].decode()
        started = time.monotonic()
        assert rollback.fn(toy.tree, "prod").version == "v1.0.0"
        assert time.monotonic() - started < BOUND_S
        assert child.poll() is None  # it is still uploading
        assert promote.fn(toy.tree, "v1.0.1", "prod").changed
    finally:
        store.released.set()
        child.kill()
        child.communicate()


@pytest.mark.fault(39)
def test_a_rollback_during_a_collection(toy: Toy) -> None:
    for weights in "ab":
        toy.release(weights)
    with locked(toy.tree, name=OBJECTS):
        started = time.monotonic()
        assert rollback.fn(toy.tree, "prod").version == "v1.0.0"
        assert time.monotonic() - started < BOUND_S


def test_no_collection_deletes_while_a_registration_is_under_way(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.release("a")
    monkeypatch.setattr("ratchet.upkeep.gc.locked", partial(locked, timeout_s=0.1))
    with locked(toy.tree, name=OBJECTS, shared=True):
        with pytest.raises(Busy, match=r"ratchet-objects\.lock"):
            collect(toy.tree, apply=True, grace_s=0)
        assert collect(toy.tree, grace_s=0).objects == []
        with locked(toy.tree, name=OBJECTS, shared=True):  # registrations don't exclude each other
            pass
    collect(toy.tree, apply=True, grace_s=0)


@pytest.mark.fault(39)
def test_a_rollback_while_another_command_hangs_on_the_git_remote(toy: Toy, tmp_path: Path) -> None:
    git("clone", "--quiet", "--bare", str(toy.tree), str(tmp_path / "origin.git"), cwd=tmp_path)
    git("remote", "add", "origin", str(tmp_path / "origin.git"), cwd=toy.tree)
    toy.set("register.push_to", "origin")
    for weights in "ab":
        toy.release(weights)
    with publication.turn(toy.tree, 0):
        started = time.monotonic()
        done = rollback.fn(toy.tree, "prod")
        assert (done.version, done.unpushed) == ("v1.0.0", "")
        assert time.monotonic() - started < BOUND_S


def _withdraw(toy: Toy) -> object:
    return withdraw(toy.tree, "v1.0.0", "leaks")


def _promote(toy: Toy) -> object:
    return promote.fn(toy.tree, "v1.0.0", "staging")


def _rollback(toy: Toy) -> object:
    return rollback.fn(toy.tree, "prod")


def _register(toy: Toy) -> object:
    return toy.register("c")


@pytest.mark.parametrize("change", [_withdraw, _promote, _rollback, _register])
@pytest.mark.parametrize("pushed", [False, True], ids=["here", "pushed"])
def test_every_change_waits_for_the_lock_of_the_registry(
    toy: Toy, tmp_path: Path, change: Callable[[Toy], object], pushed: bool
) -> None:
    """It is read, decided and written under one lock, so two changes never take one number."""
    for weights in "ab":
        toy.release(weights)
    if pushed:
        git("clone", "--quiet", "--bare", str(toy.tree), str(tmp_path / "origin.git"), cwd=tmp_path)
        git("remote", "add", "origin", str(tmp_path / "origin.git"), cwd=toy.tree)
        toy.set("register.push_to", "origin")
        toy.commit("Publish")
    before = tags.names(toy.tree, "*")
    with ThreadPoolExecutor(1) as pool:
        with locked(toy.tree):
            future = pool.submit(change, toy)
            with pytest.raises(TimeoutError):
                future.result(timeout=1.0)
            assert tags.names(toy.tree, "*") == before
        future.result(timeout=60)
    assert len(tags.names(toy.tree, "*")) == len(before) + 1


def test_a_lock_that_is_never_free_ends_as_busy(toy: Toy) -> None:
    with locked(toy.tree):
        busy = pytest.raises(
            Busy, match=r"another ratchet command has held ratchet\.lock for 0 s; try again"
        )
        with busy, locked(toy.tree, 0.1):
            pass
    with locked(toy.tree, 0.1):
        pass
