"""Promotion and rollback as flows, so that Prefect can run them, log them and notify about them."""

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
        version: such as v1.2.0.
        environment: the environment that it will serve in.
        reason: kept in the history.
    """
    assignment = promote(Path(), version, environment, reason)
    if not assignment.changed:
        message = f"{assignment.version} serves in {environment} already"
        return Completed(name="Unchanged", message=message, data=assignment)
    artifacts.assigned(assignment)
    return Completed(
        name="Promoted", message=f"{assignment.version} serves in {environment}", data=assignment
    )


@flow(name="rollback", persist_result=False)
def rolling_back(environment: str = "prod", to: str | None = None, reason: str = "") -> State:
    """Put an earlier version back into service. No scheduled run undoes it.

    Args:
        environment: the environment to roll back.
        to: the version to put back; none: the one that served before.
        reason: kept in the history.
    """
    assignment = rollback(Path(), environment, to, reason)
    artifacts.assigned(assignment)
    message = f"{assignment.version} serves in {environment} again{assignment.not_pushed}"
    return Completed(name="Rolled back", message=message, data=assignment)
