"""Score what has arrived with the model in service."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import State, flow
from prefect.states import Completed

from flows.server import follow_worker
from tasks.predict import predict


@flow(name="prediction", persist_result=False)
def prediction(source: str = "data/incoming", output: str = "data/predictions", environment: str = "prod") -> State:
    """Score every row of a parquet file, of a folder of parquet files or images, or of a data set of the Hub.

    Args:
        source: a file, folder or glob, relative to the checkout; or hf://datasets/OWNER/NAME[@REVISION][?split=...].
        output: the folder that gets a parquet file named after the time of the run, or the parquet file itself.
        environment: whose version scores.
    """
    follow_worker()
    file = Path(output)
    if file.suffix != ".parquet":
        file = file / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.parquet"
    scored = predict(Path(), source, environment, file)
    message = f"{scored.rows} rows ({scored.bad} bad) scored by {scored.version} into {scored.output}"
    return Completed(name="Scored", message=message, data=scored)
