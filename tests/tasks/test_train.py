"""The stage: exact, resumable, and loud where the data or the params are wrong.

A number names the fault.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

import tasks.train as verb
from ratchet.errors import CorruptData, TrainingError
from ratchet.models.card import load_model
from ratchet.training import checkpoint
from tests.helpers.learning_samples import ROOT, Trainer, checkout, ended, read_until, started

pytest_plugins = ["tests.helpers.learning_fixtures"]


def stop_after(steps: int) -> Callable[[], bool]:
    """`stopping()` of a process that gets SIGTERM in the midst of training."""
    count = itertools.count()
    return lambda: next(count) >= steps


def test_it_writes_weights_a_card_and_curves(pictured: Path, trained: Trainer) -> None:
    written = trained(pictured)
    model, card = load_model(pictured / "models/classifier.json", pictured / "models/classifier.pt")
    assert card.architecture == {"name": "cnn", "arguments": {}}
    assert not model.training
    lines = written["reports/training/curves.tsv"].decode().splitlines()
    assert lines[0].split("\t") == [
        "epoch",
        "train_loss",
        "val_loss",
        "val_accuracy",
        "learning_rate",
    ]
    assert [line.split("\t")[0] for line in lines[1:]] == ["1", "2"]
    assert not (pictured / ".checkpoints").exists() or not list(
        (pictured / ".checkpoints").iterdir()
    )


def test_one_seed_gives_one_model_and_another_another(
    pictures: Path, tmp_path: Path, trained: Trainer
) -> None:
    first, again, other = (
        shutil.copytree(pictures, tmp_path / name) for name in ("a", "b/deeper", "c")
    )
    assert trained(first) == trained(again)
    assert (
        trained(other, train__seed=1)["models/classifier.pt"]
        != (first / "models/classifier.pt").read_bytes()
    )


@pytest.mark.fault(1)
def test_a_stopped_run_goes_on_and_ends_bit_equal(
    pictures: Path, tmp_path: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = {
        "train__ema": 0.9,
        "train__patience": 2,
        "train__augment__crop": 2,
        "run__loader_workers": 2,
    }
    whole = trained(shutil.copytree(pictures, tmp_path / "whole"), **hard)
    pictured = shutil.copytree(pictures, tmp_path / "stopped")
    monkeypatch.setattr(verb, "stopping", stop_after(3))
    with pytest.raises(SystemExit, match="143"):
        trained(pictured, **hard)
    assert list((pictured / ".checkpoints").rglob("*.pt"))
    monkeypatch.setattr(verb, "stopping", lambda: False)
    assert trained(pictured, **hard) == whole


@pytest.mark.fault(29)
def test_a_corrupt_checkpoint_gives_way_to_the_one_before(
    pictures: Path,
    tmp_path: Path,
    trained: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = trained(shutil.copytree(pictures, tmp_path / "whole"))
    pictured = shutil.copytree(pictures, tmp_path / "stopped")
    monkeypatch.setattr(verb, "stopping", stop_after(5))
    with pytest.raises(SystemExit):
        trained(pictured)
    newest = max((pictured / ".checkpoints").rglob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    monkeypatch.setattr(verb, "stopping", lambda: False)
    capsys.readouterr()
    assert trained(pictured) == whole
    said = capsys.readouterr().out
    assert f"deleting the checkpoint {newest.name}, because it is corrupt" in said
    assert "resuming from epoch 1, step" in said


def test_other_data_or_params_start_afresh(
    pictured: Path,
    trained: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verb, "stopping", stop_after(5))
    with pytest.raises(SystemExit):
        trained(pictured)
    monkeypatch.setattr(verb, "stopping", lambda: False)
    trained(pictured, train__lr=0.001)
    targets = pictured / "data/prepared/train/targets.npy"
    np.save(targets, np.load(targets)[::-1])
    trained(pictured)
    assert "goes on" not in capsys.readouterr().out


def test_a_change_of_any_dep_starts_afresh(
    pictured: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dvc.yaml says that the stage reads is in the name of its checkpoints."""
    seen: set[Path] = set()
    key = checkpoint.key

    def watched(files: list[Path], values: dict[str, object]) -> str:
        seen.update(file.resolve() for file in files)
        return key(files, values)

    monkeypatch.setattr(checkpoint, "key", watched)
    own = [
        pictured / "custom/__init__.py",
        pictured / "custom/models/net.py",
        pictured / "custom/models/sizes.json",
    ]
    (pictured / "custom/models").mkdir(parents=True)
    for file in own:
        file.touch()
    trained(pictured)
    deps = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["train"]["deps"]
    places = [ROOT / dep for dep in deps if dep.startswith(("tasks/", "ratchet/"))]
    code = {
        file for place in places for file in ([place] if place.is_file() else place.glob("*.py"))
    }
    assert len(code) > 20
    assert code <= seen
    assert {file.resolve() for file in own} <= seen
    data = [pictured / dep for dep in deps if dep.startswith("data/")]
    assert all(any(file.is_relative_to(place.resolve()) for file in seen) for place in data)


