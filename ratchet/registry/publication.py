"""Changes of the registry, and the git remote that `register.push_to` names.

Most changes are pushed before they are written here, so two machines never use one number. A
rollback does not wait for the remote: it is written here first and stays pending
(`pending.py`) until the next command that reaches the remote pushes it.

If another machine used its number meanwhile, `settlement.py` gives it the next free one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import Busy, RemoteRefused
from ratchet.git import git, resolve
from ratchet.git_errors import Rejected
from ratchet.registry import exchange, pending, tags
from ratchet.registry.pending import PENDING, THEIRS
from ratchet.registry.settlement import settle
from ratchet.registry.tags import REFS, Tag
from ratchet.repository import locked

_TURN = "ratchet-publish.lock"
_TRIES = 20
_OVERTAKEN = f"{_TRIES} other publications were faster; run the command again"


@dataclass(frozen=True)
class Draft:
    """A tag that is about to be made. It is dated after the tags in `after`."""

    name: str
    commit: str
    text: str
    after: Sequence[Tag | None]

    def make(self, tree: Path) -> Tag:
        """Make the tag's object; no reference names it yet."""
        return tags.make(tree, self.name, self.commit, self.text, self.after)


class Deadline:
    """A time limit, in seconds, that several git commands share. None is no limit."""

    def __init__(self, limit_s: float | None) -> None:
        self._end = None if limit_s is None else time.monotonic() + limit_s

    def left_s(self) -> float | None:
        """The seconds that are left, at least 0.05; None without a limit."""
        if self._end is None:
            return None
        return max(0.05, round(self._end - time.monotonic(), 2))


def publish(tree: Path, push_to: str, draft: Callable[[], Draft | None]) -> Tag | None:
    """Write the tag that `draft` describes, on the git remote first if `push_to` names one.

    Args:
        tree: the checkout.
        push_to: the git remote; empty if there is none.
        draft: reads the registry and decides. It runs under the registry's lock, so it has to be
            fast. It is called again after another publication was faster. If it returns None,
            nothing is written.

    Raises:
        RemoteRefused: the remote does not accept the tag. Nothing was written here.
        Unreachable: the remote does not respond. Nothing was written here.
        Busy: other publications were faster, again and again.
    """
    if not push_to:
        return _publish_here(tree, draft)
    last: Tag | None = None
    with locked(tree, name=_TURN):
        for _ in range(_TRIES):
            with locked(tree):
                if last and resolve(tree, REFS + last.name) == last.oid:
                    return last  # the push succeeded, although git reported a failure
                new = draft()
                if new is None:
                    return None
                last = new.make(tree)
            try:
                exchange.push(tree, push_to, [f"{last.oid}:{REFS}{last.name}"])
            except Rejected:
                sync(tree, push_to, in_turn=True)
                continue
            _take_over(tree, push_to, last)
            return last
    raise Busy(_OVERTAKEN)


@contextlib.contextmanager
def turn(tree: Path, patience_s: float) -> Iterator[bool]:
    """Hold the lock for publications of this repository, if it is free within `patience_s` seconds.

    Yields:
        Whether the lock is held.
    """
    with contextlib.ExitStack() as stack:
        acquired = False
        with contextlib.suppress(Busy):
            stack.enter_context(locked(tree, patience_s, _TURN))
            acquired = True
        yield acquired


def _publish_here(tree: Path, draft: Callable[[], Draft | None]) -> Tag | None:
    for _ in range(_TRIES):
        with locked(tree):
            new = draft()
            if new is None:
                return None
            tag = new.make(tree)
            with contextlib.suppress(Rejected):  # a `git fetch` brought a tag of that name
                tags.write(tree, tag.name, tag.oid)
                return tag
    raise Busy(_OVERTAKEN)


def _take_over(tree: Path, push_to: str, tag: Tag) -> None:
    """Write a tag that is on the remote; renumber a rollback that took its number meanwhile."""
    with locked(tree):
        is_taken = resolve(tree, PENDING + tag.name) not in (None, tag.oid)
        if is_taken:
            git("update-ref", THEIRS + tag.name, tag.oid, cwd=tree)
        else:
            tags.write(tree, tag.name, tag.oid)
    if is_taken:
        sync(tree, push_to, in_turn=True)


