"""The Prefect server of a command: the one that PREFECT_API_URL names, or one of its own for as long as it runs."""

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

START_LIMIT_S = 180.0  # for a server of our own: making a new database takes 15 s, or minutes on a machine that is busy
ANSWER_LIMIT_S = 10.0  # for one that should be running already
LOOPBACK = ("127.0.0.1", "localhost", "::1")
WORKER = "RATCHET_WORKER"  # process id of the worker, for the runs that it starts


def prepare_prefect(home: Path) -> None:
    """Set Prefect's environment, before its first import: a home of its own, and no word on the terminal."""
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
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


@contextlib.contextmanager
def server(home: Path) -> Iterator[None]:
    """Have a Prefect server for the flows called in here: the shell's, the standing one of `make up`, or our own.

    Our own starts while Prefect is imported and is in a session of its own, so that Ctrl-C does not
    reach it. It gets SIGTERM when this process exits, after Prefect has sent its last logs and
    events; on Linux also when this process is killed. Nobody waits for its end.

    Raises:
        ServerUnreachable: the server named by PREFECT_API_URL does not answer, or ours does not
            start.
    """
    prepare_prefect(home)
    _use_standing(home)
    named = os.environ.get("PREFECT_API_URL")
    if named:
        wait(
            named,
            ANSWER_LIMIT_S,
            "start it (`make up`), or unset PREFECT_API_URL to use a temporary one",
        )
        ask(named, "/admin/version", os.environ.get("PREFECT_API_AUTH_STRING"))
        yield
        return
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
    atexit.register(
        child.terminate
    )  # before Prefect is imported, so that it runs after Prefect's own
    url = os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    try:
        import prefect  # noqa: F401  # a second of importing while the server starts

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
    """The application of a server without pages and schedules, for uvicorn in its process."""
    from prefect.server.api.server import create_app

    return create_app(ephemeral=True, final=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _use_standing(home: Path) -> None:
    """Use the server of `make up` if it runs and the shell names no other."""
    file = home / ".prefect/service.json"
    if "PREFECT_API_URL" not in os.environ and file.exists():
        service = json.loads(file.read_text(encoding="utf-8"))
        if answers(service["PREFECT_API_URL"]):
            os.environ.update(service)


def follow_worker() -> None:
    """In a deployment's run: end when the worker dies: nobody could cancel the run any more."""
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
        with open_url(urllib.request.Request(url + path, headers=given)) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ServerUnreachable(
                f"the Prefect server at {url} refuses"
                f" {'this' if password else 'to answer without a'} password; set"
                " PREFECT_API_AUTH_STRING to what PREFECT_SERVER_API_AUTH_STRING is there (`make"
                " up` keeps it in .prefect/service.json)"
            ) from None
        if error.code == 404:
            return None
        raise ServerUnreachable(
            f"the Prefect server at {url} answers {error}; see .prefect/server.log"
        ) from None
    except OSError as error:
        raise ServerUnreachable(
            f"the Prefect server at {url} does not answer: {error}; see .prefect/server.log"
        ) from None


def answers(url: str) -> bool:
    """Does a Prefect server answer at this API address?"""
    try:
        with open_url(urllib.request.Request(f"{url}/health"), timeout_s=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def open_url(request: urllib.request.Request, timeout_s: float = ANSWER_LIMIT_S) -> Any:
    """Open a URL; a server on this machine is never asked through a proxy."""
    handlers = []
    if urllib.parse.urlsplit(request.full_url).hostname in LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)


def wait(
    url: str, limit_s: float, hint: str, ended: Callable[[], str | None] = lambda: None
) -> None:
    """Wait until a Prefect server responds at this API address.

    Args:
        hint: what to do if none does.
        ended: how the server's process ended, or None while it runs.

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
    """The last line of a log that says something; "no output" where there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    words = [line.strip() for line in lines if any(letter.isalnum() for letter in line)]
    return words[-1][-300:] if words else "no output"


def _ended(child: subprocess.Popen[bytes], log: Path) -> str | None:
    code = child.poll()
    return None if code is None else f"with exit code {code}: {last_line(log)}"
