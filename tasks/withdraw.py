"""Take a version out of use for ever: withdrawn, nobody can promote it; expired, its objects may go as well.

Both write one tag, `classifier@v1.4.0!`, and delete nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tasks import params
from tasks.errors import VersionError
from tasks.versions import tags
from tasks.versions.registry import Registry, Version
from tasks.versions.repository import locked


def withdraw(tree: Path, name: str, reason: str) -> Version:
    """Withdraw a version; repeated, nothing happens.

    Raises:
        VersionError: it is unknown, or serves somewhere.
    """
    return _cancel(tree, name, reason, "withdraw")


def expire(tree: Path, name: str, reason: str = "") -> Version:
    """Withdraw a version if it is not, and let go of its objects: `ratchet gc` may drop them then.

    Raises:
        VersionError: it is unknown, or serves somewhere.
    """
    return _cancel(tree, name, reason, "expire")


def _cancel(tree: Path, name: str, reason: str, action: Literal["withdraw", "expire"]) -> Version:
    push_to = params.load(tree).register.push_to
    with locked(tree):
        tags.fetch(tree, push_to)
        registry = Registry(tree)
        version = registry.find(name)
        if version.expired or (version.withdrawn and action == "withdraw"):
            return version
        places = [environment for environment, serves in registry.environments().items() if serves == version.name]
        if places:
            raise VersionError(
                f"{version.name} serves in {', '.join(places)}, and what serves can't be withdrawn; "
                f"`ratchet rollback --environment {places[0]}` first"
            )
        counter = registry.next_counter() if version.withdrawn else None
        tag = tags.version_tag(version.number, cancels=True, counter=counter)
        subject = f"{tags.ARTIFACT} {version.name} {'withdrawn' if action == 'withdraw' else 'expired'}"
        data = {"action": action, "withdraws": version.name, "reason": reason}
        text = tags.message(subject, [reason] if reason else [], data)
        after = [version.tag, version.withdrawn, registry.last_assignment()]
        tags.create(tree, tag, version.commit, text, after, push_to)
        return registry.find(version.name)
