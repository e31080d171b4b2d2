from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.errors import ObjectsMissing, VersionError
from tasks.promote import rollback
from tasks.versions import pipeline, tags, whole
from tasks.versions.git import git
from tests.versions.toy import Toy, tool

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


@pytest.fixture
def two(toy: Toy) -> Toy:
    """Two versions that differ in code, params, sources, data and model; the branch is at the second."""
    toy.release("a")
    toy.set("train.epochs", 3)
    toy.write({"code/train.py": "# other\n", "source.lock": '{"rows": 2}\n'})
    toy.commit("Go on")
    toy.release("b")
    return toy


def state(tree: Path) -> dict[str, bytes]:
    hidden = {".git", ".dvc", "__pycache__"}
    found = (
        file for file in sorted(tree.rglob("*")) if file.is_file() and not hidden & {*file.relative_to(tree).parts}
    )
    return {file.relative_to(tree).as_posix(): file.read_bytes() for file in found}


def test_the_whole_state_goes_back(two: Toy) -> None:
    assert rollback.fn(two.tree, "prod", whole_state=True).version == "v1.0.0"
    assert (two.tree / "models/classifier.pt").read_text() == "a"
    assert (two.tree / "code/train.py").read_text() == "# train\n"
    assert (two.tree / "source.lock").read_text() == '{"rows": 1}\n'
    assert json.loads(tool("dvc", "status", "--json", cwd=two.tree)) == {}
    assert git("worktree", "list", cwd=two.tree).count("\n") == 0
    assert not (two.tree / ".dvc/tmp/whole").exists()
    git("checkout", "--quiet", "--", ".", cwd=two.tree)


@pytest.mark.parametrize(
    "path", ["code/train.py", "code/new.py", "params.yaml", "models/classifier.pt", "reports/metrics.json"]
)
def test_edits_are_never_lost(two: Toy, path: str) -> None:
    with (two.tree / path).open("a") as file:
        file.write("# edited\n")
    before = state(two.tree)
    with pytest.raises(VersionError, match=path.replace(".", r"\.") + r".*edited and not committed"):
        rollback.fn(two.tree, "prod", whole_state=True)
    assert (state(two.tree), two.serves()) == (before, "v1.1.0")


def test_1_a_list_of_locks_that_a_kill_cut_off_stops_no_rollback(two: Toy) -> None:
    (two.tree / ".dvc/tmp").mkdir(exist_ok=True)
    (two.tree / ".dvc/tmp/rwlock").write_text('{"write": {"/a": {"pi')
    assert rollback.fn(two.tree, "prod", whole_state=True).version == "v1.0.0"


def test_what_the_gate_said_of_the_last_run_is_no_edit(two: Toy) -> None:
    two.write({"reports/gate.json": '{"verdict": "known"}\n', "reports/gate.html": "<h1>known</h1>\n"})
    assert rollback.fn(two.tree, "prod", whole_state=True).version == "v1.0.0"


def test_objects_that_are_gone_change_nothing(two: Toy) -> None:
    md5 = pipeline.of_commit(two.tree, two.registry.find("v1.0.0").commit).output("data/raw").md5
    two.object(md5).unlink()
    before = state(two.tree)
    with pytest.raises(ObjectsMissing, match="data/raw"):
        rollback.fn(two.tree, "prod", whole_state=True)
    assert (state(two.tree), two.serves()) == (before, "v1.1.0")


@pytest.mark.parametrize("moves", [0, 1, 7, 20])
def test_cut_off_before_the_assignment_it_is_undone(two: Toy, moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, left, move = state(two.tree), [moves], whole._move

    def dies(*paths: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit
        move(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(whole, "_move", dies)
        patched.setattr(whole, "_undo", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            rollback.fn(two.tree, "prod", whole_state=True)
    assert whole.recover(two.tree) == "undid a switch to v1.0.0 that was cut off"
    assert (state(two.tree), two.serves()) == (before, "v1.1.0")
    assert rollback.fn(two.tree, "prod", whole_state=True).version == "v1.0.0"


def test_a_failed_assignment_undoes_it(two: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(two.tree)
    with monkeypatch.context() as patched, pytest.raises(VersionError, match="disk full"):
        patched.setattr(tags, "create", lambda *_: (_ for _ in ()).throw(VersionError("disk full")))
        rollback.fn(two.tree, "prod", whole_state=True)
    assert (state(two.tree), two.serves()) == (before, "v1.1.0")


def test_cut_off_after_the_assignment_it_is_finished(two: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(whole, "_drop", lambda *_: (_ for _ in ()).throw(SystemExit))
        patched.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            rollback.fn(two.tree, "prod", whole_state=True)
    assert whole.recover(two.tree) == "finished the switch to v1.0.0"
    assert (two.tree / "models/classifier.pt").read_text() == "a"
    assert json.loads(tool("dvc", "status", "--json", cwd=two.tree)) == {}
