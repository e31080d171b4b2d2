"""Changes of the registry and the git remote that `register.push_to` names.

Most changes are pushed before they exist here, so two machines never take one number. A rollback
does not wait for the remote: it is written here first. Until the remote has it, a reference
`refs/ratchet/pending/<tag>`, written in the same transaction, remembers that it has to be pushed,
and the next command that reaches the remote does so.

If another machine used its number meanwhile, it is made again under the next free one, so both are
in the history, and whichever was made later is in force.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ratchet.errors import Busy, RemoteRefused
from ratchet.git import Rejected, git, resolve
from ratchet.registry import tags
from ratchet.registry.tags import REFS, Tag
from ratchet.repository import locked

PENDING = "refs/ratchet/pending/"  # tags that the remote lacks so far
_WRITTEN = (  # those of them that were in force: one that is missing was pruned
    "refs/ratchet/written/"
)
_THEIRS = (  # the remote's tags of the same names, while they are being settled
    "refs/ratchet/theirs/"
)
_TURN = "ratchet-publish.lock"
_TRIES = 20
_OVERTAKEN = f"{_TRIES} others were faster; repeat the command"


@dataclass(frozen=True)
class Draft:
    """A tag that is about to be made: it is dated after the tags in `after`."""

    name: str
    commit: str
    text: str
    after: Sequence[Tag | None]

    def make(self, tree: Path) -> Tag:
        return tags.make(tree, self.name, self.commit, self.text, self.after)


class Deadline:
    """The seconds that several git commands may take together; None: as long as they need."""

    def __init__(self, limit_s: float | None) -> None:
        self._end = None if limit_s is None else time.monotonic() + limit_s

    def left_s(self) -> float | None:
        return None if self._end is None else max(0.05, round(self._end - time.monotonic(), 2))


def publish(tree: Path, push_to: str, draft: Callable[[], Draft | None]) -> Tag | None:
    """Write the tag that `draft` describes, on the git remote first if `push_to` names one.

    Args:
        draft: reads the registry and decides, under its lock and therefore fast; None means that
            nothing is to be written. It is called again if another publication was faster.

    Raises:
        RemoteRefused: the remote does not accept the tag; nothing was written here.
        Unreachable: the remote does not respond; nothing was written here.
        Busy: others were faster, again and again.
    """
    if not push_to:
        return _publish_here(tree, draft)
    last: Tag | None = None
    with locked(tree, name=_TURN):
        for _ in range(_TRIES):
            with locked(tree):
                if last and resolve(tree, REFS + last.name) == last.oid:
                    return last  # it got through, although the push was reported as failed
                wanted = draft()
                if wanted is None:
                    return None
                last = wanted.make(tree)
            try:
                tags.push(tree, push_to, [f"{last.oid}:{REFS}{last.name}"])
            except Rejected:
                sync(tree, push_to, in_turn=True)
                continue
            _take_over(tree, push_to, last)
            return last
    raise Busy(_OVERTAKEN)


@contextlib.contextmanager
def turn(tree: Path, patience_s: float) -> Iterator[bool]:
    """Wait until no other command of this repository publishes, but not for long.

    Gives whether that succeeded.
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
            wanted = draft()
            if wanted is None:
                return None
            tag = wanted.make(tree)
            with contextlib.suppress(Rejected):  # somebody's `git fetch` brought a tag of that name
                tags.write(tree, tag.name, tag.oid)
                return tag
    raise Busy(_OVERTAKEN)


def _take_over(tree: Path, push_to: str, tag: Tag) -> None:
    """Write a tag that the remote has.

    A rollback that took its number here meanwhile gets another.
    """
    with locked(tree):
        is_taken = resolve(tree, PENDING + tag.name) not in (None, tag.oid)
        if is_taken:
            git("update-ref", _THEIRS + tag.name, tag.oid, cwd=tree)
        else:
            tags.write(tree, tag.name, tag.oid)
    if is_taken:
        sync(tree, push_to, in_turn=True)


# ── what is pending ─────────────────────────────────────────────────────────────────────────────


