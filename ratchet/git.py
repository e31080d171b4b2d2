"""The only place that calls git.

Every call is isolated: the user's hooks and environment variables, and settings for pruning,
signing, line endings and encodings cannot change what Ratchet reads or writes. Settings for access
to a remote (SSH, proxies, credential helpers, `url.*.insteadOf`) and the user's identity stay in
effect.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ratchet import git_locks
from ratchet.environment import inherited_environment
from ratchet.errors import NotARepository, Unreachable, VersionError
from ratchet.git_errors import failure, subcommand

_SETTINGS = {
    # no other programs and no background work
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "push.recurseSubmodules": "no",
    # files have the same bytes on disk as in the commit
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.ignoreStat": "false",
    # wait for another git process that packs references
    "core.filesRefLockTimeout": "2000",
    "core.packedRefsTimeout": "2000",
    # send and fetch only what the command names
    "fetch.prune": "false",
    "fetch.pruneTags": "false",
    "push.followTags": "false",
    # sign nothing: there may be no key, and nobody to type a passphrase
    "commit.gpgSign": "false",
    "push.gpgSign": "false",
    "tag.gpgSign": "false",
    "tag.forceSignAnnotated": "false",
    # the format of the output
    "color.ui": "false",
    "column.ui": "never",
    "core.quotePath": "false",
    "diff.external": "",
    "diff.renames": "false",
    "i18n.commitEncoding": "UTF-8",
    "i18n.logOutputEncoding": "UTF-8",
    "log.showSignature": "false",
    "status.relativePaths": "false",
    "status.renames": "false",
}
_OPTIONS = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_LITERAL_PATHSPECS": "1",  # a `*` in a path is a `*`
    "GIT_NO_REPLACE_OBJECTS": "1",  # `git replace` must not change what a version holds
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}


def git(
    *args: str,
    cwd: Path,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> str:
    """Run git in `cwd` and return its standard output without the last newline.

    Bytes that are not UTF-8, such as those of a message in Latin-1, are replaced.

    Args:
        *args: the command and its arguments.
        cwd: the working directory.
        input: the standard input.
        env: additional environment variables.
        limit_s: the seconds that a command may take that talks to a remote.

    Raises:
        NotARepository: `cwd` is not in a git repository.
        Unreachable: a remote does not respond, or not within `limit_s`.
        RemoteRefused: a remote responds, but refuses the user or the push.
        Rejected: a reference has another value than the command expects.
        VersionError: any other failure; the message quotes git.
    """
    content = None if input is None else input.encode(errors="replace")
    output = git_bytes(*args, cwd=cwd, input=content, env=env, limit_s=limit_s)
    return output.decode(errors="replace").rstrip("\n")


def git_bytes(
    *args: str,
    cwd: Path,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> bytes:
    """Run git as `git` does, for content that is not text; return standard output unchanged."""
    code, stdout, stderr = _run(args, cwd, input, env, limit_s)
    lock = git_locks.blocking(_text(stderr)) if code else None
    if lock and git_locks.remove_abandoned(lock, _common_dir(cwd)):
        code, stdout, stderr = _run(args, cwd, input, env, limit_s)
    if code:
        raise failure(args, cwd, _text(stdout), _text(stderr), functools.partial(remotes, cwd))
    return stdout


def _run(
    args: Sequence[str],
    cwd: Path,
    input: bytes | None,
    env: Mapping[str, str] | None,
    limit_s: float | None,
) -> tuple[int, bytes, bytes]:
    """Run git once; return its exit code, standard output and standard error."""
    try:
        child = subprocess.Popen(
            ["git", *_OPTIONS, *args],
            cwd=cwd,
            env={**inherited_environment(), **_ENVIRONMENT, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # the time limit must end ssh and other helpers too, hence the session
            start_new_session=limit_s is not None,
        )
    except FileNotFoundError as error:
        cause = "git is not installed" if error.filename == "git" else f"there is no folder {cwd}"
        raise NotARepository(f"{cause}; versions are git tags") from None
    with child:
        try:
            stdout, stderr = child.communicate(input or b"", timeout=limit_s)
        except BaseException as error:
            _kill(child, family=limit_s is not None)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Unreachable(
                    f"git {subcommand(args)} got no answer from the remote within {limit_s:g} s"
                ) from None
            raise
    return child.returncode, stdout, stderr


def _common_dir(cwd: Path) -> Path:
    """Return the git directory that all worktrees share."""
    code, stdout, _ = _run(("rev-parse", "--git-common-dir"), cwd, None, None, None)
    return cwd / os.fsdecode(stdout.rstrip(b"\n")) if code == 0 else cwd / ".git"


def _kill(child: subprocess.Popen[bytes], family: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if family:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    child.wait()


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def remotes(tree: Path) -> list[str]:
    """Return the names of the git remotes."""
    return git("remote", cwd=tree).split("\n")


def resolve(tree: Path, revision: str) -> str | None:
    """Return the full id of a revision, or None if it does not exist."""
    command = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    try:
        return git(*command, revision, cwd=tree) or None
    except NotARepository:
        raise
    except VersionError:
        return None


def head(tree: Path) -> str:
    """Return the commit checked out in `tree`; raise `NotARepository` if there is none yet."""
    commit = resolve(tree, "HEAD^{commit}")
    if commit is None:
        raise NotARepository(
            f"{tree.resolve()} has no commit yet; run `git add --all && git commit`"
        )
    return commit


def read(tree: Path, commit: str, path: str) -> bytes | None:
    """Return the content of a file in a commit; None if the commit has no such file."""
    oid = resolve(tree, f"{commit}:{path}")
    return None if oid is None else git_bytes("cat-file", "blob", oid, cwd=tree)


def files(tree: Path, commit: str, path: str) -> dict[str, str]:
    """Return the blob ids of the files of a commit at or below `path`, by path."""
    listing = os.fsdecode(git_bytes("ls-tree", "-r", "-z", commit, "--", path, cwd=tree))
    blob_ids = {}
    for entry in filter(None, listing.split("\0")):
        header, name = entry.split("\t", 1)
        _mode, kind, oid = header.split()
        if kind == "blob":
            blob_ids[name] = oid
    return blob_ids


def blobs(tree: Path, oids: Sequence[str]) -> list[bytes]:
    """Return the contents of many objects, in their order, read by one process."""
    output = git_bytes("cat-file", "--batch", cwd=tree, input="\n".join([*oids, ""]).encode())
    contents, position = [], 0
    for oid in oids:
        end = output.index(b"\n", position)
        header = output[position:end].split()
        if header[-1] == b"missing":
            raise VersionError(f"git has no object {oid}; run `git fsck` to list what is lost")
        size = int(header[2])
        contents.append(output[end + 1 : end + 1 + size])
        position = end + 2 + size
    return contents


def identity(tree: Path) -> tuple[str, str]:
    """Return name and address for commits and tags: the user's, or a fallback if none is set."""
    try:
        line = git("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT", cwd=tree)
    except NotARepository:
        raise
    except VersionError:
        return "Ratchet", "ratchet@localhost"
    name, _, rest = line.rpartition(" <")
    return name, rest.partition(">")[0]
