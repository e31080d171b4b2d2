"""Each process selects its own device before the first collective: a double of the device API, since CI has no GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ratchet.errors import TrainingError
from ratchet.models import devices
from ratchet.training import distributed
from ratchet.training.distributed import Group
from tests.helpers.learning_samples import ROOT, chosen

Call = tuple[Any, ...]


class Machine:
    """Four CUDA devices that record what is asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self._patch = monkeypatch
        accelerator = torch.accelerator
        monkeypatch.setattr(accelerator, "is_available", lambda: True)
        monkeypatch.setattr(accelerator, "current_accelerator", lambda: torch.device("cuda"))
        monkeypatch.setattr(accelerator, "device_count", lambda: 4)
        self.record(accelerator, "set_device_index", "select")
        self.record(torch.distributed, "init_process_group", "init")
        self.record(torch.distributed, "destroy_process_group", "destroy")
        self.record(torch.distributed, "broadcast_object_list", "broadcast")
        self.record(torch.distributed, "all_reduce", "reduce")
        self.record(distributed, "DistributedDataParallel", "wrap")
        self.record(torch.Tensor, "cuda", "cuda()")
        self.record(torch.cuda, "set_device", "set_device")
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)

    def record(self, owner: object, name: str, word: str) -> None:
        def call(*args: Any, **named: Any) -> Any:
            known = [
                arg
                for arg in (*args, *named.values())
                if isinstance(arg, (str, int, torch.device, list))
            ]
            self.calls.append((word, *known))
            return args[0] if args else None

        self._patch.setattr(owner, name, call)

    @contextmanager
    def process(self, rank: int) -> Iterator[None]:
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 4}.items():
            self._patch.setenv(name, str(value))
        self._patch.setattr(torch.distributed, "get_rank", lambda: rank)
        self.calls.clear()
        yield


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_process_selects_its_device_before_anything_is_exchanged(
    machine: Machine, name: str
) -> None:
    """The order that pytorch/pytorch#118761 asks for."""
    places = []
    for rank in range(4):
        place = torch.device("cuda", rank)
        with machine.process(rank), distributed.group(devices.device(name)) as group:
            assert group == Group(rank=rank, world=4, local=rank, device=place)
            group.share("state")
            group.wrap(nn.Linear(1, 1), devices.own(devices.device(name), group.local))
        assert machine.calls == [
            ("select", rank),
            ("init", "nccl", place),
            ("broadcast", ["state"], 0, place),
            ("wrap", [place]),
            ("destroy",),
        ]
        places.append(place)
    assert len(set(places)) == 4


def test_sums_are_exchanged_on_the_own_device_and_come_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[Call] = []

    def to(self: torch.Tensor, device: torch.device) -> torch.Tensor:
        moves.append(("to", device))
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    group = Group(rank=2, world=4, local=2, device=torch.device("cuda:2"))
    group.sum(torch.zeros(4, dtype=torch.float64))
    assert moves == [("to", torch.device("cuda:2")), ("to", torch.device("cpu"))]
    assert [call[0] for call in machine.calls] == ["reduce"]


def test_one_process_selects_the_device_that_the_params_name(machine: Machine) -> None:
    with distributed.group(devices.device("cuda:3")) as group:
        assert group.world == 1
    assert machine.calls == [("select", 3)]


def test_a_process_without_a_device_of_its_own_is_refused(machine: Machine) -> None:
    with (
        machine.process(4),
        pytest.raises(TrainingError, match=r"train\.device: cuda:4 is not available"),
        distributed.group(devices.device("auto")),
    ):
        pass
    assert machine.calls == []


def test_the_plan_of_a_process_is_for_its_device(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, place.index))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (place.index, 0))
    assert devices.plan(chosen(train__device="auto").train, 10, local=3).device == torch.device(
        "cuda:3"
    )


def test_the_cpu_needs_no_device_to_be_selected(machine: Machine) -> None:
    with machine.process(1), distributed.group(torch.device("cpu")) as group:
        assert group.device == torch.device("cpu")
    assert machine.calls == [("init", "gloo"), ("destroy",)]


def test_no_tensor_goes_to_a_device_that_is_not_named() -> None:
    for file in [*(ROOT / "tasks").glob("*.py"), *(ROOT / "ratchet").rglob("*.py")]:
        found = re.findall(
            r"\.cuda\(|set_device\(|torch\.device\([\"']cuda[\"']\)", file.read_text()
        )
        assert not found, f"{Path(file).name}: {found}"
