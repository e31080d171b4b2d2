"""Exchange the registry's tags with the git remote at the start of a run: a step, so an outage is retried."""

from __future__ import annotations

from pathlib import Path

from ratchet import params
from ratchet.registry import publication
from ratchet.stage import log, step


@step("network")
def sync(tree: Path) -> None:
    """Push assignments that are still pending and fetch the tags of other machines.

    Raises:
        VersionError: a tag was moved by hand, or there is no such remote.
        Unreachable: the remote does not respond.
    """
    problem = publication.sync(tree, params.load(tree).register.push_to)
    if problem:
        log(f"sync: a rollback is still not pushed: {problem}")
