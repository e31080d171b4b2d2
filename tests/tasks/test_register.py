from __future__ import annotations

import json
from pathlib import Path

import pytest

from ratchet.errors import CorruptModel, DirtyCode, ObjectsMissing, Unreachable, VersionError
from ratchet.git import files, git, head, read
from ratchet.overrides import replaced
from ratchet.registry.history import show
from ratchet.store import pipeline, remote
from tasks.register import register
from tests.helpers.toy import Toy, dvc_status, gto_stages, tool


def test_a_version_is_a_commit_beside_the_branch(toy: Toy) -> None:
    base = head(toy.tree)
    version = toy.register("weights")

    assert version.name == "v1.0.0"
    assert head(toy.tree) == base
    assert git("rev-parse", f"{version.commit}^", cwd=toy.tree) == base
    assert read(toy.tree, version.commit, "dvc.lock") == (toy.tree / "dvc.lock").read_bytes()
    assert read(toy.tree, version.commit, "reports/training/curves.tsv") is not None
    assert read(toy.tree, version.commit, "models/classifier.pt") is None
    assert git("diff", "--cached", "--name-only", cwd=toy.tree) == ""


def test_the_message_is_for_people_first(toy: Toy) -> None:
    version = toy.register("weights", accuracy=0.9321)
    subject, _, rest = version.tag.message.partition("\n")
    assert subject == "classifier v1.0.0: accuracy 0.9321 on 1,000 rows"
    assert rest.startswith("\nFirst version.\nGate: promote, a toy.\n")
    assert version.metrics["intervals"] == {"accuracy": pytest.approx([0.9121, 0.9521])}
    assert {**version.metrics, "intervals": 0} == {
        "accuracy": 0.9321,
        "loss": 0.5,
        "rows": 1000,
        "intervals": 0,
    }


def test_the_number_says_what_changed(toy: Toy) -> None:
    reasons = {}

    def note(weights: str, **run: object) -> None:
        version = toy.register(weights, **run)
        reasons[version.name] = version.data["reason"]

    note("a")
    toy.set("train.seed", 1)
    note("b")
    toy.set("train.epochs", 3)
    note("c")
    toy.write({"source.lock": '{"rows": 2}\n'})
    note("d")
    toy.write({"code/train.py": "# better\n"})
    toy.commit("Train better")
    note("e")
    note("f", classes=("cat", "dog", "eel"))
    note("g", classes=("cat", "dog", "eel"))
    assert reasons == {
        "v1.0.0": "first version",
        "v1.0.1": "patch: changed only the seed",
        "v1.1.0": "minor: changed params (train.epochs)",
        "v1.2.0": "minor: changed data",
        "v1.2.1": "patch: changed only code (code/train.py)",
        "v2.0.0": "major: the contract changed (classes)",
        "v2.0.1": "patch: nothing changed but the weights",
    }


@pytest.mark.fault(26)
def test_edited_code_is_refused_and_nothing_written(toy: Toy) -> None:
    toy.write({"code/train.py": "# edited\n", "custom/mine.py": "# new\n"})
    with pytest.raises(
        DirtyCode,
        match=r"code/train\.py, custom/mine\.py: .*`git add code/train\.py custom/mine\.py && git",
    ):
        toy.register("weights")
    assert toy.registry.versions() == []
    git("checkout", "--quiet", "code/train.py", cwd=toy.tree)
    (toy.tree / "custom/mine.py").unlink()
    toy.write(
        {"README.md": "not code\n", "dvc.yaml": (toy.tree / "dvc.yaml").read_text() + "# edited\n"}
    )
    with pytest.raises(DirtyCode, match=r"^dvc\.yaml: differs from commit"):
        toy.register("weights")


@pytest.mark.fault(26)
def test_a_persons_edits_are_never_swept_in(toy: Toy) -> None:
    toy.write({"README.md": "a draft\n"})
    git("add", "README.md", cwd=toy.tree)
    version = toy.register("weights")
    assert read(toy.tree, version.commit, "README.md") is None
    assert git("status", "--short", "README.md", cwd=toy.tree) == "A  README.md"


def test_code_committed_since_the_start_counts_as_edited(toy: Toy) -> None:
    base = head(toy.tree)
    toy.write({"code/train.py": "# committed while the run went on\n"})
    toy.commit("Edit")
    sha256 = toy.run("weights")
    with pytest.raises(DirtyCode, match=r"code/train\.py: differs from commit " + base[:12]):
        register.fn(toy.params, toy.tree, toy.decide(sha256), base)