def sync(tree: Path, remote: str, deadline: Deadline | None = None, in_turn: bool = False) -> str:
    """Fetch the registry's tags from the git remote, and push those that are pending.

    Args:
        tree: the checkout.
        remote: the git remote; if it is empty, nothing happens.
        deadline: the time limit; by default there is none.
        in_turn: the caller holds the lock for publications (`turn`, `publish`). Otherwise this
            waits for a rollback that is under way, because a pending tag may belong to it.

    Returns:
        Why tags are still pending. Empty if none is, or if another command is about to push them.

    Raises:
        VersionError: someone moved a tag, here or on the remote; or there is no such remote.
        RemoteRefused: the remote denies access.
        Unreachable: the remote does not respond.
        Busy: another command publishes for over a minute, or others are faster again and again.
    """
    deadline = deadline or Deadline(None)
    if not remote:
        return ""
    with contextlib.ExitStack() as stack:
        for _ in range(_TRIES):
            pending.restore(tree)
            _fetch(tree, remote, deadline)
            if not pending.read(tree):
                pending.clean(tree)
                return ""
            if not in_turn:
                patience_s = deadline.left_s()
                try:
                    stack.enter_context(
                        locked(tree, 60.0 if patience_s is None else patience_s, _TURN)
                    )
                except Busy:
                    if patience_s is None:
                        raise
                    return ""
                in_turn = True
                continue
            try:
                settle(tree)
                push_pending(tree, remote, deadline)
                return ""
            except Rejected:
                continue
            except RemoteRefused as error:
                return error.cause
    raise Busy(_OVERTAKEN)


def push_pending(tree: Path, remote: str, deadline: Deadline) -> None:
    """Push the pending tags, all or none.

    Raises:
        Rejected: a number is taken on the remote.
        RemoteRefused: the remote does not accept a tag.
        Unreachable: the remote does not respond.
    """
    waiting = pending.read(tree)
    if not waiting:
        return
    exchange.push(
        tree, remote, [f"{tag.oid}:{REFS}{tag.name}" for tag in waiting], deadline.left_s()
    )
    for tag in waiting:
        with contextlib.suppress(Rejected):  # another process was faster
            pending.remove(tree, tag)


def _fetch(tree: Path, remote: str, deadline: Deadline) -> None:
    """Fetch the registry's tags, those that have the names of pending ones into `THEIRS`."""
    before: set[tuple[str, str, str]] = set()
    for _ in range(_TRIES):
        try:
            exchange.fetch(tree, remote, deadline.left_s())
            return
        except exchange.Moved:
            differing, own = differences(tree, exchange.listed(tree, remote, deadline.left_s()))
            if own:
                refs = [f"+{REFS}{name}:{THEIRS}{name}" for name in sorted(own)]
                exchange.fetch_refs(tree, remote, refs, deadline.left_s())
                return
            if differing & before:
                raise
            before = differing  # seen once, it may be a rollback that is being taken back
    raise Busy(_OVERTAKEN)


def differences(tree: Path, there: Mapping[str, str]) -> tuple[set[tuple[str, str, str]], set[str]]:
    """The registry's tags that differ between here and a remote.

    Args:
        tree: the checkout.
        there: the remote's tags, as `exchange.listed` returns them.

    Returns:
        The tags that are not pending, each as (name, object id here, object id there), and the
        names of the pending ones.
    """
    with locked(tree):
        here = {tag.name: tag.oid for tag in tags.read(tree, *tags.EVERYTHING)}
        waiting = {tag.name for tag in pending.read(tree)}
    differing = {
        name: (name, here[name], oid) for name, oid in there.items() if here.get(name, oid) != oid
    }
    own = differing.keys() & waiting
    return {entry for name, entry in differing.items() if name not in own}, own
