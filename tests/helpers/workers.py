"""Commands in processes of their own.

A server that has imported Ratchet forks them, so each starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "tests.helpers.toy",
        "ratchet.upkeep.adopt",
        "ratchet.upkeep.gc",
        "ratchet.upkeep.push",
        "ratchet.upkeep.verify",
    ]
)


class Worker:
    """A process that runs `work(*arguments)`; `lines` are what it passed to `say`."""

    def __init__(self, folder: Path, work: Callable[..., object], *arguments: object) -> None:
        self._log = folder / f"worker-{time.monotonic_ns()}.jsonl"
        self._log.touch()
        self._process = _CONTEXT.Process(
            target=_run, args=(self._log, work, arguments), daemon=True
        )
        self._process.start()

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def wait_for_start(self) -> None:
        while self._process.is_alive() and not self._log.stat().st_size:
            time.sleep(0.002)

    def kill(self, group: bool) -> None:
        """Send SIGKILL, with or without the git processes that it started."""
        pid = self._process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(pid, signal.SIGKILL)

    def join(self, timeout_s: float = 600) -> int:
        """Wait for its end; returns the exit code, negative if it was killed."""
        self._process.join(timeout_s)
        code = self._process.exitcode
        assert code is not None, f"{self._process} is still running after {timeout_s:.0f} s"
        return code

    def succeed(self, timeout_s: float = 600) -> None:
        """Wait for its end, which has to be one without an error."""
        code = self.join(timeout_s)
        assert code == 0, self.lines()[-1]


def say(value: object) -> None:
    """Write a line to the log of the worker that this is called in."""
    assert _log is not None
    with _log.open("a") as file:
        file.write(json.dumps(value) + "\n")


_log: Path | None = None


def _run(log: Path, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    global _log
    _log = log
    os.setsid()
    say("started")
    try:
        work(*arguments)
    except BaseException as error:
        say(f"{type(error).__name__}: {error}")
        raise


@contextlib.contextmanager
def until(stop: Path, *workers: Worker) -> Iterator[None]:
    """Let workers loop until the end of the block: they stop as soon as the file `stop` exists."""
    try:
        yield
    finally:
        stop.touch()
        for worker in workers:
            worker.succeed()
