from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ratchet.errors import CorruptData, ObjectsMissing, Unreachable, VersionError
from ratchet.git import git
from ratchet.store import pipeline, working_tree
from ratchet.store.cache import Cache, listing
from ratchet.upkeep.checkout import checkout
from tests.helpers.toy import Toy, dvc_status, tool

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


def test_a_version_from_the_remote_alone(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    toy.release("a")
    toy.set("train.epochs", 3)
    toy.write({"code/train.py": "# other\n"})
    toy.commit("Go on")
    toy.release("b")
    clone = toy.clone(tmp_path / "clone")
    done = checkout(clone.tree, "v1.0.0", tmp_path / "old")
    assert done.to_make == ["data/prepared"]
    assert (tmp_path / "old/code/train.py").read_text() == "# train\n"
    assert (tmp_path / "old/data/raw/b").read_text() == "rows"
    status = dvc_status(tmp_path / "old")
    assert status == {"evaluate": [{"changed outs": {"data/prepared": "not in cache"}}]}
    here = checkout(toy.tree, "v1.0.0", tmp_path / "here")
    assert here.to_make == []
    assert dvc_status(tmp_path / "here") == {}
    with pytest.raises(VersionError, match="exists already; name a new folder"):
        checkout(toy.tree, "v1.0.0", tmp_path / "here")


@pytest.mark.fault(6)
@pytest.mark.parametrize("place", ["cache", "remote"])
def test_one_flipped_byte_is_refused_and_named(toy: Toy, tmp_path: Path, place: str) -> None:
    toy.remote(tmp_path / "store")
    version = toy.release("a")
    root = {"cache": toy.tree / ".dvc/cache", "remote": tmp_path / "store"}[place]
    cache = Cache(toy.tree)
    pushed = [
        output for output in pipeline.of_commit(toy.tree, version.commit).outputs if output.pushed
    ]
    objects = {md5: what for output in pushed for md5, what in cache.objects(output).items()}
    for position, (md5, what) in enumerate(objects.items()):
        file = root / "files/md5" / md5[:2] / md5[2:]
        held = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        tree = toy.tree if place == "cache" else toy.clone(tmp_path / f"clone-{position}").tree
        with pytest.raises((CorruptData, ObjectsMissing), match=what.replace(".", r"\.")):
            checkout(tree, "v1.0.0", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        file.write_bytes(held)


def test_plain_dvc_hashes_what_comes_from_the_remote(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    version = toy.release("a")
    assert "verify = true" in (toy.tree / ".dvc/config.local").read_text()
    assert (toy.tree / ".dvc/config.local").stat().st_mode & 0o777 == 0o600
    toy.commit("Adopt it")
    weights = pipeline.of_commit(toy.tree, version.commit).output("models/classifier.pt")
    there = tmp_path / "store/files/md5" / weights.md5[:2] / weights.md5[2:]
    there.chmod(0o644)
    there.write_text("b")
    there.chmod(0o444)  # DVC believes what is read-only, unless told to verify
    clone = toy.clone(tmp_path / "clone")
    with pytest.raises((CorruptData, ObjectsMissing), match=r"models/classifier\.pt"):
        checkout(clone.tree, "v1.0.0", tmp_path / "out")
    tool("dvc", "pull", weights.path, cwd=clone.tree, check=False)
    assert not (clone.tree / weights.path).exists()
    assert not clone.object(weights.md5).exists()


def test_a_shallow_clone_without_tags_and_a_deleted_branch(toy: Toy, tmp_path: Path) -> None:
    git("checkout", "--quiet", "-b", "feature", cwd=toy.tree)
    toy.write({"code/train.py": "# of the feature\n"})
    toy.commit("On a branch")
    toy.release("a")
    git("checkout", "--quiet", "main", cwd=toy.tree)
    git("branch", "--quiet", "-D", "feature", cwd=toy.tree)
    shallow = tmp_path / "shallow"
    git(
        "clone",
        "--quiet",
        "--depth=1",
        "--no-tags",
        f"file://{toy.tree}",
        str(shallow),
        cwd=tmp_path,
    )
    with pytest.raises(
        VersionError, match="there is none here; `git fetch --tags origin` brings those of origin"
    ):
        checkout(shallow, "v1.0.0", tmp_path / "out")
    git("fetch", "--quiet", "--tags", "origin", cwd=shallow)
    shutil.copytree(Cache(toy.tree).root, Cache(shallow).root)
    checkout(shallow, "v1.0.0", tmp_path / "out")
    assert (tmp_path / "out/code/train.py").read_text() == "# of the feature\n"


@pytest.mark.fault(7)
def test_a_listing_that_leaves_its_folder_is_refused(toy: Toy, tmp_path: Path) -> None:
    toy.run("a")
    for name in (
        "../../escaped",
        "/tmp/escaped",
        "a/../../x",
        ".git/hooks/post-checkout",
        "",
        "./a",
        "a//b",
    ):
        entries = [{"md5": "0" * 32, "relpath": name}]
        with pytest.raises(CorruptData, match="which is not a path inside it; nothing was written"):
            listing(json.dumps(entries).encode(), "data/raw")
    md5 = toy.cache(
        json.dumps([{"md5": toy.cache(b"x"), "relpath": "../../escaped"}]).encode(), ".dir"
    )
    lock = (toy.tree / "dvc.lock").read_text()
    raw = pipeline.of_tree(toy.tree).output("data/raw").md5
    (toy.tree / "dvc.lock").write_text(lock.replace(raw, md5))
    with pytest.raises(CorruptData, match=r"data/raw: its listing names '\.\./\.\./escaped'"):
        working_tree.check_out(toy.tree)
    assert not (tmp_path / "escaped").exists()


def test_a_remote_that_is_gone(toy: Toy, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    toy.release("a")
    clone = toy.clone(tmp_path / "clone")
    (tmp_path / "store").rename(tmp_path / "unmounted")
    with pytest.raises(Unreachable, match=r"the DVC remote .* does not exist; mount it"):
        checkout(clone.tree, "v1.0.0", tmp_path / "out")
    (tmp_path / "unmounted").rename(tmp_path / "store")
    assert checkout(clone.tree, "v1.0.0", tmp_path / "out").version == "v1.0.0"
