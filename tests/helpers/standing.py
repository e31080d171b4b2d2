"""A standing service for the tests: `make up` in a checkout, on a port of its own, and its API."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from service.server import answers
from tests.conftest import Checkout

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Service:
    """`make up` in a checkout, on a port of its own."""

    def __init__(self, checkout: Checkout, environment: dict[str, str]) -> None:
        self.checkout = checkout
        self.environment = environment
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])

    def __call__(self, command: str, code: int = 0) -> str:
        given = {"PREFECT_SERVER_API_PORT": self.port, **self.environment}
        done = self.checkout.run("python", "-m", "service.standing", command, code=code, **given)
        return done.stdout + done.stderr

    def start(self, name: str) -> None:
        """Start the server or the worker again, as systemd would."""
        code = f"from flows import service; service.start({name!r})"
        self.checkout.run(
            "python", "-c", code, PREFECT_SERVER_API_PORT=self.port, **self.environment
        )

    def process(self, name: str) -> psutil.Process:
        """The server or the worker."""
        return psutil.Process(
            json.loads((self.checkout.path / f".prefect/{name}.pid").read_text())["pid"]
        )

    def flow(self) -> psutil.Process | None:
        """The process of the flow run that the worker has started, if there is one."""
        for child in self.process("worker").children():
            with contextlib.suppress(
                psutil.NoSuchProcess
            ):  # it has ended meanwhile, or waits to be reaped
                if "prefect.engine" in " ".join(child.cmdline()):
                    return child
        return None

    def settings(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(
            (self.checkout.path / ".prefect/service.json").read_text()
        )
        return found

    def api(
        self, path: str, content: Any = None, password: str | None = None, method: str | None = None
    ) -> Any:
        """Ask the server; POST where there is `content` and no other method is named."""
        secret = password or self.settings()["PREFECT_API_AUTH_STRING"]
        request = urllib.request.Request(
            f"{self.settings()['PREFECT_API_URL']}{path}",
            data=None if content is None else json.dumps(content).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Basic {b64encode(secret.encode()).decode()}",
            },
            method=method,
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

    def answers(self) -> bool:
        return answers(self.settings()["PREFECT_API_URL"])

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


@contextlib.contextmanager
def standing(released: Checkout, folder: Path, **environment: str) -> Iterator[Service]:
    """A service in a copy of `released`; nothing of it may be left at the end."""
    path = folder / "checkout"
    shutil.copytree(released.path, path, symlinks=True)
    (folder / "tmp").mkdir()
    service = Service(Checkout(path), {"TMPDIR": str(folder / "tmp"), **environment})
    try:
        assert "Prefect is up at" in service("up")
        yield service
    finally:
        service("down")
        assert not [process.info["cmdline"] for process in processes(path)]


def processes(path: Path) -> list[psutil.Process]:
    """Every process that works in `path` or below."""
    found = psutil.process_iter(["cwd", "cmdline"])
    return [process for process in found if str(process.info["cwd"] or "").startswith(str(path))]


def stage_processes(checkout: Path) -> list[psutil.Process]:
    """DVC and the stages that it runs."""
    words = {process: " ".join(process.info["cmdline"] or ()) for process in processes(checkout)}
    return [process for process, said in words.items() if "tasks." in said or "dvc" in said]
