"""What a run adds to its page in Prefect: artifacts for people, events for automations."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.events import emit_event

from flows import events

if TYPE_CHECKING:
    from flows.summary import Summary
    from ratchet.registry.records import Assignment
    from ratchet.workspace.run_tree import Place
    from tasks.check_data import DataCheck

PICTURE_LIMIT = 200_000  # bytes; larger pictures do not go into the database


def leave(summary: Summary, reports: Path) -> None:
    """Create the run's artifacts.

    They are a table of what ran and why and, if a stage ran, the metrics, the gate's decision, the
    pictures and links to the reports.

    Args:
        summary: the results of the run.
        reports: the folder with the reports in the tree of the run.
    """
    _leave_stages(summary)
    if all(stage.how == "cached" for stage in summary.stages):
        return
    metrics = [
        {"metric": "accuracy", "value": summary.accuracy},
        {"metric": "loss", "value": summary.loss},
    ]
    create_table_artifact(metrics, key="metrics", description="On the test rows")
    _leave_decision(summary)
    for picture in sorted((reports / "plots").glob("*.png")):
        if picture.stat().st_size < PICTURE_LIMIT:
            data = base64.b64encode(picture.read_bytes()).decode()
            create_image_artifact(
                f"data:image/png;base64,{data}", key=picture.stem.replace("_", "-")
            )
    for file, key in (("report.html", "report"), ("gate.html", "gate-page")):
        page = Path(summary.report).parent / file  # a copy: the tree of the run is deleted
        create_link_artifact(page.resolve().as_uri(), key=key, link_text=f"{file}, on the worker")


def _leave_stages(summary: Summary) -> None:
    rows = [
        {
            "stage": stage.stage,
            "result": stage.how,
            "why": "; ".join(stage.why) or "nothing that it reads has changed",
            "seconds": round(stage.seconds, 1),
        }
        for stage in summary.stages
    ]
    create_table_artifact(rows, key="stages", description="What was cached, and why the rest ran")


def _leave_decision(summary: Summary) -> None:
    text = (
        f"**{summary.name}**: {summary.reason}\n\n"
        f"New version: {summary.version or 'none'}."
        f" {summary.serves or 'nothing'} serves in {summary.environment}."
    )
    create_markdown_artifact(text, key="gate", description="What the gate decided")


def leave_data(check: DataCheck) -> DataCheck:
    """Log what changed in the data, add it to the run's page, and return the check."""
    for line in check.lines:
        get_run_logger().info("data: %s", line)
    if check.lines:
        text = "\n".join(f"- {line}" for line in check.lines)
        create_markdown_artifact(
            text, key="data", description="What changed in the data since the newest version"
        )
    return check


def about_tree(place: Place) -> None:
    """Log which trees of killed runs were removed, and warn of edits that this run does not use."""
    if place.removed:
        get_run_logger().info("removed the trees of killed runs: %s", ", ".join(place.removed))
    if not place.unused:
        return
    names = ", ".join(place.unused[:5])
    names += f" and {len(place.unused) - 5} more" if len(place.unused) > 5 else ""
    text = f"{names}: edited and not committed; this run uses commit {place.base[:12]} without it"
    get_run_logger().warning(text)
    create_markdown_artifact(text, key="edits", description="Edits that this run does not use")


def registered(summary: Summary) -> None:
    """Emit the event of a new version, for automations."""
    _emit("registered", str(summary.version), accuracy=summary.accuracy, reason=summary.reason)


def assigned(assignment: Assignment) -> None:
    """Emit the event of a promotion or rollback, for automations."""
    word, version, payload = events.of_assignment(assignment)
    _emit(word, version, **payload)


def _emit(word: str, version: str, **payload: object) -> None:
    emit_event(event=f"ratchet.version.{word}", resource=events.resource(version), payload=payload)
