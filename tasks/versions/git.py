"""The only place that calls git.

Every call is isolated: hooks, pruning, signing, line endings, encodings and environment variables
of the user cannot change what Ratchet reads or writes. What a person needs to reach a remote
(SSH, proxies, credential helpers, `url.*.insteadOf`) and their identity stay in effect.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.errors import NotARepository, Unreachable, VersionError
from tasks.process import inherited_environment

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
SECRETS = re.compile(r"://[^/@\s]+@")  # a user and a password in a URL

_SETTINGS = {
    # what runs beside git
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "push.recurseSubmodules": "no",
    # bytes on disk are the bytes of the commit
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.safecrlf": "false",
    "core.ignoreStat": "false",
    # what is sent and fetched is what the command names
    "fetch.prune": "false",
    "fetch.pruneTags": "false",
    "push.followTags": "false",
    # nothing is signed: there may be no key, and nobody to type a passphrase
    "commit.gpgSign": "false",
    "push.gpgSign": "false",
    "tag.gpgSign": "false",
    "tag.forceSignAnnotated": "false",
    # what git prints
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


class Rejected(VersionError):
    """A reference changed meanwhile, here or on the remote: read it again, then repeat."""


def git(
    *args: str,
    cwd: Path,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run git in `cwd` and return its standard output without the last newline.

    Bytes that are not UTF-8 (a message that another tool wrote in Latin-1) are replaced.

    Raises:
        NotARepository: `cwd` is not in a git repository.
        Unreachable: a remote does not respond.
        Rejected: a reference was not what the command expected it to be.
        VersionError: any other failure, in git's own words.
    """
    content = None if input is None else input.encode(errors="replace")
    output = git_bytes(*args, cwd=cwd, input=content, env=env)
    return output.decode(errors="replace").rstrip("\n")


def git_bytes(*args: str, cwd: Path, input: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
    """Run git as `git` does, for content that is not text; return standard output unchanged."""
    try:
        done = subprocess.run(
            ["git", *_OPTIONS, *args],
            cwd=cwd,
            env={**inherited_environment(), **_ENVIRONMENT, **(env or {})},
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
        return NotARepository(
            f"{cwd.resolve()} is not a git repository; clone Ratchet with git, or run `git init` and commit"
        )
    if "dubious ownership" in stderr:
        return NotARepository(f"{cwd.resolve()} belongs to another user, and git refuses it; {lines[-1].strip()}")
    words = [line.removeprefix("fatal: ").removeprefix("error: ").strip() for line in lines[-3:]]
    reason = SECRETS.sub("://***@", "; ".join(words))
    command = next((word for word in args if not word.startswith("-") and "=" not in word), "")
    if any(phrase in stderr for phrase in _UNREACHABLE):
        return Unreachable(
            f"git {command} got no answer from the remote ({reason}); "
            "`git remote -v` lists the remotes; try again later"
        )
    rejections = ("[rejected]", "[remote rejected]", "cannot lock ref", "would clobber")
    if any(phrase in stderr for phrase in rejections):
        return Rejected(f"git {command} was refused: {reason}")
    return VersionError(f"git {command} failed: {reason or 'it printed no reason'}")


def resolve(tree: Path, revision: str) -> str | None:
    """The full id of a revision, or None where there is no such thing."""
    command = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    try:
        return git(*command, revision, cwd=tree) or None
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
    listing = os.fsdecode(git_bytes("ls-tree", "-r", "-z", commit, "--", path, cwd=tree))
    blob_ids = {}
    for entry in filter(None, listing.split("\0")):
        about, name = entry.split("\t", 1)
        _mode, kind, oid = about.split()
        if kind == "blob":
            blob_ids[name] = oid
    return blob_ids


def blobs(tree: Path, oids: Sequence[str]) -> list[bytes]:
    """The contents of many objects in one process, in their order."""
    output = git_bytes("cat-file", "--batch", cwd=tree, input="\n".join([*oids, ""]).encode())
    contents, position = [], 0
    for oid in oids:
        end = output.index(b"\n", position)
        about = output[position:end].split()
        if about[-1] == b"missing":
            raise VersionError(f"git has no object {oid}; `git fsck` lists what is lost")
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
