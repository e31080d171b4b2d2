"""The command that serves the deployments from one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.cli import UPKEEP, app


@app.command(rich_help_panel=UPKEEP)
def serve() -> None:
    """Serve the deployments of prefect.yaml from this process, for a laptop: schedules fire while it runs, without a worker."""
    from flows.server import server
    from tasks.stage import home

    with server(home(Path())):
        from prefect import serve as run
        from prefect.flows import load_flow_from_entrypoint

        deployments = []
        for entry in _deployments():
            flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
            deployments.append(flow.to_deployment(**_arguments(entry)))
        names = ", ".join(str(deployment.name) for deployment in deployments)
        print(f"serving {names}; Ctrl-C ends it")
        run(*deployments, print_starting_message=False)


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
