"""Put a version into an environment, or roll back to the one before.

Both write one tag and change no file. The assignment with the highest counter is in service, so a
rollback is one more assignment, and nothing is ever undone.

A promotion is pushed to the git remote first, if there is one. A rollback is written here first,
whether or not the remote responds, and pushed as soon as it does. Params: `register`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet import params
from ratchet.errors import Busy, ParamsError, RatchetError, VersionError
from ratchet.git import head
from ratchet.git_errors import Rejected
from ratchet.registry import loading, pending, publication, rollback_target, tags
from ratchet.registry.publication import Deadline, Draft
from ratchet.registry.records import Assignment, Version
from ratchet.registry.rollback_target import Gap
from ratchet.registry.tags import Tag
from ratchet.registry.versions import Registry
from ratchet.repository import locked
from ratchet.stage import origin, step
from ratchet.store import pipeline

if TYPE_CHECKING:
    from ratchet.gate.decisions import Decision

_TRIES = 20
# How long a rollback waits, in seconds:
FETCH_LIMIT_S = 0.8  # for the assignments of other machines; a remote that is down takes all of it
PUSH_LIMIT_S = 5.0  # for a push to a remote that has just responded
TURN_LIMIT_S = 1.0  # for other commands of this repository that publish


@dataclass(frozen=True)
class _Change:
    """What a promotion or rollback is going to write: `version` replaces the assignment `now`."""

    version: Version
    now: Assignment | None
    counter: int  # of the new assignment
    under: int | None  # the counter of the assignment that a rollback returns to


@step("git")
def promote(
    tree: Path, version: str, environment: str, reason: str = "", decision: Decision | None = None
) -> Assignment:
    """Put `version` into service in `environment`. If it serves there already, write nothing.

    Args:
        tree: the checkout.
        version: the version to promote.
        environment: the environment, such as "prod".
        reason: why, for the history.
        decision: the gate's decision, if a flow promotes and not a person. A flow may not promote
            a version that was rolled back from there, nor one that the gate compared with another
            champion than the one that serves there now.

    Raises:
        VersionError: the version is unknown or withdrawn, or a flow may not promote it.
        ObjectsMissing, CorruptData, CorruptModel: its weights or card are unavailable or damaged.
            Nothing was changed.
        RemoteRefused, Unreachable: the git remote did not take the tag. Nothing was changed.
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
        automatic = decision is not None
        return _draft(registry, change, environment, "promote", reason, automatic)

    tag = publication.publish(tree, push_to, draft)
    if tag is None:
        assert serving is not None
        return replace(serving, changed=False)
    return Registry.assigned(tag)


@step("git")
def rollback(tree: Path, environment: str, to: str | None = None, reason: str = "") -> Assignment:
    """Put the version that served in `environment` before, or the version `to`, back into service.

    A rollback works without the git remote. If the tag could not be pushed, `unpushed` of the
    result says why.

    Raises:
        VersionError: nothing served there before, or `to` is unknown, withdrawn or in service.
        ObjectsMissing, CorruptData, CorruptModel: the version's files are unavailable or damaged.
            Nothing was changed.
        Busy: other commands were faster, again and again.
    """
    tags.checked_environment(environment)
    tags.checked_text(reason)
    push_to = _push_to(tree)
    problem = _exchange(tree, push_to)
    has_gap = False
    for attempt in range(1, _TRIES + 1):
        if push_to:
            pending.restore(tree)  # a fetch that prunes tags may run all the time
        try:
            change = _rolled_back(tree, environment, to)
        except Gap:
            if has_gap or not push_to:
                raise
            has_gap = True
            problem = _exchange(tree, push_to)  # a fetch that prunes may have removed it
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
                    # the last attempt stays, and its tag gets another number
                    is_removed = attempt < _TRIES and pending.take_back(tree, tag, in_turn)
                    problem = _exchange(tree, push_to, in_turn)
                    if is_removed:
                        continue
                except RatchetError as error:
                    problem = error.cause
        return replace(Registry.assigned(tag), unpushed=problem, remote=push_to)
    raise Busy(
        f"{_TRIES} other commands were faster; check `ratchet history {environment}`, then run"
        " this command again"
    )


def _push_to(tree: Path) -> str:
    """The param `register.push_to`, from the last commit if params.yaml is invalid."""
    try:
        return params.load(tree).register.push_to
    except ParamsError:
        try:
            return str(pipeline.params_of(tree, head(tree))["register"]["push_to"])
        except (KeyError, TypeError, VersionError):
            return ""


def _exchange(tree: Path, push_to: str, in_turn: bool = False) -> str:
    """Exchange tags with the git remote if it responds at once; return why it did not."""
    try:
        return publication.sync(tree, push_to, Deadline(FETCH_LIMIT_S), in_turn)
    except RatchetError as error:
        return error.cause


def _write(
    tree: Path, change: _Change, environment: str, to: str | None, reason: str, has_remote: bool
) -> Tag | None:
    """Write the assignment of a rollback; None if the registry has changed since `change`."""
    with locked(tree):
        try:
            latest = _rolled_back(tree, environment, to)
        except Gap:
            return None
        is_same = (
            latest.version.name == change.version.name
            and latest.under == change.under
            and latest.now == change.now
        )
        if not is_same:
            return None
        draft = _draft(Registry(tree), latest, environment, "rollback", reason, automatic=False)
        tag = draft.make(tree)
        try:
            if has_remote:
                pending.write(tree, tag)
            else:
                tags.write(tree, tag.name, tag.oid)
        except Rejected:  # a `git fetch` brought a tag of that name
            return None
        return tag


def _check_decided(
    registry: Registry, change: _Change, environment: str, decision: Decision
) -> None:
    """Raise `VersionError` if the gate's decision does not apply to what serves now."""
    name, now = change.version.name, change.now
    command = f"`ratchet promote {name} --environment {environment}`"
    if registry.was_rolled_back(name, environment):
        raise VersionError(
            f"{name} was rolled back from {environment}, so no flow promotes it there again;"
            f" to do it yourself, run {command}"
        )
    if now and now.version != decision.champion:
        raise VersionError(
            f"{now.version} went into service in {environment} after {name} was compared with"
            f" {decision.champion or 'nothing'}, so no flow promotes it there; compare the two with"
            f" `ratchet gate {now.version} {name}`, then run {command}"
        )


def _rolled_back(tree: Path, environment: str, to: str | None) -> _Change:
    registry = Registry(tree)
    now, counter = registry.position(environment)
    if now is None:
        raise VersionError(
            f"nothing serves in {environment}, so nothing can be rolled back; `ratchet versions`"
            " lists what serves where"
        )
    if to is None:
        version, under = rollback_target.before(registry, now)
    else:
        version, under = rollback_target.named(registry, now, to)
    _check_not_withdrawn(version)
    return _Change(version, now, counter, under)


def _check_usable(tree: Path, version: Version) -> None:
    """Raise if the version is withdrawn, or its files are unavailable or damaged.

    This hashes the files, so the caller must not hold the registry's lock.
    """
    _check_not_withdrawn(version)
    loading.files(tree, version)


def _check_not_withdrawn(version: Version) -> None:
    if version.withdrawn is None:
        return
    why = version.withdrawn.data.get("reason") or "no reason was given"
    message = f"{version.name} is withdrawn ({why}); `ratchet versions` lists the others"
    if not version.expired:
        message += f", `ratchet reinstate {version.name} --reason ...` makes it usable again"
    raise VersionError(message)


def _draft(
    registry: Registry, change: _Change, environment: str, action: str, reason: str, automatic: bool
) -> Draft:
    """The tag of an assignment, not made yet."""
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
