"""Trees with small prepared data; a pytest plugin, named by the tests that use it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.learning_samples import Trainer, chosen, images, lay


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with 600 real images prepared; read it, don't write into it."""
    return lay(tmp_path_factory.mktemp("pictures"), *images())


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with 240 rows of 10 features prepared, two classes that a line can almost tell apart.

    Read only.
    """
    random = np.random.default_rng(1)
    inputs = random.normal(3, 2, (240, 10)).astype(np.float32)
    targets = (inputs[:, 0] + inputs[:, 1] + random.normal(0, 1, 240) > 6).astype(np.int64)
    return lay(tmp_path_factory.mktemp("numbers"), inputs, targets, ("no", "yes"))


@pytest.fixture
def pictured(pictures: Path, tmp_path: Path) -> Path:
    """A tree of its own with the images of `pictures`."""
    return shutil.copytree(pictures, tmp_path / "pictured")


@pytest.fixture
def tables(numbers: Path, tmp_path: Path) -> Path:
    """A tree of its own with the features of `numbers`."""
    return shutil.copytree(numbers, tmp_path / "tables")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    """Run the stage in a tree; gives what it wrote, by name."""
    import tasks.train as verb

    monkeypatch.setattr(verb, "scratch", lambda pictured: pictured)

    def run(pictured: Path, **values: Any) -> dict[str, bytes]:
        verb.train.fn(chosen(**values), pictured)
        names = ("models/classifier.pt", "models/classifier.json", "reports/training/curves.tsv")
        return {name: (pictured / name).read_bytes() for name in names}

    return run
