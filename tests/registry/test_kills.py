"""Commands killed at random moments: the state is the old one or the new one, and the same command completes it.

No test repairs anything itself. After a kill only commands of Ratchet run.
"""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ratchet import out_of_date
from ratchet.git import git
from ratchet.registry import loading, pending
from ratchet.upkeep.adopt import adopt
from ratchet.upkeep.gc import collect
from ratchet.upkeep.push import push
from ratchet.upkeep.verify import verify
from tasks.promote import promote, rollback
from tests.helpers.toy import Toy
from tests.helpers.workers import Worker, say

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
COMMANDS = ("adopt", "promote", "rollback", "push", "gc", "publish")


@dataclass(frozen=True)
class Place:
    """A checkout with v1.0.0 to v1.0.2, of which the last one serves, its DVC remote and its git remote."""

    folder: Path

    @property
    def toy(self) -> Toy:
        return Toy(self.folder / "checkout")

    @property
    def origin(self) -> Path:
        return self.folder / "origin.git"

    @classmethod
    def make(cls, folder: Path) -> Place:
        toy = Toy.make(folder / "checkout")
        toy.set("register.push_to", "origin")
        git("clone", "--quiet", "--bare", str(toy.tree), str(folder / "origin.git"), cwd=folder)
        place = cls(folder)
        git("remote", "add", "origin", str(place.origin), cwd=toy.tree)
        toy.remote(folder / "store")
        for number in range(3):
            toy.set("train.seed", number + 1)
            toy.commit(f"Take another seed: {number + 1}")
            toy.release(f"weights {number}")
        toy.write({"code/train.py": "# other\n", "code/helper.py": "# new\n"})
        toy.commit("Go on")
        return place

    def copy(self, folder: Path, command: str) -> Place:
        shutil.copytree(self.folder, folder, symlinks=True)
        place = Place(folder)
        git("remote", "set-url", "origin", str(place.origin), cwd=place.toy.tree)
        # as on a server: the other side of a push is not killed with it
        git("config", "remote.origin.receivepack", "setsid git-receive-pack", cwd=place.toy.tree)
        store = folder / "store"
        place.toy.write({".dvc/config.local": f"['remote \"store\"']\n    url = {store}\n"})
        if command == "push":  # everything has to be sent
            shutil.rmtree(store)
            shutil.rmtree(place.origin)
            git("init", "--quiet", "--bare", str(place.origin), cwd=folder)
        if command == "gc":
            for number in range(40):
                place.toy.cache(f"garbage {number}".encode())
        return place

    def tags(self, at: Path) -> dict[str, str]:
        lines = git(
            "for-each-ref", "--format=%(refname) %(objectname)", "refs/tags", cwd=at
        ).splitlines()
        return dict(line.split() for line in lines)

    def garbage(self) -> list[Path]:
        files = (self.toy.tree / ".dvc/cache/files/md5").glob("??/*")
        return [file for file in files if file.read_bytes().startswith(b"garbage")]


def run(tree: Path, command: str) -> None:
    """One of the commands, as the command line runs it."""
    toy = Toy(tree)
    say("begin")
    if command == "adopt":
        adopt(tree, "v1.0.0", code=True)
    elif command == "promote":
        promote.fn(tree, "v1.0.0", "prod")
    elif command == "rollback":
        rollback.fn(tree, "prod")
    elif command == "push":
        push(toy.params, tree)
    elif command == "gc":
        collect(tree, apply=True, grace_s=0)
    else:
        toy.release("weights 3")


