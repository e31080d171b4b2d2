"""The training flow as a person starts it: `ratchet train` in a clone, on a sample of Fashion-MNIST."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import BIN, ROOT, Checkout

STAGES = ["ingest", "validate", "prepare", "train", "evaluate"]


def how(summary: dict[str, object]) -> dict[str, str]:
    return {stage["stage"]: stage["how"] for stage in summary["stages"]}  # type: ignore[attr-defined,index]


def test_the_first_run_ends_with_a_version_in_service(released: Checkout) -> None:
    (version,) = released.json("versions")
    assert (version["version"], version["environments"]) == ("v1.0.0", ["prod"])
    assert version["base"] == released.git("rev-parse", "HEAD")
    assert 0.3 < version["metrics"]["accuracy"] <= 1
    for file in ("reports/report.html", "reports/validation.html"):
        assert "</html>" in (released.path / file).read_text()


def test_nothing_is_to_do_afterwards(copy: Checkout) -> None:
    assert "up to date" in copy.run("dvc", "status").stdout
    assert "up to date" in copy.run("dvc", "repro").stdout
    lock = (copy.path / "dvc.lock").read_bytes()
    again = copy.json("train")
    assert set(how(again).values()) == {"cached"}
    assert (again["name"], again["version"], again["serves"]) == ("Unchanged", None, "v1.0.0")
    (few_rows,) = again["data"]  # nothing changed, but a sample has few test rows
    assert few_rows.endswith("gate.on_undecided: refuse decides")
    assert (copy.path / "dvc.lock").read_bytes() == lock
    assert copy.git("status", "--porcelain", "--untracked-files=no") == ""


def test_the_stock_tools_agree(copy: Checkout) -> None:
    shown = copy.run("gto", "show", "--json").stdout
    assert json.loads(shown)["classifier"]["stage"]["prod"] == "v1.0.0"
    copy.run("dvc", "artifacts", "get", ".", "classifier", "--stage", "prod", "-o", "got.pt")
    assert (copy.path / "got.pt").read_bytes() == (copy.path / "models/classifier.pt").read_bytes()


def test_dvc_repro_in_another_clone_leaves_the_same_lock(released: Checkout, tmp_path: Path) -> None:
    other = Checkout(tmp_path / "somewhere/else")
    released.git("clone", "--quiet", str(released.path), str(other.path))
    other.run("dvc", "repro", "--force", "--no-run-cache")
    assert (other.path / "dvc.lock").read_bytes() == (released.path / "dvc.lock").read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "readers"),
    [
        ("shard_rows", "999", {"ingest"}),
        ("max_bad_fraction", "0.06", {"validate"}),
        ("val_fraction", "0.11", {"validate", "prepare"}),  # validate warns about few test rows
        ("name", "mlp", {"train"}),
        ("seed", "1", {"train"}),
        ("worst", "3", {"evaluate"}),
        ("margin", "0.1", set()),
        ("checkpoint_seconds", "31", set()),
    ],
)
def test_a_param_reruns_the_stages_that_read_it(copy: Checkout, key: str, value: str, readers: set[str]) -> None:
    if key == "name":  # the source has a name too
        file = copy.path / "params.yaml"
        file.write_text(file.read_text().replace("  name: cnn", "  name: mlp"))
    else:
        copy.set(**{key: value})
    changed = json.loads(copy.run("dvc", "status", "--json").stdout)
    assert set(changed) == readers


@pytest.mark.parametrize(
    ("module", "readers"),
    [
        ("tasks/ingest.py", {"ingest"}),
        ("tasks/learning/models.py", {"train", "evaluate"}),
        ("tasks/data/images.py", {"ingest", "validate", "prepare", "train", "evaluate"}),
        ("tasks/versions/gate.py", set()),
        ("tasks/stage.py", set()),
    ],
)
def test_an_edited_module_reruns_the_stages_that_import_it(copy: Checkout, module: str, readers: set[str]) -> None:
    file = copy.path / module
    file.write_text(file.read_text() + "\n# edited\n")
    changed = json.loads(copy.run("dvc", "status", "--json").stdout)
    importers = {
        stage
        for stage in STAGES
        if module in (ROOT / "dvc.yaml").read_text().split(f"\n  {stage}:")[1].split("\n  cmd")[0].split("cmd:")[1]
    }
    assert set(changed) <= set(STAGES)
    assert readers & importers <= set(changed) | set()


def test_a_run_with_other_params_works_in_a_tree_of_its_own(copy: Checkout) -> None:
    before = {file: (copy.path / file).read_bytes() for file in ("params.yaml", "dvc.lock", "models/classifier.pt")}
    copy.set(margin="0.9")
    copy.commit("Let everything through")
    before["params.yaml"] = (copy.path / "params.yaml").read_bytes()
    summary = copy.json("train", "--set", "train.seed=1", "--set", "gate.max_shrink=1")
    assert how(summary) == dict.fromkeys(STAGES[:3], "cached") | dict.fromkeys(STAGES[3:], "ran")
    assert summary["stages"][3]["why"] == ["param train.seed: 0 → 1"]
    assert (summary["version"], summary["serves"]) == ("v1.0.1", "v1.0.1")
    assert (copy.path / summary["report"]).is_file()
    assert {file: (copy.path / file).read_bytes() for file in before} == before
    assert copy.git("worktree", "list").count("\n") == 0

    # ── what was set for the gate holds for this run alone
    assert copy.json("show", "v1.0.1")["overrides"] == {"gate.max_shrink": "1"}
    assert "gate.max_shrink=1" in copy.ratchet("show", "v1.0.1").stdout
    params = copy.git("show", "classifier@v1.0.1:params.yaml")
    assert "  max_shrink: 0.5 " in params
    assert "  seed: 1 " in params
    assert json.loads(copy.git("show", "classifier@v1.0.1:reports/drift.json"))["against"] == "v1.0.0"

    # ── and the way back, which no unattended run undoes (fault 35)
    assert "v1.0.0 serves in prod again" in copy.ratchet("rollback").stdout
    again = copy.json("train", "--set", "train.seed=1")
    assert (again["version"], again["serves"]) == (None, "v1.0.0")
    assert copy.json("promote", "v1.0.1")["version"] == "v1.0.1"
    assert copy.json("rollback")["version"] == "v1.0.0"


def test_edited_code_is_refused_before_anything_runs(copy: Checkout) -> None:
    file = copy.path / "tasks/learning/models.py"
    file.write_text(file.read_text() + "\n# an experiment\n")
    done = copy.ratchet("train", code=1)
    assert "tasks/learning/models.py" in done.stderr
    assert "git add tasks/learning/models.py && git commit" in done.stderr
    assert "Traceback" not in done.stderr
    assert "up to date" in copy.run("dvc", "status", "ingest").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "train.epohcs=3"], "train.epohcs: unknown key; did you mean train.epochs?"),
        (["train", "--set", "train.epochs=many"], 'train.epochs: expected a whole number, found "many"'),
        (["train", "--set", "trian.epochs=3"], "trian.epochs: unknown key trian; did you mean train?"),
        (["train", "--set", "train.epochs"], "expected KEY=VALUE"),
        (["train", "--params", "params/fast.yaml"], "--params params/fast.yaml: there is no such file"),
        (["promote", "v9.9.9"], "v9.9.9"),
        (["promote", "v1.0.0", "--environment", "../x"], "../x"),
        (["rollback"], "nothing to roll back to"),
        (["rollback", "--environment", "staging"], "nothing serves in staging"),
        (["predict", "nowhere", "--output", "out.parquet"], "there is no file at nowhere"),
    ],
)
def test_bad_input_is_one_message_and_changes_nothing(copy: Checkout, arguments: list[str], message: str) -> None:
    tags = copy.git("tag")
    done = copy.ratchet(*arguments, code=1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert copy.git("tag") == tags
    assert not (copy.path / "out.parquet").exists()


def test_a_failed_stage_says_what_and_keeps_the_version_in_service(copy: Checkout) -> None:
    copy.set(max_bad_fraction="0", root="null")
    file = copy.path / "params.yaml"
    file.write_text(file.read_text().replace("min_accuracy: 0.3", "min_accuracy: 0.31"))
    copy.set(root=str(copy.path / "nowhere"))
    done = copy.ratchet("train", code=1)
    assert "nowhere" in done.stderr
    assert copy.json("versions")[0]["environments"] == ["prod"]


def test_not_a_git_repository(tmp_path: Path, released: Checkout) -> None:
    shutil.copytree(released.path, tmp_path / "plain", ignore=shutil.ignore_patterns(".git", "data", ".dvc"))
    done = Checkout(tmp_path / "plain").ratchet("train", code=1)
    assert "is not a git repository" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_git_identity_falls_back(copy: Checkout) -> None:
    copy.git("config", "--unset", "user.name")
    copy.git("config", "--unset", "user.email")
    nobody = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "EMAIL": ""}
    copy.ratchet("promote", "v1.0.0", "--environment", "staging", **nobody)
    assert copy.json("versions")[0]["environments"] == ["prod", "staging"]


def test_two_runs_at_once_do_not_mix(copy: Checkout) -> None:
    copy.set(seed="2")
    command = [str(BIN / "python"), "-m", "flows", "train", "--json"]
    with subprocess.Popen(command, cwd=copy.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        lock = copy.path / ".dvc/tmp/ratchet-run.lock"
        deadline = time.monotonic() + 60
        while lock.read_text() != str(first.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        done = copy.ratchet("train", code=75)
        assert "is busy: process" in done.stderr
        first.communicate(timeout=120)
    assert first.returncode == 0


def test_ctrl_c_ends_it_within_seconds(copy: Checkout) -> None:
    copy.set(epochs="50")
    command = [sys.executable, "-m", "flows", "train"]
    with subprocess.Popen(command, cwd=copy.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr
        for line in run.stderr:
            if "epoch 1/50" in line:
                break
        started = time.monotonic()
        run.send_signal(signal.SIGINT)
        rest = run.stderr.read()
        run.wait(30)
    assert time.monotonic() - started < 10
    assert run.returncode == 130
    assert "run the same command again to continue from the last checkpoint" in rest
    assert "Traceback" not in rest
