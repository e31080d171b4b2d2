"""Training: every claim about its speed and exactness, each against what a user would pick instead.

    python -m benchmarks.training [PART ...] [--prepared data/prepared] [--write]

Parts: kills, throughput, target, recipe, start, checkpoints, seeds; all of them by default. Contenders run in turns within
one process, so that what else the machine does hits all alike, and the ratio of each turn is what counts (medians).
`--write` puts the figures into `benchmarks/results.md`, section "Training".
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ruamel.yaml
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader

import tasks.train as verb
from tasks import params as parameters
from tasks.data.dataset import PreparedDataset
from tasks.data.spec import Spec
from tasks.learning import models, precision
from tasks.learning.checkpoint import Checkpoints
from tasks.learning.distributed import ALONE
from tasks.learning.loop import Trained, fit
from tasks.learning.normalise import Normalise
from tasks.learning.state import State
from tasks.params import Params

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results.md"
TURNS = 5
RATES = (0.001, 0.01, 0.05, 0.1)  # learning rates that the tutorial's loop is tuned over
GOAL = 0.90


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

    def accuracy(self, trained: Trained, name: str = "cnn") -> float:
        """On the test rows, in float32."""
        model = models.build(name, {}, self.spec.input_shape, len(self.spec.classes)).eval()
        model.load_state_dict(trained.weights)
        test, normalise = PreparedDataset(self.prepared / "test"), Normalise(self.spec, torch.device("cpu"))
        with torch.no_grad():
            inputs, targets = test.__getitems__(range(len(test)))
            found = torch.cat([model(normalise(part)).argmax(1) for part in torch.split(inputs, 1000)])
        return (found == targets).double().mean().item()

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.figures.append(line)


def _silent(_line: str) -> None:
    """A benchmark prints its own lines."""


# ── the contenders ──────────────────────────────────────────────────────────────────────────────────────────────────


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
    plan = precision.plan(params.train, 0)
    state = State.start(params, bench.spec, plan, ALONE, bench.train, bench.val)
    inputs, targets = bench.train.__getitems__(range(256))
    inputs = Normalise(bench.spec, plan.device)(inputs)
    for step in range(steps + 3):
        if step == 3:
            began = time.perf_counter()
        state.learn(inputs, targets).item()
    return 256 * steps / (time.perf_counter() - began)


class Tutorial:
    """The loop of PyTorch's tutorials: torchvision's Dataset, ToTensor, DataLoader, float32."""

    def __init__(self, bench: Bench, name: str, lr: float | None = None) -> None:
        tensor = torchvision.transforms.ToTensor()
        data = torchvision.datasets.FashionMNIST(fashion(bench.scratch), train=True, transform=tensor)
        self.loader = DataLoader(data, batch_size=256 if lr is None else 64, shuffle=True)
        self.model = models.build(name, {}, bench.spec.input_shape, len(bench.spec.classes)).train()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(self.model.parameters(), lr=0.004)
            if lr is None
            else torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        )

    def steps(self) -> Iterator[float]:
        for inputs, targets in self.loader:
            loss = self.criterion(self.model(inputs), targets)
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


def lightning(bench: Bench, name: str, steps: int) -> float:
    """The same model in Lightning, bf16-mixed, on the tutorial's data."""
    import lightning as pl

    base = Tutorial(bench, name)
    moments: list[float] = []

    class Module(pl.LightningModule):  # type: ignore[misc]  # lightning is no dependency
        def __init__(self) -> None:
            super().__init__()
            self.model = base.model

        def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
            moments.append(time.perf_counter())
            return base.criterion(self.model(batch[0]), batch[1])  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return base.optimizer

    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_steps=steps + 3, precision="bf16-mixed", accelerator="cpu", **quiet).fit(Module(), base.loader)
    return 256 * steps / (moments[steps + 2] - moments[2])


def fashion(folder: Path) -> Path:
    """A root that torchvision takes as Fashion-MNIST, unpacked from where Ratchet finds it."""
    raw = folder / "FashionMNIST/raw"
    if not raw.exists():
        raw.mkdir(parents=True)
        for place in (Path("/usr/share/datasets/fashion-mnist"), ROOT / "data/downloads/FashionMNIST/raw"):
            for file in place.glob("*ubyte.gz"):
                with gzip.open(file) as packed, (raw / file.stem).open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
    return folder


