"""What a rollback returns to: the version before, or the one that is named."""

from __future__ import annotations

from ratchet.errors import VersionError
from ratchet.registry.records import Assignment, Version
from ratchet.registry.versions import Registry


class Gap(VersionError):
    """An assignment that another one refers to is missing here."""


def before(registry: Registry, now: Assignment) -> tuple[Version, int | None]:
    """The version that served before `now` and is not withdrawn.

    Returns:
        The version, and the counter of the assignment that a further rollback would return to.

    Raises:
        Gap: the assignment before is missing here.
        VersionError: no usable version served before.
    """
    below = now.under
    while below is not None:
        entry = registry.entry(now.environment, below)
        if entry is None:
            raise Gap(
                f"assignment {below} of {now.environment} is missing here, so what served before"
                f" {now.version} is unknown; run `git fetch --tags`, or name a version with"
                " `ratchet rollback --to VERSION`"
            )
        if entry.version != now.version:
            version = registry.find(entry.version)
            if version.withdrawn is None:
                return version, entry.under
        below = entry.under
    raise VersionError(
        f"nothing to roll back to in {now.environment}: nothing usable served there before"
        f" {now.version}; name a version with `ratchet rollback --to VERSION`"
    )


def named(registry: Registry, now: Assignment, to: str) -> tuple[Version, int | None]:
    """The version `to`, whether or not it has served in the environment of `now`.

    Returns:
        The version, and the counter of the assignment that a further rollback would return to.

    Raises:
        VersionError: there is no such version, or it serves already.
    """
    version = registry.find(to)
    if version.name == now.version:
        raise VersionError(
            f"{version.name} serves in {now.environment} already; `ratchet history"
            f" {now.environment}` shows since when"
        )
    history = {entry.counter: entry for entry in registry.history(now.environment)}
    entry: Assignment | None = now
    while entry is not None:
        if entry.version == version.name:
            return version, entry.under
        entry = history.get(entry.under) if entry.under is not None else None
    return version, now.under
