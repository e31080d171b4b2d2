from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet.git import git
from ratchet.store import pipeline
from ratchet.upkeep.push import push
from ratchet.upkeep.verify import verify
from tasks.promote import promote
from tests.helpers.real import lay
from tests.helpers.toy import Toy, tool


@pytest.fixture
def whole(toy: Toy, tmp_path: Path) -> Toy:
    """A checkout with a remote and one real version in service."""
    toy.remote(tmp_path / "store")
    release(toy, 0.2)
    return toy


def release(toy: Toy, threshold: float) -> None:
    from ratchet.git import head
    from tasks.register import register

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


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("target", "others"),
    [("HEAD", {"no dvc.lock"}), ("classifier@v1.0.1", {"other outputs", "other metrics"})],
)
def test_a_tag_moved_by_hand_is_found(whole: Toy, target: str, others: set[str]) -> None:
    release(whole, 0.1)
    text = git(
        "for-each-ref", "--format=%(contents)", "refs/tags/classifier@v1.0.0", cwd=whole.tree
    )
    git(
        "tag",
        "--force",
        "-a",
        "-m",
        text,
        "classifier@v1.0.0",
        f"{target}^{{commit}}",
        cwd=whole.tree,
    )
    messages = {finding.message for finding in verify(whole.tree)}
    expected = others | {"puts v1.0.0 into prod, but that version's tag is not on the same commit"}
    for part in expected:
        assert any(part in message for message in messages), (part, messages)


def retag(
    toy: Toy, change: Callable[[dict[str, Any]], None], commit: str = "classifier@v1.0.0^{commit}"
) -> list[str]:
    """Make the tag of v1.0.0 again with other data; what `verify` says of that version's tag."""
    tag = toy.registry.find("v1.0.0").tag
    data = tag.data
    change(data)
    text = tag.message.split("\n\n")[0] + "\n\n" + json.dumps(data, indent=1) + "\n"
    git("tag", "--force", "-a", "-m", text, "classifier@v1.0.0", commit, cwd=toy.tree)
    return [
        finding.message.split(";")[0]
        for finding in verify(toy.tree)
        if finding.what == "classifier@v1.0.0"
    ]


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            put("metrics", "accuracy", value=1.0),
            "its message names other metrics than its commit holds",
        ),
        (
            put("metrics", "intervals", value={"accuracy": [0, 1]}),
            "its message names other metrics than",
        ),
        (
            put("gate", "verdict", value="undecided"),
            "its message names another gate decision than its commit holds",
        ),
        (
            put("gate", "reason", value="it is better"),
            "its message names another gate decision than",
        ),
        (
            put("hashes", "models/classifier.pt", value="0" * 32),
            "its message names other outputs than its commit",
        ),
        (put("base", value="0" * 40), f"its commit is not the child of {'0' * 40}"),
    ],
    ids=["accuracy", "interval", "verdict", "reason", "hash", "base"],
)
def test_a_tag_whose_data_do_not_fit_its_commit_is_found(
    whole: Toy, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    (finding,) = retag(whole, change)
    assert finding.startswith(message)


def test_a_tag_made_again_with_the_same_data_is_not_a_finding(whole: Toy) -> None:
    assert retag(whole, lambda data: None) == []


def test_a_tag_without_data_or_for_another_name_is_found(whole: Toy) -> None:
    release(whole, 0.1)
    assert retag(whole, dict.clear) == [
        "its message has no JSON block: made by hand, not by registration"
    ]
    newest = git("rev-parse", "refs/tags/classifier@v1.0.1", cwd=whole.tree)
    git("update-ref", "refs/tags/classifier@v1.0.0", newest, cwd=whole.tree)
    messages = [finding.message for finding in verify(whole.tree, "v1.0.0")]
    assert messages[0].startswith("the tag object was made for another name")


def test_a_file_that_git_keeps_and_was_changed_in_the_commit_is_found(whole: Toy) -> None:
    """Weights and dvc.lock are right, and the curves beside them are not those of the run."""
    version = whole.registry.find("v1.0.0")
    tampered = snapshot_commit(
        whole, version.commit, {"reports/training/curves.tsv": "epoch\n9999\n"}
    )
    retag(whole, lambda data: None, tampered)
    findings = {
        (finding.what, finding.message.split(",")[0]) for finding in verify(whole.tree, "v1.0.0")
    }
    assert (
        "reports/training",
        f"in commit {tampered[:12]} it is not what dvc.lock there names",
    ) in findings


def snapshot_commit(toy: Toy, commit: str, contents: dict[str, str]) -> str:
    """A sibling of `commit` with other contents."""
    base = git("rev-parse", f"{commit}^", cwd=toy.tree)
    git(
        "worktree",
        "add",
        "--quiet",
        "--detach",
        str(toy.tree.parent / "sibling"),
        commit,
        cwd=toy.tree,
    )
    sibling = Toy(toy.tree.parent / "sibling")
    sibling.write(contents)
    git("add", "--all", "--force", *contents, cwd=sibling.tree)
    tree = git("write-tree", cwd=sibling.tree)
    return git("commit-tree", tree, "-p", base, "-m", "tampered", cwd=sibling.tree)


@pytest.mark.fault(6)
def test_damaged_objects_on_a_folder_remote_are_found_by_their_digest_and_stay(
    whole: Toy, tmp_path: Path
) -> None:
    """Whatever their mode: DVC trusts those of mode 0444 and deletes damaged others when it lists."""
    for mode in (0o444, 0o644):
        md5 = pipeline.of_tree(whole.tree).output("models/classifier.pt").md5
        file = tmp_path / "store/files/md5" / md5[:2] / md5[2:]
        content = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(content[:-1] + b"!")
        file.chmod(mode)
        (finding,) = verify(whole.tree)
        assert finding.message.startswith(f"{md5} on the DVC remote does not match its hash")
        assert file.read_bytes() == content[:-1] + b"!"
        assert verify(whole.tree, read_remote=False) == []
        file.chmod(0o644)
        file.write_bytes(content)


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
        (name, "origin lacks it; `ratchet push --all` sends it")
        for name in ("classifier#prod#1", "classifier@v1.0.0")
    ]
    push(whole.params, whole.tree)
    assert verify(whole.tree) == []

    other = whole.clone(tmp_path / "other")
    git("remote", "set-url", "origin", str(origin), cwd=other.tree)
    promote.fn(other.tree, "v1.0.0", "staging")
    assert verify(whole.tree) == []
    assert whole.serves("staging") == "v1.0.0"

    made = git("for-each-ref", "--format=%(contents)", "refs/tags/classifier@v1.0.0", cwd=origin)
    git(
        "tag",
        "--force",
        "-a",
        "-m",
        made,
        "classifier@v1.0.0",
        "classifier@v1.0.0^{commit}",
        cwd=origin,
    )
    for name in (None, "v1.0.0"):
        (finding,) = verify(whole.tree, name)
        assert (finding.version, finding.what) == ("v1.0.0", "classifier@v1.0.0")
        assert finding.message.startswith(
            "differs on origin: moved or made again by hand; no tag is ever moved"
        )


