"""Two processes here, or `torchrun` on two machines: the same curve as one, and a loud end when one of them dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ratchet.errors import TrainingError
from tests.helpers.learning_samples import Trainer, checkout, ended, read_until, started

pytest_plugins = ["tests.helpers.learning_fixtures"]

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


@pytest.mark.parametrize(
    "arguments", [pytest.param({}, marks=pytest.mark.long), {"weight": [9.0, *[1.0] * 9]}]
)
def test_two_processes_draw_the_curve_of_one(
    pictures: Path, tmp_path: Path, trained: Trainer, arguments: dict[str, object]
) -> None:
    one, two = (shutil.copytree(pictures, tmp_path / name) for name in ("one", "two"))
    values = {**PLAIN, "train__criterion": {"name": "CrossEntropyLoss", "arguments": arguments}}
    trained(one, **values)
    trained(two, **values, train__processes=2, train__accumulate=2)
    for alone, together in zip(curve(one), curve(two), strict=True):
        assert together == pytest.approx(alone, abs=1e-4)


def children() -> set[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for file in tasks for pid in file.read_text().split()}


@pytest.mark.fault(1)
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
        workers = [
            pid
            for pid in children() - before
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(max(workers), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(
        TrainingError, match=r"one of 2 training processes ended.*run it again to resume"
    ):
        trained(pictured, **both)
    killer.join()
    assert not (pictured / "models").exists()
    position = max(pictured.glob(".checkpoints/*/*.pt")).name
    assert position > "000000"
    capfd.readouterr()
    resumed = trained(pictured, **both)
    assert "resuming from epoch" in capfd.readouterr().out
    assert resumed == trained(whole, **both)


def test_a_fault_in_a_worker_keeps_its_kind_and_words(pictured: Path, trained: Trainer) -> None:
    with pytest.raises(
        TrainingError, match=r"train\.batch_size: 1 rows per step are too few for 2 processes"
    ):
        trained(pictured, **{**PLAIN, "train__batch_size": 1}, train__processes=2)


# ── two machines ──────────────────────────────────────────────────────────────────────────────────


def machines(trees: tuple[Path, Path]) -> list[subprocess.Popen[str]]:
    """A `torchrun` in each tree, as docs/training.md says it for two machines, both on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = [
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        f"{port}",
    ]
    return [
        started(
            ["-m", "torch.distributed.run", *common, "--node-rank", f"{rank}", "-m", "tasks.train"],
            tree,
        )
        for rank, tree in enumerate(trees)
    ]


@pytest.mark.fault(1)
@pytest.mark.long
def test_two_machines_draw_the_curve_of_one_and_survive_a_kill(
    pictures: Path, tmp_path: Path, trained: Trainer
) -> None:
    # SGD: AdamW blows the last bits of tiny gradients up, so that after some epochs even one
    # process in parts parts ways
    longer = {
        **PLAIN,
        "train__epochs": 12,
        "train__optimizer": {"name": "SGD", "arguments": {}},
        "train__lr": 0.05,
    }
    settings = {key.replace("__", "."): json.dumps(value) for key, value in longer.items()}
    settings |= {"train.threads": "1", "run.checkpoint_seconds": "0.05"}
    first, second = (
        checkout(shutil.copytree(pictures, tmp_path / name), settings)
        for name in ("first", "second")
    )

    leader, follower = machines((first, second))
    read_until(leader, "epoch 3/")
    (worker,) = Path(f"/proc/{follower.pid}/task/{follower.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    said = [ended(process, 1) for process in (leader, follower)]
    assert "exitcode  : -9" in said[1]
    assert not (first / "models").exists()

    leader, follower = machines((first, second))
    said = [ended(process, 0) for process in (leader, follower)]
    assert "resuming from epoch" in said[0]
    assert not (second / "models").exists(), "the first machine alone writes"
    one = shutil.copytree(pictures, tmp_path / "one")
    trained(one, **longer)
    for alone, together in zip(curve(one), curve(first), strict=True):
        assert together == pytest.approx(alone, abs=1e-4)


# ── the stage's end ───────────────────────────────────────────────────────────────────────────────


def descendants(pid: int) -> set[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    found = {int(child) for file in files for child in file.read_text().split()}
    return found.union(*map(descendants, found))


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_stage(
    pictures: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    values = {**PLAIN, "train__epochs": 500, "train__processes": 2, "train__threads": 1}
    settings = {key.replace("__", "."): json.dumps(value) for key, value in values.items()}
    tree = checkout(
        shutil.copytree(pictures, tmp_path / "tree"),
        settings | {"run.checkpoint_seconds": "1000.0"},
    )
    stage = started(["-m", "tasks.train"], tree)
    read_until(stage, "epoch 2/")
    workers = descendants(stage.pid)
    assert len(workers) >= 2
    stage.send_signal(number)
    ended(stage, code)
    deadline = time.monotonic() + 10
    while any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in workers
    ):
        assert time.monotonic() < deadline, "a worker is still alive"
        time.sleep(0.1)
    assert bool(list(tree.glob(".checkpoints/*/*.pt"))) == (number == signal.SIGTERM)
