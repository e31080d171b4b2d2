from __future__ import annotations

from pathlib import Path

import pytest

from tasks.promote import promote
from tasks.push import push
from tasks.verify import verify
from tasks.versions import pipeline
from tasks.versions.git import git
from tests.versions.real import lay
from tests.versions.toy import Toy


@pytest.fixture
def whole(toy: Toy, tmp_path: Path) -> Toy:
    """A checkout with a remote and one real version in service."""
    toy.remote(tmp_path / "store")
    release(toy, 0.2)
    return toy


def release(toy: Toy, threshold: float) -> None:
    from tasks.register import register
    from tasks.versions.git import head

    sha256 = lay(toy, threshold)
    version = register.fn(toy.params, toy.tree, toy.decide(sha256), head(toy.tree))
    promote.fn(toy.tree, version.name, "prod")


def found(toy: Toy) -> list[tuple[str, str]]:
    return [(finding.version, finding.what) for finding in verify(toy.tree)]


def test_what_is_whole_has_no_findings(whole: Toy, tmp_path: Path) -> None:
    assert verify(whole.tree) == []
    assert verify(whole.clone(tmp_path / "clone").tree, "prod") == []


def test_objects_missing_or_changed_are_named(whole: Toy, tmp_path: Path) -> None:
    md5 = pipeline.of_tree(whole.tree).output("models/classifier.pt").md5
    there = tmp_path / "store/files/md5" / md5[:2] / md5[2:]
    held = there.read_bytes()
    there.unlink()
    assert found(whole) == [("v1.0.0", "models/classifier.pt")]
    there.write_bytes(held[:-1] + b"!")
    assert found(whole) == [("v1.0.0", "models/classifier.pt")]
    there.write_bytes(held)
    whole.object(md5).chmod(0o644)
    whole.object(md5).write_bytes(held[:-1] + b"!")
    assert found(whole) == [("v1.0.0", "models/classifier.pt")]
    whole.object(md5).unlink()
    assert found(whole) == []


def test_a_file_inside_a_folder_is_named(whole: Toy, tmp_path: Path) -> None:
    listing = pipeline.of_tree(whole.tree).output("data/raw").md5
    md5 = whole.object(listing).read_text().split('"md5": "')[1][:32]
    (tmp_path / "store/files/md5" / md5[:2] / md5[2:]).unlink()
    assert found(whole) == [("v1.0.0", "data/raw/dataset.json")]


@pytest.mark.parametrize("target", ["HEAD", "classifier@v1.0.1"])
def test_a_tag_moved_by_hand_is_found(whole: Toy, target: str) -> None:
    release(whole, 0.1)
    text = git("for-each-ref", "--format=%(contents)", "refs/tags/classifier@v1.0.0", cwd=whole.tree)
    git("tag", "--force", "-a", "-m", text, "classifier@v1.0.0", f"{target}^{{commit}}", cwd=whole.tree)
    assert {("v1.0.0", "classifier@v1.0.0"), ("v1.0.0", "classifier#prod#1")} <= {
        *found(whole),
        ("v1.0.0", "dvc.lock"),
    } | ({("v1.0.0", "classifier@v1.0.0")} if target == "HEAD" else set())


def test_a_tag_made_again_with_better_figures_is_found(whole: Toy) -> None:
    text = git("for-each-ref", "--format=%(contents)", "refs/tags/classifier@v1.0.0", cwd=whole.tree)
    better = text.replace(f'"accuracy": {whole.registry.find("v1.0.0").metrics["accuracy"]}', '"accuracy": 1.0')
    assert better != text
    commit = "classifier@v1.0.0^{commit}"
    git("tag", "--force", "-a", "-m", better, "classifier@v1.0.0", commit, cwd=whole.tree)
    (finding,) = verify(whole.tree)
    assert (finding.version, finding.what) == ("v1.0.0", "classifier@v1.0.0")
    assert "its message names other metrics than its commit holds" in finding.message


def test_a_tag_deleted_by_hand_is_found(whole: Toy) -> None:
    promote.fn(whole.tree, "v1.0.0", "staging")
    git("tag", "--delete", "classifier#prod#1", cwd=whole.tree)
    assert found(whole) == [("", "classifier#...#1")]


def test_tags_that_differ_on_the_git_remote_are_found(whole: Toy, tmp_path: Path) -> None:
    origin = tmp_path / "origin.git"
    git("clone", "--quiet", "--bare", "--no-tags", str(whole.tree), str(origin), cwd=tmp_path)
    git("remote", "add", "origin", str(origin), cwd=whole.tree)
    whole.set("register.push_to", "origin")
    whole.commit("Publish")
    assert [(each.what, each.message) for each in verify(whole.tree)] == [
        (name, "origin lacks it; `ratchet push --all` sends it") for name in ("classifier#prod#1", "classifier@v1.0.0")
    ]
    push(whole.params, whole.tree)
    assert verify(whole.tree) == []

    other = whole.clone(tmp_path / "other")
    git("remote", "set-url", "origin", str(origin), cwd=other.tree)
    promote.fn(other.tree, "v1.0.0", "staging")
    assert verify(whole.tree) == []
    assert whole.serves("staging") == "v1.0.0"

    made = git("for-each-ref", "--format=%(contents)", "refs/tags/classifier@v1.0.0", cwd=origin)
    git("tag", "--force", "-a", "-m", made, "classifier@v1.0.0", "classifier@v1.0.0^{commit}", cwd=origin)
    for name in (None, "v1.0.0"):
        (finding,) = verify(whole.tree, name)
        assert (finding.version, finding.what) == ("v1.0.0", "classifier@v1.0.0")
        assert finding.message.startswith("differs on origin: moved or made again by hand; no tag is ever moved")


def snapshot(*folders: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time of change and content of every file, without DVC's scratch folder."""
    files: dict[str, tuple[int, int, bytes]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if ".dvc/tmp" in path.as_posix():
                continue
            status = path.stat()
            content = path.read_bytes() if path.is_file() else b""
            files[str(path)] = (status.st_mode, status.st_mtime_ns if path.is_file() else 0, content)
    return files


def test_it_changes_nothing_here_or_on_the_remote(whole: Toy, tmp_path: Path) -> None:
    (whole.tree / ".dvc/config.local").unlink()  # registering set `verify`
    md5 = pipeline.of_tree(whole.tree).output("models/classifier.pt").md5
    damaged = tmp_path / "store/files/md5" / md5[:2] / md5[2:]
    damaged.chmod(0o644)  # DVC deletes a damaged object of this mode when asked whether it exists
    damaged.write_bytes(b"not the weights")
    clone = whole.clone(tmp_path / "clone")
    for tree in (whole.tree, clone.tree):
        before = snapshot(tree, tmp_path / "store")
        findings = verify(tree)
        assert {(each.version, each.what) for each in findings} == {("v1.0.0", "models/classifier.pt")}
        assert any("on the DVC remote does not match its hash" in each.message for each in findings)
        assert snapshot(tree, tmp_path / "store") == before


def test_a_setting_of_the_user_stays(whole: Toy) -> None:
    (whole.tree / ".dvc/config.local").write_text("['remote \"store\"']\n    verify = false\n")
    release(whole, 0.1)
    assert "true" not in (whole.tree / ".dvc/config.local").read_text()
