"""A stage is one function with three entry points. Only this file brings Prefect and DVC together.

    python -m tasks.train     Runs the body. `dvc repro` calls this. No Prefect.
    train(tree)               Runs as a Prefect task inside a flow. The task asks DVC whether the
                              stage is out of date. If it is not, the task ends at once as *Cached*.
                              If it is, the task logs why and runs `dvc repro --single-item train`.
                              A flow writes `train = StageTask("train")`, and does not import what
                              the stage imports.
    train.fn(params, tree)    Calls the bare function, for tests and notebooks.

A step (`@step(kind)`) is the same for code that writes git references instead of files: a Prefect
task in a flow, and `.fn` elsewhere. DVC has the only cache (Prefect's is off), and only paths,
params and small reports cross the boundary of a task.
"""

from __future__ import annotations

import functools
import inspect
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from ratchet import locks, out_of_date, process
from ratchet import params as parameters
from ratchet.environment import isolate
from ratchet.errors import Busy, InputsChanged, PassingFault, RatchetError, StageFailed
from ratchet.params import Params
from ratchet.prefect_task import Kind, Progress, as_task, run_loggers
from ratchet.process import stopping
from ratchet.repository import home, scratch

__all__ = ["Outcome", "Stage", "StageTask", "Step", "log", "origin", "stage", "step"]
__all__ += ["home", "scratch", "stopping"]  # for the stages, which import them from here

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome:
    """The result of a stage in a flow."""

    stage: str
    how: str  # "ran", "cached" (nothing changed) or "restored" (DVC's run cache had the result)
    # what changed; empty when cached (not a tuple: Prefect takes all empty tuples for one result)
    why: list[str]
    seconds: float  # in total
    process_s: float  # of the stage's own process, including its start-up
    startup_s: float  # of that process: start of the interpreter, and imports


class StageTask:
    """A stage as a flow calls it.

    It needs only the name of the stage, so that the process of the flow does not import torch.

    Args:
        name: the name of the stage in dvc.yaml.
        kind: where its faults come from; see `Kind`.
    """

    def __init__(self, name: str, kind: Kind = "compute") -> None:
        self.name = name
        self.kind = kind

    def __call__(self, tree: Path, *inputs: object) -> Outcome:
        """Bring the stage up to date in `tree`, as a task of the running flow.

        Args:
            tree: the checkout.
            inputs: results of the tasks that come before it in Prefect's run graph.

        Raises:
            StageFailed: its process ended with an error, which the message quotes, or took too
                long.
            PassingFault: its process ended with a fault that may pass, and still did after
                `run.retries` retries.
        """
        from prefect import State

        task = as_task(self._repro, self.name, self.kind, tree, tagged=self._will_run(tree))
        result = task(tree, wait_for=inputs)
        return cast("Outcome", result.result() if isinstance(result, State) else result)

    def _will_run(self, tree: Path) -> bool:
        try:
            return bool(self._why(tree))
        except RatchetError:
            # The task asks again. There the fault becomes a state, and is retried if it may pass.
            return True

    def _why(self, tree: Path) -> list[str]:
        from prefect.runtime import flow_run

        return out_of_date.why_in_flow(tree, self.name, str(flow_run.id))

    def _repro(self, tree: Path) -> Any:
        """Run the body of the task; return an `Outcome`, or a state with one."""
        from prefect.states import Completed

        started = time.monotonic()
        log, console = run_loggers()
        reasons = self._why(tree)
        if not reasons:
            outcome = Outcome(self.name, "cached", [], time.monotonic() - started, 0, 0)
            message = "nothing that it reads has changed"
            return Completed(name="Cached", message=message, data=outcome)
        for reason in reasons:
            log.info("%s: %s", self.name, reason)
        lines: list[str] = []
        progress = Progress(self.name)

        def pass_on(line: str) -> None:
            lines.append(line)
            progress.see(line)
            is_of_dvc = not line.startswith(f"{self.name}: ")
            (log if is_of_dvc else console).info(line)

        arguments = ["-m", "dvc", "repro", "--single-item", self.name]
        try:
            code, status = process.run(arguments, tree, pass_on)
        finally:
            out_of_date.forget()
        if code or (status and status.exit):
            raise _failure(self.name, code, status, lines)
        seconds = time.monotonic() - started
        if status is None:
            return Outcome(self.name, "restored", reasons, seconds, 0, 0)
        return Outcome(self.name, "ran", reasons, seconds, status.total_s, status.startup_s)


