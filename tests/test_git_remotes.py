"""What a git remote answers: a lost race is repeated, a refusal is reported once, an outage may pass."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from ratchet.errors import RemoteRefused, Unreachable, VersionError
from ratchet.git import git
from ratchet.git_errors import Rejected, failure
from ratchet.registry import tags
from tasks.promote import promote
from tests.helpers.toy import Toy

PUSH = ("push", "--porcelain", "--", "origin", "refs/tags/x")
DIED = "fatal: Could not read from remote repository."


def reply(verdict: str) -> str:
    return f"To origin\n!\trefs/tags/x:refs/tags/x\t{verdict}\nDone\n"


@pytest.mark.parametrize(
    ("stdout", "stderr", "expected", "message"),
    [
        (reply("[rejected] (already exists)"), "", Rejected, "already exists"),
        (reply("[rejected] (fetch first)"), "", Rejected, "fetch first"),
        (reply("[rejected] (stale info)"), "", Rejected, "stale info"),
        (
            reply("[remote rejected] (cannot lock ref 'refs/tags/x': reference already exists)"),
            "", Rejected, "already exists",
        ),
        (reply("[remote rejected] (failed to update ref)"), "", Rejected, "failed to update ref"),
        (
            reply("[remote rejected] (atomic transaction failed)"),
            "remote: error: cannot lock ref 'refs/tags/x': reference already exists", Rejected, "already exists",
        ),
        (
            reply("[remote rejected] (cannot lock ref 'refs/tags/x': Unable to create 'x.lock': Permission denied)"),
            "", RemoteRefused, "Permission denied",
        ),
        (
            reply("[remote rejected] (pre-receive hook declined)"),
            "remote: GitLab: You are not allowed to create this tag as it is protected.        \nerror: failed",
            RemoteRefused, "GitLab: You are not allowed to create this tag as it is protected",
        ),
        (
            reply("[remote rejected] (push declined due to repository rule violations)"),
            "remote: error: GH013: Repository rule violations found for refs/tags/x.\nremote: \n",
            RemoteRefused, "GH013: Repository rule violations found",
        ),
        (reply("[remote rejected] (unpacker error)"), "remote: fatal: No space left on device", RemoteRefused, "space"),
        ("", f"git@host: Permission denied (publickey).\n{DIED}", RemoteRefused, "refuses access"),
        ("", f"Host key verification failed.\n{DIED}", RemoteRefused, "refuses access"),
        (
            "", "remote: Permission to a/b.git denied to c.\nfatal: unable to access 'https://u:secret@h/': "
            "The requested URL returned error: 403", RemoteRefused, "refuses access",
        ),
        (
            reply("[remote rejected] (mirror of https://u:secret@h/)"),
            "remote: read only; push to https://u:secret@h/", RemoteRefused, "read only",
        ),
        ("", "fatal: could not read Username for 'https://h': terminal prompts disabled", RemoteRefused, "access"),
        ("", "fatal: unable to access 'https://h/': The requested URL returned error: 503", Unreachable, "503"),
        ("", f"ssh: connect to host h port 22: No route to host\n{DIED}", Unreachable, "No route to host"),
        ("", "fatal: the remote end hung up unexpectedly", Unreachable, "hung up"),
        ("", "fatal: repository 'https://h/x/' not found", VersionError, "not found"),
    ],
)  # fmt: skip
def test_replies(
    tmp_path: Path, stdout: str, stderr: str, expected: type[Exception], message: str
) -> None:
    error = failure(PUSH, tmp_path, stdout, stderr, list)
    assert type(error) is expected
    assert message in str(error)
    assert "secret" not in str(error)


def test_a_remote_that_is_a_url_is_named_without_its_password(tmp_path: Path) -> None:
    url = "https://u:secret@h/x"
    stderr = f"fatal: '{url}' does not appear to be a git repository"
    error = failure(("push", "--", url), tmp_path, "", stderr, list)
    assert "there is no git remote 'https://***@h/x'" in str(error)
    assert "secret" not in str(error)


def test_a_misspelled_remote_is_final_and_an_unmounted_one_may_come_back(
    toy: Toy, tmp_path: Path
) -> None:
    toy.release("a")
    git("remote", "add", "origin", str(tmp_path / "unmounted"), cwd=toy.tree)
    for name in ("orgin", str(tmp_path / "missing"), "./missing"):
        toy.set("register.push_to", name)
        with pytest.raises(VersionError, match=r"there is no git remote '.*'; `git remote` lists"):
            promote.fn(toy.tree, "v1.0.0", "staging")
    toy.set("register.push_to", "origin")
    with pytest.raises(Unreachable, match="got no answer from the remote"):
        promote.fn(toy.tree, "v1.0.0", "staging")
    assert toy.registry.environments() == {"prod": "v1.0.0"}


@pytest.mark.fault(37)
def test_a_tag_that_another_process_fetched_meanwhile_is_ours(toy: Toy) -> None:
    version = toy.register("a")
    name = "classifier#prod#1"
    ours = tags.make(toy.tree, name, version.commit, "x\n", [])
    tags.write(toy.tree, name, ours.oid)
    tags.write(toy.tree, name, ours.oid)
    other = tags.make(toy.tree, name, version.commit, "y\n", [])
    with pytest.raises(Rejected):
        tags.write(toy.tree, name, other.oid)


def test_an_interrupt_ends_git_and_stays_what_it_is(toy: Toy) -> None:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            git("-c", "alias.wait=!sleep 20", "wait", cwd=toy.tree, limit_s=10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 5
