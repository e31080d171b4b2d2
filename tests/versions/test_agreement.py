"""Ours and GTO's answers agree after any history, with the clock moved back and forth; and nothing is lost in a race."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tasks.errors import VersionError
from tasks.promote import promote, rollback
from tasks.register import register
from tasks.verify import verify
from tasks.versions import lineage, loading, tags
from tasks.versions.git import git, head, read
from tasks.withdraw import withdraw
from tests.versions.real import lay
from tests.versions.toy import ROOT, Toy, tool

ENVIRONMENTS = ("prod", "staging")
VALUES = {
    "train.seed": st.integers(0, 3),
    "train.epochs": st.integers(1, 5),
    "train.clip": st.sampled_from([None, 0.5, 1.0]),
    "prepare.size": st.sampled_from([[28, 28], [8, 8]]),
    "model.name": st.sampled_from(["cnn", "mlp"]),
    "gate.margin": st.sampled_from([0.005, 0.01]),
}


class Histories(RuleBasedStateMachine):
    """Random operations, checked against a plain model after each and against the stock tools at the end."""

    most = 0  # operations in one history
    pairs = 1  # of versions whose differences are compared, at most

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ratchet-"))
        self.toy = Toy.make(self.folder / "checkout")
        self.clock, self.operations = 0.0, 0
        self.stacks: dict[str, list[str]] = {environment: [] for environment in ENVIRONMENTS}
        self.withdrawn: set[str] = set()
        self.versions: list[str] = []

    def act(self, work: Any) -> Any:
        self.operations += 1
        Histories.most = max(Histories.most, self.operations)
        with mock.patch.object(tags.time, "time", lambda: 1_800_000_000 + self.clock):
            return work()

    @rule(hours=st.integers(-1000, 1000))
    def move_clock(self, hours: int) -> None:
        self.clock += hours * 3600

    @rule(
        values=st.fixed_dictionaries({}, optional=VALUES),
        rows=st.integers(1, 3),
        accuracy=st.integers(0, 100),
        classes=st.sampled_from([("cat", "dog"), ("cat", "dog"), ("cat", "dog", "eel")]),
    )
    def register(self, values: dict[str, Any], rows: int, accuracy: int, classes: tuple[str, ...]) -> None:
        for key, value in values.items():
            self.toy.set(key, value)
        self.toy.write({"source.lock": f'{{"rows": {rows}}}\n'})
        weights = f"weights {len(self.versions)}"
        version = self.act(lambda: self.toy.register(weights, accuracy=accuracy / 100, classes=classes))
        self.versions.append(version.name)

    @rule(environment=st.sampled_from(ENVIRONMENTS), pick=st.integers(0, 100))
    def promote(self, environment: str, pick: int) -> None:
        usable = [name for name in self.versions if name not in self.withdrawn]
        if usable:
            name, stack = usable[pick % len(usable)], self.stacks[environment]
            self.act(lambda: promote.fn(self.toy.tree, name, environment))
            if not stack or stack[-1] != name:
                stack.append(name)

    @rule(environment=st.sampled_from(ENVIRONMENTS))
    def roll_back(self, environment: str) -> None:
        stack = self.stacks[environment]
        below = [at for at, name in enumerate(stack) if name != stack[-1] and name not in self.withdrawn]
        if not below:
            with pytest.raises(VersionError, match="roll"):
                self.act(lambda: rollback.fn(self.toy.tree, environment))
            return
        self.act(lambda: rollback.fn(self.toy.tree, environment))
        del stack[below[-1] + 1 :]

    @rule(pick=st.integers(0, 100))
    def withdraw(self, pick: int) -> None:
        if not self.versions:
            return
        name = self.versions[pick % len(self.versions)]
        if any(stack and stack[-1] == name for stack in self.stacks.values()):
            with pytest.raises(VersionError, match="what serves can't be withdrawn"):
                self.act(lambda: withdraw(self.toy.tree, name, "no good"))
            return
        self.act(lambda: withdraw(self.toy.tree, name, "no good"))
        self.withdrawn.add(name)

    @invariant()
    def serves_what_the_model_says(self) -> None:
        if hasattr(self, "toy"):
            for environment, stack in self.stacks.items():
                assert self.toy.serves(environment) == (stack[-1] if stack else None)

    def teardown(self) -> None:
        if not hasattr(self, "toy"):
            return
        try:
            if self.versions:
                self.gto_agrees()
                self.dvc_agrees_on_bytes()
                for at in range(0, len(self.versions) - 1, len(self.versions) // self.pairs + 1):
                    self.dvc_agrees_on_differences(self.versions[at], self.versions[-1])
        finally:
            shutil.rmtree(self.folder)

    def gto_agrees(self) -> None:
        tree, registry = self.toy.tree, self.toy.registry
        shown = json.loads(tool("gto", "show", "--json", cwd=tree))
        theirs = {at: name for at, name in shown["classifier"]["stage"].items() if name}
        assert theirs == registry.environments() == {at: stack[-1] for at, stack in self.stacks.items() if stack}
        listed = json.loads(tool("gto", "show", "classifier", "--json", cwd=tree))
        alive = {version.name for version in registry.versions() if not version.withdrawn}
        assert {each["version"] for each in listed} == alive == set(self.versions) - self.withdrawn
        events = json.loads(tool("gto", "history", "classifier", "--json", "--asc", cwd=tree))
        ours = sorted((each.counter, each.environment, each.version)
                      for environment in ENVIRONMENTS for each in registry.history(environment))  # fmt: skip
        assigned = [(each["stage"], each["version"]) for each in events if each["event"] == "assignment"]
        assert assigned == [(environment, version) for _, environment, version in ours]
        assert [each["version"] for each in events if each["event"] == "registration"] == self.versions
        assert {each["version"] for each in events if each["event"] == "deregistration"} == self.withdrawn

    def dvc_agrees_on_bytes(self) -> None:
        for environment, name in self.toy.registry.environments().items():
            got = self.folder / environment
            tool(
                "dvc", "artifacts", "get", ".", "classifier", "--stage", environment, "-o", str(got), cwd=self.toy.tree
            )
            ours = loading.path(environment, self.toy.tree)
            assert got.read_text() == ours.read_text() == f"weights {self.versions.index(name)}"

    def dvc_agrees_on_differences(self, old: str, new: str) -> None:
        tree = self.toy.tree
        found = lineage.diff(tree, old, new)
        names = [f"classifier@{name}" for name in (old, new)]
        params = json.loads(tool("dvc", "params", "diff", "--json", *names, cwd=tree)).get("params.yaml", {})
        metrics = json.loads(tool("dvc", "metrics", "diff", "--json", *names, cwd=tree)).get("reports/metrics.json", {})
        assert {key: (str(each["old"]), str(each["new"])) for key, each in params.items()} == {
            key: tuple(map(str, pair)) for key, pair in found.params.items()
        }
        per_class = {
            f"per_class.{label}.{key}": pair for label, pairs in found.per_class.items() for key, pair in pairs.items()
        }
        assert {key: (each["old"], each["new"]) for key, each in metrics.items() if "intervals" not in key} == {
            **found.metrics,
            **per_class,
        }
        plots = json.loads(tool("dvc", "plots", "diff", "--json", *names, cwd=tree))
        curve = "reports/training/curves.tsv"
        points = plots["data"][curve][0]["content"]["data"]["values"]
        rows = {point["rev"]: point["epoch"] for point in points}
        held = {name: (read(tree, name, curve) or b"").split()[1].decode() for name in names}
        assert rows == held


def histories(examples: int, steps: int, pairs: int) -> None:
    Histories.most, Histories.pairs = 0, pairs
    quiet = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        suppress_health_check=[*HealthCheck],
    )
    run_state_machine_as_test(Histories, settings=quiet)


def test_the_stock_tools_agree_after_random_histories() -> None:
    histories(examples=3, steps=20, pairs=1)
    assert Histories.most >= 10


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_stock_tools_agree_after_two_hundred_operations() -> None:
    histories(examples=5, steps=260, pairs=5)
    assert Histories.most >= 200


RELEASE = """
import sys
from pathlib import Path
from tests.versions.toy import Toy
Toy(Path(sys.argv[1])).release(sys.argv[2])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_pairs_of_publications_at_once(toy: Toy, tmp_path: Path) -> None:
    toy.set("register.push_to", "origin")
    toy.commit("Publish")
    for name in ("here", "there"):
        git(
            "clone", "--quiet", "--bare", str(toy.tree), str(tmp_path / "origin.git"), cwd=tmp_path
        ) if name == "here" else 0
        git("clone", "--quiet", str(tmp_path / "origin.git"), str(tmp_path / name), cwd=tmp_path)
    trees = [tmp_path / "here", tmp_path / "there"]
    for pair in range(50):
        children = [start(RELEASE, str(tree), f"{tree.name} {pair}") for tree in trees]
        for child in children:
            assert child.wait() == 0, child.stderr.read().decode() if child.stderr else ""
            if child.stderr:
                child.stderr.close()
    seen = []
    for tree in trees:
        tags.fetch(tree, "origin")
        seen.append(git("for-each-ref", "--format=%(refname) %(objectname)", "refs/tags", cwd=tree))
    assert (
        seen[0]
        == seen[1]
        == git("for-each-ref", "--format=%(refname) %(objectname)", "refs/tags", cwd=tmp_path / "origin.git")
    )
    registry = Toy(trees[0]).registry
    assert len(registry.versions()) == 100
    assert len({version.weights_sha256 for version in registry.versions()}) == 100
    assert len(registry.history("prod")) == 100


