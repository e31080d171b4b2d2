"""Processes that nothing outlives: real ones, ended in every way (faults 3 and 33)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ratchet import process

STAGE = """
import os, sys, time
from pathlib import Path
from ratchet import process
def body():
    Path("pid").write_text(str(os.getpid()))
    print("started", flush=True)
    for _ in range(600):
        if {asks} and process.stopping():
            Path("checkpoint").write_text("saved")
            raise SystemExit(143)
        time.sleep(0.1)
sys.exit(process.main("sleeper", body, patient={asks}))
"""
DEAF = """
import os, signal, time
from pathlib import Path
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A DVC repository whose one stage sleeps for a minute."""
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {sleeper: {cmd: python stage.py}}")
    (tmp_path / "stage.py").write_text(STAGE.format(asks=True))
    return tmp_path


def wait_for(condition: object, limit_s: float = 15) -> float:
    started = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() - started < limit_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - started


def alive(pid: int) -> bool:
    try:
        return process._stat(Path(f"/proc/{pid}"))[0] not in "ZX"
    except FileNotFoundError:
        return False


def stage_in(repo: Path) -> int:
    """The stage's process id, once it has written it."""
    file = repo / "pid"
    wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def flow_in(repo: Path) -> subprocess.Popen[bytes]:
    """A process that runs the stage as a flow does."""
    code = "from pathlib import Path; from ratchet import process; "
    code += "process.run(['-m', 'dvc', 'repro', '--single-item', 'sleeper'], Path(), print)"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=repo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_lines_and_the_status_come_back(tmp_path: Path) -> None:
    body = "lambda: print('one line')"
    lines: list[str] = []
    code, status = process.run(
        [
            "-c",
            f"import sys; from ratchet import process; sys.exit(process.main('s', {body}, patient=False))",
        ],
        tmp_path,
        lines.append,
    )
    assert (code, lines) == (0, ["one line"])
    assert status
    assert (status.stage, status.exit, status.error) == ("s", 0, "")
    assert 0 < status.startup_s <= status.total_s < 60


def test_a_fault_keeps_its_type_message_and_exit_code(tmp_path: Path) -> None:
    code = """
import sys
from ratchet import process
from ratchet.errors import Unreachable
def body(): raise Unreachable("the hub does not answer")
sys.exit(process.main("s", body, patient=False))
"""
    lines: list[str] = []
    exit_code, status = process.run(["-c", code], tmp_path, lines.append)
    assert exit_code == 75
    assert status
    assert (status.error, status.message) == ("Unreachable", "the hub does not answer")
    assert lines == ["s: the hub does not answer"]


@pytest.mark.fault(3)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stage_saves_and_ends_when_its_flow_does(repo: Path, number: int) -> None:
    with flow_in(repo) as flow:
        stage = stage_in(repo)
        time.sleep(0.2)
        flow.send_signal(number)
        assert wait_for(lambda: not alive(stage)) < 5
        assert (repo / "checkpoint").read_text() == "saved"
        flow.wait(15)


@pytest.mark.fault(3)
def test_a_stage_deaf_to_signals_is_killed_though_ctrl_c_comes_twice(repo: Path) -> None:
    (repo / "stage.py").write_text(DEAF)
    with flow_in(repo) as flow:
        stage = stage_in(repo)
        flow.send_signal(signal.SIGINT)
        time.sleep(0.5)
        flow.send_signal(signal.SIGINT)
        assert wait_for(lambda: not alive(stage)) < process.GRACE_S + 4
        flow.wait(15)


def test_an_impatient_stage_ends_at_once(repo: Path) -> None:
    (repo / "stage.py").write_text(STAGE.format(asks=False))
    with flow_in(repo) as flow:
        stage = stage_in(repo)
        flow.terminate()
        assert wait_for(lambda: not alive(stage)) < 2
        flow.wait(15)


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("'no GPU here'", 1, "no GPU here"),
        ("None", 0, "stopped"),
        ("3", 3, "stopped"),
        ("['a', 'b']", 1, "stopped"),
    ],
)
def test_a_body_may_call_sys_exit_with_anything(
    tmp_path: Path, end: str, code: int, message: str
) -> None:
    body = f"lambda: sys.exit({end})"
    command = f"import sys; from ratchet import process; sys.exit(process.main('s', {body}, patient=False))"
    ended, status = process.run(["-c", command], tmp_path, print)
    assert ended == code
    assert status
    assert status.exit == code
    assert message in status.message


@pytest.mark.fault(3)
def test_a_stage_ends_when_its_lease_does_though_its_parent_lives(tmp_path: Path) -> None:
    """The parent of a stage is DVC; the flow holds the other end of its standard input."""
    environment = process._environment(tmp_path / "status")  # what a flow sets for DVC
    command = [sys.executable, "-c", STAGE.format(asks=True)]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stage:
        assert stage.stdout and stage.stdout.readline() == b"started\n"
        assert stage.stdin
        stage.stdin.close()
        assert stage.wait(process.GRACE_S + 5) == 143
    assert (tmp_path / "checkpoint").read_text() == "saved"


@pytest.mark.fault(3)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
@pytest.mark.parametrize("first", ["process.end_with_parent()", "process.die_with_parent()"])
def test_a_process_ends_with_its_parent(tmp_path: Path, first: str) -> None:
    """Loader workers and servers do not outlive a stage or a command that is killed."""
    child = f"import time; from ratchet import process; {first}; print('ready', flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); "
        "child.stdout.readline(); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as running:
        assert running.stdout
        pid = int(running.stdout.readline())
        assert alive(pid)
        running.kill()
    wait_for(lambda: not alive(pid), 5)
