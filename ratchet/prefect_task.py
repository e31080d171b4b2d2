"""How a stage or step becomes a Prefect task: time-outs, retries, tags, progress and logs."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from ratchet import params as parameters
from ratchet.errors import PassingFault, StageFailed

SERVER_WAIT_S = 300.0  # for a Prefect server that is restarting

# Where the faults of a stage or step come from: its tag in Prefect, and the key of its time-out in
# `run.timeouts`.
Kind = Literal["network", "compute", "git"]


def as_task(
    fn: Callable[..., Any], name: str, kind: Kind, tree: Path, tagged: bool = False
) -> Callable[..., Any]:
    """Make `fn` a Prefect task with the time-out of its kind.

    A `PassingFault` is retried after 1, 2, 4 ... s with jitter, `run.retries` times. Other faults
    and time-outs are final.

    Args:
        fn: the function to call.
        name: the name of the task.
        kind: where its faults come from.
        tree: the checkout whose params apply.
        tagged: tag the task with its kind. Prefect then asks its server for a slot of that tag,
            which can take seconds, so only a stage that will run is tagged.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.task_engine import TaskRunTimeoutError

    run = parameters.load(tree).run
    hours: float = getattr(run.timeouts, kind)
    prefect_task = task(
        name=name,
        task_run_name=name,
        tags=[kind] if tagged else [],
        timeout_seconds=hours * 3600,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=run.retries,
        retry_delay_seconds=[2.0**n for n in range(run.retries)],
        retry_jitter_factor=0.5,
        retry_condition_fn=_passes,
    )(fn)

    def call(*args: Any, **kwargs: Any) -> Any:
        if tagged:
            _await_server()
        try:
            return prefect_task(*args, **kwargs)
        except TaskRunTimeoutError:  # a time-out of a socket within the step has another class
            raise StageFailed(
                f"{name}: not done after {hours:g} hours, so it was ended; if it needs longer,"
                f" raise run.timeouts.{kind} in params.yaml, then run this again"
                " (training continues from its checkpoint)"
            ) from None

    return call


def _passes(_task: object, _run: object, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), PassingFault)


def _await_server() -> None:
    """Wait up to `SERVER_WAIT_S` seconds for a server that is restarting.

    Prefect asks for the slot of a tag over a new connection. Its client (3.8) does not retry the
    first request of a connection. It retries or queues all other requests of a run.
    """
    from prefect.client.orchestration import get_client

    deadline = time.monotonic() + SERVER_WAIT_S
    with get_client(sync_client=True) as client:
        while client.api_healthcheck() is not None and time.monotonic() < deadline:
            time.sleep(1)


class Progress:
    """Shows on the run's page the progress of a stage that prints `epoch 3/8`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._artifact: Any = None

    def see(self, line: str) -> None:
        """Read a line of the stage's output."""
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        match = re.search(r"\bepoch (\d+)/(\d+)", line)
        if match is None:
            return
        percent = 100 * int(match[1]) / int(match[2])
        with contextlib.suppress(Exception):  # a server that is down must not end the stage
            if self._artifact is None:
                self._artifact = create_progress_artifact(
                    percent, key=f"{self.name}-progress", description=self.name
                )
            else:
                update_progress_artifact(self._artifact, percent)


RunLogger = logging.LoggerAdapter[logging.Logger]


def run_loggers() -> tuple[RunLogger, RunLogger]:
    """Return two loggers for the current run's log; the second one prints on the terminal too.

    Raises:
        MissingContextError: no flow or task is running.
    """
    from prefect import get_run_logger

    log = cast("RunLogger", get_run_logger())
    return log, logging.LoggerAdapter(log.logger.getChild("stage"), log.extra)
