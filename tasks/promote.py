"""Put a version into an environment, or put the one before it back. Both write one tag and touch no file.

What serves is the assignment with the highest counter, so a rollback is one more assignment: nothing is ever undone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import params
from tasks.errors import VersionError
from tasks.stage import step
from tasks.versions import loading, tags
from tasks.versions.git import Rejected
from tasks.versions.registry import Assignment, Registry, Version
from tasks.versions.repository import locked

if TYPE_CHECKING:
    from tasks.versions.gate import Decision

_TRIES = 20


@step("git")
def promote(
    tree: Path, version: str, environment: str, reason: str = "", decision: Decision | None = None
) -> Assignment:
    """Put `version` into service in `environment`; if it serves there already, nothing is written.

    Args:
        decision: the gate's, on which a flow does this and nobody asked; then a version that was rolled back from there is
            refused, and so is one that was judged against another champion than the one that serves there now.

    Raises:
        VersionError: the version is unknown or withdrawn, or a flow may not put it there.
        ObjectsMissing, CorruptData, CorruptModel: its weights or card can't be had whole; nothing was changed.
    """
    tags.checked_environment(environment)
    return _repeated(tree, lambda push_to: _promote(tree, version, environment, reason, decision, push_to))


@step("git")
def rollback(tree: Path, environment: str, to: str | None = None, reason: str = "") -> Assignment:
    """Put back what served in `environment` before, or the version `to`.

    Raises:
        VersionError: nothing served there before, or `to` is unknown, withdrawn, or in service already.
        ObjectsMissing, CorruptData, CorruptModel: the version can't be had whole; nothing was changed.
    """
    tags.checked_environment(environment)
    return _repeated(tree, lambda push_to: _rollback(tree, environment, to, reason, push_to))


def _promote(
    tree: Path, version: str, environment: str, reason: str, decision: Decision | None, push_to: str
) -> Assignment:
    registry = Registry(tree)
    chosen, now = registry.find(version), registry.assignment(environment)
    if now and now.version == chosen.name:
        return replace(now, changed=False)
    by_hand = f"`ratchet promote {chosen.name} --environment {environment}`"
    if decision and registry.was_rolled_back(chosen.name, environment):
        raise VersionError(
            f"{chosen.name} was rolled back from {environment}, so no flow puts it there again; {by_hand} does"
        )
    if decision and now and now.version != decision.champion:
        raise VersionError(
            f"{now.version} came to serve in {environment} after {chosen.name} was judged against "
            f"{decision.champion or 'none'}, so no flow puts it there; `ratchet gate {now.version} {chosen.name}` compares "
            f"the two, {by_hand} does it"
        )
    _check_usable(tree, chosen)
    under = now.counter if now else None
    return _assign(registry, chosen, environment, "promote", reason, under, push_to, by="flow" if decision else "hand")


def _rollback(tree: Path, environment: str, to: str | None, reason: str, push_to: str) -> Assignment:
    registry = Registry(tree)
    now = registry.assignment(environment)
    if now is None:
        raise VersionError(f"nothing serves in {environment}, so nothing can be rolled back; `ratchet versions`")
    chosen, under = _before(registry, now) if to is None else _chosen(registry, now, to)
    _check_usable(tree, chosen)
    return _assign(registry, chosen, environment, "rollback", reason, under, push_to, by="hand")


def _before(registry: Registry, now: Assignment) -> tuple[Version, int | None]:
    """What served before `now` and may serve again, and the counter of what lies under that."""
    below = now.under
    while below is not None:
        entry = registry.entry(now.environment, below)
        if entry is None:
            break
        if entry.version != now.version:
            version = registry.find(entry.version)
            if version.withdrawn is None:
                return version, entry.under
        below = entry.under
    raise VersionError(
        f"nothing to roll back to in {now.environment}: nothing usable served there before {now.version}; "
        f"`ratchet rollback --to VERSION` puts any version there"
    )


def _chosen(registry: Registry, now: Assignment, to: str) -> tuple[Version, int | None]:
    """The version named, and what a further rollback would return to."""
    version = registry.find(to)
    if version.name == now.version:
        raise VersionError(f"{version.name} serves in {now.environment} already; `ratchet history {now.environment}`")
    history = {each.counter: each for each in registry.history(now.environment)}
    entry: Assignment | None = now
    while entry is not None:
        if entry.version == version.name:
            return version, entry.under
        entry = history.get(entry.under) if entry.under is not None else None
    return version, now.under


def _check_usable(tree: Path, version: Version) -> None:
    if version.withdrawn is not None:
        why = version.withdrawn.data.get("reason") or "no reason was given"
        raise VersionError(f"{version.name} is withdrawn ({why}); `ratchet versions` shows which are not")
    loading.files(tree, version)


def _assign(
    registry: Registry,
    version: Version,
    environment: str,
    action: str,
    reason: str,
    under: int | None,
    push_to: str,
    by: str,
) -> Assignment:
    data: dict[str, Any] = {"action": action, "version": version.name, "under": under, "reason": reason, "by": by}
    verb = "into" if action == "promote" else "back into"
    subject = f"{tags.ARTIFACT} {version.name} {verb} {environment}"
    text = tags.message(subject, [reason] if reason else [], data)
    last, counter = registry.last_assignment(), registry.next_counter()
    name = tags.assignment_tag(environment, counter)
    tags.create(registry.tree, name, version.commit, text, [version.tag, last], push_to)
    made = registry.entry(environment, counter)
    assert made is not None
    return made


def _repeated(tree: Path, change: Any) -> Assignment:
    """Make the change under the registry's lock; look again when another machine was faster."""
    push_to = params.load(tree).register.push_to
    with locked(tree):
        for _ in range(_TRIES):
            tags.fetch(tree, push_to)
            try:
                made: Assignment = change(push_to)
                return made
            except Rejected:
                continue
    raise VersionError(f"{_TRIES} others were faster; `git fetch --tags {push_to}`, then the same command again")
