"""What was made once is not made again."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ratchet import files
from ratchet.errors import CorruptData
from ratchet.shards import memo

MADE: list[str] = []


def prune(area: Path, limit: int) -> None:
    with memo.entries(area, limit):
        pass


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
            return [
                (folder / "file").read_text()
                for folder in memo.folders(jobs, tmp_path / "memo", pool, "test")
            ]

    return run


def test_only_what_is_new_is_made_and_the_order_stays(made):
    assert made("a", "b", "a") == ["a", "b", "a"] and MADE == ["a", "b"]
    assert made("c", "b") == ["c", "b"] and MADE == ["a", "b", "c"]


def test_entries_are_not_synced_since_each_use_checks_them(made, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    assert made("a") == ["a"]
    assert not synced


def test_an_entry_that_was_damaged_is_made_again(made, tmp_path):
    made("a")
    (file,) = (tmp_path / "memo").glob("*/file")
    file.write_text("b")
    assert made("a") == ["a"] and MADE == ["a", "a"]


def test_what_another_run_uses_is_not_deleted(made, tmp_path):
    made("a", "b")
    with memo.entries(tmp_path / "memo", 0):
        prune(tmp_path / "memo", 0)
        assert len(list((tmp_path / "memo").glob("*/file"))) == 2
    assert not list((tmp_path / "memo").iterdir())


def test_what_a_killed_run_was_making_is_deleted(made, tmp_path):
    made("a")
    (tmp_path / "memo/.ratchet-key.abcd").mkdir()
    prune(tmp_path / "memo", 1000)
    assert len(list((tmp_path / "memo").iterdir())) == 1


@pytest.mark.fault(4)
def test_runs_that_make_the_same_entries_at_once_all_succeed(tmp_path: Path) -> None:
    """Two processes, each with threads, on the same few entries, which a third deletes all the time."""
    code = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path\n"
        "from ratchet.shards import memo; from tests.shards.test_memo import work\n"
        "for turn in range(60):\n"
        "    with memo.entries(Path(sys.argv[1]), 0) as area, ThreadPoolExecutor(4) as pool:\n"
        "        jobs = [memo.Job(work, (name,), name) for name in 'abcd']\n"
        "        text = [(folder / 'file').read_text() for folder in memo.folders(jobs, area, pool, 'test')]\n"
        "        assert text == list('abcd'), text\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "memo")]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors


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
    prune(tmp_path / "memo", 150)
    assert [file.read_text() for file in (tmp_path / "memo").glob("*/file")] == ["b"]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code that the keys depend on."""
    folder = tmp_path / "code"
    shutil.copytree(
        Path(files.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(files, "__file__", str(folder / "files.py"))
    memo._code.cache_clear()
    yield folder
    memo._code.cache_clear()


def other(name: str, folder: Path) -> None: ...


def key(inputs: object = "a") -> str:
    memo._code.cache_clear()
    return memo.Job(work, ("a",), inputs).key


def test_the_key_is_that_of_the_work_its_inputs_its_code_and_the_libraries(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key()
    assert key() == before
    keys = {before, key("b"), memo.Job(other, ("a",), "a").key}
    for name in ("preparation/one_shard.py", "sources/base.py", "images.py"):
        with (code / name).open("a") as file:
            file.write("# changed")
        keys.add(key())
    version = importlib.metadata.version
    for library in memo.LIBRARIES:
        changed = {library: "0.0"}
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name, new=changed: new.get(name) or version(name)
        )
        keys.add(key())
    assert len(keys) == 6 + len(memo.LIBRARIES)
    assert {"numpy", "pillow", "polars", "pyarrow"} <= {*memo.LIBRARIES}


def test_a_failure_cancels_what_waits(tmp_path: Path) -> None:
    futures: list[Future[None]] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *call, **options):  # type: ignore[no-untyped-def]
            futures.append(super().submit(*call, **options))
            return futures[-1]

    MADE.clear()
    with Pool(1) as pool, pytest.raises(ValueError, match="no such thing"):
        jobs = [memo.Job(work, (name,), name) for name in ("bad", *map(str, range(200)))]
        list(memo.folders(jobs, tmp_path / "memo", pool, "test"))
    assert any(future.cancelled() for future in futures)


def test_an_entry_that_was_used_is_kept_before_one_that_was_not(made, tmp_path):
    import os

    made("a", "b")
    for entry in (tmp_path / "memo").iterdir():
        os.utime(entry, (0, 0) if (entry / "file").read_text() == "a" else (9, 9))
    assert made("a") == ["a"] and MADE == ["a", "b"]
    prune(tmp_path / "memo", 150)
    assert [file.read_text() for file in (tmp_path / "memo").glob("*/file")] == ["a"]


def test_a_worker_that_dies_is_one_sentence(tmp_path: Path) -> None:
    class Pool(ThreadPoolExecutor):
        def submit(self, *call, **options):  # type: ignore[no-untyped-def]
            future: Future[None] = Future()
            future.set_exception(BrokenExecutor("a child process terminated abruptly"))
            return future

    with (
        Pool(1) as pool,
        pytest.raises(CorruptData, match=r"^a worker of test died: out of memory, killed, or on a"),
    ):
        list(memo.folders([memo.Job(work, ("a",), "a")], tmp_path / "memo", pool, "test"))


def test_the_limit_is_the_bytes_that_stay(made, tmp_path):
    import os

    made("a", "b")
    for entry in (tmp_path / "memo").iterdir():
        os.utime(entry, (0, 0) if (entry / "file").read_text() == "a" else (9, 9))
    size = sum(file.stat().st_size for file in (tmp_path / "memo").glob("*/*"))
    prune(tmp_path / "memo", size)
    assert len(list((tmp_path / "memo").iterdir())) == 2
    prune(tmp_path / "memo", size - 1)
    assert [file.read_text() for file in (tmp_path / "memo").glob("*/file")] == ["b"]


def test_an_entry_that_another_run_completed_meanwhile_is_not_replaced(made, tmp_path):
    job = memo.Job(work, ("a",), "a")
    entry = tmp_path / "memo" / job.key
    memo._make(job, entry)
    inode = entry.stat().st_ino
    memo._make(job, entry)
    assert entry.stat().st_ino == inode
    (entry / "file").write_text("damaged")
    memo._make(job, entry)
    assert (entry / "file").read_text() == "a"


def test_a_file_of_the_user_among_the_entries_fails_no_run(made, tmp_path):
    made("a")
    (tmp_path / "memo/.DS_Store").write_text("x")
    prune(tmp_path / "memo", 0)
    assert [path.name for path in (tmp_path / "memo").iterdir()] == [".DS_Store"]