def snapshot(*folders: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time of change and content of every file, without DVC's scratch folder."""
    files: dict[str, tuple[int, int, bytes]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if ".dvc/tmp" in path.as_posix():
                continue
            status = path.stat()
            content = path.read_bytes() if path.is_file() else b""
            files[str(path)] = (
                status.st_mode,
                status.st_mtime_ns if path.is_file() else 0,
                content,
            )
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
        assert {(each.version, each.what) for each in findings} == {
            ("v1.0.0", "models/classifier.pt")
        }
        assert any("on the DVC remote does not match its hash" in each.message for each in findings)
        assert snapshot(tree, tmp_path / "store") == before


def test_a_setting_of_the_user_stays(whole: Toy) -> None:
    (whole.tree / ".dvc/config.local").write_text("['remote \"store\"']\n    verify = false\n")
    release(whole, 0.1)
    assert "true" not in (whole.tree / ".dvc/config.local").read_text()


def test_an_unassignment_that_the_git_remote_lacks_names_no_version(
    whole: Toy, tmp_path: Path
) -> None:
    """GTO writes such a tag, without data of ours."""
    tool("gto", "deprecate", "classifier", "v1.0.0", "prod", cwd=whole.tree)
    origin = tmp_path / "origin.git"
    git("clone", "--quiet", "--bare", str(whole.tree), str(origin), cwd=tmp_path)
    git("tag", "--delete", "classifier#prod!#2", cwd=origin)
    git("remote", "add", "origin", str(origin), cwd=whole.tree)
    whole.set("register.push_to", "origin")
    (finding,) = [each for each in verify(whole.tree) if "origin lacks it" in each.message]
    assert (finding.version, finding.what) == ("", "classifier#prod!#2")
