"""Check every version, weekly: tags, commits, objects in cache and remote, safe loading."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow
from prefect.artifacts import create_table_artifact
from prefect.states import Completed, Failed

from ratchet.upkeep.verify import verify


@flow(name="verification", persist_result=False)
def verification() -> State:
    """Check every version that is not expired; the run fails if one is not what it promises."""
    found = verify(Path())
    if not found:
        return Completed(name="Verified", message="every version is what it promises")
    create_table_artifact(
        [vars(finding) for finding in found],
        key="faults",
        description="What `ratchet verify` found",
    )
    return Failed(
        message=(
            f"{len(found)} faults, the first: {found[0].version} {found[0].what}:"
            f" {found[0].message}"
        )
    )
