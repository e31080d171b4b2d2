"""The Prefect server of a command: the one that PREFECT_API_URL names, or one of its own for as long as it runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import ServerUnreachable
from tasks.process import GUARDED_LAUNCH, end_with_parent, environment_setdefault

START_LIMIT_S = 180.0  # for a server of our own: making a new database takes 15 s, or minutes on a machine that is busy
ANSWER_LIMIT_S = 10.0  # for one that should be running already
WORKER = "RATCHET_WORKER"  # process id of the worker, for the runs that it starts


def prepare_prefect(home: Path) -> None:
    """Set Prefect's environment, before its first import: a home of its own, and no word on the terminal."""
    folder = home / ".prefect"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(folder)
    os.environ.pop("PREFECT_PROFILE", None)
    os.environ.pop("PREFECT_PROFILES_PATH", None)
    environment_setdefault(
        {
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
            "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
        }
    )


@contextlib.contextmanager
def server(home: Path) -> Iterator[None]:
    """Have a Prefect server for the flows called in here: the shell's, the standing one of `make up`, or our own.

    Our own starts while Prefect is imported, lives in a session of its own (Ctrl-C does not reach it) and gets SIGTERM from
    the kernel when this process is gone, so that nobody waits for its end.

    Raises:
        ServerUnreachable: the server named by PREFECT_API_URL does not answer, or ours does not start.
    """
    prepare_prefect(home)
    _use_standing(home)
    named = os.environ.get("PREFECT_API_URL")
    if named:
        _wait(named, ANSWER_LIMIT_S, None, "start it (`make up`), or unset PREFECT_API_URL to use a temporary one")
        ask(named, "/admin/version", os.environ.get("PREFECT_API_AUTH_STRING"))
        yield
        return
    log = home / ".prefect/server.log"
    port = _free_port()
    with log.open("w") as output:
        child = subprocess.Popen(_command(port), env=_server_environment(), stdin=subprocess.DEVNULL, stdout=output,
                                 stderr=output, start_new_session=True)  # fmt: skip
    url = os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    try:
        import prefect  # noqa: F401  # a second of importing while the server starts

        _wait(url, START_LIMIT_S, child, f"its log is {log}")
        yield
    finally:
        del os.environ["PREFECT_API_URL"]


def _command(port: int) -> list[str]:
    return [
        *(sys.executable, "-c", GUARDED_LAUNCH, str(os.getpid())),
        *("-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--lifespan", "on"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
    ]


def _server_environment() -> dict[str, str]:
    return {**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _use_standing(home: Path) -> None:
    """Use the server of `make up` if it runs and the shell names no other."""
    file = home / ".prefect/service.json"
    if "PREFECT_API_URL" not in os.environ and file.exists():
        service = json.loads(file.read_text())
        if answers(service["PREFECT_API_URL"]):
            os.environ.update(service)


def follow_worker() -> None:
    """In a deployment's run: end when the worker (or `ratchet serve`) dies, so that no run goes on that nobody can cancel."""
    from prefect.runtime import deployment

    if deployment.id:
        end_with_parent()
        if os.environ.get(WORKER, str(os.getppid())) != str(os.getppid()):  # it died before that
            os.kill(os.getpid(), signal.SIGTERM)


def ask(url: str, path: str, password: str | None) -> Any:
    """What the Prefect server at this API address answers to a GET, or None where it knows nothing of that name.

    Raises:
        ServerUnreachable: the server refuses the password.
    """
    given = {"Authorization": f"Basic {b64encode(password.encode()).decode()}"} if password else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url + path, headers=given), timeout=ANSWER_LIMIT_S
        ) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ServerUnreachable(
                f"the Prefect server at {url} refuses {'this' if password else 'to answer without a'} password; set "
                "PREFECT_API_AUTH_STRING to what PREFECT_SERVER_API_AUTH_STRING is there (`make up` keeps it in "
                ".prefect/service.json)"
            ) from None
        if error.code == 404:
            return None
        raise ServerUnreachable(f"the Prefect server at {url} answers {error}; see .prefect/server.log") from None
    except OSError as error:
        raise ServerUnreachable(
            f"the Prefect server at {url} does not answer: {error}; see .prefect/server.log"
        ) from None


def answers(url: str) -> bool:
    """Does a Prefect server answer at this API address?"""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _wait(url: str, limit_s: float, child: subprocess.Popen[bytes] | None, hint: str) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if answers(url):
            return
        if child and child.poll() is not None:
            break
        time.sleep(0.05)
    raise ServerUnreachable(f"no Prefect server answers at {url} after {limit_s:.0f} s; {hint}")