def test_the_same_weights_make_no_second_version(toy: Toy) -> None:
    first = toy.register("weights")
    toy.set("train.epochs", 3)
    again = toy.register("weights")
    assert (again.name, again.tag, first.changed, again.changed) == (
        first.name,
        first.tag,
        True,
        False,
    )
    assert len(toy.registry.versions()) == 1


def test_what_the_gate_did_not_let_through_is_refused(toy: Toy) -> None:
    decision = toy.decide(toy.run("weights"), verdict="undecided")
    with pytest.raises(VersionError, match="the gate says undecided"):
        register.fn(toy.params, toy.tree, decision, head(toy.tree))


def test_other_weights_than_the_gate_saw_are_refused(toy: Toy) -> None:
    decision = toy.decide(toy.run("weights"))
    (toy.tree / "models/classifier.pt").write_text("swapped")
    with pytest.raises(CorruptModel, match=r"its card says .* and the gate saw"):
        register.fn(toy.params, toy.tree, decision, head(toy.tree))


@pytest.mark.fault(25)
@pytest.mark.parametrize("kept", [0.3, 0.8])
def test_a_cut_lock_is_named(toy: Toy, kept: float) -> None:
    decision = toy.decide(toy.run("weights"))
    lines = (toy.tree / "dvc.lock").read_text().splitlines()
    (toy.tree / "dvc.lock").write_text("\n".join(lines[: int(len(lines) * kept)]))
    with pytest.raises(VersionError, match=r"dvc\.lock in .* lacks .* of stage"):
        register.fn(toy.params, toy.tree, decision, head(toy.tree))


def test_objects_are_pushed_and_confirmed_before_the_tag(toy: Toy, tmp_path: Path) -> None:
    store = tmp_path / "store"
    toy.remote(store)
    toy.register("weights")
    held = {
        file.parent.name + file.name for file in (store / "files/md5").rglob("*") if file.is_file()
    }
    lock = (toy.tree / "dvc.lock").read_text()
    assert len(held) == 6  # a folder of two files, weights, card, predictions
    assert all(md5.removesuffix(".dir") in lock or md5 in _listed(toy) for md5 in held)

    decision = toy.decide(toy.run("others"))
    toy.object(_md5(toy, "models/classifier.pt")).unlink()
    with pytest.raises(ObjectsMissing, match=r"models/classifier\.pt is not in DVC's cache"):
        register.fn(toy.params, toy.tree, decision, head(toy.tree))
    assert len(toy.registry.versions()) == 1


