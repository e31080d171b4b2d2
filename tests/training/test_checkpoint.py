"""One run at a time uses a folder of checkpoints, and few are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ratchet.errors import Busy
from ratchet.training import checkpoint
from ratchet.training.checkpoint import Checkpoints


@pytest.mark.fault(4)
def test_a_second_run_with_the_same_key_is_busy_and_disturbs_nothing(tmp_path: Path) -> None:
    first, second = Checkpoints(tmp_path / "key"), Checkpoints(tmp_path / "key")
    with first.lock():
        first.save({"step": torch.tensor(3)}, 0, 3)
        busy = f"same model on the same data, in {tmp_path}/key, is busy: process {os.getpid()}"
        with pytest.raises(Busy, match=busy), second.lock():
            pass
        assert first.load() == {"step": 3}
    assert not list(tmp_path.iterdir())
    with second.lock():
        assert second.load() is None


def test_a_run_that_fails_keeps_its_checkpoints_for_the_next(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path / "key").lock():
        Checkpoints(tmp_path / "key").save({"step": 1}, 0, 1)
        raise KeyboardInterrupt
    with Checkpoints(tmp_path / "key").lock():
        assert Checkpoints(tmp_path / "key").load() == {"step": 1}


def test_the_last_two_checkpoints_of_a_run_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        Checkpoints(tmp_path / "key").save({"step": step}, 0, step)
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == [
        "000000-00000010.pt",
        "000000-00000011.pt",
    ]
    assert Checkpoints(tmp_path / "key").load() == {"step": 11}


def test_checkpoints_of_the_newest_runs_that_did_not_finish_are_kept(tmp_path: Path) -> None:
    for age in range(checkpoint.KEEP_RUNS + 3):
        Checkpoints(tmp_path / f"run-{age}").save({}, 0, 0)
        os.utime(tmp_path / f"run-{age}", (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "never-saved.lock").touch()
    oldest = f"run-{checkpoint.KEEP_RUNS + 2}"
    with Checkpoints(tmp_path / oldest).lock(), Checkpoints(tmp_path / "new").lock():
        pass
    kept = {f"run-{age}" for age in range(checkpoint.KEEP_RUNS)}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_checkpoints_of_a_run_that_is_alive_are_kept(tmp_path: Path) -> None:
    for age in range(checkpoint.KEEP_RUNS + 1):
        Checkpoints(tmp_path / f"run-{age}").save({}, 0, 0)
        os.utime(tmp_path / f"run-{age}", (1_000_000 - age, 1_000_000 - age))
    oldest = Checkpoints(tmp_path / f"run-{checkpoint.KEEP_RUNS}")
    with oldest.lock():
        with Checkpoints(tmp_path / "new").lock():
            pass
        assert oldest.load() == {}


@pytest.mark.fault(10)
def test_a_checkpoint_with_code_inside_is_dropped_and_the_code_never_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import hashlib
    import io

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    good = Checkpoints(tmp_path / "key")
    good.save({"step": 1}, 0, 1)
    buffer = io.BytesIO()
    torch.save({"step": Hostile()}, buffer)
    content = buffer.getvalue()
    (tmp_path / "key/000000-00000002.pt").write_bytes(hashlib.sha256(content).digest() + content)
    assert good.load() == {"step": 1}
    assert not (tmp_path / "ran").exists()
    assert (
        "deleting the checkpoint 000000-00000002.pt, because it is corrupt"
        in capsys.readouterr().out
    )


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ratchet.training.checkpoint import Checkpoints\n"
        "with Checkpoints(Path(sys.argv[1])).lock():\n    os.kill(os.getpid(), 9)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "key")], check=False)
    assert run.returncode == -9
    assert (tmp_path / "key.lock").exists()
    with Checkpoints(tmp_path / "key").lock():
        pass
    assert not list(tmp_path.iterdir())


def test_runs_that_end_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each looks for old folders while the others delete theirs."""

    def run(name: str) -> None:
        for _ in range(150):
            with Checkpoints(tmp_path / name).lock():
                (tmp_path / name).mkdir()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(run, name) for name in "abcd"]:
            future.result()
    assert not list(tmp_path.iterdir())


def test_the_removal_of_old_runs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(checkpoint.KEEP_RUNS + 2):
        Checkpoints(tmp_path / f"run-{number}").save({}, 0, 0)
    with Checkpoints(tmp_path / "new").lock():
        pass
    assert capsys.readouterr().out == "train: removed the checkpoints of 2 unfinished runs\n"


def test_checkpoints_that_the_user_deletes_do_not_fail_the_run(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "area/key").lock():
        shutil.rmtree(tmp_path / "area")


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_a_flipped_byte_drops_a_checkpoint(
    tmp_path: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path / "key")
    checkpoints.save({"step": 1}, 0, 1)
    checkpoints.save({"step": 2}, 0, 2)
    newest = checkpoints.folder / "000000-00000002.pt"
    content = bytearray(newest.read_bytes())
    content[place] ^= 1
    newest.write_bytes(content)
    assert checkpoints.load() == {"step": 1}
    assert (
        capsys.readouterr().out
        == "train: deleting the checkpoint 000000-00000002.pt, because it is corrupt\n"
    )
    assert [file.name for file in checkpoints.folder.iterdir()] == ["000000-00000001.pt"]


def test_the_key_is_of_contents_in_their_order_and_of_values(tmp_path: Path) -> None:
    one, two, twin = (tmp_path / name for name in ("one", "two", "twin"))
    one.write_text("1")
    two.write_text("2")
    twin.write_text("1")
    values = {"a": 1, "b": 2}
    key = checkpoint.key([one, two], values)
    assert len(key) == 32
    assert key == checkpoint.key([twin, two], {"b": 2, "a": 1})
    others = [
        ([two, one], values),
        ([one, twin], values),
        ([one], values),
        ([one, two], {"a": 1, "b": 3}),
    ]
    assert key not in {checkpoint.key(files, content) for files, content in others}
