"""Locks on files: their holders, their waiters, and files that are deleted meanwhile."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ratchet import locks
from ratchet.errors import Busy


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "folder/lock"
    with locks.locked(file, "the tree"):
        busy = pytest.raises(
            Busy, match=rf"the tree is busy: process {os.getpid()} works in it; wait"
        )
        with busy, locks.locked(file, "the tree"):
            pass
    with locks.locked(file, "the tree"):
        assert file.read_text() == str(os.getpid())


def test_a_lock_that_is_held_for_an_instant_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    reached = threading.Event()

    def look() -> None:
        with locks.locked(file, "the tree"):
            reached.set()
            time.sleep(0.1)

    looking = threading.Thread(target=look)
    looking.start()
    assert reached.wait(5)
    with pytest.raises(Busy), locks.locked(file, "the tree", 0):
        pass
    with locks.locked(file, "the tree"):
        looking.join()


def test_a_lock_whose_file_its_holder_deletes_is_not_shared(tmp_path: Path) -> None:
    """Who waits for the deleted file's lock takes that of the new file, which a third may hold."""
    file = tmp_path / "lock"
    users: list[int] = []

    def use() -> None:
        for _ in range(100):
            with locks.locked(file, "the tree", 30):
                users.append(1)
                assert len(users) == 1
                users.pop()
                file.unlink()

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(use) for _ in range(3)]:
            future.result()


def test_a_lock_that_is_gone_is_not_made_to_look_for_leftovers(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        locks.locked(tmp_path / "lock", "the tree", create=False),
    ):
        pass
    assert not list(tmp_path.iterdir())
