"""Train one model with several processes (`torch.distributed`).

`launch` starts them on this machine. On several machines, `torchrun` starts them.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ratchet import errors
from ratchet.errors import RatchetError, TrainingError
from ratchet.models import devices
from ratchet.process import die_with_parent

T = TypeVar("T")
STOPPED = 143  # exit code of a process that SIGTERM ended
SHUTDOWN_S = 3  # between SIGTERM and SIGKILL, when a process fails and the others must end
CPU = torch.device("cpu")
_sigterm = threading.Event()


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that train together; alone it is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local: int = 0  # number of this process among those on this machine
    device: torch.device = CPU  # where the backend expects the tensors to exchange

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add up `values` over all processes; the result is on the same device."""
        if self.world == 1:
            return values
        exchanged = values.to(self.device)
        distributed.all_reduce(exchanged)
        return exchanged.to(values.device)

    def share(self, value: T | None) -> T | None:
        """Return the leader's value in every process; it must be picklable."""
        values = [value]
        if self.world > 1:
            distributed.broadcast_object_list(values, 0, device=self.device)
        return values[0]

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return a model that averages its gradients over all processes."""
        if self.world == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)

    def gradients(self, model: nn.Module, exchange: bool) -> AbstractContextManager[object]:
        """Exchange gradients in the backward pass only if `exchange`: once, at a step's end."""
        if exchange or not isinstance(model, DistributedDataParallel):
            return nullcontext()
        return model.no_sync()

    def align(self, model: nn.Module) -> None:
        """Copy the leader's buffers to every process.

        Those of batch normalisation differ, because each process sees other rows.
        """
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)


ALONE = Group()


def under_torchrun() -> bool:
    """Return whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Return whether `torchrun` started this process, and another one runs the machine's stage."""
    return under_torchrun() and os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def group(device: torch.device) -> Iterator[Group]:
    """Join the group that torchrun describes in RANK, WORLD_SIZE, LOCAL_RANK and so on.

    Args:
        device: the device in the params; each process of a machine takes the device of its own
            number.

    Raises:
        TrainingError: this machine has fewer devices than processes.
    """
    if not under_torchrun():
        devices.select(device)
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = devices.own(device, local)
    devices.select(place)  # otherwise the first collective of every process uses the first device
    exchange = place if place.type == "cuda" else CPU
    if exchange.type == "cuda":
        distributed.init_process_group("nccl", device_id=place)
    else:
        distributed.init_process_group("gloo")
    try:
        yield Group(
            rank=distributed.get_rank(),
            world=distributed.get_world_size(),
            local=local,
            device=exchange,
        )
    finally:
        distributed.destroy_process_group()


def heed() -> Callable[[], bool]:
    """Install a SIGTERM handler in a process that runs outside a stage.

    Returns:
        A function that reports whether SIGTERM was received.
    """
    signal.signal(signal.SIGTERM, lambda *_: _sigterm.set())
    return _sigterm.is_set


# ── several processes on this machine ─────────────────────────────────────────────────────────────


def launch(count: int, run: Callable[..., None], *arguments: Any, stop: Callable[[], bool]) -> None:
    """Call `run(*arguments)` in `count` new processes on this machine, which form one group.

    Torchrun's elastic agent starts and watches them. It runs in a thread, so that the main thread
    keeps handling the stage's signals.

    Args:
        count: number of processes, 2 or more.
        run: a function that can be pickled.
        arguments: its arguments.
        stop: returns whether the processes should save a checkpoint and end.

    Raises:
        RatchetError: the first one that a process raised.
        TrainingError: a process ended for another reason, and the others were stopped.
        SystemExit: `stop` returned True, and the processes saved a checkpoint and ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with (
        tempfile.TemporaryDirectory(prefix="ratchet-", ignore_cleanup_errors=True) as folder,
        _quiet(),
    ):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=Path(folder).name,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            max_restarts=0,  # a new run of the stage resumes from the last checkpoint
            shutdown_timeout=SHUTDOWN_S,
        )
        workers = _Workers()
        done = _in_thread(elastic_launch(config, _enter), run, arguments)
        try:
            while not wait([done], timeout=0.1).done:
                if stop() and not workers.end():
                    raise SystemExit(STOPPED)  # a stopping stage has no time to wait for the agent
            done.result()
        except ChildFailedError as error:
            if workers.terminated:
                raise SystemExit(STOPPED) from None
            raise _fault(Path(folder), error.get_first_failure()[1].message, count) from None


class _Workers:
    """The processes that the agent starts from now on."""

    def __init__(self) -> None:
        self.terminated: set[BaseProcess] = set()
        self._before = set(multiprocessing.active_children())

    def end(self) -> bool:
        """Send SIGTERM to each process once; return whether any is still alive or yet to start."""
        for worker in set(multiprocessing.active_children()) - self._before - self.terminated:
            worker.terminate()
            self.terminated.add(worker)
        return not self.terminated or any(worker.is_alive() for worker in self.terminated)


def _in_thread(call: Callable[..., object], *arguments: object) -> Future[None]:
    """Start a call in a thread that does not keep the process alive.

    The future carries the exception that the call raises.
    """
    future: Future[None] = Future()

    def work() -> None:
        try:
            call(*arguments)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _enter(run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run in a process of `launch`.

    The agent has set the environment, which names the file for errors.
    """
    from torch.distributed.elastic.multiprocessing.errors import record

    die_with_parent()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        record(run)(*arguments)
    except SystemExit as end:
        # The checkpoint is saved. A normal exit of the interpreter can take seconds.
        sys.stdout.flush()
        os._exit(int(end.code or 0))


def _fault(folder: Path, message: str, count: int) -> RatchetError:
    """Return the `RatchetError` that one of the processes raised.

    The other processes fail because of it, and may end earlier than the one that raised it.

    Args:
        folder: where the processes wrote `error.json` files.
        message: what the first process that ended reported, if there is no such error.
        count: number of processes.
    """
    for file in sorted(folder.rglob("error.json")):
        content = json.loads(file.read_text(encoding="utf-8"))["message"]
        line = content["message"] if isinstance(content, dict) else content
        name, _, text = line.partition(": ")
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, RatchetError):
            return kind(text)
    last = [line for line in message.strip().splitlines() if line.strip()][-1:]
    return TrainingError(
        f"one of {count} training processes ended, and the others were stopped: {''.join(last)}; "
        "run it again to resume from the last checkpoint"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the agent's own log off the terminal; `launch` raises what it reports."""
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
