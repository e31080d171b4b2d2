"""Evaluation beside the tutorial's test loop, our intervals beside torchmetrics', and what prediction of many rows takes.

    python -m benchmarks.evaluation [loop] [intervals] [prediction] [--rows 1000000]

`loop`: the model of this checkout (after `make run`) on its test rows: accuracy to the last digit,
images a second, in turns. `intervals`: 500 resamples of 10,000 rows and 10 classes; torchmetrics
comes with the extra `bench`. `prediction`: rows of features in one parquet file, scored by what
serves in prod of a small repository of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil

ROUNDS = 5
_T = TypeVar("_T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["loop", "intervals", "prediction"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if "loop" in arguments.parts:
        loop()
    if "intervals" in arguments.parts:
        intervals()
    if "prediction" in arguments.parts:
        prediction(arguments.rows)


def loop() -> None:
    """The tutorial's loop: torchvision's Dataset with ToTensor and Normalize, a DataLoader, a sum of right answers."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from ratchet.dataset.prepared import open_inputs
    from ratchet.models.card import load_model
    from ratchet.models.inference import probabilities

    torch.set_num_threads(2)
    test = Path("data/prepared/test")
    inputs, targets = open_inputs(test), np.load(test / "targets.npy")
    model, card = load_model(Path("models/classifier.json"), Path("models/classifier.pt"))
    pictures = [Image.fromarray(pixels[0]) for pixels in np.asarray(inputs)]
    prepared = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(card.spec["mean"], card.spec["std"])]
    )

    class Pictures(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return prepared(pictures[row]), int(targets[row])

    def tutorial() -> int:
        right = 0
        model.eval()
        with torch.no_grad():
            for images, labels in DataLoader(Pictures(), batch_size=64):
                right += int((model(images).argmax(1) == labels).sum())
        return right

    def ours() -> int:
        return int((probabilities(model, card, inputs, 1024).argmax(1) == targets).sum())

    times: dict[str, list[float]] = {"tutorial": [], "ratchet": []}
    right: dict[str, set[int]] = {"tutorial": set(), "ratchet": set()}
    for _ in range(ROUNDS):
        for name, run in (("tutorial", tutorial), ("ratchet", ours)):
            found, seconds = timed(run)
            times[name].append(len(targets) / seconds)
            right[name].add(found)
    print("| evaluation, float32 | right answers | images a second, median |\n|---|---|---|")
    for name in times:
        print(
            f"| {name} | {sorted(right[name])} of {len(targets):,} | {statistics.median(times[name]):,.0f} |"
        )


def intervals() -> None:
    import torch

    from ratchet.evaluation import metrics

    random = np.random.default_rng(0)
    targets = random.integers(0, 10, 10_000)
    scores = np.exp(random.normal(size=(10_000, 10)) + 2 * np.eye(10)[targets])
    shares = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    _, seconds = timed(
        lambda: metrics.summary(targets, shares, [str(n) for n in range(10)], resamples=500)
    )
    print(f"ours, every figure with its interval, 500 resamples: {seconds:.1f} s")
    try:
        _, importing = timed(lambda: __import__("torchmetrics"))
    except ImportError:
        sys.exit(
            "torchmetrics is not installed: `.venv/bin/pip install -c constraints.txt -e '.[bench]'`"
        )
    from torchmetrics import wrappers
    from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

    print(f"importing torchmetrics: {importing:.1f} s")
    for name, metric in (("accuracy", MulticlassAccuracy(10)), ("AUROC", MulticlassAUROC(10))):
        bootstrap = wrappers.BootStrapper(
            metric, num_bootstraps=500, mean=True, std=True, quantile=torch.tensor([0.025, 0.975])
        )

        def run(bootstrap: wrappers.BootStrapper = bootstrap) -> object:
            bootstrap.update(torch.from_numpy(shares), torch.from_numpy(targets))
            return bootstrap.compute()

        _, seconds = timed(run)
        print(f"torchmetrics' BootStrapper, {name} alone, 500 resamples: {seconds:.1f} s")


def prediction(rows: int) -> None:
    """Every seventh row is bad.

    Peak private memory is RssAnon of this process, sampled every 20 ms.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ratchet.git import head
    from tasks.gate import gate
    from tasks.predict import predict
    from tasks.promote import promote
    from tasks.register import register
    from tests.helpers.real import lay
    from tests.helpers.toy import Toy

    with tempfile.TemporaryDirectory() as folder:
        toy = Toy.make(Path(folder) / "checkout")
        lay(toy, 0.2)
        version = register.fn(
            toy.params, toy.tree, gate.fn(toy.params, toy.tree, "prod"), head(toy.tree)
        )
        promote.fn(toy.tree, version.name, "prod", "")
        values = np.where(np.arange(rows) % 7 == 0, np.inf, np.linspace(-1, 1, rows))
        pq.write_table(pa.table({"x": values}), toy.tree / "new.parquet", row_group_size=100_000)
        del values
        peak, stop = [0], threading.Event()

        def watch() -> None:
            while not stop.wait(0.02):
                peak[0] = max(peak[0], private_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        before = private_bytes()
        done, seconds = timed(
            lambda: predict.fn(toy.tree, "new.parquet", "prod", toy.tree / "out.parquet")
        )
        stop.set()
        watcher.join()
        written = pq.read_metadata(toy.tree / "out.parquet").num_rows
    print(
        f"{rows:,} rows in, {written:,} out, {done.bad:,} of them with a reason; {rows / seconds:,.0f} rows/s; "
        f"peak private memory {peak[0] / 1e6:,.0f} MB ({before / 1e6:,.0f} MB before)"
    )


def private_bytes() -> int:
    for line in Path(f"/proc/{psutil.Process().pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc: Linux only")


def timed(run: Callable[[], _T]) -> tuple[_T, float]:
    began = time.perf_counter()
    found = run()
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main()