def write_pending(tree: Path, tag: Tag) -> None:
    """Write a new tag that the remote lacks so far; the caller holds the registry's lock."""
    _transact(tree, {PENDING + tag.name: tag.oid, REFS + tag.name: tag.oid}, {})
    git("update-ref", _WRITTEN + tag.name, tag.oid, cwd=tree)


def take_back(tree: Path, tag: Tag, in_turn: bool) -> bool:
    """Remove a pending tag that was written just now.

    False if something here may have come after it.

    Args:
        in_turn: nothing was published from here meanwhile, so a higher number is another machine's.
    """
    with locked(tree):
        waiting = pending(tree)
        last = tags.last(tags.names(tree, f"{tags.ARTIFACT}#*"))
        is_last = last is not None and last[1] == tag.name
        if not waiting or waiting[-1].oid != tag.oid or not (in_turn or is_last):
            return False
        # the tag may be the other machine's by now: somebody fetched it
        refs = [
            ref for ref in (_WRITTEN + tag.name, REFS + tag.name) if resolve(tree, ref) == tag.oid
        ]
        refs.append(PENDING + tag.name)
        try:
            _transact(tree, dict.fromkeys(refs), dict.fromkeys(refs, tag.oid))
        except Rejected:  # somebody's `git fetch` pruned or replaced it
            return False
        return True


def pending(tree: Path) -> list[Tag]:
    """The tags that the git remote lacks so far, the lowest number first."""
    return sorted(tags.read(tree, "*", namespace=PENDING), key=_counter)


def sync(tree: Path, remote: str, deadline: Deadline | None = None, in_turn: bool = False) -> str:
    """Fetch the registry's tags from the git remote, and push those that are pending.

    Args:
        remote: empty if there is none; then nothing happens.
        in_turn: the caller publishes at the moment (`turn`, `publish`). Otherwise a pending tag may
            be that of a rollback that is under way, which is left to finish first.

    Returns:
        Why tags are still pending; empty if none is, or if another command is about to push them.

    Raises:
        VersionError: a tag was moved by hand, here or there; or there is no such remote.
        RemoteRefused: the remote denies access.
        Unreachable: the remote does not respond.
        Busy: another command has been publishing for a minute, or others were faster, again and
            again.
    """
    deadline = deadline or Deadline(None)
    if not remote:
        return ""
    with contextlib.ExitStack() as stack:
        for _ in range(_TRIES):
            restore(tree)
            _fetch(tree, remote, deadline)
            if not pending(tree):
                _forget(tree)
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
                _settle(tree)
                push_pending(tree, remote, deadline)
                return ""
            except Rejected:
                continue
            except RemoteRefused as error:
                return error.cause
    raise Busy(_OVERTAKEN)


def push_pending(tree: Path, remote: str, deadline: Deadline) -> None:
    """Push what is pending; raises what `tags.push` raises, and `Rejected` if a number is taken."""
    waiting = pending(tree)
    if not waiting:
        return
    tags.push(tree, remote, [f"{tag.oid}:{REFS}{tag.name}" for tag in waiting], deadline.left_s())
    for tag in waiting:
        with contextlib.suppress(Rejected):  # another process was faster
            _delete_pending(tree, tag)


def _delete_pending(tree: Path, tag: Tag) -> None:
    git("update-ref", "-d", _WRITTEN + tag.name, cwd=tree)
    git("update-ref", "-d", PENDING + tag.name, tag.oid, cwd=tree)


def _fetch(tree: Path, remote: str, deadline: Deadline) -> None:
    """Fetch, and bring the remote's tags that have the names of pending ones beside them."""
    before: set[tuple[str, str, str]] = set()
    for _ in range(_TRIES):
        try:
            tags.fetch(tree, remote, deadline.left_s())
            return
        except tags.Moved:
            differing, own = differences(tree, tags.listed(tree, remote, deadline.left_s()))
            if own:
                refs = [f"+{REFS}{name}:{_THEIRS}{name}" for name in sorted(own)]
                tags.fetch_refs(tree, remote, refs, deadline.left_s())
                return
            if differing & before:
                raise
            before = differing  # seen once, it may be a rollback that is being taken back
    raise Busy(_OVERTAKEN)


