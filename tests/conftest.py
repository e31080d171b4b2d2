"""Real parts for the tests: a clone of this repository with a sample of Fashion-MNIST, trained once for all of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from tests.helpers.toy import Toy

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests/assets"
BIN = Path(sys.executable).parent

pytest_plugins = ["tests.order"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs with SIGINT ignored, and they would hand that on to every
    # process under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the trained repository, so that `make mutants` can leave them out."""
    for item in items:
        if "released" in getattr(item, "fixturenames", ()):
            item.add_marker("trains")


class Checkout:
    """A clone of this repository in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self, *command: str, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the virtual environment in here.

        `code` is the exit code that it must have (None: any).
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "RATCHET_", "DVC_"))
        }
        path = os.pathsep.join([str(BIN), os.environ["PATH"]])
        done = subprocess.run(
            command,
            cwd=self.path,
            env={
                **kept,
                "PATH": path,
                "DVC_NO_ANALYTICS": "1",
                "DVC_SITE_CACHE_DIR": str(self.path / ".site"),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            stdin=subprocess.DEVNULL,
        )
        assert code is None or done.returncode == code, (
            f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def ratchet(
        self, *arguments: str, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "cli", *arguments, code=code, **environment)

    def json(self, *arguments: str, **environment: str) -> Any:
        return json.loads(self.ratchet(*arguments, "--json", **environment).stdout)

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).stdout.strip()

    def set(self, **values: str) -> None:
        """Replace single values in params.yaml, by their last key."""
        file = self.path / "params.yaml"
        text = file.read_text()
        for key, value in values.items():
            text, count = re.subn(
                rf"(?m)^(\s*(?:- )?{key}: )(\S+|\{{.*?\}})", rf"\g<1>{value}", text, count=1
            )
            assert count == 1, f"params.yaml has no {key}"
        file.write_text(text)

    def commit(self, message: str = "Change something") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")


def fresh(path: Path) -> Checkout:
    """This repository as it stands (uncommitted edits too, but not what a run left), as one commit in its own clone."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.decode().split("\0")):
        left_by_a_run = name == "dvc.lock" or (
            name.startswith("reports/") and not name.endswith(".gitignore")
        )
        if (ROOT / name).is_file() and not left_by_a_run:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)
    checkout = Checkout(path)
    checkout.git("init", "--quiet", "--initial-branch", "main")
    checkout.git("config", "user.name", "Tester")
    checkout.git("config", "user.email", "tester@example.org")
    checkout.commit("Start")
    return checkout


def clone(path: Path) -> Checkout:
    """A fresh clone with params for the sample of Fashion-MNIST: two epochs, seconds in all."""
    checkout = fresh(path)
    checkout.set(
        root=str(SAMPLE), epochs="2", batch_size="32", min_accuracy="0.3", workers="1", threads="1"
    )
    checkout.ratchet("refresh")
    checkout.commit("Use the sample")
    return checkout


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder that `build` fills.

    The workers of a session share it, and the first to ask builds it.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after its first `ratchet train`: v1.0.0 serves in prod.

    All workers share it: read it only.
    """
    return Checkout(
        once(tmp_path_factory, "released", lambda folder: clone(folder).ratchet("train", "--json"))
    )


@pytest.fixture(scope="session")
def second(released: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Second:
    """A copy of `released` after a run with other settings, which put v1.0.1 into prod.

    Read it only.
    """

    def build(folder: Path) -> None:
        checkout = Checkout(shutil.copytree(released.path, folder, symlinks=True))
        checkout.set(margin="0.9")
        checkout.commit("Let everything through")
        summary = checkout.json("train", "--set", "train.seed=1", "--set", "gate.max_shrink=1")
        (folder / ".site/summary.json").write_text(json.dumps(summary))

    checkout = Checkout(once(tmp_path_factory, "second", build))
    return Second(checkout, json.loads((checkout.path / ".site/summary.json").read_text()))


class Second(NamedTuple):
    """A checkout with two versions, and what `ratchet train --json` printed about the second."""

    checkout: Checkout
    summary: dict[str, Any]


def duplicate(checkout: Checkout, target: Path) -> Iterator[Checkout]:
    """A copy to change at will, removed at the end."""
    shutil.copytree(checkout.path, target, symlinks=True)
    yield Checkout(target)
    shutil.rmtree(target)


@pytest.fixture
def copy(released: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A copy of `released` to change at will."""
    yield from duplicate(released, tmp_path / "copy")


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A small checkout with real git and a real DVC cache, whose runs cost milliseconds."""
    from tests.helpers.toy import Toy

    return Toy.make(tmp_path / "checkout")