# ── the parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def throughput(bench: Bench) -> None:
    others = "the same step on a resident batch | tutorial, float32 | Lightning, bf16-mixed"
    bench.say(f"| images a second, batch 256 | Ratchet | {others} |")
    bench.say("|---|---|---|---|---|")
    for name, steps in (("cnn", 40), ("resnet_small", 16)):
        contenders = {"ours": ours, "limit": limit, "tutorial": tutorial}
        try:
            import lightning as _  # noqa: F401

            contenders["lightning"] = lightning
        except ImportError:
            pass
        turns = [{key: run(bench, name, steps) for key, run in contenders.items()} for _ in range(TURNS)]

        def ratio(key: str, turns: list[dict[str, float]] = turns) -> str:
            if key not in turns[0]:
                return "not installed"
            middle = statistics.median(turn[key] for turn in turns)
            return f"{middle:,.0f} (×{statistics.median(turn['ours'] / turn[key] for turn in turns):.2f})"

        here = statistics.median(turn["ours"] for turn in turns)
        bench.say(f"| `{name}` | {here:,.0f} | {ratio('limit')} | {ratio('tutorial')} | {ratio('lightning')} |")
    bench.say("\n(×n): how many times as fast Ratchet was, median of the ratios of 5 turns.")


def target(bench: Bench) -> None:
    """Seconds of training to `GOAL` on the test rows; evaluating is not counted for either."""
    test = torchvision.datasets.FashionMNIST(fashion(bench.scratch), train=False)
    inputs, targets = test.data[:, None].float() / 255, test.targets
    found: dict[float, float] = {}
    for lr in RATES:
        loop, spent = Tutorial(bench, "cnn", lr), 0.0
        for _half in range(8):
            began = time.perf_counter()
            for _ in itertools.islice(loop.steps(), 469):
                pass
            spent += time.perf_counter() - began
            loop.model.eval()
            with torch.no_grad():
                right = torch.cat([loop.model(part).argmax(1) for part in torch.split(inputs, 1000)]) == targets
            loop.model.train()
            if right.double().mean().item() >= GOAL:
                found[lr] = spent
                break
            if found and spent > 1.5 * min(found.values()):
                break
    times = []
    for seed in range(3):
        began = time.perf_counter()
        trained = bench.fit(bench.params(train__epochs=2, train__seed=seed))
        spent = time.perf_counter() - began
        times.append(spent if bench.accuracy(trained) >= GOAL else float("inf"))
    best = min(found, key=lambda lr: found[lr])
    mine = statistics.median(times)
    each = ", ".join(f"{lr:g}: {found[lr]:.0f} s" if lr in found else f"{lr:g}: not in 4 epochs" for lr in RATES)
    bench.say(
        f"Seconds to {GOAL:.2f} test accuracy (`cnn`): Ratchet, `train.epochs=2`, {mine:.1f} (median of 3 seeds, validation "
        f"included); the tutorial's loop with SGD, {found[best]:.0f} at its best rate {best:g} ({each}): "
        f"{found[best] / mine:.1f} times as long."
    )


def recipe(bench: Bench) -> None:
    rows = []
    for seed in range(3):
        began = time.perf_counter()
        trained = bench.fit(bench.params(train__seed=seed))
        rows.append((bench.accuracy(trained), time.perf_counter() - began))
    found = [accuracy for accuracy, _ in rows]
    bench.say(
        f"Default recipe, 3 seeds: test accuracy {statistics.mean(found):.4f} (from {min(found):.4f} to {max(found):.4f}), "
        f"in {statistics.median(seconds for _, seconds in rows):.0f} s of training each."
    )


