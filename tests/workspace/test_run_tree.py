"""A run's tree: what is left of it after a success, a failure, a fault that passes, and a kill.

And a rerun.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ratchet import process, repository
from ratchet.errors import NotARepository, StageFailed, Unreachable, VersionError
from ratchet.git import git
from ratchet.workspace import run_tree, version_tree
from tests.helpers.toy import ROOT, Toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


def left(toy: Toy) -> list[str]:
    """The names in `.runs`, the kept reports excepted."""
    area = toy.tree / ".runs"
    return sorted(path.name for path in area.iterdir() if path.name != "reports")


def run(toy: Toy, fault: Exception | None = None) -> None:
    with run_tree.workplace(toy.tree, {}) as place:
        (place.tree / "reports").mkdir(exist_ok=True)
        (place.tree / "reports/metrics.json").write_text("{}")
        if fault:
            raise fault


def test_after_a_success_the_reports_of_the_last_five_are_kept(toy: Toy) -> None:
    for _ in range(run_tree.KEPT + 1):
        run(toy)
    assert left(toy) == []
    reports = [path.name for path in (toy.tree / ".runs/reports").iterdir()]
    assert len(reports) == run_tree.KEPT
    assert (toy.tree / ".runs/reports" / reports[0] / "metrics.json").read_text() == "{}"
    assert len(git("worktree", "list", cwd=toy.tree).splitlines()) == 1


def test_after_failures_the_last_five_trees_are_kept(toy: Toy) -> None:
    names: list[str] = []
    for _ in range(run_tree.KEPT + 2):
        with pytest.raises(StageFailed):
            run(toy, StageFailed("no"))
        names += [name for name in left(toy) if name not in names]
    assert left(toy) == sorted(sorted(names)[-run_tree.KEPT :])


def test_a_fault_that_passes_leaves_nothing(toy: Toy) -> None:
    with pytest.raises(Unreachable):
        run(toy, Unreachable("no"))
    assert left(toy) == []
    assert len(git("worktree", "list", cwd=toy.tree).splitlines()) == 1


KILLED = """
import sys
from pathlib import Path
from ratchet.workspace.run_tree import workplace
with workplace(Path(sys.argv[1]), {}) as place:
    print(place.tree.name, flush=True)
    sys.stdin.read()
    (place.tree / "reports").mkdir(exist_ok=True)
"""


@pytest.mark.fault(1)
@pytest.mark.parametrize("settings", [{}, None], ids=["in a tree", "in the checkout"])
def test_the_next_run_removes_the_tree_of_a_killed_one_and_no_other(
    toy: Toy, settings: dict[str, object] | None
) -> None:
    with pytest.raises(StageFailed):
        run(toy, StageFailed("no"))
    (failed,) = left(toy)
    command = [sys.executable, "-c", KILLED, str(toy.tree)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    runs = [subprocess.Popen(command, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    killed, alive = (process.stdout.readline().strip() for process in runs)
    runs[0].kill()
    runs[0].communicate(timeout=30)
    with run_tree.workplace(toy.tree, settings) as place:
        (place.tree / "reports").mkdir(exist_ok=True)
        assert place.removed == (f".runs/{killed}",)
    assert left(toy) == sorted([failed, alive, f"{alive}.lock"])
    _, _ = runs[1].communicate("", timeout=60)
    assert runs[1].returncode == 0
    assert left(toy) == [failed]


def test_a_tree_that_cannot_be_removed_does_not_fail_a_run_that_ended_well(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_tree: Path, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(repository, "remove_worktree", refuse)
    run(toy)
    assert len(left(toy)) == 1


def test_a_rerun_takes_no_results_of_other_runs(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages of a rerun keep what they share in their own tree, and DVC's run cache is off."""
    version = toy.release("a")
    version_tree.lay_out(toy.tree, version, tmp_path / "rerun")
    code = "from pathlib import Path; from ratchet.repository import scratch; print(scratch(Path()).resolve())"
    lines: list[str] = []
    start = process.run

    def watched(
        arguments: list[str], folder: Path, log: object, variables: dict[str, str]
    ) -> object:
        lines.append(" ".join(arguments))
        return start(["-c", code], folder, lines.append, {**variables, "PYTHONPATH": str(ROOT)})

    monkeypatch.setattr(process, "run", watched)
    version_tree.rerun(tmp_path / "rerun")
    assert lines == ["-m dvc repro --force --no-run-cache", str(tmp_path / "rerun")]
    assert repository.scratch(tmp_path / "rerun") == toy.tree.resolve()


def test_reports_that_cannot_be_copied_do_not_fail_a_run_that_ended_well(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy.tree / ".runs").mkdir()
    (toy.tree / ".runs/reports").write_text("a file in the way")
    run(toy)
    (name,) = left(toy)
    assert (toy.tree / ".runs" / name / "reports/metrics.json").read_text() == "{}"
    assert (
        f"the reports of this run are in {toy.tree}/.runs/{name}/reports" in capsys.readouterr().err
    )


def test_a_lock_without_a_tree_is_removed_and_not_told(toy: Toy) -> None:
    (toy.tree / ".runs").mkdir()
    (toy.tree / ".runs/20260101-000000-abcd.lock").touch()
    with run_tree.workplace(toy.tree, None) as place:
        assert place.removed == ()
    assert left(toy) == []


def test_a_repository_without_a_commit_is_told_how_to_make_one(tmp_path: Path) -> None:
    git("init", "--quiet", cwd=tmp_path)
    with pytest.raises(
        NotARepository, match=r"has no commit yet; run `git add --all && git commit`"
    ):
        run_tree._commit(tmp_path, {}, "HEAD")
    with pytest.raises(VersionError, match=r"has no commit 'v1'"):
        run_tree._commit(tmp_path, {}, "v1")
