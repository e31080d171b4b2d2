"""From the sources to a version in service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import State, flow

from flows.artifacts import about_tree, leave_data
from flows.summary import Summary, ended
from ratchet import params
from ratchet.stage import StageTask
from ratchet.workspace.run_tree import workplace
from service.server import follow_worker
from tasks.check_data import check_data
from tasks.gate import gate
from tasks.promote import promote
from tasks.refresh import refresh
from tasks.register import register
from tasks.sync import sync

ingest, validate, prepare = (
    StageTask("ingest", "network"),
    StageTask("validate"),
    StageTask("prepare"),
)
train, evaluate = StageTask("train"), StageTask("evaluate")


@flow(name="training", persist_result=False)
def training(
    environment: str = "prod", settings: dict[str, Any] | None = None, revision: str = "HEAD"
) -> State[Summary]:
    """Train on what the sources hold now.

    If the gate lets the model through, give it a version and put it into service.

    Args:
        environment: where the new version serves, and whose model it has to be no worse than.
        settings: values that replace those in params.yaml for this run, such as {"train.epochs":
            3}; a string is read as YAML. The run then works in its own tree; {} is one with nothing
            replaced. None: in the checkout itself.
        revision: the commit, branch or tag whose code a run in a tree of its own takes.
    """
    started = time.monotonic()
    follow_worker()
    with workplace(Path(), settings, revision, sync) as place:
        tree, knobs = place.tree, params.load(place.tree)
        about_tree(place)
        refresh(knobs, tree)
        stages = [ingest(tree), validate(tree)]
        data = leave_data(check_data(knobs, tree))
        stages += [prepare(tree), train(tree), evaluate(tree)]
        decision = gate(knobs, tree, environment)
        version = (
            register(knobs, tree, decision, place.base, place.settings)
            if decision.promotes
            else None
        )
        service = (
            promote(tree, version.name, environment, decision.reason, decision) if version else None
        )
        return ended(
            place, tuple(stages), data, decision, version, service, time.monotonic() - started
        )