@pytest.mark.fault(24)
def test_a_push_that_only_says_yes_makes_no_version(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.remote(tmp_path / "store")
    with (
        monkeypatch.context() as patched,
        pytest.raises(ObjectsMissing, match="the DVC remote lacks 6 objects after the"),
    ):
        patched.setattr(remote, "_transfer", lambda *_, **__: None)
        toy.register("weights")
    assert toy.registry.versions() == []
    assert toy.register("weights").name == "v1.0.0"


@pytest.mark.fault(23)
def test_a_remote_that_is_down_makes_no_version(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    config = (toy.tree / ".dvc/config").read_text()
    toy.write({".dvc/config": config.replace(str(tmp_path / "store"), "/proc/no/such/store")})
    with pytest.raises(Unreachable, match=r"the DVC remote /proc/no/such/store.* does not exist"):
        toy.register("weights")
    assert toy.registry.versions() == []
    toy.write({".dvc/config": config})
    assert toy.register("weights").name == "v1.0.0"


def _md5(toy: Toy, path: str) -> str:
    from ratchet.store import pipeline

    return pipeline.of_tree(toy.tree).output(path).md5


def _listed(toy: Toy) -> set[str]:
    return {entry["md5"] for entry in json.loads(toy.object(_md5(toy, "data/raw")).read_bytes())}


@pytest.mark.fault(26)
def test_without_an_identity_of_git(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    git("config", "--unset", "user.name", cwd=toy.tree)
    git("config", "--unset", "user.email", cwd=toy.tree)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    assert toy.register("weights").tag.tagger == "Ratchet"


@pytest.mark.fault(26)
def test_a_detached_head_and_a_worktree_share_the_versions(toy: Toy, tmp_path: Path) -> None:
    git("worktree", "add", "--quiet", "--detach", str(tmp_path / "run"), cwd=toy.tree)
    run = Toy(tmp_path / "run")
    run.release("weights")
    assert toy.serves() == "v1.0.0"


def test_overrides_of_one_run_stay_out_of_the_version(toy: Toy, tmp_path: Path) -> None:
    """`--set gate.max_shrink=1` must not reach the branch with a merge: every later run would use it."""
    branch = (toy.tree / "params.yaml").read_text()
    settings = {
        "train.epochs": "3",
        "gate.max_shrink": "1",
        "run.workers": 1,
        "register.push_to": "''",
    }
    (toy.tree / "params.yaml").write_text(replaced(branch, settings))
    sha256 = toy.run("weights")
    version = register.fn(toy.params, toy.tree, toy.decide(sha256), head(toy.tree), settings)

    held = (read(toy.tree, version.commit, "params.yaml") or b"").decode()
    assert held == replaced(branch, {"train.epochs": "3"})
    sections = pipeline.params_of(toy.tree, version.commit)
    base = pipeline.params_of(toy.tree, head(toy.tree))
    assert {name: sections[name] for name in ("gate", "run", "register")} == {
        name: base[name] for name in ("gate", "run", "register")
    }
    assert "# share of the good rows that may be gone" in held
    assert version.data["overrides"] == {
        "gate.max_shrink": "1",
        "run.workers": 1,
        "register.push_to": "''",
    }
    assert (
        "For this run alone: gate.max_shrink=1, run.workers=1, register.push_to=''."
        in version.tag.message
    )
    assert show(toy.tree, version.name).overrides == version.data["overrides"]

    git("restore", "params.yaml", cwd=toy.tree)
    git("clean", "--quiet", "--force", ".", cwd=toy.tree)
    git("merge", "--quiet", "--no-edit", version.tag.name, cwd=toy.tree)
    assert "max_shrink: 0.5" in (toy.tree / "params.yaml").read_text()
    assert "epochs: 3" in (toy.tree / "params.yaml").read_text()
    tool("dvc", "checkout", cwd=toy.tree)
    assert dvc_status(toy.tree) == {}


def test_a_run_without_overrides_keeps_its_params_to_the_byte(toy: Toy) -> None:
    toy.set("gate.margin", 0.01)  # edited by a person, who runs in the checkout
    version = toy.register("weights")
    assert read(toy.tree, version.commit, "params.yaml") == (toy.tree / "params.yaml").read_bytes()
    assert "overrides" not in version.data
    assert show(toy.tree, version.name).overrides == {}


def test_the_stock_tools_agree(toy: Toy, tmp_path: Path) -> None:
    toy.release("old", accuracy=0.9)
    toy.set("train.epochs", 3)
    toy.release("new", accuracy=0.92)
    assert gto_stages(toy.tree) == {"prod": "v1.1.0"}
    got = tmp_path / "got.pt"
    tool(
        "dvc",
        "artifacts",
        "get",
        ".",
        "classifier",
        "--stage",
        "prod",
        "-o",
        str(got),
        cwd=toy.tree,
    )
    assert got.read_text() == "new"
    names = ("classifier@v1.0.0", "classifier@v1.1.0", "--json")
    metrics = json.loads(tool("dvc", "metrics", "diff", *names, cwd=toy.tree))
    assert metrics["reports/metrics.json"]["accuracy"]["diff"] == pytest.approx(0.02)
    params = json.loads(tool("dvc", "params", "diff", *names, cwd=toy.tree))
    assert params["params.yaml"]["train.epochs"]["new"] == 3
    assert dvc_status(toy.tree) == {}


def test_a_version_has_the_reports_of_its_run_and_none_of_an_earlier_one(toy: Toy) -> None:
    toy.write({"reports/training/old.tsv": "of an earlier run\n", "reports/drift.json": "{}\n"})
    git("add", "--force", "reports", cwd=toy.tree)
    toy.commit("Keep a report")
    (toy.tree / "reports/training/old.tsv").unlink()
    version = toy.register("a")
    assert sorted(files(toy.tree, version.commit, "reports")) == [
        "reports/drift.json", "reports/gate.json", "reports/metrics.json", "reports/training/curves.tsv",
    ]  # fmt: skip
    assert read(toy.tree, version.commit, "reports/training/curves.tsv") == b"epoch\n1\n"


def test_a_report_too_large_for_git_is_left_out(toy: Toy) -> None:
    sha256 = toy.run("a")
    decision = toy.decide(sha256)
    (toy.tree / "reports/gate.html").write_bytes(b"x" * 1_000_001)
    (toy.tree / "reports/drift.json").write_bytes(b"x" * 1_000_000)
    version = register.fn(toy.params, toy.tree, decision, head(toy.tree))
    reports = files(toy.tree, version.commit, "reports")
    assert "reports/gate.html" not in reports
    assert "reports/drift.json" in reports
