"""Put a version into an environment, or put the one before it back.

Both write one tag and touch no file.

The assignment with the highest counter is in service, so a rollback is one more assignment, and
nothing is ever undone. A promotion is pushed to the git remote first, if there is one. A rollback
is written here first, whether or not the remote responds, and pushed as soon as it does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet import params
from ratchet.errors import Busy, ParamsError, RatchetError, VersionError
from ratchet.git import Rejected, head
from ratchet.registry import loading, pending, publication, tags
from ratchet.registry.publication import Deadline, Draft
from ratchet.registry.records import Assignment, Version
from ratchet.registry.tags import Tag
from ratchet.registry.versions import Registry
from ratchet.repository import locked
from ratchet.stage import origin, step
from ratchet.store import pipeline

if TYPE_CHECKING:
    from ratchet.gate.decisions import Decision

_TRIES = 20
FETCH_LIMIT_S = (
    0.8  # for a rollback to learn what others assigned; a remote that is down takes all of it
)
PUSH_LIMIT_S = 5.0  # for a remote that has just responded
TURN_LIMIT_S = 1.0  # for a rollback to wait for other commands of this repository that publish


@dataclass(frozen=True)
class _Change:
    """What a promotion or rollback comes to: `version` over the assignment `now`."""

    version: Version
    now: Assignment | None
    counter: int  # of the new assignment
    under: int | None  # the counter of the assignment that a rollback returns to


class _Gap(VersionError):
    """An assignment that another one refers to is missing here."""


@step("git")
def promote(
    tree: Path, version: str, environment: str, reason: str = "", decision: Decision | None = None
) -> Assignment:
    """Put `version` into service in `environment`; if it serves there already, nothing is written.

    Args:
        decision: the gate's, on which a flow does this and nobody asked; then a version that was
            rolled back from there is refused, and so is one that was judged against another
            champion than the one that serves there now.

    Raises:
        VersionError: the version is unknown or withdrawn, or a flow may not put it there.
        ObjectsMissing, CorruptData, CorruptModel: its weights or card are unavailable; nothing was
        changed.
        RemoteRefused, Unreachable: the git remote did not take the tag; nothing was changed.
    """
    tags.checked_environment(environment)
    tags.checked_text(reason)
    registry, push_to = Registry(tree), params.load(tree).register.push_to
    publication.sync(tree, push_to)
    chosen = registry.find(version)
    serving: Assignment | None = registry.assignment(environment)
    if serving and serving.version == chosen.name:
        return replace(serving, changed=False)
    _check_usable(tree, chosen)

    def draft() -> Draft | None:
        nonlocal serving
        now, counter = registry.position(environment)
        serving = now
        change = _Change(registry.find(chosen.name), now, counter, now.counter if now else None)
        if now and now.version == chosen.name:
            return None
        if decision:
            _check_decided(registry, change, environment, decision)
        _check_not_withdrawn(change.version)
        return _drafted(
            registry, change, environment, "promote", reason, automatic=decision is not None
        )

    tag = publication.publish(tree, push_to, draft)
    if tag is None:
        assert serving is not None
        return replace(serving, changed=False)
    return Registry.assigned(tag)


@step("git")
def rollback(tree: Path, environment: str, to: str | None = None, reason: str = "") -> Assignment:
    """Put back what served in `environment` before, or the version `to`.

    It does not depend on the git remote: `unpushed` of the result says why that lacks the tag, if
        it does.

    Raises:
        VersionError: nothing served there before, or `to` is unknown, withdrawn, or in service
        already.
        ObjectsMissing, CorruptData, CorruptModel: the version's files are unavailable; nothing was
            changed.
    """
    tags.checked_environment(environment)
    tags.checked_text(reason)
    push_to = _push_to(tree)
    problem = _exchanged(tree, push_to)
    has_gap = False
    for attempt in range(1, _TRIES + 1):
        if push_to:
            pending.restore(tree)  # a fetch that prunes tags may run all the time
        try:
            change = _rolled_back(tree, environment, to)
        except _Gap:
            if has_gap or not push_to:
                raise
            has_gap, problem = (
                True,
                _exchanged(tree, push_to),
            )  # a fetch that prunes may have removed it
            continue
        _check_usable(tree, change.version)
        with publication.turn(tree, TURN_LIMIT_S if push_to else 0) as in_turn:
            tag = _write(tree, change, environment, to, reason, has_remote=bool(push_to))
            if tag is None:
                continue
            if push_to and not problem:
                try:
                    publication.push_pending(tree, push_to, Deadline(PUSH_LIMIT_S))
                except Rejected:  # another machine was faster
                    # the last attempt stays: what is pending gets another number
                    taken_back = attempt < _TRIES and pending.take_back(tree, tag, in_turn)
                    problem = _exchanged(tree, push_to, in_turn)
                    if taken_back:
                        continue
                except RatchetError as error:
                    problem = error.cause
        return replace(Registry.assigned(tag), unpushed=problem, remote=push_to)
    raise Busy(
        f"{_TRIES} others were faster; `ratchet history {environment}`, then the same command again"
    )


def _push_to(tree: Path) -> str:
    """`register.push_to`.

    If params.yaml has a mistake, as in the last commit: a rollback has to work.
    """
    try:
        return params.load(tree).register.push_to
    except ParamsError:
        try:
            return str(pipeline.params_of(tree, head(tree))["register"]["push_to"])
        except (KeyError, TypeError, VersionError):
            return ""


def _exchanged(tree: Path, push_to: str, in_turn: bool = False) -> str:
    """Learn what other machines assigned, if that is possible at once; returns why it is not."""
    try:
        return publication.sync(tree, push_to, Deadline(FETCH_LIMIT_S), in_turn)
    except RatchetError as error:
        return error.cause


def _write(
    tree: Path, change: _Change, environment: str, to: str | None, reason: str, has_remote: bool
) -> Tag | None:
    """Write the assignment of a rollback; None if the registry has changed since it was decided."""
    with locked(tree):
        try:
            now = _rolled_back(tree, environment, to)
        except _Gap:
            return None
        if (now.version.name, now.under, now.now) != (
            change.version.name,
            change.under,
            change.now,
        ):
            return None
        tag = _drafted(Registry(tree), now, environment, "rollback", reason, automatic=False).make(
            tree
        )
        try:
            if has_remote:
                pending.write(tree, tag)
            else:
                tags.write(tree, tag.name, tag.oid)
        except Rejected:  # somebody's `git fetch` brought a tag of that name
            return None
        return tag


def _check_decided(
    registry: Registry, change: _Change, environment: str, decision: Decision
) -> None:
    """Raise `VersionError` if the gate's decision does not hold for what serves now."""
    name, now = change.version.name, change.now
    by_hand = f"`ratchet promote {name} --environment {environment}`"
    if registry.was_rolled_back(name, environment):
        raise VersionError(
            f"{name} was rolled back from {environment}, so no flow puts it there again; {by_hand}"
            " does"
        )
    if now and now.version != decision.champion:
        raise VersionError(
            f"{now.version} came to serve in {environment} after {name} was judged against"
            f" {decision.champion or 'none'}, so no flow puts it there; `ratchet gate {now.version}"
            f" {name}` compares the two, {by_hand} does it"
        )


