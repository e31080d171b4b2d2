"""What training is measured against: the tutorial's loop, Lightning, and the bare step.

And Ratchet's own loop beside them.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ruamel.yaml
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ratchet import overrides
from ratchet import params as parameters
from ratchet.dataset.normalise import Normalise
from ratchet.dataset.prepared import PreparedDataset
from ratchet.dataset.spec import Spec
from ratchet.models import architectures, devices
from ratchet.params import Params
from ratchet.training.checkpoint import Checkpoints
from ratchet.training.distributed import ALONE
from ratchet.training.loop import Trained, fit
from ratchet.training.state import State

ROOT = Path(__file__).parents[1]


class Bench:
    """The data and params that all parts share."""

    def __init__(self, prepared: Path) -> None:
        self.prepared = prepared
        self.spec = Spec.read(prepared / "spec.json")
        self.train, self.val = (PreparedDataset(prepared / split) for split in ("train", "val"))
        self.scratch = Path(tempfile.mkdtemp(prefix="ratchet-bench-"))
        self.figures: list[str] = []

    def params(self, **values: Any) -> Params:
        """params.yaml with other values: `train__epochs=2`."""
        raw = ruamel.yaml.YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
        raw["run"]["checkpoint_seconds"] = 1e9
        for key, value in values.items():
            *path, last = key.split("__")
            section = raw
            for part in path:
                section = section[part]
            section[last] = value
        return parameters.parse(raw)

    def fit(self, params: Params, stop: Callable[[], bool] = lambda: False) -> Trained:
        checkpoints = Checkpoints(self.scratch / f"{time.monotonic_ns()}")
        return fit(params, self.spec, self.train, self.val, checkpoints, stop=stop, say=_silent)

    def preset(self, name: str) -> dict[str, Any]:
        """The values of `params/<name>.yaml`, as `params` takes them."""
        lines = overrides.preset(ROOT / f"params/{name}.yaml")
        return {key.replace(".", "__"): json.loads(value) for key, value in lines.items()}

    def trial(self, **values: Any) -> tuple[float, float]:
        """Train with these values: accuracy on the test rows, in float32, and seconds of training, validation included."""
        params = self.params(**values)
        began = time.perf_counter()
        trained = self.fit(params)
        seconds = time.perf_counter() - began
        name, arguments = params.model.name, params.model.arguments
        model = architectures.build(
            name, arguments, self.spec.input_shape, len(self.spec.classes)
        ).eval()
        model.load_state_dict({key: value.cpu() for key, value in trained.weights.items()})
        test, normalise = (
            PreparedDataset(self.prepared / "test"),
            Normalise(self.spec, torch.device("cpu")),
        )
        with torch.no_grad():
            inputs, targets = test[range(len(test))]
            found = torch.cat(
                [model(normalise(part)).argmax(1) for part in torch.split(inputs, 1000)]
            )
        return (found == targets).double().mean().item(), seconds

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.figures.append(line)


def _silent(_line: str) -> None:
    """A benchmark prints its own lines."""


# ── the contenders ────────────────────────────────────────────────────────────────────────────────


def ours(bench: Bench, name: str, steps: int) -> float:
    """Images a second of the real loop, over `steps` steps after three to warm up."""
    moments: list[float] = []

    def stop() -> bool:
        moments.append(time.perf_counter())
        return len(moments) > steps + 3

    with contextlib.suppress(SystemExit):
        bench.fit(bench.params(model__name=name), stop)
    return 256 * steps / (moments[steps + 2] - moments[2])


def limit(bench: Bench, name: str, steps: int) -> float:
    """Images a second of the same step on one batch that is already there, normalised."""
    params = bench.params(model__name=name)
    plan = devices.plan(params.train, 0)
    state = State.start(params, bench.spec, plan, ALONE, bench.train, bench.val)
    inputs, targets = bench.train[range(256)]
    inputs, targets = (
        Normalise(bench.spec, plan.device)(inputs.to(plan.device)),
        targets.to(plan.device),
    )
    for _ in range(3):
        state.learn(inputs, targets).item()
    began = time.perf_counter()
    for _ in range(steps - 1):
        state.learn(inputs, targets)
    state.learn(inputs, targets).item()  # waits for the device
    return 256 * steps / (time.perf_counter() - began)


class Tutorial:
    """The loop of PyTorch's tutorials: torchvision's Dataset, ToTensor, DataLoader, float32."""

    def __init__(self, bench: Bench, name: str, lr: float | None = None) -> None:
        tensor = torchvision.transforms.ToTensor()
        data = torchvision.datasets.FashionMNIST(
            fashion(bench.scratch), train=True, transform=tensor
        )
        self.loader = DataLoader(data, batch_size=256 if lr is None else 64, shuffle=True)
        self.device = devices.device("auto")
        model = architectures.build(name, {}, bench.spec.input_shape, len(bench.spec.classes))
        self.model = model.to(self.device).train()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(self.model.parameters(), lr=0.004)
            if lr is None
            else torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        )

    def steps(self) -> Iterator[float]:
        for inputs, targets in self.loader:
            loss = self.criterion(self.model(inputs.to(self.device)), targets.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield loss.item()


def tutorial(bench: Bench, name: str, steps: int) -> float:
    turn = Tutorial(bench, name).steps()
    for _ in range(2):
        next(turn)
    began = time.perf_counter()
    for _ in itertools.islice(turn, steps):
        pass
    return 256 * steps / (time.perf_counter() - began)


def in_lightning(base: Tutorial, *, seen: Callable[[], bool], **limits: Any) -> None:
    """Train a tutorial's model in Lightning, bf16-mixed, on its data, until `seen` (asked after each step) says so."""
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = base.model

        def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
            loss: Tensor = base.criterion(self.model(batch[0]), batch[1])
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            self.trainer.should_stop = seen()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return base.optimizer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options: dict[str, Any] = {**dict.fromkeys(quiet, False), **limits}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(precision="bf16-mixed", min_steps=0, **options).fit(Module(), base.loader)


def lightning(bench: Bench, name: str, steps: int) -> float:
    moments: list[float] = []

    def seen() -> bool:
        moments.append(time.perf_counter())
        return False

    in_lightning(Tutorial(bench, name), seen=seen, max_steps=steps + 3)
    return 256 * steps / (moments[steps + 2] - moments[2])


def fashion(folder: Path) -> Path:
    """A root that torchvision takes as Fashion-MNIST, unpacked from where Ratchet finds it."""
    raw = folder / "FashionMNIST/raw"
    if not raw.exists():
        raw.mkdir(parents=True)
        for place in (
            Path("/usr/share/datasets/fashion-mnist"),
            ROOT / "data/downloads/FashionMNIST/raw",
        ):
            for file in place.glob("*ubyte.gz"):
                with gzip.open(file) as packed, (raw / file.stem).open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
    return folder
