"""What a process does alone and in a group, and how a group ends.

Real processes are in test_distributed.py.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ratchet.errors import DataError, TrainingError
from ratchet.training import distributed
from ratchet.training.distributed import ALONE, Group

CPU = torch.device("cpu")


def forked(work: Callable[[], object]) -> int:
    """Run a function in a fork of this process; returns how that ended (255: an exception)."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:
            os._exit(255)
    return child


def code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def joined(rank: int, folder: Path) -> Iterator[Group]:
    """This process in a real group of two."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    yield Group(rank=rank, world=2)
    torch.distributed.destroy_process_group()


def test_two_processes_exchange_sums_values_and_buffers(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        with joined(rank, tmp_path) as group:
            norm = nn.BatchNorm1d(1)
            norm.get_buffer("running_mean").fill_(rank + 5)
            results = {
                "leads": group.leads,
                "sum": group.sum(torch.tensor([1.0, rank])).tolist(),
                "share": group.share("leader" if rank == 0 else None),
            }
            group.align(norm)
            results["mean"] = norm.get_buffer("running_mean").item()
            (tmp_path / f"{rank}.json").write_text(json.dumps(results))

    children = [forked(lambda rank=rank: work(rank)) for rank in (0, 1)]  # type: ignore[misc]
    assert [code(child) for child in children] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    common = {"sum": [2.0, 1.0], "share": "leader", "mean": 5.0}
    assert first == {"leads": True, **common}
    assert second == {"leads": False, **common}


class Wrapped(DistributedDataParallel):
    """Its `no_sync` can be told from any other context."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def no_sync(self) -> Any:
        return "no_sync"


def test_gradients_are_exchanged_at_the_end_of_a_step_only() -> None:
    assert Group(world=2).gradients(Wrapped(), exchange=False) == "no_sync"
    assert isinstance(Group(world=2).gradients(Wrapped(), exchange=True), nullcontext)


def test_alone_nothing_is_exchanged() -> None:
    model = nn.Linear(1, 1)
    assert (ALONE.leads, ALONE.sum(torch.tensor(3.0)).item(), ALONE.share("x")) == (True, 3.0, "x")
    assert ALONE.wrap(model, CPU) is model
    ALONE.align(nn.BatchNorm1d(1))
    assert isinstance(ALONE.gradients(model, exchange=False), nullcontext)
    assert not isinstance(model, DistributedDataParallel)


@pytest.mark.parametrize(
    ("variables", "under", "follows"),
    [
        ({}, False, False),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": "1"}, False, False),
        ({"WORLD_SIZE": "2"}, True, False),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, True, False),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, True, True),
    ],
)
def test_torchrun_says_who_follows(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], under: bool, follows: bool
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (distributed.under_torchrun(), distributed.follows()) == (under, follows)


def test_a_process_of_a_group_dies_with_its_parent_and_ends_with_its_own_code() -> None:
    def check_parent() -> None:
        number = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
        assert os.environ["GLOO_SOCKET_IFNAME"]
        raise SystemExit(number.value)

    def stopped() -> None:
        raise SystemExit(distributed.STOPPED)

    assert code(forked(lambda: distributed._enter(check_parent, ()))) == signal.SIGKILL
    assert code(forked(lambda: distributed._enter(stopped, ()))) == 143


def test_sigterm_is_heeded() -> None:
    def work() -> None:
        asked = distributed.heed()
        before = asked()
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(int(asked()) - int(before))

    assert code(forked(work)) == 1


def test_what_a_thread_raises_is_in_its_future() -> None:
    def end(code: int) -> None:
        raise SystemExit(code)

    future = distributed._in_thread(end, 3)
    error = future.exception(timeout=10)
    assert isinstance(error, SystemExit) and error.code == 3
    assert distributed._in_thread(len, "x").result(timeout=10) is None


@pytest.mark.parametrize(
    ("message", "expected", "text"),
    [
        ({"message": {"message": "DataError: no rows: none"}}, DataError, "no rows: none"),
        ({"message": "DataError: no rows"}, DataError, "no rows"),
        (
            {"message": "ValueError: x"},
            TrainingError,
            "one of 2 training processes ended, and the others were stopped: the last line; run it",
        ),
        (
            {"message": "Path: x"},
            TrainingError,
            "one of 2 training processes ended, and the others were stopped: the last line; run it",
        ),
        (
            None,
            TrainingError,
            "one of 2 training processes ended, and the others were stopped: the last line; run it",
        ),
    ],
)
def test_the_error_of_a_process_keeps_its_type(
    tmp_path: Path, message: Any, expected: type[Exception], text: str
) -> None:
    if message is not None:
        (tmp_path / "0").mkdir()
        (tmp_path / "0/error.json").write_text(json.dumps(message))
    error = distributed._fault(tmp_path, "first\nthe last line\n\n", 2)
    assert type(error) is expected
    assert str(error).startswith(text)


def test_the_agents_log_is_quiet_for_a_while() -> None:
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    with pytest.raises(KeyError), distributed._quiet():
        assert logger.level == logging.CRITICAL
        raise KeyError
    assert logger.level == level
