"""Kill -9 of whatever takes part in a deployment's run, at random times (faults 3, 21 and 22)."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.standing import Service, processes, stage_processes, until

MARKED_S = 300 + 30  # ten heartbeats and half a minute
SETTINGS = {
    "train.epochs": "4",
    "train.threads": "1",
    "run.checkpoint_seconds": "1",
    "gate.margin": "0.9",
}

pytestmark = pytest.mark.long


class Writers:
    """Watches that no stage ever runs twice at once, in whatever tree."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.most: Counter[str] = Counter()
        self._over = threading.Event()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            words = Counter(
                " ".join(process.info["cmdline"] or ())
                for process in stage_processes(self.checkout)
            )
            for said, count in words.items():
                if "-m tasks." in said:
                    self.most[said] = max(self.most[said], count)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def stage_process(service: Service) -> psutil.Process | None:
    found = [
        process
        for process in stage_processes(service.checkout.path)
        if "-m tasks." in " ".join(process.cmdline())
    ]
    return next(iter(found), None)


def find(service: Service, victim: str) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if victim == "stage":
            return stage_process(service)
        return service.flow() if victim == "flow" else service.process(victim)
    return None


def kill(service: Service, victim: str, moment_s: float) -> str:
    """Kill the victim `moment_s` seconds after the run's process began, or as soon as there is one.

    What it was doing.
    """
    until(service.flow, 180)
    time.sleep(moment_s)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        doing = stage_process(service)
        process = find(service, victim)
        if process:
            with contextlib.suppress(psutil.NoSuchProcess):
                said = " ".join(doing.cmdline()[1:]) if doing else "no stage"
                process.kill()
                return said
        if victim != "server" and service.flow() is None:
            break
        time.sleep(0.02)
    return "nothing: the run had ended"


@pytest.mark.soak
@pytest.mark.fault(1, 3)
@pytest.mark.parametrize("victim", ["stage", "flow", "worker", "server"])
def test_ten_kills_at_random_times(service: Service, victim: str) -> None:
    """No second writer, no zombie, no version lost or doubled, and the next run completes."""
    chance = random.Random(victim)
    first = service.trigger("training/training", settings=SETTINGS)
    until(service.flow, 180)
    started = time.monotonic()
    assert service.wait(first, 200)["type"] == "COMPLETED"
    length_s = time.monotonic() - started
    before = {each["version"] for each in service.checkout.json("versions")}
    writers, ends = Writers(service.checkout.path), Counter[str]()
    with writers.watching():
        turn, kills = 0, 0
        while kills < 10 and turn < 20:
            settings = SETTINGS | {"train.seed": str(1000 + turn)}
            run = service.trigger("training/training", settings=settings)
            doing = kill(service, victim, chance.uniform(0, 0.9 * length_s))
            killed = time.monotonic()
            kills += not doing.startswith("nothing")
            if victim in ("flow", "worker") and not doing.startswith("nothing"):
                until(lambda: stage_process(service) is None, 10)
            if victim == "server":
                time.sleep(30)
            if victim in ("server", "worker"):
                service.start(victim)
                until(service.answers, 60)
            # one that goes on without the server needs its own time too
            state = service.wait(run, MARKED_S + (2 * length_s if victim == "server" else 0))
            ends[state["type"]] += 1
            print(
                f"{victim} {turn}: {doing}; {state['type']} after {time.monotonic() - killed:.0f} s: {state['message']}"
            )
            again = service.wait(service.trigger("training/training", settings=settings), 200)
            assert again["type"] == "COMPLETED", again
            turn += 1
    print(f"{victim}: a run takes {length_s:.0f} s; the killed ones ended {dict(ends)}")
    versions = [each for each in service.checkout.json("versions") if each["version"] not in before]
    assert kills == 10
    assert len(versions) == turn
    assert len({each["weights_sha256"] for each in versions}) == turn
    assert max(writers.most.values()) == 1, writers.most
    assert service.checkout.ratchet("verify").returncode == 0


@pytest.mark.soak
@pytest.mark.fault(22)
def test_a_machine_that_dies_is_noticed_when_it_is_back(service: Service) -> None:
    """Everything killed at once, as by a power cut (fault 22): the run is marked and its slot is free."""
    settings = SETTINGS | {"train.seed": "2000"}
    run = service.trigger("training/training", settings=settings)
    until(lambda: stage_process(service), 90)
    waiting = service.trigger("training/training", settings=settings)
    for process in processes(service.checkout.path):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for name in ("server", "worker"):
        service.start(name)
        until(service.answers, 60)
    back = time.monotonic()
    state = service.wait(run, MARKED_S)
    print(f"marked {time.monotonic() - back:.0f} s after the server was back: {state['message']}")
    assert state["type"] == "CRASHED"
    assert "no heartbeat for 300 s: its process or machine is gone" in state["message"]
    assert service.wait(waiting, 200)["type"] == "COMPLETED"


@pytest.mark.fault(21)
@pytest.mark.parametrize("down_s", [30, 120])
def test_the_server_may_restart_during_a_run(service: Service, down_s: int) -> None:
    """Fault 21: the run goes on, ends well, and is right in Prefect afterwards, having been marked as nothing else."""
    run = service.trigger(
        "training/training", settings=SETTINGS | {"train.seed": str(down_s), "train.epochs": "400"}
    )
    until(lambda: [line for line in service.logs(run) if line.startswith("train: epoch 1/")], 90)
    service.process("server").kill()
    time.sleep(down_s)
    service.start("server")
    until(service.answers, 60)
    assert service.wait(run, 400)["type"] == "COMPLETED"
    states = [state["name"] for state in service.api(f"/flow_run_states/?flow_run_id={run}")]
    assert states == ["Scheduled", "Pending", "Submitting", "Running", "Promoted"]
