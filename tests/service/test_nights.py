"""What a service meets when nobody watches: schedules, queues, a locked database, no worker, a hundred nights."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from tests.helpers.standing import FINAL, Service, processes, until

pytestmark = pytest.mark.long


def test_a_schedule_fires_by_itself(service: Service) -> None:
    found = service.api("/deployments/name/verification/verification")
    schedule = [
        {"schedule": {"interval": 5, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}
    ]
    (made,) = service.api(f"/deployments/{found['id']}/schedules", schedule)
    wanted = {
        "deployments": {"id": {"any_": [found["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    until(lambda: service.api("/flow_runs/count", wanted), 120)
    assert next(run["auto_scheduled"] for run in service.api("/flow_runs/filter", wanted)) is True
    service.api(f"/deployments/{found['id']}/schedules/{made['id']}", method="DELETE")
    nightly = service.api("/deployments/name/training/training")
    ahead = {
        "deployments": {"id": {"any_": [nightly["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    assert service.api("/flow_runs/count", ahead) > 0
    log = (service.checkout.path / ".prefect/server.log").read_text()
    assert "Error in" not in log


@pytest.mark.soak
def test_twenty_at_once_run_one_at_a_time(service: Service) -> None:
    began = time.monotonic()
    runs = [service.trigger("training/training") for _ in range(20)]
    most = 0
    while time.monotonic() < began + 600:
        states = [service.state(run)["type"] for run in runs]
        most = max(most, states.count("RUNNING"))
        if all(state in FINAL for state in states):
            break
        time.sleep(1)
    print(
        f"20 runs with nothing to do took {time.monotonic() - began:.0f} s, at most {most} at a time"
    )
    assert [service.state(run)["type"] for run in runs] == ["COMPLETED"] * 20
    assert most == 1


def test_a_locked_database_delays_a_run_and_loses_none(service: Service) -> None:
    """For 20 s nobody can write to SQLite: a run that began before, and one triggered after, both end well."""
    run = service.trigger("training/training")
    until(service.flow, 60)
    with contextlib.closing(
        sqlite3.connect(service.checkout.path / ".prefect/prefect.db", timeout=30)
    ) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(20)
        database.rollback()
    ended = service.wait(run, 150)
    print(f"database locked for 20 s: {ended['name']}: {ended['message']}")
    assert ended["type"] == "COMPLETED" or ended["message"]
    assert service.wait(service.trigger("training/training"), 150)["type"] == "COMPLETED"


def test_a_run_that_no_worker_takes_fails_and_says_what_to_do(service: Service) -> None:
    """Its work pool is gone: on an own server's window of an hour, here of 10 s."""
    code = "from flows import automations; automations.make(untaken_after_s=10)"
    settings = {
        name: value
        for name, value in service.settings().items()
        if name != "PREFECT_SERVER_API_PORT"
    }
    service.checkout.run(
        "python", "-c", code, **settings, PREFECT_HOME=str(service.checkout.path / ".prefect")
    )
    service.api("/work_pools/ratchet", method="DELETE")
    try:
        state = service.wait(service.trigger("training/training"), 90)
        assert state["type"] == "FAILED"
        assert (
            "no worker took this run for 10 s: `make status` says if there is one"
            in state["message"]
        )
    finally:
        service("up")
    assert service.wait(service.trigger("training/training"), 150)["type"] == "COMPLETED"


@pytest.mark.soak
def test_a_hundred_runs_with_nothing_to_do_leave_nothing(service: Service) -> None:
    folder = service.checkout.path
    worker, server = service.process("worker"), service.process("server")

    def held() -> tuple[int, int, int, int, int, int]:
        return (
            worker.num_fds(),
            server.num_fds(),
            len(processes(folder)),
            len(list((folder / ".runs").iterdir()))
            + len(list((folder / ".runs/reports").iterdir())),
            len(list(Path(service.environment["TMPDIR"]).rglob("*"))),
            len(list((folder / ".dvc/tmp").rglob("*"))),
        )

    for _ in range(8):  # reports of the last five runs are kept
        service.wait(service.trigger("training/training"))
    before, memory = held(), (worker.memory_info().rss, server.memory_info().rss)
    for _ in range(100):
        assert service.wait(service.trigger("training/training"))["name"] == "Unchanged"
    after, grown = (
        held(),
        (worker.memory_info().rss / memory[0], server.memory_info().rss / memory[1]),
    )
    print(
        "worker's and server's open files, processes, .runs, temporary files, .dvc/tmp:",
        before,
        "->",
        after,
    )
    print(f"memory of the worker times {grown[0]:.2f}, of the server times {grown[1]:.2f}")
    assert all(now <= then + 5 for now, then in zip(after, before, strict=True))
    assert max(grown) < 1.3
