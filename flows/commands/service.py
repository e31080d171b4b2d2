"""The command that runs the deployments from one process."""

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
    """Run the deployments of prefect.yaml from this process, without a worker; schedules fire while it runs."""
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
            print(f"serving {', '.join(name for name, _ in served)}; press Ctrl-C to stop", flush=True)
            asyncio.run(runner.start())
        with get_client(sync_client=True) as client:
            for _, deployment_id in served:
                client.pause_deployment(deployment_id)
    print("stopped; the schedules are paused until `ratchet serve` runs again")


def _runner() -> Any:
    """Prefect's runner with another shutdown. Prefect 3.8.8's own can hang: its SIGTERM handler blocks the event loop that it
    waits for, and on Ctrl-C it waits for the run. It also pauses the schedules only if nothing is cancelled meanwhile.
    """
    from prefect.runner import Runner

    class EndingRunner(Runner):
        def handle_sigterm(self, *_signal: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process at once
            me = psutil.Process()
            runs = [child for child in me.children() if "prefect.engine" in " ".join(child.cmdline())]
            for run in runs:
                run.terminate()  # it saves a checkpoint and reports its own end
            psutil.wait_procs(runs, timeout=END_LIMIT_S)
            raise KeyboardInterrupt

    return EndingRunner(pause_on_shutdown=False)


def _deployments() -> list[dict[str, Any]]:
    from ruamel.yaml import YAML

    entries: list[dict[str, Any]] = YAML(typ="safe", pure=True).load(Path("prefect.yaml"))["deployments"]
    return entries


def _arguments(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of prefect.yaml as arguments of `Flow.to_deployment`."""
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
