"""The command that serves the deployments from one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil

from flows.cli import UPKEEP, app

END_LIMIT_S = 20.0  # for a run that was asked to end


@app.command(rich_help_panel=UPKEEP)
def serve() -> None:
    """Serve the deployments of prefect.yaml from this process, for a laptop: schedules fire while it runs, without a worker."""
    from flows.server import WORKER, server
    from tasks.stage import home

    os.environ[WORKER] = str(os.getpid())
    with server(home(Path())):
        from prefect.client.orchestration import get_client
        from prefect.flows import load_flow_from_entrypoint

        runner, served = _runner(), []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, runner.handle_sigterm)
        with contextlib.suppress(KeyboardInterrupt):
            for entry in _deployments():
                flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
                deployment = flow.to_deployment(**_arguments(entry))
                served.append((deployment.name, runner.add_deployment(deployment)))
            print(f"serving {', '.join(name for name, _ in served)}; Ctrl-C ends it", flush=True)
            asyncio.run(runner.start())
        with get_client(sync_client=True) as client:
            for _, deployment_id in served:
                client.pause_deployment(deployment_id)
    print("ended; schedules fire again when it is started again")


def _runner() -> Any:
    """Prefect's runner, but for its end (prefect 3.8.8): its handler of SIGTERM waits in the thread that runs its event loop
    for something that this loop has to do, and on Ctrl-C it waits for the run; both hang now and then. And it pauses the
    schedules only where nothing is cancelled meanwhile.
    """
    from prefect.runner import Runner

    class EndingRunner(Runner):
        def handle_sigterm(self, *_signal: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # who presses Ctrl-C again waits for nothing
            me = psutil.Process()
            runs = [child for child in me.children() if "prefect.engine" in " ".join(child.cmdline())]
            for run in runs:
                run.terminate()  # it saves a checkpoint and says itself that it was ended
            psutil.wait_procs(runs, timeout=END_LIMIT_S)
            raise KeyboardInterrupt

    return EndingRunner(pause_on_shutdown=False)


def _deployments() -> list[dict[str, Any]]:
    from ruamel.yaml import YAML

    entries: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(Path("prefect.yaml"))["deployments"]
    return entries


def _arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """What `Flow.to_deployment` takes, of an entry in prefect.yaml."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.schedules import Schedule

    limit = entry.get("concurrency_limit")
    return {
        "name": entry["name"],
        "description": entry.get("description"),
        "tags": entry.get("tags"),
        "parameters": entry.get("parameters"),
        "schedules": [Schedule(**schedule) for schedule in entry.get("schedules", [])],
        "concurrency_limit": ConcurrencyLimitConfig(**limit) if limit else None,
    }
