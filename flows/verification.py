"""Check every version once a week: tags, commits, objects in cache and remote, safe loading."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed

from ratchet.upkeep.verify import verify


@flow(name="verification", persist_result=False)
def verification() -> State:
    """Check every version that is not expired; the run fails if a version has a fault."""
    findings = verify(Path())
    if not findings:
        return Completed(name="Verified", message="no version has a fault")
    create_table_artifact(
        [vars(finding) for finding in findings],
        key="faults",
        description="What `ratchet verify` found",
    )
    first = findings[0]
    return Failed(
        message=f"{len(findings)} faults, the first: {first.version} {first.what}: {first.message}"
    )
