"""Tags that exist here and not yet on the git remote.

A reference `refs/ratchet/pending/<tag>`, written together with the tag, records that the tag still
has to be pushed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ratchet.git import git, resolve
from ratchet.git_errors import Rejected
from ratchet.registry import tags
from ratchet.registry.tags import REFS, Tag
from ratchet.repository import locked

PENDING = "refs/ratchet/pending/"  # tags that are not on the remote yet
# the pending tags that took effect here: one without its tag was pruned by a fetch
WRITTEN = "refs/ratchet/written/"
# the remote's tags of the same names, while `settlement.settle` runs
THEIRS = "refs/ratchet/theirs/"


def read(tree: Path) -> list[Tag]:
    """The tags that are not on the git remote yet, lowest number first."""
    return sorted(tags.read(tree, "*", namespace=PENDING), key=counter)


def counter(tag: Tag) -> int:
    """The number of an assignment, 0 for a tag without one."""
    return tag.parsed.counter or 0


def write(tree: Path, tag: Tag) -> None:
    """Write a new tag that is not on the remote yet. The caller holds the registry's lock.

    Raises:
        Rejected: a tag of that name exists.
    """
    transact(tree, {PENDING + tag.name: tag.oid, REFS + tag.name: tag.oid}, {})
    git("update-ref", WRITTEN + tag.name, tag.oid, cwd=tree)


def take_back(tree: Path, tag: Tag, in_turn: bool) -> bool:
    """Remove a pending tag that was written just now.

    Args:
        tree: the checkout.
        tag: the newest pending tag.
        in_turn: this command holds the lock for publications, so that a higher number can only
            come from another machine.

    Returns:
        False if another tag may have been written here after it. Nothing is removed then.
    """
    with locked(tree):
        waiting = read(tree)
        last = tags.last(tags.names(tree, f"{tags.ARTIFACT}#*"))
        is_last = last is not None and last[1] == tag.name
        if not waiting or waiting[-1].oid != tag.oid or not (in_turn or is_last):
            return False
        # a fetch may have replaced the tag with the other machine's
        refs = [
            ref for ref in (WRITTEN + tag.name, REFS + tag.name) if resolve(tree, ref) == tag.oid
        ]
        refs.append(PENDING + tag.name)
        try:
            transact(tree, dict.fromkeys(refs), dict.fromkeys(refs, tag.oid))
        except Rejected:  # a `git fetch` pruned or replaced it
            return False
        return True


def remove(tree: Path, tag: Tag) -> None:
    """Record that a tag is no longer pending.

    Raises:
        Rejected: another process was faster.
    """
    git("update-ref", "-d", WRITTEN + tag.name, cwd=tree)
    git("update-ref", "-d", PENDING + tag.name, tag.oid, cwd=tree)


def restore(tree: Path) -> None:
    """Write pending tags again that a `git fetch` pruned; forget those that never took effect."""
    if not _absent(tree):
        return
    with locked(tree):
        written = {tag.name for tag in tags.read(tree, "*", namespace=WRITTEN)}
        for tag in _absent(tree):
            with contextlib.suppress(Rejected):  # a fetch was faster
                if tag.name in written:
                    tags.write(tree, tag.name, tag.oid)
                else:
                    remove(tree, tag)


def clean(tree: Path) -> None:
    """Delete what an interrupted settlement left behind, once nothing is pending."""
    command = ("for-each-ref", "--format=%(refname) %(objectname)", THEIRS, WRITTEN)
    if not git(*command, cwd=tree):
        return
    with locked(tree):
        if read(tree):
            return
        for line in git(*command, cwd=tree).splitlines():
            with contextlib.suppress(Rejected):
                git("update-ref", "-d", *line.split(), cwd=tree)


def transact(tree: Path, new: dict[str, str | None], old: dict[str, str]) -> None:
    """Create, move and delete references, all or none.

    Args:
        tree: the checkout.
        new: the object that each reference names afterwards; None deletes the reference.
        old: the object that each reference names now; a reference without an entry is created.

    Raises:
        Rejected: a reference is not as `old` says.
    """
    commands = []
    for ref, oid in new.items():
        if oid is None:
            if ref in old:
                commands.append(f"delete {ref} {old[ref]}\n")
        elif ref in old:
            commands.append(f"update {ref} {oid} {old[ref]}\n")
        else:
            commands.append(f"create {ref} {oid}\n")
    if commands:
        git("update-ref", "-m", "ratchet", "--stdin", cwd=tree, input="".join(commands))


def _absent(tree: Path) -> list[Tag]:
    """The pending tags whose tag is gone."""
    waiting = read(tree)
    if not waiting:
        return []
    present = set(tags.names(tree, *(tag.name for tag in waiting)))
    return [tag for tag in waiting if tag.name not in present]
