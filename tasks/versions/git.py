"""The only caller of git: plain processes, nothing kept open, nothing asked of a person."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import Busy, NotARepository, Unreachable, VersionError

# git's own words for "the other side does not answer", whatever the transport
_UNREACHABLE = (
    "Could not read from remote repository",
    "unable to access",
    "Could not resolve host",
    "Connection refused",
    "Connection timed out",
    "does not appear to be a git repository",
    "the remote end hung up",
)
_LOCK = "ratchet.lock"
SECRETS = re.compile(r"://[^/@\s]+@")  # a user and a password in a URL


class Rejected(VersionError):
    """A reference changed under us (here or on the remote): look again, then repeat."""


def git(
    *args: str,
    cwd: Path,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run git in `cwd` and return its standard output without the last newline.

    Raises:
        NotARepository: `cwd` is in no git repository.
        Unreachable: a remote does not answer.
        Rejected: a reference was not what the command expected it to be.
        VersionError: anything else that git refuses, in git's own words.
    """
    return git_bytes(*args, cwd=cwd, input=None if input is None else input.encode(), env=env).decode().rstrip("\n")


def git_bytes(*args: str, cwd: Path, input: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
    """As `git`, for content that is no text; returns standard output as it came."""
    fixed = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *args],
            cwd=cwd,
            env={**os.environ, **fixed, **(env or {})},
            capture_output=True,
            check=False,
            input=input or b"",
        )
    except FileNotFoundError as error:
        what = "git is not installed" if error.filename == "git" else f"there is no folder {cwd}"
        raise NotARepository(f"{what}; versions are git tags") from None
    if done.returncode:
        raise _failure(args, cwd, done.stderr.decode(errors="replace"))
    return done.stdout


def _failure(args: Sequence[str], cwd: Path, stderr: str) -> VersionError | Unreachable:
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("hint:")]
    if "not a git repository" in stderr:
        return NotARepository(f"{cwd.resolve()} is in no git repository; versions are git tags: `git init` makes one")
    if "dubious ownership" in stderr:
        return NotARepository(f"{cwd.resolve()} belongs to another user, and git refuses it; {lines[-1].strip()}")
    said = SECRETS.sub(
        "://***@", "; ".join(line.removeprefix("fatal: ").removeprefix("error: ").strip() for line in lines[-3:])
    )
    if any(words in stderr for words in _UNREACHABLE):
        return Unreachable(
            f"git {args[0]} got no answer from the remote ({said}); `git remote -v` names it; try again then"
        )
    if any(words in stderr for words in ("[rejected]", "[remote rejected]", "cannot lock ref", "would clobber")):
        return Rejected(f"git {args[0]} was refused: {said}")
    return VersionError(f"git {args[0]} failed: {said or 'without a word'}")


def common_dir(tree: Path) -> Path:
    """The `.git` folder that all worktrees of a repository share."""
    return (tree / git("rev-parse", "--git-common-dir", cwd=tree)).resolve()


def resolve(tree: Path, revision: str) -> str | None:
    """The full id of a revision, or None where there is no such thing."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", revision, cwd=tree) or None
    except NotARepository:
        raise
    except VersionError:
        return None


def head(tree: Path) -> str:
    """The commit checked out in `tree`; raises `NotARepository` where nothing was committed yet."""
    commit = resolve(tree, "HEAD^{commit}")
    if commit is None:
        raise NotARepository(f"{tree.resolve()} has no commit yet; `git add --all && git commit` makes the first")
    return commit


def read(tree: Path, commit: str, path: str) -> bytes | None:
    """The content of a file in a commit; None where the commit has no such file."""
    oid = resolve(tree, f"{commit}:{path}")
    return None if oid is None else git_bytes("cat-file", "blob", oid, cwd=tree)


def files(tree: Path, commit: str, path: str) -> dict[str, str]:
    """The files of a commit at or below `path`: their paths and blob ids."""
    listing = git_bytes("ls-tree", "-r", "-z", commit, "--", path, cwd=tree).decode()
    entries = (entry.split("\t", 1) for entry in listing.split("\0") if entry)
    return {name: about.split()[2] for about, name in entries if about.split()[1] == "blob"}


def blobs(tree: Path, oids: Sequence[str]) -> list[bytes]:
    """The contents of many objects in one process, in their order."""
    output = git_bytes("cat-file", "--batch", cwd=tree, input="\n".join([*oids, ""]).encode())
    contents, position = [], 0
    for oid in oids:
        end = output.index(b"\n", position)
        about = output[position:end].split()
        if about[-1] == b"missing":
            raise VersionError(f"git has no object {oid}; `git fsck` tells what else is lost")
        size = int(about[2])
        contents.append(output[end + 1 : end + 1 + size])
        position = end + 2 + size
    return contents


def identity(tree: Path) -> tuple[str, str]:
    """Name and address for commits and tags: the user's, or a fallback where none is set."""
    try:
        line = git("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT", cwd=tree)
    except NotARepository:
        raise
    except VersionError:
        return "Ratchet", "ratchet@localhost"
    name, _, rest = line.rpartition(" <")
    return name, rest.partition(">")[0]


@contextmanager
def locked(tree: Path, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the lock that every change of the registry in this repository takes; `Busy` past the time."""
    deadline = time.monotonic() + timeout_s
    descriptor = os.open(common_dir(tree) / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(f"another ratchet command has held {_LOCK} for {timeout_s:.0f} s; try again") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)
