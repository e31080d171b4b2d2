"""Take a version out of use, or put it back into use.

A withdrawn version cannot be promoted until it is reinstated. The objects of an expired version may
be deleted, so it is out of use permanently. Each of these commands writes one tag
(`classifier@v1.4.0!`, then `classifier@v1.4.0!#12`) and deletes nothing. Params: `register`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ratchet import params
from ratchet.errors import VersionError
from ratchet.registry import publication, tags
from ratchet.registry.publication import Draft
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.stage import origin

_DONE = {"withdraw": "withdrawn", "expire": "expired", "reinstate": "reinstated"}


def withdraw(tree: Path, name: str, reason: str) -> Version:
    """Withdraw a version. If it is withdrawn already, nothing happens.

    Raises:
        VersionError: there is no such version, or it is in service.
    """
    return _change(tree, name, reason, "withdraw")


def expire(tree: Path, name: str, reason: str = "") -> Version:
    """Withdraw a version permanently, so that `ratchet gc` may delete its objects.

    Raises:
        VersionError: there is no such version, or it is in service.
    """
    return _change(tree, name, reason, "expire")


def reinstate(tree: Path, name: str, reason: str) -> Version:
    """Make a withdrawn version usable again. If it is not withdrawn, nothing happens.

    Raises:
        VersionError: there is no such version, it is expired, or `reason` is empty.
    """
    if not reason.strip():
        raise VersionError(
            f"a reason is needed, for the history; run `ratchet reinstate {name} --reason ...`"
        )
    return _change(tree, name, reason, "reinstate")


def _change(
    tree: Path, name: str, reason: str, action: Literal["withdraw", "expire", "reinstate"]
) -> Version:
    tags.checked_text(reason)
    push_to = params.load(tree).register.push_to
    publication.sync(tree, push_to)
    registry = Registry(tree)
    number = registry.find(name).number

    def draft() -> Draft | None:
        # first: a change that is fetched after this has the same number
        next_counter = registry.next_counter()
        version = registry.find(str(number))
        if _is_done(version, action):
            return None
        if action == "reinstate":
            _check_kept(version)
        else:
            _check_unused(registry, version)
        counter = next_counter if version.cancels else None
        data = {"action": action, "withdraws": version.name, "reason": reason, **origin()}
        if action == "reinstate":
            data["reinstates"] = data.pop("withdraws")
        subject = f"{tags.ARTIFACT} {version.name} {_DONE[action]}"
        text = tags.message(subject, [reason] if reason else [], data)
        after = [version.tag, *version.cancels, registry.last_assignment()]
        tag = tags.version_tag(version.number, cancels=True, counter=counter)
        return Draft(tag, version.commit, text, after)

    tag = publication.publish(tree, push_to, draft)
    return replace(registry.find(str(number)), changed=tag is not None)


def _is_done(version: Version, action: str) -> bool:
    if action == "reinstate":
        return version.withdrawn is None
    return version.expired or (action == "withdraw" and version.withdrawn is not None)


def _check_kept(version: Version) -> None:
    if version.expired:
        raise VersionError(
            f"{version.name} is expired, so its objects may be gone; to register the same weights"
            " as a new version, repeat the run from commit"
            f" {str(version.data.get('base', ''))[:12]}"
        )


def _check_unused(registry: Registry, version: Version) -> None:
    environments = [
        environment
        for environment, serving in registry.environments().items()
        if serving == version.name
    ]
    if environments:
        raise VersionError(
            f"{version.name} serves in {', '.join(environments)}, and what serves can't be"
            f" withdrawn; run `ratchet rollback --environment {environments[0]}` first"
        )
