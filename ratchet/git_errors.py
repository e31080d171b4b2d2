"""Typed errors for the messages of git: what may pass, and what to do about the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ratchet import git_locks
from ratchet.errors import NotARepository, RemoteRefused, Unreachable, VersionError

# git's messages when the remote does not respond, for all transports
_UNREACHABLE = (
    "Could not read from remote repository",
    "unable to access",
    "Could not resolve host",
    "Connection refused",
    "Connection timed out",
    "does not appear to be a git repository",
    "the remote end hung up",
    "early EOF",
    "unexpected disconnect",
)
# git's messages when the remote denies access
_DENIED = (
    "Authentication failed",
    "could not read Username",
    "could not read Password",
    "Permission denied (",
    "Too many authentication failures",
    "Host key verification failed",
    "The requested URL returned error: 401",
    "The requested URL returned error: 403",
    "The requested URL returned error: 404",
    "Repository not found",
)
# git's messages when another publication was faster; repeating the command helps
_RACES = (
    "[rejected]",
    "would clobber",
    "already exists",
    "cannot lock ref",
    "failed to update ref",
    "incorrect old value",
    "stale info",
)
# causes that stay, although git reports them as a reference that it cannot lock
_FINAL = ("Permission denied", "Read-only file system", "No space left on device", "quota exceeded")
_SECRETS = re.compile(r"://[^/@\s]+@")  # a user and a password in a URL


class Rejected(VersionError):
    """A reference changed meanwhile, here or on the remote: read it again and repeat."""


def subcommand(args: Sequence[str]) -> str:
    """Return the name of the git command, for messages."""
    for word in args:
        if not word.startswith("-") and "=" not in word:
            return word
    return ""


def without_secrets(text: str) -> str:
    """Return the text with *** instead of the user and password of each URL."""
    return _SECRETS.sub("://***@", text)


def failure(
    args: Sequence[str],
    cwd: Path,
    stdout: str,
    stderr: str,
    remotes: Callable[[], list[str]],
) -> VersionError | Unreachable:
    """Return the typed error for a command that failed."""
    stdout, stderr = without_secrets(stdout), without_secrets(stderr)
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("hint:")]
    if "not a git repository" in stderr:
        return NotARepository(
            f"{cwd.resolve()} is not a git repository; clone Ratchet with git, or run `git init`"
            " and commit"
        )
    if "dubious ownership" in stderr:
        return NotARepository(
            f"{cwd.resolve()} belongs to another user, and git refuses it; {lines[-1].strip()}"
        )
    lock = git_locks.blocking(stderr)
    if lock:
        return _locked(subcommand(args), lock)
    words = [line.removeprefix("fatal: ").removeprefix("error: ").strip() for line in lines[-3:]]
    reason = "; ".join(words)
    command = subcommand(args)
    # `git push --porcelain` prints one line per reference: a flag, the names, and why
    verdicts = [line.split("\t")[-1] for line in stdout.splitlines() if line.startswith("!\t")]
    if verdicts:
        return _push_failure(verdicts, stderr)
    if any(phrase in stderr for phrase in _DENIED):
        return RemoteRefused(
            f"the git remote refuses access ({reason})", "`git remote -v` lists the remotes"
        )
    remote = args[args.index("--") + 1] if "--" in args else ""
    if "does not appear to be a git repository" in stderr and remote not in remotes():
        return VersionError(
            f"there is no git remote {without_secrets(remote)!r}; `git remote` lists the remotes, "
            "and register.push_to in params.yaml names the one for versions"
        )
    if any(phrase in stderr for phrase in _UNREACHABLE):
        return Unreachable(
            f"git {command} got no answer from the remote ({reason})",
            "`git remote -v` lists the remotes; try again later",
        )
    if _is_race(stderr):
        return Rejected(f"git {command} was refused: {reason}")
    return VersionError(f"git {command} failed: {reason or 'it printed no reason'}")


def _locked(command: str, lock: Path) -> VersionError:
    """Return the error for a lock file; for one of references, a race is the likely cause."""
    message = (
        f"git {command} failed: another git process holds {lock};"
        " repeat the command when that has ended, or delete the file if no git process is running"
    )
    is_race = "refs" in lock.parts or lock.name == "packed-refs.lock"
    return Rejected(message) if is_race else VersionError(message)


def _push_failure(verdicts: Sequence[str], stderr: str) -> VersionError:
    """Return the error for a push that the remote refused.

    Args:
        verdicts: git's verdict on each refused reference.
        stderr: the standard error of git.
    """
    # In an atomic push, "atomic" marks the references that failed only because others did.
    causes = [verdict for verdict in verdicts if "atomic" not in verdict] or list(verdicts)
    lines = [
        line.removeprefix("remote: ") for line in stderr.splitlines() if line.startswith("remote: ")
    ]
    server = [line.removeprefix("error: ").strip() for line in lines]
    message = "; ".join(filter(None, server))
    if all("atomic" in verdict for verdict in causes) and _is_race(message):
        return Rejected(f"git push was refused: {message}")
    final = [verdict for verdict in causes if not _is_race(verdict)]
    if final:
        reason = " ".join(filter(None, (message, final[0].removeprefix("[remote rejected] "))))
        return RemoteRefused(
            f"the git remote does not accept the tag: {reason}",
            "have that rule changed, then repeat the command",
        )
    return Rejected(f"git push was refused: {'; '.join(filter(None, (causes[0], message)))}")


def _is_race(reason: str) -> bool:
    """Does git's reason mean that another publication was faster?"""
    return any(phrase in reason for phrase in _RACES) and not any(
        phrase in reason for phrase in _FINAL
    )
