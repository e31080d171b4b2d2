"""The standing service: a real server with a password, a real worker, runs triggered through the API."""

from __future__ import annotations

import json
import time
import urllib.error

import pytest

from tests.conftest import Checkout
from tests.helpers.standing import Service, processes, stage_processes, until


def test_it_asks_for_the_password_and_keeps_it_to_its_owner(service: Service) -> None:
    assert service.api("/health") is True
    with pytest.raises(urllib.error.HTTPError, match="401"):
        service.api("/flows/count", {}, password="admin:guess")
    assert (service.checkout.path / ".prefect/service.json").stat().st_mode & 0o077 == 0
    assert "responds" in service("status")


def test_every_deployment_is_there(service: Service) -> None:
    found = {each["name"]: each for each in service.api("/deployments/filter", {})}
    assert set(found) == {"training", "prediction", "verification", "rollback"}
    assert found["training"]["global_concurrency_limit"]["limit"] == 1
    assert [schedule["active"] for schedule in found["training"]["schedules"]] == [True]


def test_the_automations_are_there_and_stay_when_deployed_again(service: Service) -> None:
    """Made anew, the server would forget for which runs it waits."""
    found = {each["name"]: each["id"] for each in service.api("/automations/filter", {})}
    assert set(found) == {"ratchet: runs that died", "ratchet: unclaimed runs"}
    service("deploy")
    assert {each["name"]: each["id"] for each in service.api("/automations/filter", {})} == found


