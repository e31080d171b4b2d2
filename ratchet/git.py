"""The only place that calls git.

Every call is isolated: hooks, pruning, signing, line endings, encodings and environment variables
of the user cannot change what Ratchet reads or writes. What a person needs to reach a remote
(SSH, proxies, credential helpers, `url.*.insteadOf`) and their identity stay in effect.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ratchet import git_locks
from ratchet.environment import inherited_environment
from ratchet.errors import NotARepository, RemoteRefused, Unreachable, VersionError

# git's own words for "the other side does not answer", whatever the transport
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
# ... for "the other side answers, and does not let us in"
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
# ... for "another publication was faster": these pass when the command is repeated
_RACES = (
    "[rejected]",
    "would clobber",
    "already exists",
    "cannot lock ref",
    "failed to update ref",
    "incorrect old value",
    "stale info",
)
# ... and what fails again, although git reports it as a reference that it cannot lock
_FINAL = ("Permission denied", "Read-only file system", "No space left on device", "quota exceeded")
_SECRETS = re.compile(r"://[^/@\s]+@")  # a user and a password in a URL

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
    # another git process packs references in seconds at most
    "core.filesRefLockTimeout": "2000",
    "core.packedRefsTimeout": "2000",
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
    limit_s: float | None = None,
) -> str:
    """Run git in `cwd` and return its standard output without the last newline.

    Bytes that are not UTF-8 (a message that another tool wrote in Latin-1) are replaced.

    Args:
        limit_s: for a command that talks to a remote: the seconds that it may take.

    Raises:
        NotARepository: `cwd` is not in a git repository.
        Unreachable: a remote does not respond, or not within `limit_s`.
        RemoteRefused: a remote responds and does not accept what was sent, or who sent it.
        Rejected: a reference was not what the command expected it to be.
        VersionError: any other failure, in git's own words.
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
        raise _failure(args, cwd, _text(stdout), _text(stderr))
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
            # a session of its own, so that the time limit ends ssh and other helpers too
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
                    f"git {_command(args)} got no answer from the remote within {limit_s:g} s"
                ) from None
            raise
    return child.returncode, stdout, stderr


def _common_dir(cwd: Path) -> Path:
    code, stdout, _ = _run(("rev-parse", "--git-common-dir"), cwd, None, None, None)
    return cwd / os.fsdecode(stdout.rstrip(b"\n")) if code == 0 else cwd / ".git"


def _kill(child: subprocess.Popen[bytes], family: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if family:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def _command(args: Sequence[str]) -> str:
    return next((word for word in args if not word.startswith("-") and "=" not in word), "")


def without_secrets(text: str) -> str:
    """`text` with *** for the user and password of each URL."""
    return _SECRETS.sub("://***@", text)


def _failure(
    args: Sequence[str], cwd: Path, stdout: str, stderr: str
) -> VersionError | Unreachable:
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
        return _locked(_command(args), lock)
    words = [line.removeprefix("fatal: ").removeprefix("error: ").strip() for line in lines[-3:]]
    reason = "; ".join(words)
    command = _command(args)
    # `git push --porcelain` prints one line per reference: a flag, the names, and why
    verdicts = [line.split("\t")[-1] for line in stdout.splitlines() if line.startswith("!\t")]
    if verdicts:
        return _push_failure(verdicts, stderr)
    if any(phrase in stderr for phrase in _DENIED):
        return RemoteRefused(
            f"the git remote refuses access ({reason})", "`git remote -v` lists the remotes"
        )
    remote = args[args.index("--") + 1] if "--" in args else ""
    if "does not appear to be a git repository" in stderr and remote not in remotes(cwd):
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
    """The error for a lock file that stays; for one of references a race is the likely cause."""
    message = (
        f"git {command} failed: another git process holds {lock}; repeat the command when that has"
        " ended, or delete the file if no git process is running"
    )
    is_race = "refs" in lock.parts or lock.name == "packed-refs.lock"
    return Rejected(message) if is_race else VersionError(message)


def _push_failure(verdicts: Sequence[str], stderr: str) -> VersionError:
    """The error for a push whose references a remote did not take.

    `verdicts` are git's, one each.
    """
    # of an atomic push, what goes down with the others explains nothing
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
    return any(phrase in reason for phrase in _RACES) and not any(
        phrase in reason for phrase in _FINAL
    )


def remotes(tree: Path) -> list[str]:
    """The names of the git remotes."""
    return git("remote", cwd=tree).split("\n")


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
        raise NotARepository(
            f"{tree.resolve()} has no commit yet; `git add --all && git commit` makes the first"
        )
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
