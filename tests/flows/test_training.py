"""The training flow as a person starts it: `ratchet train` in a clone, on a sample of Fashion-MNIST."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ratchet import out_of_date
from tests.conftest import Checkout, Second, duplicate
from tests.registry.test_texts import REASONS
from tests.test_layout import closure, dep

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


def test_dvc_repro_in_another_clone_leaves_the_same_lock(
    released: Checkout, tmp_path: Path
) -> None:
    other = Checkout(tmp_path / "somewhere/else")
    released.git("clone", "--quiet", str(released.path), str(other.path))
    other.run("dvc", "repro", "--force", "--no-run-cache")
    assert (other.path / "dvc.lock").read_bytes() == (released.path / "dvc.lock").read_bytes()


EDITS: list[
    tuple[str, str, set[str]]
] = [  # a value in params.yaml, another one, and the stages that read it
    (r"shard_rows: \S+", "shard_rows: 999", {"ingest"}),
    ("name: FashionMNIST", "name: KMNIST", {"ingest"}),
    (r"max_bad_fraction: \S+", "max_bad_fraction: 0.06", {"validate"}),
    (
        r"val_fraction: \S+",
        "val_fraction: 0.11",
        {"validate", "prepare"},
    ),  # validate warns about few test rows
    ("name: cnn", "name: mlp", {"train"}),
    (r"seed: \S+", "seed: 1", {"train"}),
    (r"worst: \S+", "worst: 3", {"evaluate"}),
    (r"margin: \S+", "margin: 0.1", set()),
    (r"checkpoint_seconds: \S+", "checkpoint_seconds: 31", set()),
]


def test_a_param_reruns_exactly_the_stages_that_read_it(copy: Checkout) -> None:
    file = copy.path / "params.yaml"
    text = file.read_text()
    for value, other, readers in EDITS:
        edited, count = re.subn(rf"(?m)^( *){value}", rf"\g<1>{other}", text)
        assert count == 1, value
        file.write_text(edited)
        assert set(out_of_date.changes(copy.path)) == readers, other


def test_an_edited_module_reruns_exactly_the_stages_that_import_its_room(copy: Checkout) -> None:
    """Which stages import it is read from the code, not from dvc.yaml."""
    listed = {name: {dep(module) for module in closure(f"tasks.{name}")} for name in STAGES}
    edited = ("tasks.ingest", "ratchet.models.architectures", "ratchet.shards.shards", "ratchet.gate.decisions",
              "ratchet.stage")  # fmt: skip
    readers = [{name for name in STAGES if dep(module) in listed[name]} for module in edited]
    assert readers == [
        {"ingest"},
        {"train", "evaluate"},
        {"ingest", "validate", "prepare"},
        set(),
        set(),
    ]
    for module, expected in zip(edited, readers, strict=True):
        file = copy.path / f"{module.replace('.', '/')}.py"
        text = file.read_text()
        file.write_text(f"{text}\n# edited\n")
        assert set(out_of_date.changes(copy.path)) == expected, module
        file.write_text(text)


def test_a_run_with_other_params_works_in_a_tree_of_its_own(
    released: Checkout, second: Second
) -> None:
    """`second` is a copy of `released` after that run."""
    checkout, summary = second
    assert how(summary) == dict.fromkeys(STAGES[:3], "cached") | dict.fromkeys(STAGES[3:], "ran")
    assert summary["stages"][3]["why"] == ["param train.seed: 0 → 1"]
    assert (summary["version"], summary["serves"]) == ("v1.0.1", "v1.0.1")
    assert (checkout.path / summary["report"]).is_file()
    for file in ("dvc.lock", "models/classifier.pt"):
        assert (checkout.path / file).read_bytes() == (released.path / file).read_bytes()
    assert checkout.git("status", "--porcelain", "--untracked-files=no") == ""
    assert checkout.git("worktree", "list").count("\n") == 0

    # ── what was set for the gate holds for this run alone
    assert checkout.json("show", "v1.0.1")["overrides"] == {"gate.max_shrink": "1"}
    params = checkout.git("show", "classifier@v1.0.1:params.yaml")
    assert "  max_shrink: 0.5 " in params
    assert "  seed: 1 " in params
    assert (
        json.loads(checkout.git("show", "classifier@v1.0.1:reports/drift.json"))["against"]
        == "v1.0.0"
    )


@pytest.mark.fault(35)
def test_no_run_undoes_a_rollback(second: Second, tmp_path: Path) -> None:
    for copy in duplicate(second.checkout, tmp_path / "copy"):
        assert "v1.0.0 serves in prod again" in copy.ratchet("rollback").stdout
        again = copy.json("train", "--set", "train.seed=1")
        assert (again["version"], again["serves"]) == (None, "v1.0.0")
        assert copy.json("promote", "v1.0.1")["version"] == "v1.0.1"


@pytest.mark.long
@pytest.mark.fault(30, 35)
@pytest.mark.timeout(1200)
def test_no_run_undoes_a_rollback_whatever_its_reason(second: Second, tmp_path: Path) -> None:
    for copy in duplicate(second.checkout, tmp_path / "copy"):
        for reason in REASONS[:9:2] + REASONS[-7:-4]:
            assert copy.json("rollback", f"--reason={reason}")["reason"] == reason
            again = copy.json("train", "--set", "train.seed=1")  # it makes the weights of v1.0.1
            assert (again["version"], again["serves"]) == (None, "v1.0.0")
            spans = copy.json("history")
            assert (spans[-1]["action"], spans[-1]["reason"]) == ("rollback", reason)
            copy.ratchet("history")
            assert copy.json("promote", "v1.0.1", f"--reason={reason}")["version"] == "v1.0.1"