@pytest.mark.fault(18)
def test_a_loss_that_is_no_number_stops_within_a_step(pictured: Path, trained: Trainer) -> None:
    with pytest.raises(
        TrainingError, match=r"the loss became (nan|inf) in epoch 1, step [1-9].*lower train.lr"
    ):
        trained(
            pictured,
            train__lr=1e30,
            train__optimizer={"name": "SGD", "arguments": {}},
            train__schedule=None,
        )
    assert not (pictured / "models").exists()


@pytest.mark.fault(18)
def test_a_nan_in_the_data_is_named(tables: Path, trained: Trainer) -> None:
    file = tables / "data/prepared/train/inputs.npy"
    rows = np.load(file)
    rows[3, 2] = np.nan
    np.save(file, rows)
    with pytest.raises(
        TrainingError, match=r"the loss became nan in epoch 1.*extreme values in the data"
    ):
        trained(tables, model__name="mlp")


def test_features_train_the_simple_net(
    tables: Path, trained: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(
        tables,
        model__name="simple_net",
        train__criterion={"name": "BCELoss", "arguments": {}},
        train__epochs=20,
        train__precision="float32",
    )
    last = (tables / "reports/training/curves.tsv").read_text().splitlines()[-1].split("\t")
    assert float(last[3]) > 0.8
    card = json.loads((tables / "models/classifier.json").read_text())
    assert card["spec"]["classes"] == ["no", "yes"]
    said = capsys.readouterr().out
    assert " rows/s" in said and "images" not in said


def test_without_prepared_data_it_says_what_to_run(tmp_path: Path, trained: Trainer) -> None:
    with pytest.raises(
        CorruptData, match=r"spec\.json cannot be read as a spec.*run `dvc repro prepare`"
    ):
        trained(tmp_path)


@pytest.mark.fault(33)
def test_sigterm_writes_a_checkpoint_and_ends_within_seconds(
    pictures: Path, tmp_path: Path
) -> None:
    endless = {"train.epochs": "100000", "train.batch_size": "50", "train.threads": "1"}
    pictured = checkout(shutil.copytree(pictures, tmp_path / "pictured"), endless)
    process = started(["-m", "tasks.train"], pictured)
    read_until(process, "epoch 2/")
    asked = time.monotonic()
    process.terminate()
    ended(process, 143)
    assert time.monotonic() - asked < 10
    assert list((pictured / ".checkpoints").rglob("*.pt"))


@pytest.mark.fault(1)
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_ends_bit_equal(
    pictures: Path, tmp_path: Path, kills: int
) -> None:
    """`kill -9` in the middle of training.

    `python -m benchmarks.training kills` does it for 50 runs.
    """
    settings = {
        "train.epochs": "6",
        "train.batch_size": "25",
        "train.threads": "1",
        "run.checkpoint_seconds": "0.05",
    }
    whole, killed = (
        checkout(shutil.copytree(pictures, tmp_path / name), settings)
        for name in ("whole", "killed")
    )
    ended(started(["-m", "tasks.train"], whole), 0)
    draw = random.Random(1)
    for _ in range(kills):
        process = started(["-m", "tasks.train"], killed)
        read_until(process, " parameters, on ")
        while not list((killed / ".checkpoints").glob("*/*.pt")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        ended(process, -signal.SIGKILL)
    assert "resuming from epoch" in ended(started(["-m", "tasks.train"], killed), 0)
    for name in ("models/classifier.pt", "models/classifier.json", "reports/training/curves.tsv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


TOGETHER = """
import os, sys
from pathlib import Path
import tasks.train as verb
from ratchet.errors import Busy
from tests.helpers.learning_samples import chosen
home, *trees = map(Path, sys.argv[1:])
verb.scratch = lambda tree: home
params = chosen(train__epochs=1)

def run(tree):
    try:
        verb.train.fn(params, tree)
        return 0
    except Busy as error:
        print("BUSY", error, flush=True)
        return error.exit_code

children = []
for tree in trees:
    children.append(os.fork())
    if not children[-1]:
        code = 1
        try:
            code = run(tree)
        finally:
            os._exit(code)
print("CODES", *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_runs_of_one_key_at_once_end_well_or_busy_with_equal_weights(
    pictures: Path, tmp_path: Path, trained: Trainer
) -> None:
    trees = [shutil.copytree(pictures, tmp_path / name) for name in "abc"]
    output = ended(started(["-c", TOGETHER, str(tmp_path / "home"), *map(str, trees)], tmp_path), 0)
    codes = [int(code) for code in output.splitlines()[-1].split()[1:]]
    assert set(codes) <= {0, 75}, output
    assert 0 in codes, output
    busy = [line for line in output.splitlines() if line.startswith("BUSY")]
    assert len(busy) == codes.count(75)
    assert all(
        re.match(
            "BUSY a run that trains the same model on the same data, in .* is busy: process", line
        )
        for line in busy
    )
    alone = trained(shutil.copytree(pictures, tmp_path / "alone"), train__epochs=1)[
        "models/classifier.pt"
    ]
    for tree, code in zip(trees, codes, strict=True):
        assert code == 75 or (tree / "models/classifier.pt").read_bytes() == alone
    assert not list((tmp_path / "home/.checkpoints").iterdir())


FULL = """
import sys
from pathlib import Path
import tasks.train as verb
from ratchet.errors import RatchetError
from tests.helpers.learning_samples import chosen
tree = Path(sys.argv[1])
verb.scratch = lambda tree: tree
try:
    verb.train.fn(chosen(), tree)
except RatchetError as error:
    print(error)
print("left:", [str(file) for name in (".checkpoints", "models") for file in (tree / name).rglob("*.*")])
"""


@pytest.mark.fault(5)
@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0,
    reason="no namespaces here",
)
@pytest.mark.parametrize(
    ("place", "file"),
    [
        (".checkpoints", r"\.checkpoints/\w+/000000-00000001\.pt"),
        ("models", r"models/classifier\.pt"),
    ],
)
def test_a_full_disk_ends_it_with_nothing_half_written(
    pictures: Path, tmp_path: Path, trained: Trainer, place: str, file: str
) -> None:
    """A file system of 1 MB at `place`.

    With room again, the same run ends as if there had been room all the time.
    """
    pictured = shutil.copytree(pictures, tmp_path / "pictured")
    (pictured / place).mkdir()
    mount = f'mount -t tmpfs -o size=1m none {pictured}/{place} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", FULL, str(pictured)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(
        rf"the disk is full: \S+/{file} could not be written; make room, then run it again",
        done.stdout,
    )
    left = done.stdout.splitlines()[-1]
    assert left == "left: []" if place == ".checkpoints" else "models" not in left
    assert trained(pictured) == trained(shutil.copytree(pictures, tmp_path / "whole"))