def differences(tree: Path, there: Mapping[str, str]) -> tuple[set[tuple[str, str, str]], set[str]]:
    """The registry's tags that differ from those `there`, which are a remote's (`tags.listed`).

    Returns:
        the name, the tag here and the tag there, of those that are not pending; the names of those
        that are.
    """
    with locked(tree):
        here = {tag.name: tag.oid for tag in tags.read(tree, *tags.EVERYTHING)}
        waiting = {tag.name for tag in pending(tree)}
    differing = {
        name: (name, here[name], oid) for name, oid in there.items() if here.get(name, oid) != oid
    }
    own = differing.keys() & waiting
    return {entry for name, entry in differing.items() if name not in own}, own


def restore(tree: Path) -> None:
    """Write pending tags again that somebody's `git fetch` pruned.

    Forget those that were never in force.
    """
    if not _absent(tree):
        return
    with locked(tree):
        written = {tag.name for tag in tags.read(tree, "*", namespace=_WRITTEN)}
        for tag in _absent(tree):
            with contextlib.suppress(Rejected):  # a fetch was faster
                if tag.name in written:
                    tags.write(tree, tag.name, tag.oid)
                else:
                    _delete_pending(tree, tag)


def _absent(tree: Path) -> list[Tag]:
    waiting = pending(tree)
    present = set(tags.names(tree, *(tag.name for tag in waiting))) if waiting else set()
    return [tag for tag in waiting if tag.name not in present]


def _forget(tree: Path) -> None:
    """Delete what a settlement left that was cut off, once nothing is pending."""
    command = ("for-each-ref", "--format=%(refname) %(objectname)", _THEIRS, _WRITTEN)
    if not git(*command, cwd=tree):
        return
    with locked(tree):
        if pending(tree):
            return
        for line in git(*command, cwd=tree).splitlines():
            with contextlib.suppress(Rejected):
                git("update-ref", "-d", *line.split(), cwd=tree)


# ── two assignments with one number ─────────────────────────────────────────────────────────────


def _settle(tree: Path) -> None:
    """Give pending tags whose numbers are taken new ones, and put in force what was made last."""
    with locked(tree):
        ours = pending(tree)
        if not ours:
            return
        here = {tag.name: tag for tag in tags.read(tree, *(tag.name for tag in ours))}
        theirs = {tag.name: tag for tag in tags.read(tree, "*", namespace=_THEIRS)}
        for tag in ours:
            present = here.get(tag.name)
            if present is None:
                raise Rejected(f"{tag.name} was removed meanwhile")
            if present.oid != tag.oid:  # somebody's `git fetch --force`
                theirs.setdefault(tag.name, present)
        _Settlement(tree, [tag for tag in ours if tag.name in here], here, theirs).write()


