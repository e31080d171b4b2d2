"""`ratchet train` where something is wrong: edited code, bad settings, a stage that fails, a second run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Checkout


@pytest.mark.fault(26)
def test_edited_code_is_refused_before_anything_runs(copy: Checkout) -> None:
    file = copy.path / "ratchet/models/architectures.py"
    file.write_text(file.read_text() + "\n# an experiment\n")
    done = copy.ratchet("train", code=1)
    assert "ratchet/models/architectures.py" in done.stderr
    assert "git add ratchet/models/architectures.py && git commit" in done.stderr
    assert "Traceback" not in done.stderr
    assert "up to date" in copy.run("dvc", "status", "ingest").stdout


def test_bad_input_is_one_message_and_changes_nothing(released: Checkout, tmp_path: Path) -> None:
    tags = released.git("tag")
    for arguments, message in (
        (
            ["train", "--set", "train.epohcs=3"],
            "train.epohcs: unknown key; did you mean train.epochs?",
        ),
        (
            ["train", "--params", "params/fast.yaml"],
            "--params params/fast.yaml: there is no such file",
        ),
        (
            ["predict", "nowhere", "--output", str(tmp_path / "out.parquet")],
            "there is no file at nowhere",
        ),
    ):
        done = released.ratchet(*arguments, code=1)
        assert message in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
    assert released.git("tag") == tags
    assert not list(tmp_path.iterdir())


FAULTY = """
from ratchet.errors import DataError, Unreachable

def faulty(params, tree):
    with Path("attempts").open("a") as file:
        file.write("x")
    attempts = Path("attempts").read_text()
    raise Unreachable("the first fault") if attempts == "x" else DataError("the second fault")

evaluate.fn = faulty
"""


def test_a_stage_that_fails_is_tried_again_only_if_that_may_help(copy: Checkout) -> None:
    """Its first fault passes (exit code 75), its second does not: two attempts, one message, nothing promoted."""
    file = copy.path / "tasks/evaluate.py"
    head, main, tail = file.read_text().partition('\nif __name__ == "__main__":')
    file.write_text(f"{head}{FAULTY}{main}{tail}")
    copy.commit("Break a stage")
    done = copy.ratchet("train", code=1)
    assert (copy.path / "attempts").read_text() == "xx"
    assert "evaluate: the second fault" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert copy.json("versions")[0]["environments"] == ["prod"]


@pytest.mark.fault(4, 33)
def test_others_are_refused_while_it_trains_and_ctrl_c_ends_it_within_seconds(
    copy: Checkout,
) -> None:
    """A second `ratchet train` and `dvc repro` meanwhile change nothing, and the run before still holds afterwards."""
    lock = (copy.path / "dvc.lock").read_bytes()
    copy.set(epochs="2000")
    command = [sys.executable, "-m", "cli", "train"]
    with subprocess.Popen(
        command, cwd=copy.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr
        next(line for line in run.stderr if "epoch 1/2000" in line)
        assert "is busy: process" in copy.ratchet("train", code=75).stderr
        assert "is busy" in copy.run("dvc", "repro", "--single-item", "train", code=255).stderr
        started = time.monotonic()
        run.send_signal(signal.SIGINT)
        rest = run.stderr.read()
        run.wait(30)
    assert time.monotonic() - started < 10
    assert run.returncode == 130
    assert "epoch 2/2000" in rest
    assert "run the same command again to continue from the last checkpoint" in rest
    assert "Traceback" not in rest
    assert (copy.path / "dvc.lock").read_bytes() == lock
    assert copy.json("verify") == []