def _failure(name: str, code: int, status: process.Status | None, lines: list[str]) -> Exception:
    """Return the typed error for a stage that failed.

    It quotes the status that the stage wrote or, without one, the last lines of DVC.
    """
    output = " ".join(lines[-3:])
    if status is None:
        is_busy = "is busy" in output or "acquire lock" in output
        error_class: type[Exception] = Busy if is_busy else StageFailed
        return error_class(
            f"{name}: dvc repro ended with exit code {code}: {output or 'no output'}"
        )
    if status.exit == PassingFault.exit_code:
        return PassingFault(f"{name}: {status.message}")
    if status.exit == 0:
        return StageFailed(f"{name}: its process succeeded, but DVC did not record it: {output}")
    return StageFailed(f"{name}: {status.message or status.error}")


class Stage(StageTask):
    """A stage with its function; made by `@stage`.

    Args:
        fn: the function; it has the name of the stage.
        patient: see `stage`.
    """

    def __init__(self, fn: Callable[[Params, Path], None], patient: bool) -> None:
        super().__init__(fn.__name__)
        functools.update_wrapper(self, fn)
        self.fn = fn
        self._patient = patient

    def main(self) -> None:
        """Run the body as this process, in the current directory, and exit."""
        tree = Path()
        isolate()
        code = process.main(self.name, lambda: self._guarded(tree), patient=self._patient)
        if stopping():
            # Everything is saved. With torch loaded, a normal exit can outlast the deadline.
            os._exit(code)
        sys.exit(code)

    def _guarded(self, tree: Path) -> None:
        """Run the body while no other stage runs in this tree, and check that no input changes.

        DVC hashes the inputs of a stage after its command has run, and would record an edit made
        meanwhile as the input that was used.
        """
        home(tree)
        with locks.locked(tree / locks.STAGE, f"{tree.resolve()}"):
            params = parameters.load(tree)
            before = self._inputs(tree, params)
            self.fn(params, tree)
            after = self._inputs(tree, parameters.load(tree))
        edited = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        if edited:
            raise InputsChanged(
                f"{', '.join(edited)} changed while {self.name} ran; nothing was recorded, run it"
                " again"
            )

    def _inputs(self, tree: Path, params: Params) -> dict[str, object]:
        """Return what identifies each input now.

        It is the value of a section of the params, and inode, size and time of a file.
        """
        stage = out_of_date.graph(tree)[self.name]
        inputs: dict[str, object] = {
            f"params.yaml: {key}": getattr(params, key) for key in stage.get("params", [])
        }
        for dep in stage.get("deps", []):
            path = tree / dep
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and "__pycache__" not in file.parts:
                    stat = file.stat()
                    identity = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                    inputs[str(file.relative_to(tree))] = identity
        return inputs


@overload
def stage(fn: Callable[[Params, Path], None]) -> Stage: ...
@overload
def stage(*, patient: bool) -> Callable[[Callable[[Params, Path], None]], Stage]: ...
def stage(
    fn: Callable[[Params, Path], None] | None = None, *, patient: bool = False
) -> Stage | Callable[[Callable[[Params, Path], None]], Stage]:
    """Make a stage of `fn(params, tree)`.

    Args:
        fn: the function; it has the name of the stage in dvc.yaml.
        patient: the body calls `stopping()` itself and ends within seconds; otherwise SIGTERM and
            Ctrl-C end it at once.
    """
    return Stage(fn, patient) if fn else lambda fn: Stage(fn, patient)


class Step(Generic[P, R]):
    """Work of a flow that is not a stage, as a Prefect task; `.fn` is the bare function.

    Args:
        fn: the function; its parameter `tree` is the checkout that it works in.
        kind: where its faults come from; see `Kind`.
    """

    def __init__(self, fn: Callable[P, R], kind: Kind) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.kind = kind

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function as a task of the running flow."""
        return self.after()(*args, **kwargs)

    def after(self, *inputs: object) -> Callable[P, R]:
        """Return the step to call after the tasks with these results in Prefect's run graph."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            tree: Path = inspect.signature(self.fn).bind(*args, **kwargs).arguments["tree"]
            task = as_task(self.fn, self.fn.__name__, self.kind, tree)
            result: R = task(*args, wait_for=inputs, **kwargs)
            return result

        return call


def step(kind: Kind) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a step of a function with a parameter `tree`, the checkout that it works in."""
    return lambda fn: Step(fn, kind)


def origin() -> dict[str, str]:
    """Return where a change of the registry comes from: a terminal or a flow run, and the host."""
    place = {"by": "terminal", "host": socket.gethostname()}
    if "prefect" in sys.modules:
        from prefect.runtime import flow_run

        if flow_run.id:
            return {**place, "by": "flow", "run": str(flow_run.name)}
    return place


def log(line: str) -> None:
    """Write a line of a step to the log of its run and to the terminal, if there is a run."""
    if "prefect" not in sys.modules:
        return
    from prefect.exceptions import MissingContextError

    try:
        _, console = run_loggers()
    except MissingContextError:
        return
    console.info(line)