class Killer:
    """Kills commands after a random part of the time that they take."""

    def __init__(self, template: Place, seed: int) -> None:
        self.template, self.random = template, random.Random(seed)
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, list[str]] = {}

    def measure(self, folder: Path, command: str) -> None:
        """Let it run to its end once, and check that the end is the new state."""
        place = self.template.copy(folder, command)
        worker = Worker(place.folder, run, place.toy.tree, command)
        worker.wait_for_start()
        started = time.monotonic()
        worker.succeed()
        self.seconds[command] = time.monotonic() - started
        assert self.state(place, command) == "new"
        shutil.rmtree(folder)

    def kill(self, folder: Path, command: str) -> None:
        place = self.template.copy(folder, command)
        worker = Worker(place.folder, run, place.toy.tree, command)
        worker.wait_for_start()
        time.sleep(self.random.random() * self.seconds[command])
        worker.kill(group=self.random.random() < 0.5)
        # three of four kills are to come before the end, however busy the machine is
        self.seconds[command] *= 0.85 if worker.join() == 0 else 1.05
        state = self.state(place, command)
        self.outcomes.setdefault(command, []).append(state)
        self.check_whole(place)
        if state == "old" or command != "rollback":
            Worker(place.folder, run, place.toy.tree, command).succeed()
        else:
            push(place.toy.params, place.toy.tree)  # the next command that reaches the remote
        assert self.state(place, command) == "new"
        self.check_finished(place, command)
        shutil.rmtree(folder)

    def state(self, place: Place, command: str) -> str:
        """Whether the state is that before the command, that after it, or one in between that does no harm."""
        toy, names = place.toy, [version.name for version in place.toy.registry.versions()]
        history = [entry.version for entry in toy.registry.history("prod")]
        if command == "adopt":
            before, now = (
                git("rev-parse", "main", cwd=at.toy.tree) for at in (self.template, place)
            )
            assert before in (now, git("rev-parse", "main^", cwd=toy.tree))
            return "old" if now == before else "new"
        if command == "push":
            there = self.tags(place)
            assert there.items() <= place.tags(toy.tree).items()
            return "new" if there == place.tags(toy.tree) else "old"
        if command == "gc":
            return "old" if place.garbage() else "new"
        added = {"promote": "v1.0.0", "rollback": "v1.0.1", "publish": "v1.0.3"}[command]
        if history == ["v1.0.0", "v1.0.1", "v1.0.2"]:
            # a version may be registered and not promoted yet: these are two commands
            assert names in (
                ["v1.0.2", "v1.0.1", "v1.0.0"],
                ["v1.0.3", "v1.0.2", "v1.0.1", "v1.0.0"],
            )
            assert toy.serves() == "v1.0.2"
            return "old"
        assert history == ["v1.0.0", "v1.0.1", "v1.0.2", added]
        assert toy.serves() == added
        return "new"

    def tags(self, place: Place) -> dict[str, str]:
        return place.tags(place.origin)

    def check_whole(self, place: Place) -> None:
        """Every version is complete, and what serves can be loaded."""
        findings = [
            finding
            for finding in verify(place.toy.tree)
            if "the card of a model" not in finding.message
        ]
        known = ("lacks", "is not pushed to")  # before `push` is done
        findings = [
            finding for finding in findings if not any(words in finding.message for words in known)
        ]
        assert findings == []
        version = place.toy.registry.serving("prod")
        assert version is not None
        loading.files(place.toy.tree, version)

    def check_finished(self, place: Place, command: str) -> None:
        tree = place.toy.tree
        findings = [
            finding for finding in verify(tree) if "the card of a model" not in finding.message
        ]
        assert findings == []
        assert place.tags(tree) == place.tags(place.origin)
        assert pending.read(tree) == []
        assert git("for-each-ref", "refs/ratchet", cwd=tree) == ""
        if command == "adopt":
            assert git("status", "--porcelain", cwd=tree) == ""
            assert out_of_date.changes(tree) == {}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place.make(tmp_path_factory.mktemp("place"))


def kills(folder: Path, template: Place, command: str, count: int, seed: int = 0) -> None:
    killer = Killer(template, seed)
    killer.measure(folder / "whole", command)
    for number in range(count):
        killer.kill(folder / str(number), command)
    outcomes = killer.outcomes[command]
    print(f"\n{command}: {count} kills within {killer.seconds[command]:.2f} s: {outcomes.count('old')} old, "
          f"{outcomes.count('new')} new")  # fmt: skip


@pytest.mark.fault(2)
@pytest.mark.parametrize(("command", "count"), [("adopt", 1), ("rollback", 2)])
def test_killed_and_run_again(tmp_path: Path, template: Place, command: str, count: int) -> None:
    kills(tmp_path, template, command, count, seed=1)


@pytest.mark.soak
@pytest.mark.long
@pytest.mark.fault(2)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_forty_random_moments(tmp_path: Path, template: Place, command: str) -> None:
    kills(tmp_path, template, command, count=40)
