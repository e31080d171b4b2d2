from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from ratchet.errors import ObjectsMissing
from ratchet.git import git
from ratchet.store import pipeline
from ratchet.upkeep.checkout import checkout
from ratchet.upkeep.gc import collect
from ratchet.upkeep.withdraw import expire
from tests.helpers.toy import Toy, tool

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


def test_only_what_expired_goes(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    first, second = toy.register("a"), toy.release("b")
    toy.run("of no version")
    assert collect(toy.tree, grace_s=0).objects == []
    toy.run("b")
    dropped = collect(toy.tree, grace_s=0)
    assert {Path(file).read_text()[:2] for file in dropped.objects} == {
        "of",
        '{"',
        "by",
    }  # weights, card, predictions
    kept = collect(toy.tree, apply=True, grace_s=3600)
    assert (kept.objects, kept.young) == ([], len(dropped.objects))
    assert kept.young > 0
    collect(toy.tree, apply=True, grace_s=0)
    assert not any(Path(file).exists() for file in dropped.objects)

    expire(toy.tree, first.name)
    weights = pipeline.of_commit(toy.tree, first.commit).output("models/classifier.pt").md5
    gone = collect(toy.tree, apply=True, on_remote=True, grace_s=0)
    assert not toy.object(weights).exists()
    assert weights in gone.on_remote
    assert collect(toy.tree, on_remote=True, grace_s=0).on_remote == []
    clone = toy.clone(tmp_path / "clone")
    checkout(clone.tree, second.name, tmp_path / "restored")
    assert (tmp_path / "restored/models/classifier.pt").read_text() == "b"


def test_what_a_clone_has_never_seen_stays_on_the_remote(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    first, second = toy.register("a"), toy.release("b")  # they share a file of data/raw
    toy.write({"source.lock": '{"rows": 2}\n'})
    third = toy.release("c")
    clone = toy.clone(tmp_path / "clone")
    checkout(clone.tree, first.name, tmp_path / "first")
    expire(clone.tree, first.name)
    expire(clone.tree, second.name)
    assert collect(clone.tree, apply=True, on_remote=True, grace_s=0).on_remote
    fresh = toy.clone(tmp_path / "fresh")
    checkout(fresh.tree, third.name, tmp_path / "third")
    assert (tmp_path / "third/data/raw/b").read_text() == "rows"


def test_a_branch_and_a_run_in_progress_keep_their_objects(toy: Toy, tmp_path: Path) -> None:
    toy.release("a")
    toy.run("on the branch")
    toy.commit("Keep this run")
    toy.run("in progress")
    assert collect(toy.tree, grace_s=0).objects == []
    assert tool("dvc", "status", "-q", cwd=toy.tree) == ""


def test_branches_of_remotes_and_the_stash_keep_their_objects(toy: Toy, tmp_path: Path) -> None:
    """A run that was committed elsewhere and fetched, and one that was stashed, can be checked out again."""
    toy.release("a")
    toy.run("on the branch of a remote")
    git("update-ref", "refs/remotes/origin/other", toy.commit("Theirs"), cwd=toy.tree)
    git("reset", "--quiet", "--hard", "HEAD~1", cwd=toy.tree)
    toy.run("in the stash")
    git("add", "--all", cwd=toy.tree)
    git("stash", cwd=toy.tree)
    toy.run("a")
    assert collect(toy.tree, grace_s=0).objects == []
    git("stash", "drop", cwd=toy.tree)
    first = {Path(file).read_text()[:9] for file in collect(toy.tree, grace_s=0).objects}
    assert "in the st" in first
    assert "on the br" not in first
    git("update-ref", "-d", "refs/remotes/origin/other", cwd=toy.tree)
    assert "on the br" in {
        Path(file).read_text()[:9] for file in collect(toy.tree, grace_s=0).objects
    }


def test_a_branch_whose_lock_is_not_complete_does_not_stop_it(toy: Toy) -> None:
    toy.release("a")
    (toy.tree / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    toy.commit("Remove what the stages made")
    assert collect(toy.tree, grace_s=0).objects == []


def test_nothing_goes_while_something_needed_is_missing(toy: Toy) -> None:
    version = toy.release("a")
    toy.write({"source.lock": '{"rows": 2}'})
    toy.run("b")
    toy.object(pipeline.of_commit(toy.tree, version.commit).output("data/raw").md5).unlink()
    with pytest.raises(
        ObjectsMissing, match=r"the listing of data/raw .* is missing.*nothing was deleted"
    ):
        collect(toy.tree, apply=True, grace_s=0)


@pytest.mark.parametrize("steps", [6, pytest.param(40, marks=pytest.mark.long)])
def test_what_is_not_expired_comes_back_from_the_remote_after_any_history(
    toy: Toy, tmp_path: Path, steps: int
) -> None:
    generator = random.Random(steps)
    toy.remote(tmp_path / "store")
    alive: dict[str, str] = {}
    for step in range(steps):
        weights = f"weights {step}"
        toy.write({"source.lock": f'{{"rows": {generator.randrange(3)}}}\n'})
        alive[toy.register(weights).name] = weights
        if generator.random() < 0.4:
            gone = generator.choice(sorted(alive))
            expire(toy.tree, gone)
            del alive[gone]
        if generator.random() < 0.5:
            collect(toy.tree, apply=True, on_remote=generator.random() < 0.7, grace_s=0)
    shutil.rmtree(toy.tree / ".dvc/cache")
    clone = toy.clone(tmp_path / "clone")
    for name, weights in alive.items():
        checkout(clone.tree, name, tmp_path / name)
        assert (tmp_path / name / "models/classifier.pt").read_text() == weights
