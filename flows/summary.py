"""What a training run came to: for the table on the terminal, for `--json`, and as the final state in Prefect."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from prefect import State
from prefect.states import Completed

from flows import artifacts
from ratchet.gate.decisions import Decision
from ratchet.registry.versions import Assignment, Registry, Version
from ratchet.stage import Outcome
from ratchet.workspace.run_tree import Place
from tasks.check_data import DataCheck


@dataclass(frozen=True)
class Summary:
    """One training run."""

    name: str  # "Promoted", "Refused", "Undecided" or "Unchanged": the name of its final state in Prefect
    stages: tuple[Outcome, ...]
    accuracy: float  # of this run's model on the test rows, 0 to 1
    loss: float  # mean over the test rows
    reason: str  # the gate's
    data: tuple[
        str, ...
    ]  # what changed in the data since the newest version, and whether the test rows are too few
    version: str | None  # that this run made
    environment: str
    serves: str | None  # the version in that environment now
    report: str  # path
    seconds: float  # from the flow's first line

    @property
    def process_s(self) -> float:
        """Seconds in the stages' own processes, their start-up included."""
        return sum(stage.process_s for stage in self.stages)

    @property
    def startup_s(self) -> float:
        """Seconds of those that went to interpreters and imports."""
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
    """The final state of a run.

    A refusal is no failure: the run ends *Completed*, named for what came of it.
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
