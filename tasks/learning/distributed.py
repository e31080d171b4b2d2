"""Several processes that train one model together (`torch.distributed`): started here on one machine, or by `torchrun`."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes
from torch.nn.parallel import DistributedDataParallel

from tasks import errors
from tasks.errors import RatchetError, TrainingError
from tasks.process import die_with_parent

T = TypeVar("T")
STOPPED = 143  # exit code of a process that SIGTERM ended
_asked = threading.Event()


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that train together; alone it is rank 0 of 1."""

    rank: int = 0
    world: int = 1
    local: int = 0  # among those on this machine

    @property
    def leads(self) -> bool:
        """Does this process write the files?"""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over all processes."""
        if self.world > 1:
            values = values.cuda() if distributed.get_backend() == "nccl" else values
            distributed.all_reduce(values)
        return values

    def share(self, value: T | None) -> T | None:
        """What the leader has, in every process."""
        held = [value]
        if self.world > 1:
            distributed.broadcast_object_list(held, 0)
        return held[0]

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with gradients averaged over all processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def gradients(self, model: nn.Module, wanted: bool) -> AbstractContextManager[object]:
        """Exchange gradients in the backward pass only where they are `wanted`: at the end of a step."""
        return nullcontext() if wanted or not isinstance(model, DistributedDataParallel) else model.no_sync()

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
    """The group that the environment describes (RANK, WORLD_SIZE, LOCAL_RANK, ... as torchrun sets them)."""
    if not under_torchrun():
        yield ALONE
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(
            rank=distributed.get_rank(),
            world=distributed.get_world_size(),
            local=int(os.environ.get("LOCAL_RANK", "0")),
        )
    finally:
        distributed.destroy_process_group()


def heed() -> Callable[[], bool]:
    """In a process that no stage leads: take SIGTERM as the wish to stop; gives the question whether it came."""
    signal.signal(signal.SIGTERM, lambda *_: _asked.set())
    return _asked.is_set


def launch(count: int, run: Callable[..., None], *arguments: Any, stop: Callable[[], bool]) -> None:
    """Call `run(*arguments)` in `count` new processes on this machine, each in one group with the others.

    Raises:
        RatchetError: the first that one of them raised.
        TrainingError: one of them ended otherwise; the others were ended too.
        SystemExit: `stop` said so; they wrote a checkpoint and ended.
    """
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        started = start_processes(  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            _enter, (count, store.port, folder, run, arguments), nprocs=count, join=False, start_method="spawn"
        )
        assert started is not None
        asked = False
        try:
            while not started.join(timeout=0.1, grace_period=3):
                if stop() and not asked:
                    asked = True
                    for process in started.processes:
                        process.terminate()
        except (ProcessExitedException, ProcessRaisedException) as error:
            if asked:
                raise SystemExit(STOPPED) from None
            raise _fault(Path(folder), error, count) from None


def _enter(rank: int, count: int, port: int, folder: str, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """A process of `launch`: find the others through its store, as under torchrun, and leave word of what went wrong."""
    die_with_parent()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{count}", "LOCAL_WORLD_SIZE": f"{count}"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    try:
        run(*arguments)
    except RatchetError as error:
        (Path(folder) / f"fault-{rank}").write_text(f"{type(error).__name__}\n{error}", encoding="utf-8")
        raise


def _fault(folder: Path, error: Exception, count: int) -> RatchetError:
    for file in sorted(folder.glob("fault-*")):
        name, _, message = file.read_text(encoding="utf-8").partition("\n")
        kind: type[RatchetError] = getattr(errors, name, TrainingError)
        return kind(message)
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return TrainingError(
        f"one of {count} training processes ended: {lines[-1] if lines else type(error).__name__}; the others were "
        "ended too; run it again to go on from the last checkpoint"
    )
