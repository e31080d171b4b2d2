"""The standing service: a real server with a password, a real worker, runs triggered through the API."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Checkout

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Service:
    """`make up` in a checkout, on a port of its own."""

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])

    def __call__(self, command: str, code: int = 0) -> str:
        done = self.checkout.run("python", "-m", "flows.service", command, code=code, PREFECT_SERVER_API_PORT=self.port)
        return done.stdout + done.stderr

    def settings(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.checkout.path / ".prefect/service.json").read_text())
        return found

    def api(self, path: str, content: dict[str, Any] | None = None, password: str | None = None) -> Any:
        """Ask the server; POST where there is `content`."""
        secret = password or self.settings()["PREFECT_API_AUTH_STRING"]
        request = urllib.request.Request(
            f"{self.settings()['PREFECT_API_URL']}{path}",
            data=None if content is None else json.dumps(content).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Basic {b64encode(secret.encode()).decode()}",
            },
        )
        for wait_s in (0.5, 1, 2, 4):  # SQLite was locked: Prefect's own client asks again too
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(wait_s)
        raise AssertionError(f"{path} answers 503")

    def trigger(self, deployment: str, **parameters: Any) -> str:
        found = self.api(f"/deployments/name/{deployment}")
        run = self.api(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api(f"/flow_runs/{run}")["state"]
        return found

    def wait(self, run: str, limit_s: float = 120) -> dict[str, Any]:
        until(lambda: self.state(run)["type"] in FINAL, limit_s)
        return self.state(run)

    def logs(self, run: str) -> list[str]:
        found = self.api("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return [line["message"] for line in found]


def until(condition: Callable[[], Any], limit_s: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s, f"it did not happen in {limit_s} s"
        time.sleep(0.1)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def service(released: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    import shutil

    path = tmp_path_factory.mktemp("service") / "checkout"
    shutil.copytree(released.path, path, symlinks=True)
    up = Service(Checkout(path))
    try:
        assert "Prefect is up at" in up("up")
        yield up
    finally:
        up("down")
        left = [
            process
            for process in psutil.process_iter(["cwd", "cmdline"])
            if str(process.info["cwd"]).startswith(str(path))
        ]
        assert not [process.info["cmdline"] for process in left]


def stage_processes(checkout: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if str(process.info["cwd"] or "").startswith(str(checkout)) and ("tasks." in words or "dvc" in words):
            found.append(process)
    return found


def test_it_asks_for_the_password_and_keeps_it_to_its_owner(service: Service) -> None:
    assert service.api("/health") is True
    with pytest.raises(urllib.error.HTTPError, match="401"):
        service.api("/flows/count", {}, password="admin:guess")
    assert (service.checkout.path / ".prefect/service.json").stat().st_mode & 0o077 == 0
    assert "answers" in service("status")


def test_every_deployment_is_there(service: Service) -> None:
    found = {each["name"]: each for each in service.api("/deployments/filter", {})}
    assert set(found) == {"training", "prediction", "verification", "rollback"}
    assert found["training"]["global_concurrency_limit"]["limit"] == 1
    assert [schedule["active"] for schedule in found["training"]["schedules"]] == [True]
    assert [each["name"] for each in service.api("/automations/filter", {})] == ["ratchet: runs that died"]


def test_a_run_with_nothing_new_ends_cached_and_leaves_nothing(service: Service) -> None:
    run = service.trigger("training/training")
    assert service.wait(run)["name"] == "Unchanged"
    tasks = service.api("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
    cached = {task["name"] for task in tasks if task["state"]["name"] == "Cached"}
    assert cached == {"ingest", "validate", "prepare", "train", "evaluate"}
    assert service.checkout.git("worktree", "list").count("\n") == 0


def test_a_run_trains_registers_and_shows_it(service: Service) -> None:
    file = service.checkout.path / "params.yaml"
    file.write_text(file.read_text() + "# a person is editing this\n")
    edited = file.read_bytes()
    run = service.trigger(
        "training/training", settings={"train.seed": "5", "gate.margin": "0.9"}, environment="staging"
    )
    state = service.wait(run)
    assert (state["type"], state["name"]) == ("COMPLETED", "Promoted")
    found = {each["key"] for each in service.api("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})}
    assert {"stages", "metrics", "gate", "report", "gate-page", "train-progress"} <= found
    lines = service.logs(run)
    assert "train: param train.seed: 0 → 5" in lines
    assert [line for line in lines if line.startswith("train: epoch 2/2")]
    (newest, _) = service.checkout.json("versions")
    assert newest["environments"] == ["staging"]
    assert file.read_bytes() == edited
    events = service.api("/events/filter", {"filter": {"event": {"prefix": ["ratchet."]}}})["events"]
    assert {event["event"] for event in events} >= {"ratchet.version.registered", "ratchet.version.promoted"}


def test_a_cancelled_run_saves_ends_all_it_started_and_is_gone_on_with(service: Service) -> None:
    settings = {"train.seed": "6", "train.epochs": "40", "run.checkpoint_seconds": "1"}
    run = service.trigger("training/training", settings=settings)
    until(lambda: [line for line in service.logs(run) if line.startswith("train: epoch 1/40")], 60)
    service.api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: not stage_processes(service.checkout.path), 15)
    assert service.wait(run, 40)["type"] == "CANCELLED"
    assert list((service.checkout.path / ".checkpoints").rglob("*.pt"))


def test_a_bad_setting_fails_the_run_and_says_so(service: Service) -> None:
    run = service.trigger("training/training", settings={"train.epohcs": "3"})
    state = service.wait(run)
    assert state["type"] == "FAILED"
    assert "train.epohcs: unknown key; did you mean epochs?" in state["message"]
    gone = service.wait(service.trigger("training/training", revision="deadbeef"))
    assert "'deadbeef' is no commit" in gone["message"]


def test_a_parameter_of_the_wrong_type_is_refused(service: Service) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"409|422"):
        service.trigger("training/training", environment={"no": "text"})


def test_the_rollback_deployment_rolls_back(service: Service) -> None:
    service.checkout.ratchet("promote", "v1.0.0", "--environment", "shadow")
    newest = service.checkout.json("versions")[0]["version"]
    service.checkout.ratchet("promote", newest, "--environment", "shadow")
    run = service.trigger("rollback/rollback", environment="shadow", reason="it disappoints")
    state = service.wait(run)
    assert (state["name"], state["message"]) == ("Rolled back", "v1.0.0 serves in shadow again")


def test_when_nothing_runs_the_commands_say_what_to_do(copy: Checkout) -> None:
    done = copy.run("python", "-m", "flows.service", "status", code=1)
    assert "start one with `make up`" in done.stderr
    done = copy.ratchet("train", code=1, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "no Prefect server answers at http://127.0.0.1:9/api after 10 s" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("victim", ["stage", "flow", "worker"])
def test_a_kill_leaves_no_second_writer_and_the_next_run_completes(service: Service, victim: str) -> None:
    settings = {"train.seed": str(len(victim)), "train.epochs": "12", "run.checkpoint_seconds": "1"}
    run = service.trigger("training/training", settings=settings)
    until(lambda: [line for line in service.logs(run) if line.startswith("train: epoch 2/12")], 90)
    found = {" ".join(process.cmdline()[1:3]): process for process in stage_processes(service.checkout.path)}
    (dvc,) = (process for process in found.values() if "repro" in process.cmdline())
    worker = json.loads((service.checkout.path / ".prefect/worker.pid").read_text())["pid"]
    pids = {"stage": found["-m tasks.train"].pid, "flow": dvc.ppid(), "worker": worker}
    os.kill(pids[victim], signal.SIGKILL)
    until(lambda: not stage_processes(service.checkout.path), 10)
    assert service.wait(run, 150)["type"] in ("CRASHED", "FAILED")
    service("up")
    again = service.wait(service.trigger("training/training", settings=settings), 150)
    assert again["type"] == "COMPLETED"
    assert service.checkout.ratchet("verify").returncode == 0


@pytest.mark.long
def test_the_server_may_restart_during_a_run(service: Service) -> None:
    run = service.trigger("training/training", settings={"train.seed": "21", "train.epochs": "40"})
    until(lambda: [line for line in service.logs(run) if line.startswith("train: epoch 1/40")], 90)
    server = json.loads((service.checkout.path / ".prefect/server.pid").read_text())["pid"]
    os.kill(server, signal.SIGKILL)
    time.sleep(30)
    service("up")
    assert service.wait(run, 240)["type"] == "COMPLETED"


@pytest.mark.long
def test_twenty_at_once_run_one_at_a_time(service: Service) -> None:
    runs = [service.trigger("training/training") for _ in range(20)]
    most = 0
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        states = [service.state(run)["type"] for run in runs]
        most = max(most, states.count("RUNNING"))
        if all(state in FINAL for state in states):
            break
        time.sleep(1)
    assert [service.state(run)["type"] for run in runs] == ["COMPLETED"] * 20
    assert most == 1


@pytest.mark.long
def test_a_schedule_fires_by_itself(service: Service) -> None:
    found = service.api("/deployments/name/verification/verification")
    schedule = [{"schedule": {"interval": 5, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}]
    service.api(f"/deployments/{found['id']}/schedules", schedule)
    wanted = {"deployments": {"id": {"any_": [found["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    until(lambda: service.api("/flow_runs/count", wanted), 120)
    assert next(run["auto_scheduled"] for run in service.api("/flow_runs/filter", wanted)) is True


@pytest.mark.long
def test_a_hundred_runs_with_nothing_to_do_leave_nothing(service: Service) -> None:
    worker = psutil.Process(json.loads((service.checkout.path / ".prefect/worker.pid").read_text())["pid"])

    def held() -> tuple[int, int]:
        return worker.num_fds(), len(list((service.checkout.path / ".runs").iterdir()))

    service.wait(service.trigger("training/training"))
    files, trees = held()
    memory = worker.memory_info().rss
    for _ in range(100):
        assert service.wait(service.trigger("training/training"))["name"] == "Unchanged"
    assert held() <= (files + 5, trees)
    assert worker.memory_info().rss < 1.3 * memory
