"""How a flow runs the process of a stage, and how that process behaves: none outlives its flow.

A cancel reaches only the flow's process, and a `kill -9` lets no process clean up. The flow
therefore puts `dvc repro` into a process group of its own and ends that group. If the flow cannot,
the kernel does: DVC and the stage get a signal when their parent dies, and the stage holds a lease,
the read end of a pipe that closes with the flow. The signal at the parent's death needs Linux.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import json
import os
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

from ratchet.environment import inherited_environment
from ratchet.errors import RatchetError

GRACE_S = 6.0  # between asking a process group to end and killing it
DEADLINE_S = 4.5  # for a stage to end after it was asked to; shorter than GRACE_S
STATUS_FILE = "RATCHET_STATUS_FILE"
LEASE = "RATCHET_LEASE"
_PR_SET_PDEATHSIG = 1

# Runs before a program, in the same process. It arranges that the program gets SIGTERM when the
# process that launched it dies.
GUARDED_LAUNCH = (
    "import ctypes,os,signal,sys\n"
    "sys.platform=='linux' and ctypes.CDLL(None).prctl(1,signal.SIGTERM)\n"
    "os.getppid()==int(sys.argv[1]) or sys.exit(1)\n"
    "os.execv(sys.executable,[sys.executable,*sys.argv[2:]])"
)


@dataclass(frozen=True)
class Status:
    """How a stage's process ended, written by that process.

    The exit code of DVC does not tell: it is 255 for every failure.
    """

    stage: str
    exit: int
    error: str  # class name of the exception; "" if there was none
    message: str
    startup_s: float  # from the start of the process to the stage's first line
    total_s: float  # from the start of the process to its end


# ── the flow's side ───────────────────────────────────────────────────────────────────────────────


def run(
    arguments: list[str],
    tree: Path,
    log: Callable[[str], None],
    variables: Mapping[str, str] | None = None,
) -> tuple[int, Status | None]:
    """Run Python in `tree` and leave no process behind.

    Args:
        arguments: the arguments of the interpreter.
        tree: the working directory.
        log: called with each line of output as it comes, in another thread.
        variables: additional environment variables.

    Returns:
        The exit code, and the status that the stage wrote (None if it wrote none).
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
        # A grandchild may keep the pipe open after DVC has ended, so a thread reads the pipe.
        context = contextvars.copy_context()  # Prefect finds the run that `log` writes to in it
        reader = threading.Thread(target=context.run, args=(_pump, child, log), daemon=True)
        reader.start()
        try:
            child.wait()
        finally:
            _end(child)
            reader.join(2)
            assert child.stdin
            child.stdin.close()
        if not file.exists():
            return child.returncode, None
        return child.returncode, Status(**json.loads(file.read_text(encoding="utf-8")))


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
        # bash replaces itself with the command; dash would remain between DVC and the stage
        environment["SHELL"] = "/bin/bash"
    return environment


def _pump(child: subprocess.Popen[str], log: Callable[[str], None]) -> None:
    assert child.stdout
    with child.stdout as lines:
        for line in lines:
            if line.strip():
                log(line.rstrip())


def _end(child: subprocess.Popen[str]) -> None:
    """End the child's process group.

    After SIGINT, DVC waits for its stage and removes its locks. SIGKILL follows after `GRACE_S`.
    """
    with _ignoring_signals():
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
def _ignoring_signals() -> Iterator[None]:
    """Ignore further SIGINT and SIGTERM in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _living(group: int) -> bool:
    """Does the group have a process that is not a zombie? `killpg(group, 0)` counts zombies."""
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
    """Return the fields of /proc/PID/stat after the command's name: state, parent, group, ..."""
    text = (process / "stat").read_text(encoding="utf-8")
    return text[text.rindex(")") + 2 :].split()


# ── the stage's side ──────────────────────────────────────────────────────────────────────────────

_stop = threading.Event()


def stopping() -> bool:
    """Has this process been asked to stop?

    If so, the caller saves its state and ends within `DEADLINE_S` seconds.
    """
    return _stop.is_set()


def main(name: str, body: Callable[[], None], *, patient: bool) -> int:
    """Run a stage's body as the main function of this process and return the exit code.

    Args:
        name: the name of the stage.
        body: the function to run.
        patient: the body calls `stopping()` itself; otherwise a signal ends it at once.
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
    with contextlib.suppress(OSError):  # the reader of the output may have ended
        print(text, file=sys.stderr, flush=True)


def age_s() -> float:
    """Return the seconds since this process started."""
    if sys.platform != "linux":
        return time.process_time()
    started = int(_stat(Path("/proc/self"))[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _follow_parent(patient: bool) -> None:
    """Install the signal handlers of a stage, and arrange that it ends with its parent and flow."""
    me = os.getpid()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != me:  # a forked worker that inherited this handler
            os._exit(128 + number)
        # The reader of the output may have ended: avoid a BrokenPipeError while saving.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if not _stop.is_set():
            # The kernel enforces the deadline, even while C code does not return.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
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
    """End this process when stdin closes, because the flow that holds its other end has ended."""
    while os.read(0, 1):
        pass
    os.kill(me, signal.SIGTERM)
    time.sleep(DEADLINE_S)
    os.kill(me, signal.SIGKILL)


def die_with_parent(_worker: int = 0) -> None:
    """Make a worker of a pool or `DataLoader` die with its stage, which handles Ctrl-C alone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _signal_at_parents_death(signal.SIGKILL)


def end_with_parent() -> None:
    """Make the kernel send SIGTERM to this process when its parent dies, for whatever reason."""
    _signal_at_parents_death(signal.SIGTERM)


def _signal_at_parents_death(number: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
