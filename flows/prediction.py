"""Score new rows with the model in service."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from service.server import follow_worker
from tasks.predict import SUFFIXES, predict, predict_new


@flow(name="prediction", persist_result=False)
def prediction(
    source: str = "data/incoming", output: str = "data/predictions", environment: str = "prod"
) -> State:
    """Score the rows that the version in service has not scored yet.

    Args:
        source: a CSV, parquet or image file, a folder or glob of them, relative to the checkout; or
            hf://datasets/OWNER/NAME[@REVISION][?split=...].
        output: a folder, which gets a parquet file per run with the new rows; or the name of a
            .parquet or .csv file, which gets all rows of the source.
        environment: the environment whose version scores.
    """
    follow_worker()
    target = Path(output)
    score = predict if target.suffix in SUFFIXES else predict_new
    scored = score(Path(), source, environment, target)
    return Completed(
        name="Scored" if scored.output else "Nothing new", message=str(scored), data=scored
    )
