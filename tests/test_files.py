"""Files appear whole, once they are on the disk, or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ratchet import files
from ratchet.errors import RatchetError


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, bool]]:
    """What was synced, by name, and whether `new` was in place by then."""
    names: list[tuple[str, bool]] = []
    fsync = os.fsync

    def record(handle: int) -> None:
        names.append((Path(f"/proc/self/fd/{handle}").readlink().name, (tmp_path / "new").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    return names


def test_every_file_is_on_the_disk_before_its_name_and_then_the_name(
    synced: list[tuple[str, bool]], tmp_path: Path
) -> None:
    with files.writing(tmp_path / "new") as folder:
        (folder / "deep").mkdir(parents=True)
        for name in ("a", "deep/b"):
            (folder / name).write_text("x")
    assert [entry for entry in synced if entry[0] in "ab"] == [("a", False), ("b", False)]
    assert synced[-1] == (tmp_path.name, True)
    synced.clear()
    with files.writing(tmp_path / "file") as file:
        file.write_text("x")
    assert [name for name, _ in synced] == ["file", tmp_path.name]


def test_what_was_there_is_replaced_whole(tmp_path: Path) -> None:
    for names in ({"a", "b"}, {"b", "c"}):
        with files.writing(tmp_path / "deep/new") as folder:
            folder.mkdir()
            for name in names:
                (folder / name).write_text(name)
        assert {file.name for file in (tmp_path / "deep/new").iterdir()} == names
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["new"]


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="stop"), files.writing(tmp_path / "file") as file:
        file.write_text("new")
        raise ValueError("stop")
    assert (tmp_path / "file").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.fault(5)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_file_and_what_to_do(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(
            RatchetError,
            match=r"^the disk is full: .*/file could not be written; make room, then run",
        ),
        files.writing(tmp_path / "file"),
    ):
        raise OSError(code, "some text")
    with pytest.raises(OSError, match="some text") as caught, files.writing(tmp_path / "file"):
        raise OSError(errno.EACCES, "some text")
    assert not isinstance(caught.value, RatchetError)


def test_equal_content_gives_equal_bytes_and_json_alone(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"b": "ä", "a": [1]})
    files.write_json(tmp_path / "b", {"a": [1], "b": "ä"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text(
        encoding="utf-8"
    ) == '{\n  "a": [\n    1\n  ],\n  "b": "ä"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        files.to_json({"a": float("nan")})
    assert json.loads(files.to_json({"a": 1})) == {"a": 1}


def test_a_second_name_is_no_copy_where_the_file_system_can_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("old")
    files.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")

    def refused(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    files.link(tmp_path / "a", tmp_path / "deep/c")
    assert (tmp_path / "deep/c").read_text() == "a"
    assert not (tmp_path / "deep/c").samefile(tmp_path / "a")


def test_two_that_replace_one_folder_both_succeed(tmp_path: Path) -> None:
    def write(name: str) -> None:
        for _ in range(100):
            with files.writing(tmp_path / "folder") as folder:
                folder.mkdir()
                (folder / "file").write_text(name)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(write, name) for name in "abcd"]:
            future.result()
    assert (tmp_path / "folder/file").read_text() in "abcd"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_replaces_a_folder_and_a_folder_a_file(tmp_path: Path) -> None:
    for _ in range(2):
        with files.writing(tmp_path / "path") as path:
            path.mkdir()
            (path / "file").write_text("a")
        assert (tmp_path / "path/file").read_text() == "a"
        with files.writing(tmp_path / "path") as path:
            path.write_text("b")
        assert (tmp_path / "path").read_text() == "b"


KILLED = """
import os, signal, sys
from pathlib import Path
from ratchet.files import writing
with writing(Path(sys.argv[1])) as path:
    path.mkdir()
    (path / "half").write_text("written")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.fault(1)
def test_what_a_killed_process_was_writing_is_deleted_and_what_a_live_one_writes_is_not(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "folder")]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 2
    killed, alive = started
    killed.kill()
    killed.communicate(timeout=30)
    (tmp_path / ".ratchet-file").write_text("not a folder of ours")
    assert files.remove_leftovers(tmp_path) == 1
    alive.communicate("", timeout=30)
    assert alive.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ratchet-file", "folder"]


def test_writing_deletes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".ratchet-old.abcdefgh/half").mkdir(parents=True)
    with files.writing(tmp_path / "file") as path:
        path.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_can_write_while_another_looks_for_leftovers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ratchet import files\n"
        "while not Path(sys.argv[2]).exists():\n    files.remove_leftovers(Path(sys.argv[1]))\n"
    )
    area, stop = tmp_path / "area", tmp_path / "stop"
    area.mkdir()
    sweepers = [
        subprocess.Popen([sys.executable, "-c", code, str(area), str(stop)]) for _ in range(2)
    ]
    try:
        for number in range(300):
            with files.writing(area / "file") as path:
                path.write_text(str(number))
            assert (area / "file").read_text() == str(number)
    finally:
        stop.touch()
    assert [sweeper.wait(30) for sweeper in sweepers] == [0, 0]


def test_the_removal_of_leftovers_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".ratchet-old.abcdefgh").mkdir()
    with files.writing(tmp_path / "file") as path:
        path.write_text("new")
    told = capsys.readouterr()
    assert told.err == f"ratchet: removed 1 temporary folders of killed processes in {tmp_path}\n"
    assert told.out == ""


def test_folders_come_newest_first(tmp_path: Path) -> None:
    for name, time in (("b", 2), ("c", 3), ("a", 1)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time, time))
    (tmp_path / "file").touch()
    assert [path.name for path in files.newest_first(tmp_path)] == ["c", "b", "a"]
