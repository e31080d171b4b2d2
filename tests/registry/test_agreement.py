"""Ours and GTO's answers agree after any history, with the clock moved back and forth."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ratchet.errors import VersionError
from ratchet.git import read
from ratchet.registry import history, loading, tags
from ratchet.upkeep.withdraw import withdraw
from tasks.promote import promote, rollback
from tests.helpers.toy import Toy, tool

ENVIRONMENTS = ("prod", "staging")
# What a registration may change, and whether that alone makes a minor version (data, params) or
# only a patch.
VALUES: dict[str, list[Any]] = {
    "train.seed": [0, 1, 2],
    "train.epochs": [1, 2, 3],
    "train.clip": [None, 0.5, 1.0],
    "prepare.size": [[28, 28], [8, 8]],
    "gate.margin": [0.005, 0.01],
}
MINOR = {"train.epochs", "train.clip", "prepare.size"}
CLASSES = (("cat", "dog"), ("cat", "dog", "eel"))


class History:
    """Random operations on a toy repository, beside a plain model of what each of them has to do."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.toy = folder, Toy.make(folder / "checkout")
        self.random = random.Random(seed)
        self.hours = 0.0
        self.done: Counter[str] = Counter()
        self.state: dict[str, Any] = {"rows": 1, "classes": CLASSES[0], **dict.fromkeys(VALUES)}
        self.versions: list[str] = []
        self.withdrawn: set[str] = set()
        self.stacks: dict[str, list[str]] = {environment: [] for environment in ENVIRONMENTS}
        self.assignments: list[tuple[str, str, str]] = []  # environment, version, action

    def run(self, operations: int) -> None:
        work = [self.register, self.promote, self.roll_back, self.withdraw, self.move_clock]
        for operation in self.random.choices(work, weights=[4, 6, 5, 1, 3], k=operations):
            with mock.patch.object(tags.time, "time", lambda: 1_800_000_000 + self.hours * 3600):
                self.done[operation()] += 1
            self.check()

    def move_clock(self) -> str:
        self.hours += self.random.randint(-1000, 1000)
        return "clock"

    def register(self) -> str:
        state = dict(self.state)
        for key in self.random.sample(list(VALUES), self.random.randint(0, 2)):
            state[key] = self.random.choice(VALUES[key])
            self.toy.set(key, state[key])
        if self.random.random() < 0.2:
            state["rows"] += 1
            self.toy.write({"source.lock": f'{{"rows": {state["rows"]}}}\n'})
        if self.random.random() < 0.15:
            state["classes"] = self.random.choice(CLASSES)
        name = self.next_name(state)
        accuracy = self.random.randint(0, 100) / 100
        version = self.toy.register(
            f"weights {len(self.versions)}", accuracy=accuracy, classes=state["classes"]
        )
        assert version.name == name
        self.versions.append(name)
        self.state = state
        return "register"

    def next_name(self, state: dict[str, Any]) -> str:
        """The number that the next version has to get, by what changed since the newest one."""
        if not self.versions:
            return "v1.0.0"
        changed = {key for key in state if state[key] != self.state[key]}
        major, minor, patch = map(int, self.versions[-1][1:].split("."))
        if "classes" in changed:
            return f"v{major + 1}.0.0"
        if changed & (MINOR | {"rows"}):
            return f"v{major}.{minor + 1}.0"
        return f"v{major}.{minor}.{patch + 1}"

    def promote(self) -> str:
        if not self.versions:
            return "nothing"
        environment, name = self.random.choice(ENVIRONMENTS), self.random.choice(self.versions)
        stack = self.stacks[environment]
        if stack and stack[-1] == name:
            assert not promote.fn(self.toy.tree, name, environment).changed
            return "promoted already"
        if name in self.withdrawn:
            return self.refused(
                "is withdrawn", lambda: promote.fn(self.toy.tree, name, environment)
            )
        assert promote.fn(self.toy.tree, name, environment).version == name
        stack.append(name)
        self.assignments.append((environment, name, "promote"))
        return "promote"

    def roll_back(self) -> str:
        environment = self.random.choice(ENVIRONMENTS)
        stack = self.stacks[environment]
        below = [
            at for at, name in enumerate(stack) if name != stack[-1] and name not in self.withdrawn
        ]
        if not below:
            text = "nothing to roll back to" if stack else f"nothing serves in {environment}"
            return self.refused(text, lambda: rollback.fn(self.toy.tree, environment))
        name = stack[below[-1]]
        assert rollback.fn(self.toy.tree, environment).version == name
        del stack[below[-1] + 1 :]
        self.assignments.append((environment, name, "rollback"))
        return "rollback"

    def withdraw(self) -> str:
        if not self.versions:
            return "nothing"
        name = self.random.choice(self.versions)
        if any(stack and stack[-1] == name for stack in self.stacks.values()):
            return self.refused(
                "what serves can't be withdrawn", lambda: withdraw(self.toy.tree, name, "bad")
            )
        assert withdraw(self.toy.tree, name, "bad").changed == (name not in self.withdrawn)
        self.withdrawn.add(name)
        return "withdraw"

    def refused(self, text: str, work: Callable[[], object]) -> str:
        with pytest.raises(VersionError, match=text):
            work()
        return "refused"

    def check(self) -> None:
        """The registry says what the model says."""
        registry = self.toy.registry
        assert registry.environments() == self.serving()
        assert [version.name for version in reversed(registry.versions())] == self.versions
        assert {
            version.name for version in registry.versions() if version.withdrawn
        } == self.withdrawn
        history = [entry for entries in registry.histories().values() for entry in entries]
        history.sort(key=lambda entry: entry.counter)
        assert [
            (entry.environment, entry.version, entry.action) for entry in history
        ] == self.assignments
        assert [entry.counter for entry in history] == list(range(1, len(history) + 1))

    def serving(self) -> dict[str, str]:
        return {environment: stack[-1] for environment, stack in self.stacks.items() if stack}

    def check_gto(self) -> None:
        tree = self.toy.tree
        shown = json.loads(tool("gto", "show", "--json", cwd=tree))["classifier"]
        assert {
            environment: name for environment, name in shown["stage"].items() if name
        } == self.serving()
        events = json.loads(tool("gto", "history", "classifier", "--json", "--asc", cwd=tree))
        by_kind = {kind: [entry for entry in events if entry["event"] == kind]
                   for kind in ("assignment", "registration", "deregistration")}  # fmt: skip
        assigned = [(entry["stage"], entry["version"]) for entry in by_kind["assignment"]]
        assert assigned == [(environment, name) for environment, name, _ in self.assignments]
        assert [entry["version"] for entry in by_kind["registration"]] == self.versions
        assert {entry["version"] for entry in by_kind["deregistration"]} == self.withdrawn

    def check_gto_listing(self) -> None:
        listed = json.loads(tool("gto", "show", "classifier", "--json", cwd=self.toy.tree))
        assert {entry["version"] for entry in listed} == set(self.versions) - self.withdrawn

    def check_dvc_bytes(self) -> None:
        for environment, name in self.serving().items():
            file = self.folder / environment
            get = (
                "dvc",
                "artifacts",
                "get",
                ".",
                "classifier",
                "--stage",
                environment,
                "-o",
                str(file),
            )
            tool(*get, cwd=self.toy.tree)
            content = loading.path(environment, self.toy.tree).read_text()
            assert file.read_text() == content == f"weights {self.versions.index(name)}"

    def check_dvc_differences(self, old: str, new: str) -> None:
        tree = self.toy.tree
        ours = history.diff(tree, old, new)
        names = [f"classifier@{name}" for name in (old, new)]
        params = json.loads(tool("dvc", "params", "diff", "--json", *names, cwd=tree)).get(
            "params.yaml", {}
        )
        theirs = {key: (pair["old"], pair["new"]) for key, pair in params.items()}
        assert theirs == {
            key: (_as_dvc(old), _as_dvc(new)) for key, (old, new) in ours.params.items()
        }
        metrics = json.loads(tool("dvc", "metrics", "diff", "--json", *names, cwd=tree)).get(
            "reports/metrics.json", {}
        )
        per_class = {
            f"per_class.{label}.{key}": pair
            for label, pairs in ours.per_class.items()
            for key, pair in pairs.items()
        }
        theirs = {
            key: (pair["old"], pair["new"])
            for key, pair in metrics.items()
            if "intervals" not in key
        }
        assert theirs == ours.metrics | per_class

    def check_dvc_plots(self, old: str, new: str) -> None:
        tree, names = self.toy.tree, [f"classifier@{name}" for name in (old, new)]
        plots = json.loads(tool("dvc", "plots", "diff", "--json", *names, cwd=tree))
        curve = "reports/training/curves.tsv"
        points = plots["data"][curve][0]["content"]["data"]["values"]
        lines = {name: (read(tree, name, curve) or b"").split()[1].decode() for name in names}
        assert {point["rev"]: point["epoch"] for point in points} == lines


def _as_dvc(value: Any) -> Any:
    """A value as `dvc params diff --json` prints it: a list is text there."""
    return str(value) if isinstance(value, list) else value


def test_the_stock_tools_agree_after_a_random_history(tmp_path: Path) -> None:
    history = History(tmp_path, seed=1)
    history.run(45)
    done = history.done
    assert min(done[kind] for kind in ("register", "promote", "rollback", "clock")) >= 4, done
    assert done["withdraw"] >= 2 and done["refused"] >= 2, done
    history.check_gto()
    history.check_dvc_differences(history.versions[0], history.versions[-1])


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_the_stock_tools_agree_after_two_hundred_operations(tmp_path: Path, seed: int) -> None:
    history = History(tmp_path, seed)
    history.run(200)
    done = history.done
    assert min(done[kind] for kind in ("register", "promote", "rollback", "clock")) >= 20, done
    assert done["withdraw"] >= 4 and done["refused"] >= 8, done
    history.check_gto()
    history.check_gto_listing()
    history.check_dvc_bytes()
    history.check_dvc_plots(history.versions[0], history.versions[-1])
    for at in range(0, len(history.versions) - 1, len(history.versions) // 5 + 1):
        history.check_dvc_differences(history.versions[at], history.versions[-1])
