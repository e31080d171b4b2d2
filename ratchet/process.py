"""Processes that nothing outlives: how a flow runs a stage's process, and how that process behaves (Linux; elsewhere thinner).

A cancel reaches the flow's process alone, a kill -9 reaches nobody. So the flow puts `dvc repro`
into a process group of its own and ends that group itself; and where the flow cannot, the kernel
does: DVC and the stage ask to be told when their parent dies, and the stage holds a lease, the far
end of a pipe that closes with the flow.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from ratchet.errors import Busy, RatchetError

GRACE_S = 6.0  # between asking a group to end and killing it
DEADLINE_S = (
    4.5  # for a stage that was asked to stop; shorter than GRACE_S, so that it ends by itself
)
RUN_LOCK = ".dvc/tmp/ratchet-run.lock"  # held by a run that works in a checkout
STAGE_LOCK = ".dvc/tmp/ratchet-stage.lock"  # held by a stage, whoever started it
LOCK_WAIT_S = 0.3  # a process that looks for leftovers of killed runs holds a lock for an instant
STATUS_FILE = "RATCHET_STATUS_FILE"
LEASE = "RATCHET_LEASE"
_PR_SET_PDEATHSIG = 1

# Runs before a program in the same process: the program gets SIGTERM when the process that launched
# it dies.
GUARDED_LAUNCH = (
    "import ctypes,os,signal,sys\n"
    "sys.platform=='linux' and ctypes.CDLL(None).prctl(1,signal.SIGTERM)\n"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1)\n"
    "os.execv(sys.executable,[sys.executable,*sys.argv[2:]])"
)


@dataclass(frozen=True)
class Status:
    """How a stage's process ended, as it wrote itself.

    DVC turns every failure into exit code 255.
    """

    stage: str
    exit: int
    error: str  # name of the exception, "" where there was none
    message: str
    startup_s: float  # from the process's start to the first line of the stage: the interpreter and its imports
    total_s: float  # from the process's start to its end


# How to reach a remote, where the user's settings are, and who commits. Every other GIT_* variable
# could redirect what git reads or writes: git itself sets GIT_DIR and GIT_INDEX_FILE for its hooks.
_GIT_VARIABLES = re.compile(
    r"GIT_(?:SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|PROXY_COMMAND|(?:HTTP|SSL|PROXY_SSL)_\w+"
    r"|ALLOW_PROTOCOL|PROTOCOL_FROM_USER|DISCOVERY_ACROSS_FILESYSTEM|EXEC_PATH"
    r"|CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+)|(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL))"
)


def inherited_environment() -> dict[str, str]:
    """Return the environment for child processes.

    It lacks the variables of git that belong to the caller's repository, not to ours, and
    PYTHONSAFEPATH, since `python -m tasks.train` has to find the code of its own tree.
    """

    def is_kept(name: str) -> bool:
        if name.startswith("GIT_"):
            return _GIT_VARIABLES.fullmatch(name) is not None
        return name != "PYTHONSAFEPATH"

    return {name: value for name, value in os.environ.items() if is_kept(name)}


def isolate() -> None:
    """Remove from this process's environment what its children must not inherit."""
    for name in os.environ.keys() - inherited_environment().keys():
        del os.environ[name]


# ── the flow's side ───────────────────────────────────────────────────────────────────────────────


def run(
    arguments: list[str],
    tree: Path,
    log: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
) -> tuple[int, Status | None]:
    """Run `python arguments...` in `tree`, pass its lines to `log` as they come, and leave no process behind.

    Args:
        variables: environment variables to set for it.

    Returns:
        The exit code, and how the stage said it ended (None if it wrote nothing).
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "status.json")
        child = subprocess.Popen(
            [sys.executable, "-c", GUARDED_LAUNCH, str(os.getpid()), *arguments],
            cwd=tree,
            env={**_environment(file), **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        # A grandchild may keep the pipe open after DVC has ended: read in a thread, wait here.
        context = contextvars.copy_context()  # `log` may want to know which run it writes for
        reader = threading.Thread(target=context.run, args=(_pump, child, log), daemon=True)
        reader.start()
        try:
            child.wait()
        finally:
            _end(child)
            reader.join(2)
            assert child.stdin
            child.stdin.close()
        return child.returncode, (
            Status(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
        )


def _environment(status: Path) -> dict[str, str]:
    environment = {
        **inherited_environment(),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        ),
        STATUS_FILE: str(status),
        LEASE: "stdin",
    }
    if Path("/bin/bash").exists():
        environment["SHELL"] = (
            "/bin/bash"  # replaces itself by the command; dash would stay between DVC and the stage
        )
    return environment


def _pump(child: subprocess.Popen[str], log: Callable[[str], None]) -> None:
    assert child.stdout
    with child.stdout as lines:
        for line in lines:
            if line.strip():
                log(line.rstrip())


def _end(child: subprocess.Popen[str]) -> None:
    """End the child's process group: SIGINT first, for DVC waits for its stage and cleans its locks; then SIGKILL."""
    with _deaf():
        for number, wait_s in ((signal.SIGINT, GRACE_S), (signal.SIGKILL, 2.0)):
            deadline = time.monotonic() + wait_s
            if not _living(child.pid):
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            while _living(child.pid) and time.monotonic() < deadline:
                child.poll()
                time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """No second Ctrl-C or SIGTERM in here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _living(group: int) -> bool:
    """Has the group a process that is no zombie? (Zombies answer `killpg(group, 0)`.)"""
    if sys.platform != "linux":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return True
        return False
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                state, _parent, its_group = _stat(entry)[:3]
                if int(its_group) == group and state not in "ZX":
                    return True
    return False


def _stat(process: Path) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name: state, parent, group, ..."""
    text = (process / "stat").read_text(encoding="utf-8")
    return text[text.rindex(")") + 2 :].split()


