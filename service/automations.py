"""The automations of a standing server, which end runs that stopped reporting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, cast

HEARTBEAT_S = 30  # the shortest interval that Prefect allows
DEAD_AFTER_S = 10 * HEARTBEAT_S  # long enough for runs to survive a server that is down for 4 min
UNTAKEN_AFTER_S = 3600
DIED, UNTAKEN = "ratchet: runs that died", "ratchet: unclaimed runs"

# A run that a worker has taken sends these events. Any other event means that the run has ended or
# is waiting again.
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

    The trigger for runs that died is that of "Detect zombie flows" in Prefect's documentation.

    Args:
        untaken_after_s: seconds until a late run that no worker has taken fails.
    """
    _make(
        DIED,
        UNDER_WAY,
        DEAD_AFTER_S,
        "CRASHED",
        f"no heartbeat for {DEAD_AFTER_S} s: its process or machine is gone;"
        " the next run resumes from its checkpoint",
    )
    _make(
        UNTAKEN,
        ["prefect.flow-run.Late"],
        untaken_after_s,
        "FAILED",
        f"no worker took this run within {untaken_after_s:.0f} s;"
        " `make status` shows whether the worker and its work pool exist,"
        " `make up` starts both; then run it again",
    )


def _make(name: str, after: Iterable[str], within_s: float, state: str, message: str) -> None:
    """Create an automation that sets the state of runs that stopped sending events.

    Args:
        name: the name of the automation.
        after: the events after which a run must send another one.
        within_s: the seconds that it has for that.
        state: the type of the state to set.
        message: the message of the state.
    """
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
        present = cast("Automation", Automation.read(name=name))
        is_same_trigger = _plain(present.trigger) == _plain(trigger)
        if is_same_trigger and _plain(*present.actions) == _plain(*actions):
            return  # replacing it would make the server forget the runs that it watches
        present.delete()
    Automation(name=name, trigger=trigger, actions=actions).create()


def _plain(part: Any) -> Any:
    """Return a trigger or action as comparable values; sets stay sets, which have no order."""
    return part.model_dump(exclude={"id"}, exclude_none=True)
