"""Lock files that a killed git left behind are removed; those of a git that is running stay."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from ratchet.git import git
from ratchet.git_errors import Rejected
from ratchet.git_locks import remove_abandoned
from tasks.promote import rollback
from tests.helpers.toy import Toy


def leave(tree: Path, name: str, age_s: float = 60) -> Path:
    """A lock file as git leaves it when it is killed."""
    lock = tree / ".git" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (time.time() - age_s,) * 2)
    return lock


@pytest.mark.fault(2)
def test_a_rollback_passes_the_locks_of_a_killed_git(toy: Toy) -> None:
    for weights in "ab":
        toy.release(weights)
    lock = leave(toy.tree, "refs/tags/classifier#prod#3.lock")
    assert rollback.fn(toy.tree, "prod").version == toy.serves() == "v1.0.0"
    assert not lock.exists()


def test_the_lock_of_a_git_that_is_running_stays(toy: Toy) -> None:
    command = ["git", "cat-file", "--batch"]
    with subprocess.Popen(
        command, cwd=toy.tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        try:
            lock = leave(toy.tree, "packed-refs.lock", age_s=-3)  # made after that git began
            assert not remove_abandoned(lock, toy.tree / ".git")  # it is too young to tell
            os.utime(lock)
            time.sleep(1.6)
            assert not remove_abandoned(lock, toy.tree / ".git")
            with pytest.raises(
                Rejected, match=r"another git process holds .*packed-refs\.lock; repeat the command"
            ):
                git("pack-refs", "--all", cwd=toy.tree)
        finally:
            running.kill()
    git("pack-refs", "--all", cwd=toy.tree)
    assert not lock.exists()


def test_locks_elsewhere_stay(toy: Toy, tmp_path: Path) -> None:
    lock = leave(toy.tree, "packed-refs.lock")
    assert not remove_abandoned(lock, tmp_path / "other/.git")
    assert lock.exists()
    assert remove_abandoned(tmp_path / "gone.lock", toy.tree / ".git")
