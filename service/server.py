"""The Prefect server of a command: the one in PREFECT_API_URL, or a temporary one."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ratchet import environment
from ratchet.errors import ServerUnreachable
from ratchet.process import GUARDED_LAUNCH, end_with_parent

START_LIMIT_S = 180.0  # for a new server: its database takes 15 s, on a busy machine minutes
ANSWER_LIMIT_S = 10.0  # for a server that should be running
LOOPBACK = ("127.0.0.1", "localhost", "::1")
WORKER = "RATCHET_WORKER"  # the variable with the process id of the worker, for its runs


def prepare_prefect(home: Path) -> None:
    """Set Prefect's environment variables, before its first import.

    Prefect then keeps its files in `home / ".prefect"` and prints nothing on the terminal.
    """
    keep_loopback_off_proxies()
    folder = home / ".prefect"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(folder)
    os.environ.pop("PREFECT_PROFILE", None)
    os.environ.pop("PREFECT_PROFILES_PATH", None)
    environment.set_defaults(
        {
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
            "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_PROMPT": "false",
        }
    )


def keep_loopback_off_proxies() -> None:
    """Add the loopback hosts to `no_proxy`, for Prefect's client here and in child processes."""
    value = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in value.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


@contextlib.contextmanager
def server(home: Path) -> Iterator[None]:
    """Provide a Prefect server for the flows called in the block.

    It is the server that the shell names, the standing one of `make up`, or a temporary one. A
    temporary server starts while Prefect is imported. It has its own session, so that Ctrl-C does
    not reach it. It gets SIGTERM when this process exits, after Prefect has sent its last logs and
    events, and on Linux also when this process is killed.

    Raises:
        ServerUnreachable: the server in PREFECT_API_URL does not respond, or the temporary one
            does not start.
    """
    prepare_prefect(home)
    _use_standing(home)
    url = os.environ.get("PREFECT_API_URL")
    if url:
        hint = "start it (`make up`), or unset PREFECT_API_URL to use a temporary one"
        wait(url, ANSWER_LIMIT_S, hint)
        ask(url, "/admin/version", os.environ.get("PREFECT_API_AUTH_STRING"))
        yield
        return
    with _temporary_server(home):
        yield


@contextlib.contextmanager
def _temporary_server(home: Path) -> Iterator[None]:
    """Start a server whose address is in PREFECT_API_URL during the block."""
    log = home / ".prefect/server.log"
    port = _free_port()
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            _command(port),
            env={**os.environ, "PREFECT_UI_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    # Registered before Prefect is imported, so that it runs after Prefect's own exit handlers.
    atexit.register(child.terminate)
    url = os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    try:
        import prefect  # noqa: F401  # takes a second, in which the server starts

        wait(url, START_LIMIT_S, f"see {log}", lambda: _ended(child, log))
        yield
    finally:
        del os.environ["PREFECT_API_URL"]


def _command(port: int) -> list[str]:
    return [
        *(sys.executable, "-c", GUARDED_LAUNCH, str(os.getpid())),
        *("-m", "uvicorn", "--factory", "service.server:temporary", "--lifespan", "on"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
    ]


def temporary() -> Any:
    """Return the application of a server without pages and schedules, for uvicorn."""
    from prefect.server.api.server import create_app

    return create_app(ephemeral=True, final=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _use_standing(home: Path) -> None:
    """Use the server of `make up` if it is running and the shell names no other."""
    file = home / ".prefect/service.json"
    if "PREFECT_API_URL" not in os.environ and file.exists():
        service = json.loads(file.read_text(encoding="utf-8"))
        if answers(service["PREFECT_API_URL"]):
            os.environ.update(service)


def follow_worker() -> None:
    """In a run of a deployment, end this process when the worker dies.

    Without the worker nobody could cancel the run.
    """
    from prefect.runtime import deployment

    if deployment.id:
        end_with_parent()
        parent = str(os.getppid())
        if os.environ.get(WORKER, parent) != parent:  # the worker has already died
            os.kill(os.getpid(), signal.SIGTERM)


def ask(url: str, path: str, password: str | None) -> Any:
    """Return the JSON that a Prefect server sends for a GET request, or None if it sends 404.

    Args:
        url: the API address of the server.
        path: the path below it.
        password: the password of the server ("user:password"), if it has one.

    Raises:
        ServerUnreachable: the server refuses the password, sends an error, or does not respond.
    """
    headers = {}
    if password:
        headers["Authorization"] = f"Basic {b64encode(password.encode()).decode()}"
    try:
        with open_url(urllib.request.Request(url + path, headers=headers)) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            refusal = "refuses this password" if password else "requires a password"
            raise ServerUnreachable(
                f"the Prefect server at {url} {refusal};"
                " set PREFECT_API_AUTH_STRING to its PREFECT_SERVER_API_AUTH_STRING"
                " (`make up` keeps it in .prefect/service.json)"
            ) from None
        if error.code == 404:
            return None
        raise ServerUnreachable(
            f"the Prefect server at {url} responds with {error}; see .prefect/server.log"
        ) from None
    except OSError as error:
        raise ServerUnreachable(
            f"the Prefect server at {url} does not respond: {error}; see .prefect/server.log"
        ) from None


def answers(url: str) -> bool:
    """Does a Prefect server respond at this API address?"""
    try:
        with open_url(urllib.request.Request(f"{url}/health"), timeout_s=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def open_url(request: urllib.request.Request, timeout_s: float = ANSWER_LIMIT_S) -> Any:
    """Open a URL; requests to this machine never go through a proxy."""
    handlers = []
    if urllib.parse.urlsplit(request.full_url).hostname in LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)


def wait(
    url: str, limit_s: float, hint: str, ended: Callable[[], str | None] = lambda: None
) -> None:
    """Wait until a Prefect server responds at this API address.

    Args:
        url: the API address.
        limit_s: the seconds to wait.
        hint: what to do if no server responds, for the message.
        ended: returns how the server's process ended, or None while it is running.

    Raises:
        ServerUnreachable: the process ended, or nothing responded for `limit_s` seconds.
    """
    started = time.monotonic()
    while not answers(url):
        waited_s = time.monotonic() - started
        end = ended()
        if end is not None:
            raise ServerUnreachable(
                f"the Prefect server ended after {waited_s:.1f} s {end}; {hint}"
            )
        if waited_s > limit_s:
            raise ServerUnreachable(
                f"no Prefect server responds at {url} after {waited_s:.0f} s; {hint}"
            )
        time.sleep(0.05)


def last_line(log: Path) -> str:
    """Return the last line of a log that has letters or digits; "no output" if there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    texts = [line.strip() for line in lines if any(letter.isalnum() for letter in line)]
    return texts[-1][-300:] if texts else "no output"


def _ended(child: subprocess.Popen[bytes], log: Path) -> str | None:
    """Return how a server's process ended; None while it is running."""
    code = child.poll()
    return None if code is None else f"with exit code {code}: {last_line(log)}"