def start(bench: Bench) -> None:
    code = (
        "import resource\nfrom pathlib import Path\nfrom tasks import params\nfrom tasks.process import age_s\n"
        "import tasks.train as verb\nseen = []\n"
        "def stop():\n seen.append(age_s())\n return len(seen) > 40\n"
        "verb.stopping, verb.home = stop, lambda tree: tree\n"
        "try: verb.train.fn(params.load(), Path())\n"
        "except SystemExit: print(seen[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    rows = []
    for turn in range(3):
        tree = bench.scratch / f"start-{turn}"
        (tree / "data").mkdir(parents=True)
        (tree / "data/prepared").symlink_to(bench.prepared.resolve())
        shutil.copy(ROOT / "params.yaml", tree)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        rows.append([float(value) for value in done.stdout.split()[-2:]])
    first, memory = (statistics.median(column) for column in zip(*rows, strict=True))
    bench.say(
        f"From the start of the process to the end of its first step: {first:.1f} s. Peak memory: {memory:,.0f} MB."
    )


def checkpoints(bench: Bench) -> None:
    params = bench.params()
    plan = precision.plan(params.train, 0)
    state = State.start(params, bench.spec, plan, ALONE, bench.train, bench.val)
    state.learn(
        Normalise(bench.spec, plan.device)(bench.train.__getitems__(range(256))[0]), torch.zeros(256, dtype=torch.int64)
    )
    place, spent = Checkpoints(bench.scratch / "checkpoints"), []
    for step in range(11):
        began = time.perf_counter()
        place.save(state.saved(), 0, step)
        spent.append(time.perf_counter() - began)
    interval = parameters.load(ROOT).run.checkpoint_seconds
    once = statistics.median(spent)
    size = max(place.folder.glob("*.pt")).stat().st_size
    bench.say(
        f"A checkpoint of `cnn` ({size / 1e6:.1f} MB, synced to disk) takes {once * 1000:.0f} ms: "
        f"{once / interval:.2%} of the default interval of {interval:g} s."
    )


def kills(bench: Bench, rounds: int = 50) -> None:
    """Kill -9 a run at random moments until it has finished, `rounds` times; each must end bit-equal."""
    from tests.learning.samples import images, lay

    def run(tree: Path) -> None:
        small = {"train__epochs": 3, "train__batch_size": 50, "train__threads": 1, "train__ema": 0.9}
        vars(verb)["home"] = lambda tree: tree
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            verb.train.fn(bench.params(**small, run__checkpoint_seconds=0.05), tree)

    def forked(tree: Path, seconds: float) -> bool:
        if not (pid := os.fork()):
            run(tree)
            os._exit(0)
        waited = time.monotonic() + seconds
        while time.monotonic() < waited:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return True
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return False

    def written(tree: Path) -> list[bytes]:
        names = ("models/classifier.pt", "models/classifier.json", "reports/training/curves.tsv")
        return [(tree / name).read_bytes() for name in names]

    torch.set_num_threads(1)
    whole = lay(bench.scratch / "whole", *images())
    began = time.monotonic()
    assert forked(whole, 600)
    length, expected = time.monotonic() - began, written(whole)
    draw = random.Random(0)
    killed = equal = 0
    for turn in range(rounds):
        tree = shutil.copytree(whole / "data", bench.scratch / f"killed-{turn}" / "data").parent
        while not forked(tree, draw.uniform(0.1, 1.1) * length):
            killed += 1
        equal += written(tree) == expected
    bench.say(
        f"{killed} kills (SIGKILL at random moments) over {rounds} runs: {equal} of {rounds} ended bit-equal to the run that "
        "nobody killed."
    )


def seeds(bench: Bench) -> None:
    def once(seed: int) -> bytes:
        bench.train.targets = bench.train.targets[:10_240]
        trained = bench.fit(bench.params(train__epochs=1, train__seed=seed))
        return b"".join(value.numpy().tobytes() for value in trained.weights.values())

    whole = bench.train.targets
    found = [once(seed) for seed in (0, 0, 1, 2)]
    bench.train.targets = whole
    same, different = found[0] == found[1], len(set(found)) == 3
    bench.say(f"The same seed twice gives bit-equal weights: {same}; three seeds give three models: {different}.")


PARTS = {part.__name__: part for part in (kills, throughput, target, recipe, start, checkpoints, seeds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--prepared", type=Path, default=ROOT / "data/prepared")
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/results.md")
    arguments = parser.parse_args()
    bench = Bench(arguments.prepared)
    bench.say(f"torch {torch.__version__}, {os.cpu_count()} CPU cores, {precision.plan(bench.params().train, 0)}.\n")
    try:
        for part in arguments.parts:
            PARTS[part](bench)
            bench.say("")
    finally:
        shutil.rmtree(bench.scratch)
    if arguments.write:
        write("\n".join(bench.figures))


def write(text: str) -> None:
    """Replace the section "Training" of the results."""
    before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    rest = re.sub(r"(?ms)^## Training\n.*?(?=^## |\Z)", "", before).rstrip()
    RESULTS.write_text(f"{rest}\n\n## Training\n\n{text.strip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
