"""The automations of a standing server: what it does about runs that stopped reporting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, cast

HEARTBEAT_S = 30  # the least that Prefect sends
DEAD_AFTER_S = 10 * HEARTBEAT_S  # so that runs survive a server that is down for up to four minutes
UNTAKEN_AFTER_S = 3600
DIED, UNTAKEN = "ratchet: runs that died", "ratchet: unclaimed runs"

# A run that a worker has taken sends these events. Any other event of the run, whatever the name of
# its state ("Promoted", "Unchanged"), means that it has ended or waits again.
UNDER_WAY = tuple(
    f"prefect.flow-run.{event}"
    for event in (
        "Pending",
        "Submitting",
        "pull-step.executed",
        "Running",
        "heartbeat",
        "Cancelling",
    )
)


def make(untaken_after_s: float = UNTAKEN_AFTER_S) -> None:
    """Create the automations on the server that Prefect's settings name; replace those that differ.

    Source of the first one's trigger: Prefect's "Detect zombie flows".
    """
    _make(
        DIED,
        UNDER_WAY,
        DEAD_AFTER_S,
        "CRASHED",
        f"no heartbeat for {DEAD_AFTER_S} s: its process or machine is gone; the next run resumes"
        " from its checkpoint",
    )
    _make(
        UNTAKEN,
        ["prefect.flow-run.Late"],
        untaken_after_s,
        "FAILED",
        f"no worker took this run within {untaken_after_s:.0f} s; `make status` shows whether the"
        " worker and its work pool exist, `make up` starts both; then run it again",
    )


def _make(name: str, after: Iterable[str], within_s: float, state: str, message: str) -> None:
    """Create the automation that sets `state` when a run sends nothing for `within_s` seconds after an event of `after`."""
    from prefect.automations import Automation
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.exceptions import ObjectNotFound

    trigger: Any = EventTrigger(
        after=set(after),
        expect={"prefect.flow-run.*"},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within_s),
    )
    actions: Any = [
        ChangeFlowRunState(name=None, state=StateType(state), message=message, force=False)
    ]
    with contextlib.suppress(ValueError, ObjectNotFound):
        known = cast("Automation", Automation.read(name=name))
        if (_plain(known.trigger), _plain(*known.actions)) == (_plain(trigger), _plain(*actions)):
            return  # the server forgets for which runs it waits when it gets another
        known.delete()
    Automation(name=name, trigger=trigger, actions=actions).create()


def _plain(part: Any) -> Any:
    return part.model_dump(
        exclude={"id"}, exclude_none=True
    )  # its sets stay sets, which have no order
