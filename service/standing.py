"""The standing service: a Prefect server on loopback with a password, a worker, the deployments and their automations.

`make up`, `make down`, `make status` and `make deploy` call this file; docs/deployment.md says how
to run the same under systemd and on several machines.
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
SLOT_WAIT_S = 5  # after which a run that has to wait for another asks again; Prefect's 30 s make a queue of short runs long
END_LIMIT_S = 40  # for a server or worker that was asked to end; a run of the worker saves a checkpoint meanwhile

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__
)


@app.command()
def up() -> None:
    """Start the server and a worker, if they do not run yet, and register the deployments."""
    environment = settings(create=True)
    url = environment["PREFECT_API_URL"]
    if not running("server"):
        _check_port(int(environment["PREFECT_SERVER_API_PORT"]))
        start("server")
    wait(url, START_LIMIT_S, "see .prefect/server.log", _server_end)
    deploy()
    if not running("worker"):
        start("worker")
    print(
        f"Prefect is up at {url.removesuffix('/api')}; its password is in"
        f" {_file().relative_to(home(Path()))}"
    )
    print('To use it with `prefect` in a shell: eval "$(.venv/bin/python -m service.standing env)"')


@app.command("env")
def environment_lines() -> None:
    """Print the lines that let `prefect` in a shell use this server; they contain its password."""
    for name, value in settings().items():
        if name.startswith("PREFECT_API_"):
            print(f"export {name}={shlex.quote(value)}")


@app.command()
def down() -> None:
    """End the worker (its run saves a checkpoint first) and the server."""
    for name in ("worker", "server"):
        process = running(name)
        if process:
            _end(process)
        _pid_file(name).unlink(missing_ok=True)
        print(f"{name}: {'ended' if process else 'was not running'}")


@app.command()
def status() -> None:
    """Say what runs; exit code 1 if the server does not answer."""
    environment = settings()
    for name in ("server", "worker"):
        process = running(name)
        print(f"{name}: {f'runs as process {process.pid}' if process else 'does not run'}")
    url = environment["PREFECT_API_URL"]
    if not answers(url):
        raise ServerUnreachable(f"no Prefect server responds at {url}; start it with `make up`")
    print(f"{url} answers")
    if not ask(url, f"/work_pools/{POOL}", environment.get("PREFECT_API_AUTH_STRING")):
        raise ServerUnreachable(
            f"{url} has no work pool {POOL}, so no worker takes a run; `make up` makes it again"
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
    os.execvpe(
        sys.executable,
        _command("server", "start", "--host", "127.0.0.1", "--port", port),
        environment,
    )


@app.command()
def worker() -> None:
    """Run a worker in the foreground (for systemd)."""
    environment = _environment()
    wait(environment["PREFECT_API_URL"], ANSWER_LIMIT_S, "start it with `make up`")
    ask(
        environment["PREFECT_API_URL"], "/admin/version", environment.get("PREFECT_API_AUTH_STRING")
    )
    here = {WORKER: str(os.getpid())}  # the same after exec
    os.execvpe(
        sys.executable,
        _command("worker", "start", "--pool", POOL, "--type", "process"),
        environment | here,
    )


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


def settings(create: Annotated[bool, typer.Option(hidden=True)] = False) -> dict[str, str]:
    """The service's address and password, kept in `.prefect/service.json` (mode 0600).

    Variables of the shell win.

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
    kept: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    names = kept.keys() | {"PREFECT_API_URL", "PREFECT_API_AUTH_STRING"}
    return {**kept, **{name: os.environ[name] for name in names if name in os.environ}}


def _environment() -> dict[str, str]:
    """What the server, the worker and its runs are started with."""
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
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": (
            "WARNING"
        ),  # these end in the log files of the server and the worker
        "PREFECT_LOGGING_INTERNAL_LEVEL": "ERROR",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_CLIENT_MAX_RETRIES": (
            "7"
        ),  # after 2, 4, ... 128 s: four minutes in which the server may be away
        "PREFECT_CLI_PROMPT": "false",
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        ),
    }


def _file() -> Path:
    return home(Path()) / ".prefect/service.json"


# ── processes ─────────────────────────────────────────────────────────────────────────────────────


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def prefect(*arguments: str) -> None:
    """Run a command of Prefect's own; what it says is shown only if it fails."""
    done = subprocess.run(
        _command(*arguments), env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-400:]
        raise ServerUnreachable(f"`prefect {' '.join(arguments)}` failed: {said}")


def start(name: str) -> None:
    """Start the server or a worker as a process that outlives this command, with its log in `.prefect/`."""
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
    """The process that `start` made, if it still runs.

    Another that got its id since is not taken for it.
    """
    try:
        kept = json.loads(_pid_file(name).read_text(encoding="utf-8"))
        process = psutil.Process(kept["pid"])
        alive = (
            process.create_time() == kept["started"] and process.status() != psutil.STATUS_ZOMBIE
        )
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def _end(process: psutil.Process) -> None:
    family = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=END_LIMIT_S)
    for survivor in alive:
        survivor.kill()
    psutil.wait_procs(alive, timeout=5)


def _pid_file(name: str) -> Path:
    return _file().with_name(f"{name}.pid")


def _server_end() -> str | None:
    """How the server that `start` made ended; None while it runs."""
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
