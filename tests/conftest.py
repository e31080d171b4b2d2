"""Real parts for the tests: a clone of this repository with a sample of Fashion-MNIST, trained once for all of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.versions.toy import Toy

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests/assets"
BIN = Path(sys.executable).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the trained repository, so that `tests/mutants.py` can leave them out."""
    for item in items:
        if "released" in getattr(item, "fixturenames", ()):
            item.add_marker("trains")


class Checkout:
    """A clone of this repository in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the virtual environment in here; `code` is the exit code that it must have (None: any)."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RATCHET_", "DVC_"))
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

    def ratchet(self, *arguments: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "flows", *arguments, code=code, **environment)

    def json(self, *arguments: str, **environment: str) -> Any:
        return json.loads(self.ratchet(*arguments, "--json", **environment).stdout)

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).stdout.strip()

    def set(self, **values: str) -> None:
        """Replace single values in params.yaml, by their last key."""
        file = self.path / "params.yaml"
        text = file.read_text()
        for key, value in values.items():
            text, count = re.subn(rf"(?m)^(\s*(?:- )?{key}: )(\S+|\{{.*?\}})", rf"\g<1>{value}", text, count=1)
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
        left_by_a_run = name == "dvc.lock" or (name.startswith("reports/") and not name.endswith(".gitignore"))
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
    checkout.set(root=str(SAMPLE), epochs="2", batch_size="32", min_accuracy="0.3", workers="1", threads="1")
    checkout.ratchet("refresh")
    checkout.commit("Use the sample")
    return checkout


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after its first `ratchet train`: v1.0.0 serves in prod. Read it, don't change it."""
    checkout = clone(tmp_path_factory.mktemp("released"))
    checkout.ratchet("train", "--json")
    return checkout


@pytest.fixture
def copy(released: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A copy of `released` to change at will."""
    target = tmp_path / "copy"
    shutil.copytree(released.path, target, symlinks=True)
    yield Checkout(target)
    shutil.rmtree(target)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A small checkout with real git and a real DVC cache, whose runs cost milliseconds."""
    from tests.versions.toy import Toy

    return Toy.make(tmp_path / "checkout")
