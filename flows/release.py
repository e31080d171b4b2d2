"""Put a version into service, or take an earlier one back, as runs that Prefect can schedule, log and notify about."""

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
        environment: where it is to serve.
        reason: kept in the history.
    """
    assignment = promote(Path(), version, environment, reason)
    artifacts.assigned(assignment)
    return Completed(name="Promoted", message=f"{assignment.version} serves in {environment}", data=assignment)


@flow(name="rollback", persist_result=False)
def rolling_back(environment: str = "prod", to: str | None = None, reason: str = "") -> State:
    """Take an earlier version back into service. No unattended run undoes it.

    Args:
        environment: where.
        to: the version that is to serve; none: the one that served before.
        reason: kept in the history.
    """
    assignment = rollback(Path(), environment, to, reason)
    artifacts.assigned(assignment)
    return Completed(name="Rolled back", message=f"{assignment.version} serves in {environment} again", data=assignment)
