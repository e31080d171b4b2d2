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

ingest = StageTask("ingest", "network")
validate = StageTask("validate")
prepare = StageTask("prepare")
train = StageTask("train")
evaluate = StageTask("evaluate")


@flow(name="training", persist_result=False)
def training(
    environment: str = "prod", settings: dict[str, Any] | None = None, revision: str = "HEAD"
) -> State[Summary]:
    """Train on the current content of the sources.

    If the gate lets the model through, register it as a version and put it into service.

    Args:
        environment: the environment for the new version; the gate compares with its model.
        settings: values that replace those in params.yaml for this run, such as
            {"train.epochs": 3}; strings are read as YAML. The run works in its own tree, also
            with {}. None: the run works in the checkout itself.
        revision: the commit, branch or tag to run, if the run works in its own tree.
    """
    started = time.monotonic()
    follow_worker()
    with workplace(Path(), settings, revision, sync) as place:
        tree = place.tree
        knobs = params.load(tree)
        about_tree(place)
        pinned = refresh(knobs, tree)
        raw = ingest(tree, pinned)
        checked = validate(tree, raw)
        data = leave_data(check_data.after(checked)(knobs, tree))
        prepared = prepare(tree, raw, checked)
        trained = train(tree, prepared)
        evaluated = evaluate(tree, prepared, trained)
        stages = (raw, checked, prepared, trained, evaluated)
        decision = gate.after(evaluated)(knobs, tree, environment)
        version, service = None, None
        if decision.promotes:
            version = register(knobs, tree, decision, place.base, place.settings)
            change = promote.after(version)
            service = change(tree, version.name, environment, decision.reason, decision)
        seconds = time.monotonic() - started
        return ended(place, stages, data, decision, version, service, seconds)