WORK = """
import sys
from pathlib import Path
from tasks.adopt import adopt
from tasks.collect import collect
from tasks.promote import promote, rollback
from tests.versions.toy import Toy
toy, what, weights = Toy(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
print("ready", flush=True)
if what == "publish":
    toy.release(weights)
elif what == "promote":
    promote.fn(toy.tree, "v1.0.0", "staging")
elif what == "rollback":
    rollback.fn(toy.tree, "prod")
elif what == "adopt":
    adopt(toy.tree, "v1.0.0", code=True)
else:
    collect(toy.tree, apply=True, grace_s=0)
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
@pytest.mark.parametrize("what", ["publish", "promote", "rollback", "adopt", "gc"])
def test_killed_at_random_moments(what: str, tmp_path: Path) -> None:
    generator = random.Random(0)
    template = Toy.make(tmp_path / "template")
    template.remote(tmp_path / "store")
    for threshold in (0.2, 0.1):
        sha256 = lay(template, threshold)
        version = register.fn(template.params, template.tree, template.decide(sha256), head(template.tree))
        promote.fn(template.tree, version.name, "prod")
    template.write({"code/train.py": "# other\n", "code/helper.py": "# new\n"})
    base = template.commit("Go on")
    duration = 1.5
    for kill in range(40):
        tree = tmp_path / f"run-{kill}"
        shutil.copytree(template.tree, tree, symlinks=True)
        child = subprocess.Popen(
            [sys.executable, "-c", WORK, str(tree), what, f"w{kill}"], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert child.stdout is not None
        with child.stdout:
            child.stdout.readline()
            began = time.monotonic()
            time.sleep(generator.random() * duration)
            os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
        if child.wait() == 0:
            duration = max(0.2, min(duration, time.monotonic() - began))
        toy = Toy(tree)
        served = toy.serves()
        assert served is not None
        # a toy's weights are no model, so a version published here loads nowhere; all else about it has to be whole
        assert [finding for finding in verify(tree) if "no card of a model" not in finding.message] == []
        if what != "rollback" or served == "v1.0.1":
            done = subprocess.run(
                [sys.executable, "-c", WORK, str(tree), what, f"w{kill}"], cwd=ROOT, capture_output=True
            )
            assert done.returncode == 0, done.stderr.decode()
        if what == "adopt":
            assert git("rev-parse", "HEAD^", cwd=tree) == base
            assert git("status", "--porcelain", cwd=tree) == ""
            assert json.loads(tool("dvc", "status", "--json", cwd=tree)) == {}
        if what == "publish":
            assert [version.name for version in toy.registry.versions()] == ["v2.0.0", "v1.0.1", "v1.0.0"]
            assert toy.serves() == "v2.0.0"
        shutil.rmtree(tree)
