"""Training: every claim about its speed and exactness, each against what a user would pick instead.

    python -m benchmarks.training [PART ...] [--prepared data/prepared] [--write]

Parts, with the minutes that they take on two cores: throughput (3), target (15), recipe (4),
accurate (20), ingredients (45), start (1), checkpoints (1), seeds (1), kills (5); all of them by
default. Contenders run in turns within one process, so that what else the machine does hits all
alike, and the ratio of each turn is what counts (medians). `--write` puts the figures into
`benchmarks/results.md`, section "Training".
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchvision
from torch import Tensor, nn

import tasks.train as verb
from benchmarks.contenders import (
    ROOT,
    Bench,
    Tutorial,
    fashion,
    in_lightning,
    lightning,
    limit,
    ours,
    tutorial,
)
from ratchet import params as parameters
from ratchet.dataset.normalise import Normalise
from ratchet.models import devices
from ratchet.training.checkpoint import Checkpoints
from ratchet.training.distributed import ALONE
from ratchet.training.state import State

RESULTS = ROOT / "benchmarks/results.md"
TURNS = 5
RATES = (
    0.05,
    0.01,
    0.1,
    0.001,
)  # learning rates that the tutorial's loop is tuned over, the likeliest first
EPOCHS = (2, 3, 1)  # lengths of Ratchet's schedule, likewise
GOAL = 0.90


# ── the parts ─────────────────────────────────────────────────────────────────────────────────────


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
        turns = [
            {key: run(bench, name, steps) for key, run in contenders.items()} for _ in range(TURNS)
        ]

        def ratio(key: str, turns: list[dict[str, float]] = turns) -> str:
            if key not in turns[0]:
                return "not installed"
            middle = statistics.median(turn[key] for turn in turns)
            return f"{middle:,.0f} (×{statistics.median(turn['ours'] / turn[key] for turn in turns):.2f})"

        here = statistics.median(turn["ours"] for turn in turns)
        bench.say(
            f"| `{name}` | {here:,.0f} | {ratio('limit')} | {ratio('tutorial')} | {ratio('lightning')} |"
        )
    bench.say("\n(×n): how many times as fast Ratchet was, median of the ratios of 5 turns.")


def target(bench: Bench) -> None:
    """Seconds of training to `GOAL` on the test rows, which are asked every half epoch and whose evaluation is not counted.

    Each contender is tuned with one seed (the tutorial's rate, the epochs of Ratchet's schedule),
    then run with three.
    """
    rates = _tuned(bench, RATES, lambda lr, watch: _by_tutorial(bench, lr, watch))
    epochs = _tuned(bench, EPOCHS, lambda count, watch: _by_ratchet(bench, count, 0, watch))
    lr, count = min(rates, key=rates.__getitem__), min(epochs, key=epochs.__getitem__)
    contenders: dict[str, Callable[[int, Reached], None]] = {
        f"Ratchet, `train.epochs={count:g}`": lambda seed, watch: _by_ratchet(
            bench, int(count), seed, watch
        ),
        f"tutorial, SGD with momentum, batch 64, rate {lr:g}": lambda _, watch: _by_tutorial(
            bench, lr, watch
        ),
        "the same in Lightning, bf16-mixed": lambda _, watch: _by_lightning(bench, lr, watch),
    }
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in range(3):
        for name, run in contenders.items():
            torch.manual_seed(seed)
            watch = Reached(bench)
            with contextlib.suppress(ImportError):
                run(seed, watch)
            spent[name].append(watch.spent if watch.reached else math.inf)
    bench.say(
        f"| seconds to {GOAL:.2f} test accuracy, `cnn`, 3 seeds | median | each | |\n|---|---|---|---|"
    )
    mine = statistics.median(next(iter(spent.values())))
    for name, each in spent.items():
        middle = statistics.median(each)
        bench.say(
            f"| {name} | {middle:.1f} | {', '.join(f'{one:.1f}' for one in each)} | ×{middle / mine:.1f} |"
        )
    bench.say(
        f"\nTuned with one seed: the tutorial's rate ({_each(rates, RATES)}), Ratchet's epochs ({_each(epochs, EPOCHS)})."
    )


def _each(found: dict[float, float], values: Iterable[float]) -> str:
    return ", ".join(
        f"{value:g}: {f'{found[value]:.1f} s' if value in found else 'not in time'}"
        for value in values
    )


class Reached:
    """Counts the seconds of training, and asks every half epoch whether a model reaches `GOAL` on the test rows."""

    EPOCHS = 4

    def __init__(self, bench: Bench, bound: float = math.inf) -> None:
        test = torchvision.datasets.FashionMNIST(fashion(bench.scratch), train=False)
        self._inputs, self._targets, self._bound = test.data[:, None], test.targets, bound
        self.steps, self.spent, self.reached, self._since = 0, 0.0, False, time.perf_counter()

    def start(self, prepare: Callable[[Tensor], Tensor]) -> None:
        """Training begins; `prepare` makes the model's inputs of (N, 1, 28, 28) bytes."""
        self._inputs = prepare(self._inputs)
        self._since = time.perf_counter()

    def step(self, model: nn.Module, half: int) -> bool:
        """Another step of `half` a half epoch is done; says whether that was the last."""
        self.steps += 1
        if self.steps % half == 0:
            self.spent += time.perf_counter() - self._since
            model.eval()
            with torch.no_grad():
                device = next(model.parameters()).device
                said = [
                    model(part.to(device)).argmax(1).cpu()
                    for part in torch.split(self._inputs, 1000)
                ]
            model.train()
            self.reached = (torch.cat(said) == self._targets).double().mean().item() >= GOAL
            self._since = time.perf_counter()
        return self.reached or self.steps >= 2 * half * self.EPOCHS or self.spent > self._bound


