"""Faults of versions, by the numbers that the design gives them.

Those with tests elsewhere are named here.

 2 killed on the way    here, and test_agreement.py::test_killed_at_random_moments, test_compare.py::test_a_run_cut_off_...
 6 tampered objects     here, and test_checkout.py::test_one_flipped_byte_is_refused_and_named
 7 a hostile listing    test_checkout.py::test_a_listing_that_leaves_its_folder_is_refused
 8 a cut download       here
 9 two machines         test_push.py, test_agreement.py::test_fifty_pairs_of_publications_at_once
10 code in a model      here
23 the remote is down   test_register.py::test_a_remote_that_is_down_makes_no_version
24 a push that lies     test_register.py::test_a_push_that_only_says_yes_makes_no_version
25 a cut dvc.lock       here
26 edits, no identity   test_register.py, flows/test_versions.py::test_no_repository
27 the clock goes back  test_promote.py::test_the_counter_decides_not_the_clock, test_agreement.py
28 tags by hand         test_verify.py
31 the remote goes      here
35 a rollback stands    test_compare.py::test_the_same_weights_are_known_and_a_rollback_stands, test_real.py
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ratchet import load
from ratchet.errors import (
    CorruptData,
    CorruptModel,
    ObjectsMissing,
    RatchetError,
    Unreachable,
    VersionError,
)
from ratchet.git import git, head
from ratchet.registry import loading, snapshot, tags
from ratchet.store import pipeline, remote
from ratchet.upkeep.verify import verify
from tasks.promote import promote, rollback
from tasks.register import register
from tests.helpers.real import lay
from tests.helpers.toy import ROOT, Toy, contents

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it, and what is after it does not happen."""


