"""Promotion and rollback as flows, so that Prefect can run and log them and send notifications."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from flows import artifacts
from tasks.promote import promote, rollback


@flow(name="promotion", persist_result=False)
def promotion(version: str, environment: str = "prod", reason: str = "promoted by hand") -> State:
    """Put a version into service.

    Args:
        version: the version, such as v1.2.0.
        environment: the environment for it to serve in.
        reason: the reason to keep in the history.
    """
    assignment = promote(Path(), version, environment, reason)
    if not assignment.changed:
        message = f"{assignment.version} already serves in {environment}"
        return Completed(name="Unchanged", message=message, data=assignment)
    artifacts.assigned(assignment)
    return Completed(
        name="Promoted", message=f"{assignment.version} serves in {environment}", data=assignment
    )


@flow(name="rollback", persist_result=False)
def rolling_back(environment: str = "prod", to: str | None = None, reason: str = "") -> State:
    """Put an earlier version back into service. Scheduled runs do not undo a rollback.

    Args:
        environment: the environment to roll back.
        to: the version to put back into service; by default the one that served before.
        reason: the reason to keep in the history.
    """
    assignment = rollback(Path(), environment, to, reason)
    artifacts.assigned(assignment)
    message = f"{assignment.version} serves in {environment} again{assignment.not_pushed}"
    return Completed(name="Rolled back", message=message, data=assignment)
