"""The standing service: a Prefect server on loopback with a password, a worker and deployments.

`make up`, `make down`, `make status` and `make deploy` call this file. See docs/deployment.md for
systemd and for several machines.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import psutil
import typer

from ratchet.environment import isolate
from ratchet.errors import RatchetError, ServerUnreachable
from ratchet.repository import home, require_checkout
from service import automations
from service.server import (
    ANSWER_LIMIT_S,
    START_LIMIT_S,
    WORKER,
    answers,
    ask,
    last_line,
    prepare_prefect,
    wait,
)

POOL = "ratchet"
PORT = "4200"
SLOT_WAIT_S = 5  # between the requests of a run that waits for another; Prefect waits 30 s
END_LIMIT_S = 40  # for a server or worker to end, while its run saves a checkpoint

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__
)


@app.command()
def up() -> None:
    """Start the server and a worker, unless they are running, and register the deployments."""
    environment = settings(create=True)
    url = environment["PREFECT_API_URL"]
    if not running("server"):
        _check_port(int(environment["PREFECT_SERVER_API_PORT"]))
        start("server")
    wait(url, START_LIMIT_S, "see .prefect/server.log", _server_end)
    deploy()
    if not running("worker"):
        start("worker")
    file = _file().relative_to(home(Path()))
    print(f"Prefect is up at {url.removesuffix('/api')}; its password is in {file}")
    print('To use it with `prefect` in a shell: eval "$(.venv/bin/python -m service.standing env)"')


@app.command("env")
def environment_lines() -> None:
    """Print the lines that let `prefect` in a shell use this server; they contain its password."""
    for name, value in settings().items():
        if name.startswith("PREFECT_API_"):
            print(f"export {name}={shlex.quote(value)}")


@app.command()
def down() -> None:
    """End the worker, whose run saves a checkpoint first, and the server."""
    for name in ("worker", "server"):
        process = running(name)
        if process:
            _end(process)
        _pid_file(name).unlink(missing_ok=True)
        print(f"{name}: {'ended' if process else 'was not running'}")


@app.command()
def status() -> None:
    """Show what is running; the exit code is 1 if the server does not respond."""
    environment = settings()
    for name in ("server", "worker"):
        process = running(name)
        print(f"{name}: {f'runs as process {process.pid}' if process else 'does not run'}")
    url = environment["PREFECT_API_URL"]
    if not answers(url):
        raise ServerUnreachable(f"no Prefect server responds at {url}; start it with `make up`")
    print(f"{url} responds")
    if not ask(url, f"/work_pools/{POOL}", environment.get("PREFECT_API_AUTH_STRING")):
        raise ServerUnreachable(
            f"{url} has no work pool {POOL}, so no worker takes runs; `make up` creates it again"
        )


@app.command()
def deploy() -> None:
    """Register the deployments of prefect.yaml, the work pool and the automations on the server."""
    environment = settings()
    wait(environment["PREFECT_API_URL"], ANSWER_LIMIT_S, "start it with `make up`")
    ask(
        environment["PREFECT_API_URL"], "/admin/version", environment.get("PREFECT_API_AUTH_STRING")
    )
    prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect("--no-prompt", "deploy", "--all")
    os.environ.update(environment)
    automations.make()


@app.command()
def server() -> None:
    """Run the server in the foreground (for systemd)."""
    port = settings(create=True)["PREFECT_SERVER_API_PORT"]
    environment = _environment()
    os.environ.update(environment)
    command = _command("server", "start", "--host", "127.0.0.1", "--port", port)
    os.execvpe(sys.executable, command, environment)


@app.command()
def worker() -> None:
    """Run a worker in the foreground (for systemd)."""
    environment = _environment()
    wait(environment["PREFECT_API_URL"], ANSWER_LIMIT_S, "start it with `make up`")
    ask(
        environment["PREFECT_API_URL"], "/admin/version", environment.get("PREFECT_API_AUTH_STRING")
    )
    own = {WORKER: str(os.getpid())}  # exec keeps the process id
    command = _command("worker", "start", "--pool", POOL, "--type", "process")
    os.execvpe(sys.executable, command, environment | own)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


def settings(create: Annotated[bool, typer.Option(hidden=True)] = False) -> dict[str, str]:
    """Return the service's address and password, which `.prefect/service.json` (mode 0600) keeps.

    Variables of the shell take precedence.

    Args:
        create: create the file if it is missing.

    Raises:
        ServerUnreachable: the service was never started here, and the shell names no server.
    """
    file = _file()
    if create and not file.exists():
        file.parent.mkdir(mode=0o700, exist_ok=True)
        password = f"ratchet:{secrets.token_urlsafe(24)}"
        port = os.environ.get("PREFECT_SERVER_API_PORT", PORT)
        content = {
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_API_AUTH_STRING": password,
            "PREFECT_SERVER_API_AUTH_STRING": password,
            "PREFECT_SERVER_API_PORT": port,
        }
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            json.dump(content, handle, indent=2)
    if not file.exists() and "PREFECT_API_URL" not in os.environ:
        raise ServerUnreachable(
            "no server is set up here; start one with `make up`, or set PREFECT_API_URL"
        )
    values: dict[str, str] = {}
    if file.exists():
        values = json.loads(file.read_text(encoding="utf-8"))
    names = values.keys() | {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"}
    return {**values, **{name: os.environ[name] for name in names if name in os.environ}}


def _environment() -> dict[str, str]:
    """Return the environment variables of the server, the worker and its runs."""
    folder = home(Path()) / ".prefect"
    return {
        **os.environ,
        **settings(),
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": str(SLOT_WAIT_S),
        "PREFECT_WORKER_QUERY_SECONDS": str(SLOT_WAIT_S),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(automations.HEARTBEAT_S),
        # the console is the log file of the server or the worker
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "ERROR",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        # after 2, 4, ... 128 s: the server may be down for four minutes
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        "PREFECT_CLI_PROMPT": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _file() -> Path:
    return home(Path()) / ".prefect/service.json"


# ── processes ─────────────────────────────────────────────────────────────────────────────────────


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def prefect(*arguments: str) -> None:
    """Run a `prefect` command; raise `ServerUnreachable` with its output if it fails."""
    result = subprocess.run(
        _command(*arguments), env=_environment(), capture_output=True, text=True, check=False
    )
    if result.returncode:
        output = " ".join((result.stdout + result.stderr).split())[-400:]
        raise ServerUnreachable(f"`prefect {' '.join(arguments)}` failed: {output}")


def start(name: str) -> None:
    """Start the server or a worker as a process that outlives this command."""
    log = _file().with_name(f"{name}.log")
    with log.open("a", encoding="utf-8") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "service.standing", name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    started = psutil.Process(child.pid).create_time()
    _pid_file(name).write_text(json.dumps({"pid": child.pid, "started": started}), encoding="utf-8")


def running(name: str) -> psutil.Process | None:
    """Return the process that `start` started, if it is still running.

    The start time tells it from a later process with the same id.
    """
    try:
        record = json.loads(_pid_file(name).read_text(encoding="utf-8"))
        process = psutil.Process(record["pid"])
        is_same = process.create_time() == record["started"]
        alive = is_same and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def _end(process: psutil.Process) -> None:
    """End a process and its children."""
    family = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=END_LIMIT_S)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=5)


def _pid_file(name: str) -> Path:
    return _file().with_name(f"{name}.pid")


def _server_end() -> str | None:
    """Return how the server that `start` started ended; None while it is running."""
    if running("server"):
        return None
    return f"with: {last_line(_file().with_name('server.log'))}"


def _check_port(port: int) -> None:
    """Raise `ServerUnreachable` if another program listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ServerUnreachable(
                f"port {port} is in use by another program; end it, or remove .prefect/service.json"
                " and run `PREFECT_SERVER_API_PORT=4201 make up` for another port"
            )


def main() -> None:
    """Run the command line of this file."""
    isolate()
    try:
        require_checkout(Path())
        prepare_prefect(home(Path()))
        app()
    except RatchetError as error:
        print(f"ratchet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
