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
        source: a CSV, parquet or image file, or a folder or glob of them, relative to the checkout;
            or hf://datasets/OWNER/NAME[@REVISION][?split=...].
        output: a folder, to which each run adds a parquet file with the new rows; or the name of a
            .parquet or .csv file for all rows of the source.
        environment: the environment whose version scores the rows.
    """
    follow_worker()
    target = Path(output)
    score = predict if target.suffix in SUFFIXES else predict_new
    report = score(Path(), source, environment, target)
    name = "Scored" if report.output else "Nothing new"
    return Completed(name=name, message=str(report), data=report)
