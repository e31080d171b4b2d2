"""A stage is one function with three doors. This is the only place where Prefect and DVC meet.

    python -m tasks.train     runs the body; this is what `dvc repro` calls. No Prefect.
    train(tree)               inside a flow: a Prefect task that asks DVC whether the stage is out of date. If it is not, it
                              ends at once as *Cached*; if it is, it says why and runs `dvc repro
                              --single-item train`. A flow writes `train = StageTask("train")` and
                              so needs not import what the stage imports.
    train.fn(params, tree)    the bare function, for tests and notebooks.

A step (`@step(kind)`) is the same for what writes git references instead of files: a Prefect task
in a flow, `.fn` elsewhere. DVC's is the only cache (Prefect's is off), and only paths, params and
small reports cross a task's boundary.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from ratchet import locks, process
from ratchet import params as parameters
from ratchet.environment import isolate
from ratchet.errors import Busy, InputsChanged, PassingFault, RatchetError, StageFailed
from ratchet.params import Params
from ratchet.process import stopping
from ratchet.repository import home, scratch

__all__ = [
    "Outcome",
    "Stage",
    "StageTask",
    "Step",
    "home",
    "log",
    "origin",
    "scratch",
    "stage",
    "step",
    "stopping",
    "why",
]

GRAPH = "dvc.yaml"
LOCK = "dvc.lock"
SERVER_WAIT_S = 300.0  # for a Prefect server that is away

P = ParamSpec("P")
R = TypeVar("R")

# Where the faults of a stage or step come from: its tag in Prefect, and the key of its time-out in
# `run.timeouts`.
Kind = Literal["network", "compute", "git"]


@dataclass(frozen=True)
class Outcome:
    """What became of a stage in a flow."""

    stage: str
    how: str  # "ran", "cached" (nothing changed) or "restored" (DVC's run cache had the result)
    # what changed; empty when cached (not a tuple: Prefect takes all empty tuples for one result)
    why: list[str]
    seconds: float  # all of it
    process_s: float  # of the stage's own process, its start-up included
    startup_s: float  # of that process: the interpreter and its imports


class StageTask:
    """A stage as a flow calls it.

    It goes by the name alone, so that no flow's process imports torch.

    Args:
        kind: where its faults come from; see `Kind`.
    """

    def __init__(self, name: str, kind: Kind = "compute") -> None:
        self.name = name
        self.kind = kind

    def __call__(self, tree: Path, *inputs: object) -> Outcome:
        """Bring the stage up to date in `tree`, as a task of the running flow.

        Args:
            inputs: results of the tasks that come before it in Prefect's run graph.

        Raises:
            StageFailed: its process ended with an error, which the message quotes, or took too
            long.
            PassingFault: it did, and trying again may help; Prefect does so `run.retries` times.
        """
        from prefect import State

        repro = _as_task(self._repro, self.name, self.kind, tree, tagged=self._will_run(tree))
        result = repro(tree, wait_for=inputs)
        return cast("Outcome", result.result() if isinstance(result, State) else result)

    def _will_run(self, tree: Path) -> bool:
        try:
            return bool(_why_in_flow(tree, self.name))
        except (
            RatchetError
        ):  # the task asks again: there it is a state of the task, and tried again if it may pass
            return True

    def _repro(self, tree: Path) -> Any:
        from prefect import get_run_logger
        from prefect.states import Completed

        started = time.monotonic()
        log = cast("logging.LoggerAdapter[logging.Logger]", get_run_logger())
        reasons = _why_in_flow(tree, self.name)
        if not reasons:
            outcome = Outcome(self.name, "cached", [], time.monotonic() - started, 0, 0)
            return Completed(
                name="Cached", message="nothing that it reads has changed", data=outcome
            )
        for reason in reasons:
            log.info("%s: %s", self.name, reason)
        arguments = ["-m", "dvc", "repro", "--single-item", self.name]
        lines: list[str] = []
        console = logging.LoggerAdapter(log.logger.getChild("stage"), log.extra)

        progress = _Progress(self.name)

        def pass_on(line: str) -> None:
            lines.append(line)
            progress.see(line)
            (console if line.startswith(f"{self.name}: ") else log).info(
                line
            )  # the rest are DVC's own

        try:
            code, status = process.run(arguments, tree, pass_on)
        finally:
            _asked.cache_clear()
        if code or (status and status.exit):
            raise _failure(self.name, code, status, lines)
        seconds = time.monotonic() - started
        if status is None:
            return Outcome(self.name, "restored", reasons, seconds, 0, 0)
        return Outcome(self.name, "ran", reasons, seconds, status.total_s, status.startup_s)


class _Progress:
    """Shows on the run's page how far a stage is that prints `epoch 3/8`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._artifact: Any = None

    def see(self, line: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        found = re.search(r"\bepoch (\d+)/(\d+)", line)
        if found is None:
            return
        share = 100 * int(found[1]) / int(found[2])
        with contextlib.suppress(
            Exception
        ):  # a server that is down for a while must not end the stage
            if self._artifact is None:
                self._artifact = create_progress_artifact(
                    share, key=f"{self.name}-progress", description=self.name
                )
            else:
                update_progress_artifact(self._artifact, share)


class Stage(StageTask):
    """A stage with its function; made by `@stage`."""

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
        if (
            stopping()
        ):  # all is saved; with torch loaded, the interpreter's own end can outlast the deadline
            os._exit(code)
        sys.exit(code)

    def _guarded(self, tree: Path) -> None:
        """The body, alone in this tree, on inputs that stay as they are.

        DVC hashes a stage's inputs after its command ran; an edit made meanwhile would be recorded
        as what was used.
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
        """What identifies each input now: of a file its inode, size and time.

        Of a section of the params its value.
        """
        stage = _graph(tree)[self.name]
        found: dict[str, object] = {
            f"params.yaml: {key}": getattr(params, key) for key in stage.get("params", [])
        }
        for dep in stage.get("deps", []):
            path = tree / dep
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and "__pycache__" not in file.parts:
                    stat = file.stat()
                    found[str(file.relative_to(tree))] = (
                        stat.st_ino,
                        stat.st_size,
                        stat.st_mtime_ns,
                    )
        return found


@overload
def stage(fn: Callable[[Params, Path], None]) -> Stage: ...
@overload
def stage(*, patient: bool) -> Callable[[Callable[[Params, Path], None]], Stage]: ...
def stage(
    fn: Callable[[Params, Path], None] | None = None, *, patient: bool = False
) -> Stage | Callable[[Callable[[Params, Path], None]], Stage]:
    """Make a stage of `fn(params, tree)`, which has the name of the stage in dvc.yaml.

    Args:
        patient: the body asks `stopping()` itself and ends within seconds; else SIGTERM and Ctrl-C
            end it at once.
    """
    return Stage(fn, patient) if fn else lambda fn: Stage(fn, patient)


class Step(Generic[P, R]):
    """What a flow does that is no stage, as a Prefect task of the same name.

    `.fn` is the bare function.
    """

    def __init__(self, fn: Callable[P, R], kind: Kind) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.kind = kind

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.after()(*args, **kwargs)

    def after(self, *inputs: object) -> Callable[P, R]:
        """The step, which comes after the tasks with these results in Prefect's run graph."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            tree: Path = inspect.signature(self.fn).bind(*args, **kwargs).arguments["tree"]
            task = _as_task(self.fn, self.fn.__name__, self.kind, tree)
            result: R = task(*args, wait_for=inputs, **kwargs)
            return result

        return call


def step(kind: Kind) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a step of a flow of a function with a parameter `tree`, the checkout it works in."""
    return lambda fn: Step(fn, kind)


def origin() -> dict[str, str]:
    """Where a change of the registry comes from: a terminal or a run of a flow, and the machine."""
    place = {"by": "terminal", "host": socket.gethostname()}
    if "prefect" in sys.modules:
        from prefect.runtime import flow_run

        if flow_run.id:
            return {**place, "by": "flow", "run": str(flow_run.name)}
    return place


def log(line: str) -> None:
    """Write a line of a step to the log of its run, and to the terminal.

    Outside a flow, do nothing.
    """
    if "prefect" not in sys.modules:
        return
    from prefect import get_run_logger
    from prefect.exceptions import MissingContextError

    try:
        run = cast("logging.LoggerAdapter[logging.Logger]", get_run_logger())
    except MissingContextError:
        return
    logging.LoggerAdapter(run.logger.getChild("stage"), run.extra).info(line)


def _as_task(
    fn: Callable[..., Any], name: str, kind: Kind, tree: Path, tagged: bool = False
) -> Callable[..., Any]:
    """`fn` as a Prefect task that is ended after its kind's time.

    Only a stage that will run is tagged with its kind: Prefect asks its server for a slot of each
    tag, which can take seconds. A passing fault is tried again (after 1, 2, 4 ... s, with jitter),
    no other; a time-out is final too.
    """
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.task_engine import TaskRunTimeoutError

    run = parameters.load(tree).run
    hours: float = getattr(run.timeouts, kind)
    made = task(
        name=name,
        task_run_name=name,
        tags=[kind] if tagged else [],
        timeout_seconds=hours * 3600,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=run.retries,
        retry_delay_seconds=[2.0**n for n in range(run.retries)],
        retry_jitter_factor=0.5,
        retry_condition_fn=_passes,
    )(fn)

    def call(*args: Any, **kwargs: Any) -> Any:
        if tagged:
            _await_server()
        try:
            return made(*args, **kwargs)
        except TaskRunTimeoutError:  # not a TimeoutError of a socket within the step
            raise StageFailed(
                f"{name}: not done after {hours:g} hours, so it was ended; if it needs longer,"
                f" raise run.timeouts.{kind} in params.yaml, then run this again (training goes on"
                " from its checkpoint)"
            ) from None

    return call


def _await_server() -> None:
    """Wait for a server that restarts, for some minutes at most.

    Prefect asks for the slot of a tag over a new connection, and its client (3.8) tries only such a
    connection again that has worked once; everything else that a run says to its server is tried
    again, or waits in a queue.
    """
    from prefect.client.orchestration import get_client

    deadline = time.monotonic() + SERVER_WAIT_S
    with get_client(sync_client=True) as client:
        while client.api_healthcheck() is not None and time.monotonic() < deadline:
            time.sleep(1)


def _passes(_task: object, _run: object, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), PassingFault)


def _failure(name: str, code: int, status: process.Status | None, lines: list[str]) -> Exception:
    """The typed error for a stage that failed: its own word where it left one, else DVC's last lines."""
    if status is None:
        said = " ".join(lines[-3:]) or "no output"
        kind: type[Exception] = Busy if "is busy" in said or "acquire lock" in said else StageFailed
        return kind(f"{name}: dvc repro ended with exit code {code}: {said}")
    if status.exit == PassingFault.exit_code:
        return PassingFault(f"{name}: {status.message}")
    if status.exit == 0:
        return StageFailed(
            f"{name}: its process ended well, but DVC did not record it: {' '.join(lines[-3:])}"
        )
    return StageFailed(f"{name}: {status.message or status.error}")


# ── what DVC knows ────────────────────────────────────────────────────────────────────────────────


def why(tree: Path, name: str) -> list[str]:
    """Why the stage is out of date in `tree`, one reason a line; empty if it is not (some 0.02 s).

    Raises:
        Busy: another DVC command holds the repository's lock.
    """
    return _explained(tree, name, changes(tree).get(name, []))


def _why_in_flow(tree: Path, name: str) -> list[str]:
    """The same in the running flow, which asks DVC once for all stages, and again when one of them has run."""
    from prefect.runtime import flow_run

    return _explained(tree, name, _asked(tree.resolve(), str(flow_run.id)).get(name, []))


@functools.lru_cache(maxsize=1)
def _asked(tree: Path, _flow_run: str) -> dict[str, list[Any]]:
    return changes(tree)


def changes(tree: Path) -> dict[str, list[Any]]:
    """What DVC says has changed, for each stage that is out of date; raises what `why` raises."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        with open_repo(tree) as repo:
            found: dict[str, list[Any]] = (
                repo.status()
            )  # by the path of dvc.yaml as seen from here, and the stage's name
            return {address.rpartition(":")[2]: entries for address, entries in found.items()}
    except LockError as error:
        raise Busy(f"DVC's lock in {tree.resolve()}: {error}") from None
    except DvcException as error:
        raise StageFailed(f"DVC cannot read the graph in {tree.resolve()}: {error}") from None


def _explained(tree: Path, name: str, entries: list[Any]) -> list[str]:
    if not entries:
        return []
    locked = _yaml(tree / LOCK).get("stages", {}).get(name)
    if locked is None:
        return ["it has not run here before"]
    return [reason for entry in entries for reason in _reasons(entry, tree, locked)]


def open_repo(tree: Path) -> Any:
    """DVC's repository in `tree`, with a site cache of its own: the shared one is world-writable and holds pickles."""
    preload(tree)
    from dvc.repo import Repo

    locks.heal_rwlock(tree)
    return Repo(str(tree))


def preload(tree: Path) -> None:
    """Import DVC, so that a command can do so while it waits for a server."""
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(home(tree) / ".dvc/tmp/site"))
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    import dvc.exceptions
    import dvc.lock
    import dvc.repo  # noqa: F401


def _reasons(
    entry: str | Mapping[str, Mapping[str, Any]], tree: Path, locked: Mapping[str, Any]
) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for kind, changes in entry.items():
        for path, change in changes.items():
            if isinstance(change, str):
                yield f"{'input' if kind == 'changed deps' else 'output'} {path}: {change}"
            else:
                now, then = _yaml(tree / path), locked.get("params", {}).get(path, {})
                for section in change:
                    yield from _differences(section, then.get(section), now.get(section))


def _differences(key: str, then: Any, now: Any) -> Iterator[str]:
    """`train.epochs: 8 → 3` for each value that differs below `key`."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted(then.keys() | now.keys()):
            yield from _differences(f"{key}.{name}", then.get(name), now.get(name))
    elif then != now:
        yield f"param {key}: {then} → {now}"


def _graph(tree: Path) -> dict[str, dict[str, Any]]:
    stages: dict[str, dict[str, Any]] = _yaml(tree / GRAPH)["stages"]
    return stages


def _yaml(file: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    if not file.exists():
        return {}
    content: dict[str, Any] = (
        YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8")) or {}
    )
    return content
