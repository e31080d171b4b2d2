"""`ratchet serve`: the deployments from one process, without a worker, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import BIN, Checkout
from tests.flows.standing import Service, processes, stage_processes, until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server(released: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A standing server alone; `ratchet serve` finds it."""
    path = tmp_path_factory.mktemp("serve") / "checkout"
    shutil.copytree(released.path, path, symlinks=True)
    alone = Service(Checkout(path), {})
    code = "from flows import service; service.settings(create=True)"
    alone.checkout.run("python", "-c", code, PREFECT_SERVER_API_PORT=alone.port)
    alone.start("server")
    try:
        until(alone.answers, 90)
        yield alone
    finally:
        alone("down")


def serve(server: Service) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["DVC_SITE_CACHE_DIR"] = str(server.checkout.path / ".site")
    command = [str(BIN / "python"), "-m", "flows", "serve"]
    serving = subprocess.Popen(
        command, cwd=server.checkout.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        process_group=0,
    )  # fmt: skip
    assert serving.stdout
    line = serving.stdout.readline()
    assert line == "serving training, prediction, verification, rollback; press Ctrl-C to stop\n", (
        line + serving.stdout.read()
    )
    return serving


def active(server: Service) -> bool:
    return not server.api("/deployments/name/training/training")["paused"]


def test_it_runs_what_is_triggered_and_pauses_the_schedules_at_its_end(server: Service) -> None:
    serving = serve(server)
    until(lambda: len(server.api("/deployments/filter", {})) == 4, 60)
    assert server.wait(server.trigger("training/training"))["name"] == "Unchanged"
    assert active(server)
    os.killpg(serving.pid, signal.SIGINT)  # as Ctrl-C does
    said, _ = serving.communicate(timeout=30)
    assert said.endswith("stopped; the schedules are paused until `ratchet serve` runs again\n")
    assert "Traceback" not in said
    assert serving.returncode == 0
    assert not active(server)
    again = serve(server)
    until(lambda: active(server), 60)
    again.terminate()
    again.communicate(timeout=30)
    assert not active(server)


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_it_ends_in_the_middle_of_a_run(server: Service, how: str, turn: int) -> None:
    """The run saves, ends and is right in Prefect, and nothing is left alive."""
    serving = serve(server)
    settings = {"train.seed": str(turn), "train.threads": "1", "train.epochs": "2000", "run.checkpoint_seconds": "1"}
    run = server.trigger("training/training", settings=settings)
    until(lambda: [line for line in server.logs(run) if line.startswith("train: epoch ")], 120)
    number = signal.Signals[how]
    if how == "SIGINT":
        os.killpg(serving.pid, number)
    else:
        serving.send_signal(number)
    serving.communicate(timeout=30)
    until(lambda: not stage_processes(server.checkout.path), 10)
    assert server.wait(run, 60)["type"] in ("CRASHED", "FAILED")
    standing = server.process("server").pid
    until(lambda: {process.pid for process in processes(server.checkout.path)} == {standing}, 10)
    assert list((server.checkout.path / ".checkpoints").rglob("*.pt"))
