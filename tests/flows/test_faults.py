"""Faults of a run by their number in the list of what can go wrong.

Those of a standing service are in the files beside.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.conftest import BIN, Checkout
from tests.helpers.standing import stage_processes, until


@pytest.mark.long
@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_runs_of_one_commit_at_once_end_well_or_busy_and_leave_nothing(
    copy: Checkout, tmp_path: Path, count: int
) -> None:
    copy.set(margin="0.9")
    copy.commit("Let everything through")
    settings = ["--set", "train.seed=7", "--set", "gate.max_shrink=1"]
    command = [str(BIN / "python"), "-m", "cli", "train", "--json", *settings]
    with contextlib.ExitStack() as stack:
        texts = [
            stack.enter_context((tmp_path / f"{number}.txt").open("w+"))
            for number in range(2 * count)
        ]
        outputs = list(zip(texts[::2], texts[1::2], strict=True))
        runs = [
            subprocess.Popen(command, cwd=copy.path, stdout=out, stderr=err) for out, err in outputs
        ]
        for run in runs:
            stack.callback(run.wait)
            stack.callback(run.kill)
        codes = [run.wait(1800) for run in runs]
        summaries = []
        for code, (out, err) in zip(codes, outputs, strict=True):
            out.seek(0)
            err.seek(0)
            lines = err.read().splitlines()
            if code == 0:
                summaries.append(json.loads(out.read()))
            else:
                assert code == 75, lines
                assert len(lines) == 1 and "is busy: process" in lines[0]
    print(
        f"{len(summaries)} of {count} ended well: {sorted(summary['name'] for summary in summaries)}"
    )
    assert len({(summary["accuracy"], summary["loss"]) for summary in summaries}) == 1
    assert {summary["version"] for summary in summaries} <= {"v1.0.1", None}
    assert copy.git("tag", "--list", "classifier#*").splitlines() == [
        "classifier#prod#1",
        "classifier#prod#2",
    ]
    assert [entry["version"] for entry in copy.json("versions")] == ["v1.0.1", "v1.0.0"]
    assert not list((copy.path / ".checkpoints").iterdir())
    assert [path.name for path in (copy.path / ".runs").iterdir()] == ["reports"]
    assert len(copy.git("worktree", "list").splitlines()) == 1
    assert not list(copy.path.rglob(".ratchet-*"))
    copy.ratchet("verify")


@pytest.mark.fault(19)
@pytest.mark.long
def test_out_of_memory_is_said_and_the_next_run_recovers(copy: Checkout) -> None:
    """In 12 GB of address space, 14 GB of weights."""
    settings = "--set model.name=mlp --set 'model.arguments={widths: [60000, 60000]}' --set train.threads=1"
    done = copy.run(
        "bash", "-c", f"ulimit -v 12000000 && exec python -m cli train {settings}", code=1
    )
    assert "train: " in done.stderr
    assert "memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert copy.json("versions")[0]["environments"] == ["prod"]
    assert copy.json("train")["serves"] == "v1.0.0"


@pytest.mark.fault(19)
@pytest.mark.long
def test_a_loader_worker_that_dies_is_said_and_the_next_run_goes_on(copy: Checkout) -> None:
    chosen = {
        "run.loader_workers": "1",
        "train.resident": "false",
        "run.checkpoint_seconds": "0.1",
        "train.epochs": "40",
    }
    settings = [
        text
        for key, value in (chosen | {"train.threads": "1"}).items()
        for text in ("--set", f"{key}={value}")
    ]
    command = [str(BIN / "python"), "-m", "cli", "train", *settings]
    with subprocess.Popen(
        command, cwd=copy.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr
        next(line for line in run.stderr if "epoch 3/40" in line)
        (stage,) = (
            each
            for each in stage_processes(copy.path)
            if "-m tasks.train" in " ".join(each.cmdline())
        )
        for worker in loader_workers(stage):
            os.kill(worker.pid, signal.SIGKILL)
        said = run.stderr.read()
        run.wait(60)
    assert run.returncode == 1
    assert "train: " in said
    assert "worker" in said
    assert "Traceback" not in said.split("ratchet: ")[-1]
    again = copy.ratchet("train", *settings)
    assert "epoch 40/40" in again.stderr
    assert "epoch 1/40" not in again.stderr


def loader_workers(stage: psutil.Process) -> list[psutil.Process]:
    """The newest children: a loader starts its workers anew in each epoch."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = stage.children()
        return bool(found)

    until(look, 30)
    return found
