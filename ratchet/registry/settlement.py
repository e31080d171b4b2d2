"""Two machines used one number: give the pending assignments the next free numbers.

Both assignments are in the history afterwards, and the one that was made later is in force.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from ratchet.git_errors import Rejected
from ratchet.registry import pending, tags
from ratchet.registry.pending import PENDING, THEIRS, WRITTEN
from ratchet.registry.tags import REFS, Tag
from ratchet.repository import locked


def settle(tree: Path) -> None:
    """Renumber pending tags whose numbers are taken, and put the latest assignment in force.

    The remote's tags of the same names have to be under `pending.THEIRS`.

    Raises:
        Rejected: a reference changed meanwhile.
    """
    with locked(tree):
        ours = pending.read(tree)
        if not ours:
            return
        here = {tag.name: tag for tag in tags.read(tree, *(tag.name for tag in ours))}
        theirs = {tag.name: tag for tag in tags.read(tree, "*", namespace=THEIRS)}
        for tag in ours:
            present = here.get(tag.name)
            if present is None:
                raise Rejected(f"{tag.name} was removed meanwhile")
            if present.oid != tag.oid:  # a `git fetch --force` replaced it
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
        """The tags of one environment from the first whose name is taken, so their order stays."""
        clash = next((at for at, tag in enumerate(ours) if tag.name in self.theirs), len(ours))
        return ours[clash:]

    def _settle(self, environment: str, ours: list[Tag], moved: list[Tag]) -> None:
        others = self._published(environment, ours)
        ours = ours[: len(ours) - len(moved)] + self._renumbered(moved)
        if not others:
            return
        in_force = max(ours[-1], others[-1], key=pending.counter)
        latest = others[-1] if _time(others[-1]) > _time(ours[-1]) else ours[-1]
        if latest is not in_force:
            note = f"It was made after {in_force.name}, so it is in force."
            self._add(latest, {"again": pending.counter(latest)}, note)

    def _published(self, environment: str, ours: list[Tag]) -> list[Tag]:
        """What other machines assigned since the first of `ours`, lowest number first."""
        first = pending.counter(ours[0])
        own = {tag.name for tag in ours}
        later = []
        for name in tags.names(
            self.tree, f"{tags.ARTIFACT}#{environment}#*", f"{tags.ARTIFACT}#{environment}!#*"
        ):
            parsed = tags.parse(name)
            if name not in own and parsed and parsed.counter and parsed.counter >= first:
                later.append(name)
        published = tags.read(self.tree, *later) if later else []
        published += [self.theirs[name] for name in own & self.theirs.keys()]
        return sorted(published, key=pending.counter)

    def _renumbered(self, ours: list[Tag]) -> list[Tag]:
        for tag in ours:
            taken = self.theirs.get(tag.name)
            self.new[REFS + tag.name] = taken.oid if taken else None
            self.new[PENDING + tag.name] = self.new[WRITTEN + tag.name] = None
        numbers: dict[Any, int] = {}
        renumbered = []
        for tag in ours:
            under = tag.data.get("under")
            was = tag.data.get("was", pending.counter(tag))  # the first of several
            changes = {"was": was, "under": numbers.get(under, under)}
            note = f"It was number {was}, which another machine used meanwhile."
            renumbered.append(self._add(tag, changes, note))
            numbers[pending.counter(tag)] = self.counter
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
        for namespace in (PENDING, REFS, WRITTEN):
            self.new[namespace + name] = self.last.oid
        return self.last

    def write(self) -> None:
        """Change the references, all or none."""
        old = {REFS + name: tag.oid for name, tag in self.here.items()}
        for namespace in (PENDING, WRITTEN):
            old |= self._references(namespace)
        theirs = self._references(THEIRS)
        pending.transact(self.tree, {**self.new, **dict.fromkeys(theirs)}, old | theirs)

    def _references(self, namespace: str) -> dict[str, str]:
        """The references of a namespace, each with the id of its tag object."""
        listing = tags.read(self.tree, "*", namespace=namespace)
        return {namespace + tag.name: tag.oid for tag in listing}


def _place(tag: Tag) -> tuple[str, int]:
    return tag.parsed.environment or "", pending.counter(tag)


def _time(tag: Tag) -> int:
    """When an assignment was first made, in Unix seconds."""
    value = tag.data.get("time")
    return value if isinstance(value, int) else tag.date
