"""Exchange the registry's tags with the git remote at the start of a run.

It is a step of its own, so that an outage of the remote is retried. Params: `register`.
"""

from __future__ import annotations

from pathlib import Path

from ratchet import params
from ratchet.registry import publication
from ratchet.stage import log, step


@step("network")
def sync(tree: Path) -> None:
    """Push assignments that are still pending, and fetch the tags of other machines.

    Raises:
        VersionError: someone moved a tag, or there is no such remote.
        RemoteRefused: the remote denies access.
        Unreachable: the remote does not respond.
    """
    problem = publication.sync(tree, params.load(tree).register.push_to)
    if problem:
        log(f"sync: a rollback is still not pushed: {problem}")