def test_a_run_with_nothing_new_ends_cached_and_leaves_nothing(service: Service) -> None:
    run = service.trigger("training/training")
    assert service.wait(run)["name"] == "Unchanged"
    tasks = service.api("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
    cached = {task["name"] for task in tasks if task["state"]["name"] == "Cached"}
    assert cached == {"ingest", "validate", "prepare", "train", "evaluate"}
    assert not any(task["tags"] for task in tasks)  # each would cost a request for a slot
    assert service.checkout.git("worktree", "list").count("\n") == 0


@pytest.fixture(scope="module")
def run(service: Service) -> str:
    """A run with settings of its own, which put a version into staging."""
    settings = {"train.seed": "5", "train.threads": "1", "gate.margin": "0.9"}
    run = service.trigger("training/training", settings=settings, environment="staging")
    state = service.wait(run)
    assert (state["type"], state["name"]) == ("COMPLETED", "Promoted")
    return run


def test_a_run_trains_registers_and_shows_it(service: Service, run: str) -> None:
    found = {
        each["key"]
        for each in service.api(
            "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}}
        )
    }
    assert {"stages", "metrics", "gate", "report", "gate-page", "train-progress"} <= found
    tasks = service.api("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
    assert {task["name"]: task["tags"] for task in tasks if task["tags"]} == {
        "train": ["compute"],
        "evaluate": ["compute"],
    }
    lines = service.logs(run)
    assert [line for line in lines if line.startswith("train: param")] == [
        "train: param train.seed: 0 → 5"
    ]
    assert [line for line in lines if line.startswith("train: epoch 2/2")]
    (version,) = (
        entry for entry in service.checkout.json("versions") if "staging" in entry["environments"]
    )
    assert version["version"] == "v1.0.1"

    def events() -> set[str]:
        found = service.api("/events/filter", {"filter": {"event": {"prefix": ["ratchet."]}}})[
            "events"
        ]
        return {event["event"] for event in found}

    until(
        lambda: events() >= {"ratchet.version.registered", "ratchet.version.promoted"}, 30
    )  # the server stores them late


def test_the_run_graph_has_the_arrows_of_the_data(service: Service, run: str) -> None:
    tasks = service.api("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
    names = {task["id"]: task["name"] for task in tasks}
    arrows = {
        task["name"]: {
            names[source["id"]]
            for sources in task["task_inputs"].values()
            for source in sources
            if source["input_type"] == "task_run"
        }
        for task in tasks
    }
    assert arrows == {
        "refresh": set(),
        "ingest": {"refresh"},
        "validate": {"ingest"},
        "check_data": {"validate"},
        "prepare": {"ingest", "validate"},
        "train": {"prepare"},
        "evaluate": {"prepare", "train"},
        "gate": {"evaluate"},
        "register": {"gate"},
        "promote": {"gate", "register"},
    }


@pytest.mark.long
def test_edits_in_the_checkout_while_a_deployment_trains_stay_out_of_its_version(
    service: Service,
) -> None:
    checkout = service.checkout
    base = checkout.git("rev-parse", "HEAD")
    settings = {"train.seed": "7", "train.threads": "1", "train.epochs": "30", "gate.margin": "0.9"}
    run = service.trigger("training/training", settings=settings, environment="edited")
    until(lambda: [line for line in service.logs(run) if line.startswith("train: epoch 1/30")], 90)
    committed, params = (
        checkout.path / "ratchet/models/architectures.py",
        checkout.path / "params.yaml",
    )
    committed.write_text(committed.read_text() + "\n# an experiment, committed\n")
    checkout.commit("Try something")
    params.write_text(params.read_text().replace("  lr: ", "  lr: 9"))
    code, own = checkout.path / "tasks/train.py", checkout.path / "custom/mine.py"
    code.write_text(code.read_text() + "\n# an experiment\n")
    own.write_text("secret = 1\n")
    edits = {file: file.read_bytes() for file in (committed, params, code, own)}
    try:
        assert service.wait(run, 150)["name"] == "Promoted"
        assert {file: file.read_bytes() for file in edits} == edits
        newest = checkout.json("versions")[0]
        assert (newest["environments"], newest["base"]) == (["edited"], base)
        tag = f"classifier@{newest['version']}"
        changed = checkout.git("diff", "--name-only", base, tag).splitlines()
        code = ("cli/", "custom/", "flows/", "ratchet/", "service/", "tasks/")
        assert not [path for path in changed if path.startswith(code)]
        assert "  lr: 9" not in checkout.git("show", f"{tag}:params.yaml")
    finally:
        own.unlink()
        checkout.git("reset", "--quiet", "--hard", base)


@pytest.mark.fault(33)
@pytest.mark.long
def test_a_cancelled_run_saves_ends_all_it_started_and_is_gone_on_with(service: Service) -> None:
    """Fault 33: nothing that the run started is alive 10 s after its checkpoint.

    The next run goes on from there.
    """
    checkout = service.checkout.path
    settings = {
        "train.seed": "6",
        "train.threads": "1",
        "train.epochs": "200",
        "run.checkpoint_seconds": "1",
    }
    run = service.trigger("training/training", settings=settings)
    until(lambda: [line for line in service.logs(run) if line.startswith("train: epoch 1/200")], 90)
    standing = {service.process("server").pid, service.process("worker").pid}
    service.api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    began = time.time()
    until(lambda: not stage_processes(checkout), 20)
    saved = max(file.stat().st_mtime for file in (checkout / ".checkpoints").rglob("*.pt"))
    assert saved > began - 5
    until(lambda: not [each for each in processes(checkout) if each.pid not in standing], 20)
    assert time.time() - max(saved, began) < 10
    assert service.wait(run, 40)["type"] == "CANCELLED"
    again = service.trigger("training/training", settings=settings)
    until(lambda: [line for line in service.logs(again) if line.startswith("train: epoch ")], 90)
    assert not [line for line in service.logs(again) if line.startswith("train: epoch 1/200")]
    service.api(f"/flow_runs/{again}/set_state", {"state": {"type": "CANCELLING"}})
    assert service.wait(again, 40)["type"] == "CANCELLED"


def test_the_rollback_deployment_rolls_back(service: Service, run: str) -> None:
    for version in ("v1.0.0", "staging"):
        service.checkout.ratchet("promote", version, "--environment", "shadow")
    state = service.wait(
        service.trigger("rollback/rollback", environment="shadow", reason="it performs worse")
    )
    assert (state["name"], state["message"]) == ("Rolled back", "v1.0.0 serves in shadow again")


# ── bad input ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.long
def test_a_bad_setting_and_a_commit_that_is_gone_fail_the_run_and_say_so(service: Service) -> None:
    run = service.trigger("training/training", settings={"train.epohcs": "3"})
    gone = service.trigger("training/training", revision="deadbeef")
    state = service.wait(run)
    assert state["type"] == "FAILED"
    assert "train.epohcs: unknown key; did you mean train.epochs?" in state["message"]
    state = service.wait(gone)
    assert state["type"] == "FAILED"
    assert "has no commit 'deadbeef'" in state["message"]
    assert "`git log --all --oneline` lists all" in state["message"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"environment": {"no": "text"}}, "Validation failed for field 'environment'"),
        ({"settings": ["train.epochs"]}, "Validation failed for field 'settings'"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_refused_with_its_name(
    service: Service, parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"409|422") as refused:
        service.trigger("training/training", **parameters)
    assert message in json.load(refused.value)["detail"]


@pytest.mark.long
def test_a_time_out_ends_the_stage_and_says_what_to_raise(service: Service) -> None:
    settings = {"train.seed": "8", "train.threads": "1", "train.epochs": "2000"}
    settings["run.timeouts"] = "{network: 1.0, compute: 0.003, git: 1.0}"
    run = service.trigger("training/training", settings=settings)
    state = service.wait(run)
    assert state["type"] == "FAILED"
    assert "train: not done after 0.003 hours, so it was ended" in state["message"]
    assert "raise run.timeouts.compute in params.yaml" in state["message"]
    assert not stage_processes(service.checkout.path)
    assert list((service.checkout.path / ".checkpoints").rglob("*.pt"))


@pytest.mark.long
def test_without_its_work_pool_status_says_so(service: Service) -> None:
    service.api("/work_pools/ratchet", method="DELETE")
    try:
        assert "has no work pool ratchet, so no worker takes a run; `make up`" in service(
            "status", code=1
        )
    finally:
        service("up")
    assert "responds" in service("status")


def test_a_wrong_password_is_one_message(service: Service, copy: Checkout) -> None:
    wrong = {
        "PREFECT_API_URL": service.settings()["PREFECT_API_URL"],
        "PREFECT_API_AUTH_STRING": "ratchet:guess",
    }
    done = copy.ratchet("train", code=1, **wrong)
    assert "refuses this password; set PREFECT_API_AUTH_STRING" in done.stderr
    assert "Traceback" not in done.stderr
    for command in ("status", "deploy", "worker"):
        assert (
            "refuses this password"
            in copy.run("python", "-m", "service.standing", command, code=1, **wrong).stderr
        )


@pytest.mark.fault(20)
def test_when_nothing_runs_the_commands_say_what_to_do(copy: Checkout) -> None:
    """Fault 20: a bounded wait, then one message; and DVC needs no server."""
    done = copy.run("python", "-m", "service.standing", "status", code=1)
    assert "start one with `make up`" in done.stderr
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = copy.ratchet("train", code=1, **nowhere)
    assert "no Prefect server responds at http://127.0.0.1:9/api after 10 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert "up to date" in copy.run("dvc", "repro", **nowhere).stdout