def _rolled_back(tree: Path, environment: str, to: str | None) -> _Change:
    registry = Registry(tree)
    now, counter = registry.position(environment)
    if now is None:
        raise VersionError(
            f"nothing serves in {environment}, so nothing can be rolled back; `ratchet versions`"
        )
    version, under = _before(registry, now) if to is None else _chosen(registry, now, to)
    _check_not_withdrawn(version)
    return _Change(version, now, counter, under)


def _before(registry: Registry, now: Assignment) -> tuple[Version, int | None]:
    """What served before `now` and may serve again, and the counter of the assignment under that."""
    below = now.under
    while below is not None:
        entry = registry.entry(now.environment, below)
        if entry is None:
            raise _Gap(
                f"assignment {below} of {now.environment} is missing here, so what served before"
                f" {now.version} is unknown; `git fetch --tags` may bring it, `ratchet rollback"
                " --to VERSION` puts any version there"
            )
        if entry.version != now.version:
            version = registry.find(entry.version)
            if version.withdrawn is None:
                return version, entry.under
        below = entry.under
    raise VersionError(
        f"nothing to roll back to in {now.environment}: nothing usable served there before"
        f" {now.version}; `ratchet rollback --to VERSION` puts any version there"
    )


def _chosen(registry: Registry, now: Assignment, to: str) -> tuple[Version, int | None]:
    """The version named, and what a further rollback would return to."""
    version = registry.find(to)
    if version.name == now.version:
        raise VersionError(
            f"{version.name} serves in {now.environment} already; `ratchet history"
            f" {now.environment}`"
        )
    history = {each.counter: each for each in registry.history(now.environment)}
    entry: Assignment | None = now
    while entry is not None:
        if entry.version == version.name:
            return version, entry.under
        entry = history.get(entry.under) if entry.under is not None else None
    return version, now.under


def _check_usable(tree: Path, version: Version) -> None:
    """Raise if the version is withdrawn, or its files are unavailable or damaged: hashes them, so takes no lock."""
    _check_not_withdrawn(version)
    loading.files(tree, version)


def _check_not_withdrawn(version: Version) -> None:
    if version.withdrawn is None:
        return
    why = version.withdrawn.data.get("reason") or "no reason was given"
    way = (
        ""
        if version.expired
        else f", `ratchet reinstate {version.name} --reason ...` makes it usable again"
    )
    raise VersionError(
        f"{version.name} is withdrawn ({why}); `ratchet versions` lists the others{way}"
    )


def _drafted(
    registry: Registry, change: _Change, environment: str, action: str, reason: str, automatic: bool
) -> Draft:
    """The tag of an assignment."""
    version = change.version
    data: dict[str, Any] = {
        "action": action,
        "version": version.name,
        "under": change.under,
        "reason": reason,
        "automatic": automatic,
        **origin(),
    }
    verb = "into" if action == "promote" else "back into"
    subject = f"{tags.ARTIFACT} {version.name} {verb} {environment}"
    text = tags.message(subject, [reason] if reason else [], data)
    name = tags.assignment_tag(environment, change.counter)
    return Draft(name, version.commit, text, [version.tag, registry.last_assignment()])
