"""Small prepared data, and params to train on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ruamel.yaml

from ratchet import params as parameters
from ratchet.dataset.spec import Spec
from ratchet.overrides import replaced
from ratchet.params import Params

ROOT = Path(__file__).parents[2]
RAW = ROOT / "tests/assets/FashionMNIST/raw"
NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def images() -> tuple[np.ndarray, np.ndarray]:
    """600 real images (N, 1, 28, 28) uint8 and their classes (N,) int64."""
    read: dict[str, list[np.ndarray]] = {kind: [] for kind in ("images-idx3", "labels-idx1")}
    for part in ("train", "t10k"):
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
            read[kind].append(np.fromfile(RAW / f"{part}-{kind}-ubyte", np.uint8, offset=header))
    inputs, targets = (np.concatenate(each) for each in read.values())
    return inputs.reshape(-1, 1, 28, 28), targets.astype(np.int64)


def lay(
    tree: Path, inputs: np.ndarray, targets: np.ndarray, classes: tuple[str, ...] = NAMES
) -> Path:
    """Write `data/prepared` as prepare does: 5/6 of the rows to train on, 1/12 for validation, 1/12 for testing."""
    counts = {"train": len(targets) * 5 // 6, "val": len(targets) // 12, "test": len(targets) // 12}
    order = np.random.default_rng(0).permutation(len(targets))
    start = 0
    for split, count in counts.items():
        chosen = order[start : start + count]
        folder = tree / "data/prepared" / split
        folder.mkdir(parents=True)
        np.save(folder / "inputs.npy", inputs[chosen])
        np.save(folder / "targets.npy", targets[chosen])
        pq.write_table(
            pa.table({"row_id": [f"{row:032x}" for row in chosen]}), folder / "meta.parquet"
        )
        start += count
    picture = inputs.ndim == 4
    seen = inputs[order[: counts["train"]]] / (255 if picture else 1)
    axes = (0, 2, 3) if picture else (0,)
    Spec(
        kind="image" if picture else "features",
        input_shape=inputs.shape[1:],
        classes=classes,
        mean=tuple(seen.mean(axes).tolist()),
        std=tuple(seen.std(axes).tolist()),
        counts=counts,
        features=None if picture else tuple(f"x{n}" for n in range(inputs.shape[1])),
        size=tuple(inputs.shape[2:]) if picture else None,
        channels=inputs.shape[1] if picture else None,
    ).write(tree / "data/prepared/spec.json")
    return tree


def chosen(**values: Any) -> Params:
    """params.yaml with other values, by dotted keys written with two underscores: `train__epochs=2`."""
    raw = ruamel.yaml.YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    raw["train"].update(epochs=2, batch_size=50, threads=1)
    raw["run"]["checkpoint_seconds"] = 1e-9
    for key, value in values.items():
        *path, last = key.split("__")
        section = raw
        for part in path:
            section = section[part]
        section[last] = value
    return parameters.parse(raw)


def checkout(tree: Path, settings: dict[str, str]) -> Path:
    """Make a checkout of a tree with prepared data, so that `python -m tasks.train` runs there."""
    (tree / "params.yaml").write_text(replaced((ROOT / "params.yaml").read_text(), settings))
    shutil.copy(ROOT / "dvc.yaml", tree)
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
    return tree


def started(arguments: list[str], tree: Path) -> subprocess.Popen[str]:
    """`python arguments...` in `tree`; stdout and stderr are one pipe."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read its lines up to one with `words`; it has to come before the process ends."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return
    raise AssertionError(f"{words!r} never came: {''.join(lines)}")


def ended(process: subprocess.Popen[str], code: int) -> str:
    """Wait until the process is gone, with that exit code.

    Gives the lines that nobody read before.
    """
    try:
        said: str = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert process.returncode == code, said
    return said


Trainer = Callable[..., dict[str, bytes]]
