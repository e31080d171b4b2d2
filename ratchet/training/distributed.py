"""Several processes that train one model together (`torch.distributed`): started here on one machine, or by `torchrun`."""

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
SHUTDOWN_S = 3  # between asking the other processes to end and killing them
CPU = torch.device("cpu")
_asked = threading.Event()


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that train together; alone it is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local: int = 0  # among those on this machine
    device: torch.device = CPU  # where tensors have to be to be exchanged

    @property
    def leads(self) -> bool:
        """Does this process write the files?"""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over all processes, on the device where they were."""
        if self.world == 1:
            return values
        exchanged = values.to(self.device)
        distributed.all_reduce(exchanged)
        return exchanged.to(values.device)

    def share(self, value: T | None) -> T | None:
        """What the leader has, in every process."""
        values = [value]
        if self.world > 1:
            distributed.broadcast_object_list(values, 0, device=self.device)
        return values[0]

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with gradients averaged over all processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None
        )

    def gradients(self, model: nn.Module, wanted: bool) -> AbstractContextManager[object]:
        """Exchange gradients in the backward pass only where they are `wanted`: at the end of a step."""
        return (
            nullcontext()
            if wanted or not isinstance(model, DistributedDataParallel)
            else model.no_sync()
        )

    def align(self, model: nn.Module) -> None:
        """Give every process the leader's buffers: batch normalisation sees other rows in each."""
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)


ALONE = Group()


def under_torchrun() -> bool:
    """Did `torchrun` start this process as one of several?"""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Is this, under `torchrun`, not the first process of its machine? Then no stage leads it."""
    return under_torchrun() and os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def group(device: torch.device) -> Iterator[Group]:
    """The group that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK, ...

    As torchrun sets them).

    Args:
        device: what the params name; each process of a machine takes the device of its own number.

    Raises:
        TrainingError: this machine has fewer devices than processes.
    """
    if not under_torchrun():
        devices.select(device)
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = devices.own(device, local)
    devices.select(
        place
    )  # before the first collective, or every process would use the first device
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
    """In a process that no stage leads: install a SIGTERM handler.

    Returns a function that reports whether it came.
    """
    signal.signal(signal.SIGTERM, lambda *_: _asked.set())
    return _asked.is_set


# ── several processes on this machine ─────────────────────────────────────────────────────────────


def launch(count: int, run: Callable[..., None], *arguments: Any, stop: Callable[[], bool]) -> None:
    """Call `run(*arguments)` in `count` new processes on this machine, each in one group with the others.

    They are started and watched by torchrun's elastic agent, in a thread: the main thread keeps the
    stage's signals.

    Raises:
        RatchetError: the first that one of them raised.
        TrainingError: one of them ended otherwise; the others were ended too.
        SystemExit: `stop` said so; they wrote a checkpoint and ended.
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
            max_restarts=0,  # the stage itself is run again, from the last checkpoint
            shutdown_timeout=SHUTDOWN_S,
        )
        workers = _Workers()
        done = _in_thread(elastic_launch(config, _enter), run, arguments)
        try:
            while not wait([done], timeout=0.1).done:
                if stop() and not workers.end():
                    raise SystemExit(
                        STOPPED
                    )  # without waiting for the agent, which a stage has no time for
            done.result()
        except ChildFailedError as error:
            if workers.asked:
                raise SystemExit(STOPPED) from None
            raise _fault(Path(folder), error.get_first_failure()[1].message, count) from None


class _Workers:
    """The processes that the agent starts from now on."""

    def __init__(self) -> None:
        self.asked: set[BaseProcess] = set()
        self._before = set(multiprocessing.active_children())

    def end(self) -> bool:
        """Ask each process to end that was not asked yet; returns whether some have still to."""
        for worker in set(multiprocessing.active_children()) - self._before - self.asked:
            worker.terminate()
            self.asked.add(worker)
        return not self.asked or any(worker.is_alive() for worker in self.asked)


def _in_thread(call: Callable[..., object], *arguments: object) -> Future[None]:
    """Start a call in a thread that does not keep the process alive.

    The future holds what it raises.
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
    """A process of `launch`.

    The agent has set the environment, and names the file for what goes wrong.
    """
    from torch.distributed.elastic.multiprocessing.errors import record

    die_with_parent()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        record(run)(*arguments)
    except (
        SystemExit
    ) as end:  # the checkpoint is written; the interpreter's own end can take seconds
        sys.stdout.flush()
        os._exit(int(end.code or 0))


def _fault(folder: Path, message: str, count: int) -> RatchetError:
    """The error of ours that one of the processes raised.

    The others end because of it, perhaps before it.
    """
    for file in sorted(folder.rglob("error.json")):
        content = json.loads(file.read_text(encoding="utf-8"))["message"]
        name, _, text = (content["message"] if isinstance(content, dict) else content).partition(
            ": "
        )
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, RatchetError):
            return kind(text)
    last = [line for line in message.strip().splitlines() if line.strip()][-1:]
    return TrainingError(
        f"one of {count} training processes ended: {''.join(last)}; the others were ended too; run"
        " it again to go on from the last checkpoint"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the agent's own log off the terminal: what it reports is raised."""
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