class _Settlement:
    """One transaction on the references of the registry."""

    def __init__(
        self, tree: Path, ours: list[Tag], here: dict[str, Tag], theirs: dict[str, Tag]
    ) -> None:
        self.tree = tree
        self.here = here  # what the names of pending tags refer to now
        self.theirs = theirs  # what they refer to on the remote, where that differs
        self.new: dict[str, str | None] = {}
        groups = {
            environment: list(group)
            for environment, group in groupby(
                sorted(ours, key=_place), key=lambda tag: _place(tag)[0]
            )
        }
        moved = {environment: self._moved(group) for environment, group in groups.items()}
        names = set(tags.names(tree, f"{tags.ARTIFACT}#*", f"{tags.ARTIFACT}@*!#*"))
        names -= {tag.name for group in moved.values() for tag in group} - theirs.keys()
        last = tags.last(sorted(names))
        self.counter = last[0] if last else 0
        highest = tags.read(tree, last[1]) if last else []
        self.last = max([*ours, *theirs.values(), *highest], key=lambda tag: tag.date)
        for environment, group in groups.items():
            self._settle(environment, group, moved[environment])

    def _moved(self, ours: list[Tag]) -> list[Tag]:
        """The tags of one environment from the first whose name is taken: their order has to stay."""
        clash = next((at for at, tag in enumerate(ours) if tag.name in self.theirs), len(ours))
        return ours[clash:]

    def _settle(self, environment: str, ours: list[Tag], moved: list[Tag]) -> None:
        others = self._published(environment, ours)
        ours = ours[: len(ours) - len(moved)] + self._renumbered(moved)
        if not others:
            return
        in_force = max(ours[-1], others[-1], key=_counter)
        latest = others[-1] if _time(others[-1]) > _time(ours[-1]) else ours[-1]
        if latest is not in_force:
            note = f"It was made after {in_force.name}, so it is in force."
            self._add(latest, {"again": _counter(latest)}, note)

    def _published(self, environment: str, ours: list[Tag]) -> list[Tag]:
        """What others assigned since the first of ours, the lowest number first."""
        first, own = _counter(ours[0]), {tag.name for tag in ours}
        names = tags.names(
            self.tree, f"{tags.ARTIFACT}#{environment}#*", f"{tags.ARTIFACT}#{environment}!#*"
        )
        parsed = {name: tags.parse(name) for name in names if name not in own}
        later = [
            name for name, its in parsed.items() if its and its.counter and its.counter >= first
        ]
        found = tags.read(self.tree, *later) if later else []
        return sorted(
            [*found, *(self.theirs[name] for name in own & self.theirs.keys())], key=_counter
        )

    def _renumbered(self, ours: list[Tag]) -> list[Tag]:
        for tag in ours:
            taken = self.theirs.get(tag.name)
            self.new[REFS + tag.name] = taken.oid if taken else None
            self.new[PENDING + tag.name] = self.new[_WRITTEN + tag.name] = None
        numbers: dict[Any, int] = {}
        renumbered = []
        for tag in ours:
            under = tag.data.get("under")
            was = tag.data.get("was", _counter(tag))  # the first of several
            changes = {"was": was, "under": numbers.get(under, under)}
            note = f"It was number {was}, which another machine used meanwhile."
            renumbered.append(self._add(tag, changes, note))
            numbers[_counter(tag)] = self.counter
        return renumbered

    def _add(self, tag: Tag, changes: dict[str, Any], note: str) -> Tag:
        """Make the assignment `tag` again, under the next free number."""
        self.counter += 1
        name = tags.assignment_tag(str(tag.parsed.environment), self.counter, tag.parsed.cancels)
        text = tag.message
        if tag.data:
            subject = tag.message.partition("\n")[0]
            reason = str(tag.data.get("reason") or "")
            lines = [reason, note] if reason else [note]
            text = tags.message(subject, lines, {**tag.data, "time": _time(tag), **changes})
        self.last = tags.make(self.tree, name, tag.commit, text, [tag, self.last])
        for namespace in (PENDING, REFS, _WRITTEN):
            self.new[namespace + name] = self.last.oid
        return self.last

    def write(self) -> None:
        old = {REFS + name: tag.oid for name, tag in self.here.items()}
        for namespace in (PENDING, _WRITTEN):
            old |= {
                namespace + tag.name: tag.oid
                for tag in tags.read(self.tree, "*", namespace=namespace)
            }
        theirs = {
            _THEIRS + tag.name: tag.oid for tag in tags.read(self.tree, "*", namespace=_THEIRS)
        }
        _transact(self.tree, {**self.new, **dict.fromkeys(theirs)}, old | theirs)


def _counter(tag: Tag) -> int:
    return tag.parsed.counter or 0


def _place(tag: Tag) -> tuple[str, int]:
    return tag.parsed.environment or "", _counter(tag)


def _time(tag: Tag) -> int:
    """When an assignment was first made, in Unix seconds."""
    value = tag.data.get("time")
    return value if isinstance(value, int) else tag.date


def _transact(tree: Path, new: dict[str, str | None], old: dict[str, str]) -> None:
    """Create, move and delete references, all or none.

    Args:
        new: what each is to refer to; None: nothing.
        old: what each refers to now; without an entry, nothing.
    """
    commands = []
    for ref, oid in new.items():
        if oid is None:
            commands.append(f"delete {ref} {old[ref]}" if ref in old else "")
        elif ref in old:
            commands.append(f"update {ref} {oid} {old[ref]}")
        else:
            commands.append(f"create {ref} {oid}")
    lines = "".join(f"{command}\n" for command in commands if command)
    if lines:
        git("update-ref", "-m", "ratchet", "--stdin", cwd=tree, input=lines)