@pytest.mark.fault(2)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    ("module", "point"),
    [(remote, "push"), (snapshot, "commit"), (tags, "write"), (loading, "files")],
)
def test_killed_between_the_steps(
    toy: Toy, tmp_path: Path, module: Any, point: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.remote(tmp_path / "store")
    toy.release("a")
    step = getattr(module, point)

    def dies(*arguments: Any, **options: Any) -> None:
        if not before:
            step(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(module, point, dies)
        toy.release("b")
    assert toy.serves() == "v1.0.0"
    assert toy.release("b").name == "v1.0.1"
    assert git("tag", "--list", "classifier@*", cwd=toy.tree).split() == [
        "classifier@v1.0.0",
        "classifier@v1.0.1",
    ]
    assert toy.serves() == "v1.0.1"
    assert [
        each for each in verify(toy.tree) if "does not hold the card of a model" not in each.message
    ] == []


@pytest.mark.fault(6)
@pytest.mark.parametrize("place", ["cache", "remote"])
def test_one_flipped_bit_anywhere_is_never_loaded(toy: Toy, tmp_path: Path, place: str) -> None:
    toy.remote(tmp_path / "store")
    sha256 = lay(toy, 0.2)
    version = register.fn(toy.params, toy.tree, toy.decide(sha256), head(toy.tree))
    generator = random.Random(0)
    held = pipeline.of_commit(toy.tree, version.commit)
    root = {"cache": toy.tree / ".dvc/cache", "remote": tmp_path / "store"}[place]
    for turn in range(20):
        name = (loading.WEIGHTS, loading.CARD)[turn % 2]
        md5 = held.output(name).md5
        file = root / "files/md5" / md5[:2] / md5[2:]
        whole = file.read_bytes()
        flipped = bytearray(whole)
        flipped[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        file.chmod(0o644)
        file.write_bytes(flipped)
        file.chmod(0o444)
        if place == "remote":
            toy.object(md5).unlink(missing_ok=True)
        with pytest.raises((CorruptData, ObjectsMissing), match=re.escape(name)):
            load(version.name, toy.tree)
        with pytest.raises((CorruptData, ObjectsMissing)):
            promote.fn(toy.tree, version.name, "prod")
        assert {each.what for each in verify(toy.tree)} == {name}
        file.chmod(0o644)
        file.write_bytes(whole)
        file.chmod(0o444)
    promote.fn(toy.tree, version.name, "prod")
    assert load("prod", toy.tree) is not None


FETCH = """
import sys
from pathlib import Path
from ratchet import loading
from ratchet.registry.versions import Registry
import dvc.repo
print("ready", flush=True)
tree = Path(sys.argv[1])
loading.files(tree, Registry(tree).find("v1.0.0"))
"""


@pytest.mark.fault(8)
@pytest.mark.long
def test_a_download_cut_half_way_is_healed_by_the_next(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    version = toy.register("w" * 200_000_000)
    clone = toy.clone(tmp_path / "clone")
    generator = random.Random(0)
    for _ in range(10):
        shutil.rmtree(clone.tree / ".dvc/cache", ignore_errors=True)
        child = subprocess.Popen([sys.executable, "-c", FETCH, str(clone.tree)], cwd=ROOT, stdout=subprocess.PIPE,
                                 start_new_session=True)  # fmt: skip
        assert child.stdout is not None
        with child.stdout:
            child.stdout.readline()
            time.sleep(generator.random() * 2)
            os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
        child.wait()
        weights, _ = loading.files(clone.tree, version)
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == version.weights_sha256


@pytest.mark.fault(10)
def test_code_in_a_model_never_runs(toy: Toy, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    lay(toy, 0.2)
    content = pickle.dumps({"1.weight": Bomb()}, protocol=2)
    card = (toy.tree / "models/classifier.json").read_text()
    was = hashlib.sha256((toy.tree / "models/classifier.pt").read_bytes()).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    (toy.tree / "models/classifier.pt").write_bytes(content)
    (toy.tree / "models/classifier.json").write_text(card.replace(was, sha256))
    toy.lock()
    version = register.fn(toy.params, toy.tree, toy.decide(sha256), head(toy.tree))
    with pytest.raises(
        CorruptModel, match="holds more than tensors, which may be code, and none of it was run"
    ):
        load(version.name, toy.tree)
    assert [each.what for each in verify(toy.tree)] == ["models/classifier.pt"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault(25)
@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.long)])
def test_a_cut_lock_is_named_wherever_it_is_cut(toy: Toy, step: int) -> None:
    toy.run("a")
    lock = toy.tree / "dvc.lock"
    whole = lock.read_text()
    outputs = pipeline.of_tree(toy.tree).outputs
    for end in range(0, len(whole.rstrip()), step):
        lock.write_text(whole[:end])
        try:
            found = pipeline.of_tree(toy.tree).outputs
        except VersionError as error:
            assert "dvc.lock" in str(error)
        else:  # only the last number, a file's size, is short of digits: all hashes are there
            assert [(each.path, each.md5) for each in found] == [
                (each.path, each.md5) for each in outputs
            ]


@pytest.mark.fault(31)
def test_the_remote_goes_during_a_rollback(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    toy.release("a")
    toy.set("train.epochs", 3)
    toy.release("b")
    cut = (
        pipeline.of_commit(toy.tree, toy.registry.find("v1.0.0").commit)
        .output("models/classifier.pt")
        .md5
    )
    toy.object(cut).unlink()
    (tmp_path / "store").rename(tmp_path / "unmounted")
    before = contents(toy.tree)
    with pytest.raises(Unreachable, match="`dvc remote list`"):
        rollback.fn(toy.tree, "prod")
    assert (contents(toy.tree), toy.serves()) == (before, "v1.1.0")
    (tmp_path / "unmounted").rename(tmp_path / "store")
    assert rollback.fn(toy.tree, "prod").version == "v1.0.0"


@pytest.mark.fault(27)
def test_the_clock_goes_back_by_a_year(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.release("a")
    year = time.time() - 365 * 86400
    monkeypatch.setattr(tags.time, "time", lambda: year)
    toy.release("b")
    assert toy.serves() == "v1.0.1"
    with pytest.raises(RatchetError):
        toy.registry.find("v1.0.2")
