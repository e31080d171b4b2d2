"""The automations of a standing server: what it does about runs of which nobody hears any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

HEARTBEAT_S = 30  # the least that Prefect sends
DEAD_AFTER_S = 3 * HEARTBEAT_S
UNTAKEN_AFTER_S = 3600
DIED, UNTAKEN = "ratchet: runs that died", "ratchet: runs that nobody takes"

# While a run is in a worker's hands, each of these events says so; any other event of the run, whatever its state's name
# ("Promoted", "Unchanged"), says that it has ended or waits again.
UNDER_WAY = tuple(
    f"prefect.flow-run.{event}"
    for event in ("Pending", "Submitting", "pull-step.executed", "Running", "heartbeat", "Cancelling")
)


def make(untaken_after_s: float = UNTAKEN_AFTER_S) -> None:
    """Make the automations on the server that Prefect's settings name, in place of those of the same names.

    Source of the first one's trigger: Prefect's "Detect zombie flows".
    """
    _make(
        DIED,
        UNDER_WAY,
        DEAD_AFTER_S,
        "CRASHED",
        f"no heartbeat for {DEAD_AFTER_S} s: its process or machine is gone; the next run goes on from its checkpoint",
    )
    _make(
        UNTAKEN,
        ["prefect.flow-run.Late"],
        untaken_after_s,
        "FAILED",
        f"no worker took this run for {untaken_after_s:.0f} s: `make status` says if there is one and if its work pool "
        "is there, `make up` sees to both; then run it again",
    )


def _make(name: str, after: Iterable[str], within_s: float, state: str, message: str) -> None:
    """Have a run put into `state` if `within_s` seconds after an event of `after` nothing more was heard of it."""
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
    actions: Any = [ChangeFlowRunState(name=None, state=StateType(state), message=message, force=False)]
    with contextlib.suppress(ValueError, ObjectNotFound):
        known = cast("Automation", Automation.read(name=name))
        if (_plain(known.trigger), _plain(*known.actions)) == (_plain(trigger), _plain(*actions)):
            return  # the server forgets for which runs it waits when it gets another
        known.delete()
    Automation(name=name, trigger=trigger, actions=actions).create()


def _plain(part: Any) -> Any:
    return part.model_dump(exclude={"id"}, exclude_none=True)  # its sets stay sets, which have no order


def forgive_silence() -> None:
    """Before a server starts: give runs whose heartbeats it could not hear while it was down the whole time again.

    Prefect keeps since when it waits for a heartbeat; a server that was down for longer than that would mark every run
    that goes on as *Crashed* the moment it is back, and take its concurrency slot.
    """
    asyncio.run(_forgive_silence())


async def _forgive_silence() -> None:
    import sqlalchemy
    from prefect.server.database import provide_database_interface

    db = provide_database_interface()
    ours = sqlalchemy.select(db.Automation.id).where(db.Automation.name == DIED)
    again = sqlalchemy.update(db.AutomationBucket).where(db.AutomationBucket.automation_id.in_(ours))
    with contextlib.suppress(
        sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError
    ):  # a database without tables
        async with db.session_context(begin_transaction=True) as session:
            await session.execute(again.values(end=datetime.now(UTC) + timedelta(seconds=DEAD_AFTER_S)))