def _tuned(
    bench: Bench, values: Iterable[float], run: Callable[[Any, Reached], None]
) -> dict[float, float]:
    """Seconds to `GOAL` with each value that reaches it.

    One that is much slower than another is cut short.
    """
    found: dict[float, float] = {}
    for value in values:
        torch.manual_seed(0)
        watch = Reached(bench, 1.5 * min(found.values(), default=math.inf))
        run(value, watch)
        if watch.reached:
            found[value] = watch.spent
    return found


def _by_tutorial(bench: Bench, lr: float, watch: Reached) -> None:
    loop = Tutorial(bench, "cnn", lr)
    watch.start(lambda pixels: pixels.float() / 255)
    while True:
        for _ in loop.steps():
            if watch.step(loop.model, len(loop.loader) // 2):
                return


def _by_lightning(bench: Bench, lr: float, watch: Reached) -> None:
    loop = Tutorial(bench, "cnn", lr)
    watch.start(lambda pixels: pixels.float() / 255)
    half = len(loop.loader) // 2
    in_lightning(loop, seen=lambda: watch.step(loop.model, half), max_epochs=Reached.EPOCHS)


def _by_ratchet(bench: Bench, epochs: int, seed: int, watch: Reached) -> None:
    states: list[State] = []
    start = State.start

    def kept(*arguments: Any) -> State:
        states.append(start(*arguments))
        watch.start(Normalise(bench.spec, torch.device("cpu")))
        return states[-1]

    def stop() -> bool:
        state = states[-1]
        return state.model.training and watch.step(state.model, state.steps // 2)

    params = bench.params(train__epochs=epochs, train__seed=seed)
    with mock.patch.object(State, "start", kept), contextlib.suppress(SystemExit):
        bench.fit(params, stop)


def recipe(bench: Bench) -> None:
    """The default recipe."""
    rows = [bench.trial(train__seed=seed) for seed in range(3)]
    bench.say(f"`params.yaml`, 3 seeds: test accuracy {_spread(rows)} of training each.")


def accurate(bench: Bench) -> None:
    """The preset for accuracy."""
    rows = [bench.trial(**bench.preset("accurate"))]
    bench.say(f"`params/accurate.yaml`, one seed: test accuracy {_spread(rows)} of training.")


def ingredients(bench: Bench) -> None:
    """The default recipe less one ingredient, or with one more, three seeds each."""
    bench.say("| default recipe | test accuracy, 3 seeds | difference |\n|---|---|---|")
    base = 0.0
    for name, values in INGREDIENTS.items():
        rows = [bench.trial(**values, train__seed=seed) for seed in range(3)]
        found = statistics.mean(accuracy for accuracy, _ in rows)
        base = base or found
        bench.say(f"| {name} | {_spread(rows, timed=False)} | {100 * (found - base):+.2f} points |")


INGREDIENTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "constant rate of 0.001": {"train__schedule": None, "train__lr": 0.001},
    "SGD with momentum, rate 0.05": {
        "train__optimizer": {
            "name": "SGD",
            "arguments": {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        },
        "train__lr": 0.05,
    },
    "no label smoothing": {"train__criterion": {"name": "CrossEntropyLoss", "arguments": {}}},
    "no flips": {"train__augment__flip": False},
    "no dropout": {"model__arguments": {"dropout": 0.0}},
    "no weight decay": {"train__optimizer": {"name": "AdamW", "arguments": {"weight_decay": 0.0}}},
    "with `crop: 1`": {"train__augment__crop": 1},
    "with `erase: 0.25`": {"train__augment__erase": 0.25},
    "with `mixup: 0.2`": {"train__augment__mixup": 0.2},
    "with `cutmix: 1.0`": {"train__augment__cutmix": 1.0},
    "with `ema: 0.99`": {"train__ema": 0.99},
    "with `clip: 1.0`": {"train__clip": 1.0},
}


def _spread(rows: list[tuple[float, float]], timed: bool = True) -> str:
    found = [accuracy for accuracy, _ in rows]
    spread = f" (from {min(found):.4f} to {max(found):.4f})" if len(rows) > 1 else ""
    seconds = f", in {statistics.median(seconds for _, seconds in rows):.0f} s" if timed else ""
    return f"{statistics.mean(found):.4f}{spread}{seconds}"


def start(bench: Bench) -> None:
    code = (
        "import resource\nfrom pathlib import Path\nfrom ratchet import params\nfrom ratchet.process import age_s\n"
        "import tasks.train as verb\nseen = []\n"
        "def stop():\n seen.append(age_s())\n return len(seen) > 10\n"
        "verb.stopping, verb.scratch = stop, lambda tree: tree\n"
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
    plan = devices.plan(params.train, 0)
    state = State.start(params, bench.spec, plan, ALONE, bench.train, bench.val)
    state.learn(
        Normalise(bench.spec, plan.device)(bench.train[range(256)][0]),
        torch.zeros(256, dtype=torch.int64),
    )
    place, spent = Checkpoints(bench.scratch / "checkpoints"), []
    for step in range(11):
        began = time.perf_counter()
        place.save(state.content(), 0, step)
        spent.append(time.perf_counter() - began)
    interval = parameters.load(ROOT).run.checkpoint_seconds
    once = statistics.median(spent)
    size = max(place.folder.glob("*.pt")).stat().st_size
    bench.say(
        f"A checkpoint of `cnn` ({size / 1e6:.1f} MB, synced to disk) takes {once * 1000:.0f} ms: "
        f"{once / interval:.2%} of the default interval of {interval:g} s."
    )


def kills(bench: Bench, rounds: int = 50) -> None:
    """Kill -9 a run at random moments until it has finished, `rounds` times.

    Each must end bit-equal.
    """
    from tests.helpers.learning_samples import images, lay

    def run(tree: Path) -> None:
        small = {
            "train__epochs": 3,
            "train__batch_size": 50,
            "train__threads": 1,
            "train__ema": 0.9,
        }
        vars(verb)["scratch"] = lambda tree: tree
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
    bench.say(
        f"The same seed twice gives bit-equal weights: {same}; three seeds give three models: {different}."
    )


PARTS = {
    part.__name__: part
    for part in (
        kills,
        throughput,
        target,
        recipe,
        accurate,
        ingredients,
        start,
        checkpoints,
        seeds,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--prepared", type=Path, default=ROOT / "data/prepared")
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="only where there is a CUDA device; the parts that it changes",
    )
    parser.add_argument(
        "--write", action="store_true", help="put the figures into benchmarks/results.md"
    )
    arguments = parser.parse_args()
    if arguments.gpu and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device")
    chosen = arguments.parts or (
        ["throughput", "target", "recipe", "start"] if arguments.gpu else list(PARTS)
    )
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    bench = Bench(arguments.prepared)
    place = f"torch {torch.__version__}, {os.cpu_count()} CPU cores, {devices.plan(bench.params().train, 0)}"
    print(place, flush=True)
    found = {}
    try:
        for part in chosen:
            bench.figures = []
            PARTS[part](bench)
            found[part] = "\n".join(bench.figures)
    finally:
        shutil.rmtree(bench.scratch)
    if arguments.write:
        write("Training on CUDA" if arguments.gpu else "Training", place, found)


def write(title: str, place: str, found: dict[str, str]) -> None:
    """Replace these parts in the section `title` of the results; the others stay."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    section = re.compile(rf"(?ms)^## {title}\n.*?(?=^## |\Z)")
    before = section.search(text)
    held = dict(
        re.findall(r"(?ms)^### (\w+)\n\n(.*?)\n*(?=^### |\Z)", before.group() if before else "")
    )
    parts = "\n\n".join(
        f"### {part}\n\n{(held | found)[part]}" for part in PARTS if part in held | found
    )
    note = (
        ""
        if torch.cuda.is_available()
        else " No CUDA device was used yet; `make bench-gpu` prints the same for one."
    )
    made = f"## {title}\n\n`python -m benchmarks.training`, {place}.{note}\n\n{parts}\n\n"
    text = section.sub(lambda _: made, text) if before else f"{text.rstrip()}\n\n{made}"
    RESULTS.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
