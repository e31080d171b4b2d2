"""The stage decorator: why a stage is out of date, and inputs that change while it runs (fault 32)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet import out_of_date, stage
from ratchet.errors import Busy, InputsChanged, NotARepository
from ratchet.params import Params
from ratchet.stage import Stage
from tests.conftest import ROOT, Checkout
from tests.helpers.toy import Toy


def test_nothing_is_out_of_date_after_a_run(released: Checkout) -> None:
    for name in ("ingest", "validate", "prepare", "train", "evaluate"):
        assert out_of_date.why(released.path, name) == []


def test_it_names_the_param_the_code_and_the_output(copy: Checkout) -> None:
    copy.set(epochs="3")
    (copy.path / "models/classifier.json").unlink()
    code = copy.path / "tasks/train.py"
    code.write_text(code.read_text() + "\n")
    assert sorted(out_of_date.why(copy.path, "train")) == [
        "input tasks/train.py: modified",
        "output models/classifier.json: deleted",
        "param train.epochs: 2 → 3",
    ]


@pytest.mark.fault(1)
@pytest.mark.parametrize("left", ["", '{"write": {"/a": {"pi'])
def test_a_list_of_locks_that_a_kill_cut_off_stops_nothing(copy: Checkout, left: str) -> None:
    (copy.path / ".dvc/tmp").mkdir(exist_ok=True)
    (copy.path / ".dvc/tmp/rwlock").write_text(left)
    assert out_of_date.why(copy.path, "train") == []
    copy.run("dvc", "repro")


def test_a_stage_that_never_ran_says_so(copy: Checkout) -> None:
    (copy.path / "dvc.lock").unlink()
    assert out_of_date.why(copy.path, "ingest") == ["it has not run here before"]


def touch(file: Path) -> None:
    """Give a file another time of change, and nothing else."""
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace_by_equal(file: Path) -> None:
    """Put another file with the same content, size and time in its place."""
    shutil.copy2(file, file.with_name("copy"))
    file.with_name("copy").replace(file)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda tree: (tree / "custom/__init__.py").write_text("# edited\n"), "custom/__init__.py"),
        (lambda tree: touch(tree / "code/train.py"), "code/train.py"),
        (lambda tree: replace_by_equal(tree / "code/train.py"), "code/train.py"),
        (lambda tree: (tree / "code/train.py").unlink(), "code/train.py"),
        (lambda tree: (tree / "custom/new").write_text(""), "custom/new"),
        (lambda tree: Toy(tree).set("train.epochs", 99), "params.yaml: train"),
        (
            lambda tree: (Toy(tree).set("train.epochs", 99), touch(tree / "code/train.py")),
            "code/train.py, params.yaml",
        ),
    ],
)
def test_an_input_edited_while_its_stage_runs_is_refused(
    toy: Toy, edit: Callable[[Path], object], named: str
) -> None:
    toy.run("a")

    def train(params: Params, tree: Path) -> None:
        edit(tree)

    with pytest.raises(
        InputsChanged,
        match=rf"^{named}.* changed while train ran; nothing was recorded, run it again",
    ):
        Stage(train, patient=False)._guarded(toy.tree)


def test_what_a_stage_does_not_read_may_change_while_it_runs(toy: Toy) -> None:
    def ingest(params: Params, tree: Path) -> None:
        Toy(tree).set("train.epochs", 99)
        (tree / "code/train.py").write_text("# edited\n")
        (tree / "code/__pycache__").mkdir()

    Stage(ingest, patient=False)._guarded(toy.tree)


@pytest.mark.fault(4)
def test_one_stage_at_a_time_works_in_a_tree(toy: Toy) -> None:
    runs: list[str] = []

    def ingest(params: Params, tree: Path) -> None:
        runs.append("outer")
        with pytest.raises(Busy, match=rf"^{toy.tree} is busy: process {os.getpid()} works in it"):
            Stage(ingest, patient=False)._guarded(toy.tree)

    Stage(ingest, patient=False)._guarded(toy.tree)
    Stage(ingest, patient=False)._guarded(toy.tree)
    assert runs == ["outer", "outer"]


@pytest.mark.fault(32)
def test_dvc_records_nothing_of_such_a_run(copy: Checkout) -> None:
    lock = (copy.path / "dvc.lock").read_bytes()
    verb = copy.path / "tasks/ingest.py"
    meddling = "    (tree / 'source.lock').write_text((tree / 'source.lock').read_text() + ' ')\n"
    text = verb.read_text()
    place = text.index("\n\n\nif __name__")
    verb.write_text(text[: place + 1] + meddling + text[place + 1 :])
    done = copy.run("dvc", "repro", "--single-item", "ingest", code=255)
    assert "source.lock changed while ingest ran" in done.stderr
    assert (copy.path / "dvc.lock").read_bytes() == lock


def test_home_is_the_main_checkout(copy: Checkout, tmp_path: Path) -> None:
    copy.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    assert stage.home(tmp_path / "tree") == stage.home(copy.path) == copy.path.resolve()
    with pytest.raises(NotARepository, match="is not a git repository"):
        stage.home(tmp_path)


def test_every_stage_of_the_graph_has_its_three_doors() -> None:
    for name in out_of_date.graph(ROOT):
        text = (ROOT / f"tasks/{name}.py").read_text()
        assert f"{name}.main()" in text
