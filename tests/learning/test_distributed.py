"""Two processes on this machine: the same curve as one, and a loud end when one of them dies."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from tasks.errors import TrainingError
from tests.learning.samples import Trainer

pytest_plugins = ["tests.learning.fixtures"]

PLAIN = {
    "model__name": "mlp",
    "model__arguments": {"dropout": 0.0},
    "train__precision": "float32",
    "train__augment__flip": False,
    "train__batch_size": 49,
}


def curve(pictured: Path) -> list[list[float]]:
    return [
        [float(x) for x in line.split()]
        for line in (pictured / "reports/training/curves.tsv").read_text().splitlines()[1:]
    ]


def test_two_processes_draw_the_curve_of_one(pictures: Path, tmp_path: Path, trained: Trainer) -> None:
    one, two = (shutil.copytree(pictures, tmp_path / name) for name in ("one", "two"))
    trained(one, **PLAIN)
    trained(two, **PLAIN, train__processes=2, train__accumulate=2)
    for alone, together in zip(curve(one), curve(two), strict=True):
        assert together == pytest.approx(alone, abs=1e-4)


def children() -> set[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for file in tasks for pid in file.read_text().split()}


@pytest.mark.long
def test_a_killed_worker_ends_all_and_the_next_run_goes_on(
    pictures: Path, tmp_path: Path, trained: Trainer, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, pictured = (shutil.copytree(pictures, tmp_path / name) for name in ("whole", "killed"))
    both = {**PLAIN, "train__processes": 2, "train__epochs": 6}
    before = children()

    def kill() -> None:
        while not list(pictured.glob(".checkpoints/*/*.pt")):
            time.sleep(0.05)
        workers = [pid for pid in children() - before if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(max(workers), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(TrainingError, match=r"one of 2 training processes ended.*run it again to go on"):
        trained(pictured, **both)
    killer.join()
    assert not (pictured / "models").exists()
    position = max(pictured.glob(".checkpoints/*/*.pt")).name
    assert position > "000000"
    capfd.readouterr()
    resumed = trained(pictured, **both)
    assert "goes on from epoch" in capfd.readouterr().out
    assert resumed == trained(whole, **both)


def test_a_fault_in_a_worker_keeps_its_kind_and_words(pictured: Path, trained: Trainer) -> None:
    with pytest.raises(TrainingError, match=r"train\.batch_size: 1 rows a step are too few for 2 processes"):
        trained(pictured, **{**PLAIN, "train__batch_size": 1}, train__processes=2)
