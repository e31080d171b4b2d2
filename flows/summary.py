"""The result of a training run: for the terminal, `--json` and the final state in Prefect."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from prefect import State
from prefect.states import Completed

from flows import artifacts
from ratchet.gate.decisions import Decision
from ratchet.registry.records import Assignment, Version
from ratchet.registry.versions import Registry
from ratchet.stage import Outcome
from ratchet.workspace.run_tree import Place
from tasks.check_data import DataCheck


@dataclass(frozen=True)
class Summary:
    """One training run."""

    name: str  # of its final state in Prefect: "Promoted", "Refused", "Undecided" or "Unchanged"
    stages: tuple[Outcome, ...]
    accuracy: float  # of this run's model on the test rows, 0 to 1
    loss: float  # mean over the test rows
    reason: str  # the gate's
    # what changed in the data since the newest version, and whether the test rows are too few
    data: tuple[str, ...]
    version: str | None  # the version that this run made
    environment: str
    serves: str | None  # the version that serves in that environment now
    report: str  # path of the report, relative to the current folder
    seconds: float  # since the flow's first line

    @property
    def process_s(self) -> float:
        """Seconds in the processes of the stages, including their start-up."""
        return sum(stage.process_s for stage in self.stages)

    @property
    def startup_s(self) -> float:
        """Seconds in which those processes started their interpreters and imported libraries."""
        return sum(stage.startup_s for stage in self.stages)


_NAMES = {
    "promote": "Promoted",
    "refuse": "Refused",
    "worse": "Refused",
    "undecided": "Undecided",
    "known": "Unchanged",
}


def ended(
    place: Place,
    stages: tuple[Outcome, ...],
    data: DataCheck,
    decision: Decision,
    version: Version | None,
    service: Assignment | None,
    seconds: float,
) -> State[Summary]:
    """Return the final state of a run and create its artifacts and events.

    A refusal is not a failure: the state has the type *Completed* and the name of the result.

    Args:
        place: the tree and the reports folder of the run.
        stages: the outcomes of the stages.
        data: the check of the data.
        decision: the gate's decision.
        version: the version that the run registered, if any.
        service: the assignment that the run made, if any.
        seconds: duration of the flow so far.
    """
    metrics = json.loads((place.tree / "reports/metrics.json").read_text(encoding="utf-8"))
    serving = Registry(place.tree).serving(decision.environment)
    summary = Summary(
        name=_NAMES[decision.verdict],
        stages=stages,
        accuracy=metrics["accuracy"],
        loss=metrics["loss"],
        reason=decision.reason,
        data=data.lines,
        version=version.name if version else None,
        environment=decision.environment,
        serves=serving.name if serving else None,
        report=os.path.relpath(place.reports / "report.html"),
        seconds=seconds,
    )
    artifacts.leave(summary, place.tree / "reports")
    if version and version.changed:
        artifacts.registered(summary)
    if service and service.changed:
        artifacts.assigned(service)
    return Completed(name=summary.name, message=decision.reason, data=summary)
