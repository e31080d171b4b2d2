"""What was made once is not made again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.data import memo

MADE: list[str] = []


def work(name: str, folder: Path) -> None:
    MADE.append(name)
    if name == "bad":
        raise ValueError("no such thing")
    (folder / "file").write_text(name)


@pytest.fixture
def made(tmp_path):
    MADE.clear()

    def run(*names):
        with ThreadPoolExecutor(1) as pool:
            jobs = [memo.Job(work, (name,), name) for name in names]
            return [(folder / "file").read_text() for folder in memo.folders(jobs, tmp_path / "memo", pool, "test")]

    return run


def test_only_what_is_new_is_made_and_the_order_stays(made):
    assert made("a", "b", "a") == ["a", "b", "a"] and MADE == ["a", "b"]
    assert made("c", "b") == ["c", "b"] and MADE == ["a", "b", "c"]


def test_an_entry_that_was_damaged_is_made_again(made, tmp_path):
    made("a")
    (file,) = (tmp_path / "memo").glob("*/file")
    file.write_text("b")
    assert made("a") == ["a"] and MADE == ["a", "a"]


def test_a_failure_leaves_nothing_half_made(made, tmp_path):
    with pytest.raises(ValueError, match="no such thing"):
        made("a", "bad")
    assert len(list((tmp_path / "memo").iterdir())) == 1


def test_the_least_recently_used_goes_first(made, tmp_path):
    import os

    made("a", "b")
    for entry in (tmp_path / "memo").iterdir():
        if (entry / "file").read_text() == "a":
            os.utime(entry, (0, 0))
    memo.prune(tmp_path / "memo", 150)
    assert [file.read_text() for file in (tmp_path / "memo").glob("*/file")] == ["b"]