# ── the stage's side ──────────────────────────────────────────────────────────────────────────────

_stop = threading.Event()


def stopping() -> bool:
    """Has this process been asked to stop? Whoever asks saves what it has and ends within `DEADLINE_S` seconds."""
    return _stop.is_set()


def main(name: str, body: Callable[[], None], *, patient: bool) -> int:
    """Run a stage's body as a process of its own and return the exit code.

    Args:
        patient: the body asks `stopping()` itself; else a signal ends it at once.
    """
    _follow_parent(patient)
    startup_s = age_s()
    code, error, message = 0, "", ""
    try:
        body()
    except RatchetError as fault:
        code, error, message = fault.exit_code, type(fault).__name__, str(fault)
        _say(f"{name}: {message}")
    except SystemExit as end:
        error, message = "SystemExit", "stopped; run it again to continue"
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):  # sys.exit("text")
            message = end.code
            _say(f"{name}: {message}")
    except Exception as fault:
        code, error, message = 1, type(fault).__name__, " ".join(str(fault).split())
        _say(traceback.format_exc())
    if STATUS_FILE in os.environ:
        status = Status(name, code, error, message, startup_s, age_s())
        Path(os.environ[STATUS_FILE]).write_text(json.dumps(vars(status)), encoding="utf-8")
    return code


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # whoever read our lines may be gone
        print(text, file=sys.stderr, flush=True)


def age_s() -> float:
    """Seconds since this process started."""
    if sys.platform != "linux":
        return time.process_time()
    started = int(_stat(Path("/proc/self"))[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _follow_parent(patient: bool) -> None:
    me = os.getpid()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != me:  # a forked worker that inherited this handler
            os._exit(128 + number)
        null = os.open(
            os.devnull, os.O_WRONLY
        )  # whoever read our lines may be gone: no BrokenPipeError while saving
        os.dup2(null, 1)
        os.dup2(null, 2)
        if not _stop.is_set():
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(
                signal.ITIMER_REAL, DEADLINE_S
            )  # the kernel keeps this deadline, whatever we do
        _stop.set()
        if not patient:
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    parent = os.getppid()
    _signal_at_parents_death(signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(me, signal.SIGTERM)
    if os.environ.get(LEASE) == "stdin":
        threading.Thread(target=_keep_lease, args=(me,), daemon=True).start()


def _keep_lease(me: int) -> None:
    """End when stdin closes: the flow that holds its other end is gone."""
    while os.read(0, 1):
        pass
    os.kill(me, signal.SIGTERM)
    time.sleep(DEADLINE_S)
    os.kill(me, signal.SIGKILL)


def die_with_parent(_worker: int = 0) -> None:
    """First call in a worker process (of a pool or a DataLoader): it dies with the stage, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _signal_at_parents_death(signal.SIGKILL)


def end_with_parent() -> None:
    """Have this process get SIGTERM when its parent dies, however it dies."""
    _signal_at_parents_death(signal.SIGTERM)


def _signal_at_parents_death(number: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


# ── locks ─────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def locked(
    file: Path, what: str, wait_s: float = LOCK_WAIT_S, create: bool = True
) -> Iterator[None]:
    """Hold an exclusive lock on `file`.

    The kernel releases it when this process ends, however it ends.

    Args:
        wait_s: how long to wait for another process that holds it.
        create: make the file if it is missing.

    Raises:
        Busy: another process holds the lock; the message names it.
        FileNotFoundError: `file` is missing and `create` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(_opened_and_locked(file, what, wait_s, create))
        while not _is_at(handle, file):  # its last holder deleted it before it was locked here
            stack.close()
            handle = stack.enter_context(_opened_and_locked(file, what, wait_s, create))
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextlib.contextmanager
def _opened_and_locked(file: Path, what: str, wait_s: float, create: bool) -> Iterator[TextIO]:
    with file.open("a+" if create else "r+", encoding="utf-8") as handle:
        if not _locks(handle, wait_s):
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise Busy(
                f"{what} is busy: process {holder} works in it; wait for it to end, then run this"
                " again"
            ) from None
        yield handle


def _locks(handle: TextIO, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


def _is_at(handle: TextIO, file: Path) -> bool:
    try:
        return file.stat().st_ino == os.fstat(handle.fileno()).st_ino
    except FileNotFoundError:
        return False


def heal_rwlock(tree: Path) -> None:
    """Remove DVC's list of who works where if a kill cut it off: DVC writes it in place, and then stops at it for ever."""
    file = tree / ".dvc/tmp/rwlock"
    for wait_s in (0.2, 0.0):  # whoever lives has written it whole by then
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(wait_s)
        else:
            return
    file.unlink(missing_ok=True)


def environment_setdefault(values: dict[str, Any]) -> None:
    """Set environment variables that are not set yet, before a library reads them on import."""
    for name, value in values.items():
        os.environ.setdefault(name, str(value))
