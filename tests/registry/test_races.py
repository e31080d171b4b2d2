"""Two clones and a bare remote, changed by several processes at once: every change counts once, and none is lost."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.errors import RatchetError
from ratchet.git import git
from ratchet.registry import exchange, pending, publication, tags
from ratchet.registry.records import Assignment
from ratchet.upkeep.gc import collect
from ratchet.upkeep.push import push
from ratchet.upkeep.verify import verify
from tasks.promote import promote, rollback
from tests.helpers.toy import Toy
from tests.helpers.workers import Worker, say, until

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")
FETCHES = (
    ("fetch", "--quiet", "--prune", "--tags", "origin"),
    ("fetch", "--quiet", "--prune", "--prune-tags", "origin"),
    ("pack-refs", "--all", "--prune"),
    ("-c", "gc.auto=1", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet"),
)


def clones(folder: Path, versions: int, promotions: int) -> list[Toy]:
    """Two clones of a bare repository, both with a history of `promotions` that take turns among the versions."""
    toy = Toy.make(folder / "here")
    toy.remote(folder / "store")
    names = [toy.register(f"weights {number}").name for number in range(versions)]
    for name in itertools.islice(itertools.cycle(names), promotions):
        promote.fn(toy.tree, name, "prod")
    toy.set("register.push_to", "origin")
    toy.commit("Publish")
    git("clone", "--quiet", "--bare", str(toy.tree), str(folder / "origin.git"), cwd=folder)
    git("remote", "add", "origin", str(folder / "origin.git"), cwd=toy.tree)
    git("clone", "--quiet", str(folder / "origin.git"), str(folder / "there"), cwd=folder)
    push(toy.params, toy.tree)
    return [toy, Toy(folder / "there")]


def refs(tree: Path) -> str:
    return git(
        "for-each-ref", "--format=%(refname) %(objectname)", "refs/tags", "refs/ratchet", cwd=tree
    )


# ── what the processes do ───────────────────────────────────────────────────────────────────────


def loop(stop: Path, trees: list[Path], work: Callable[[Path, int], object]) -> None:
    """Repeat `work` on the trees by turns; log how often it was done, and its errors."""
    for turn in itertools.count():
        if stop.exists():
            break
        try:
            work(trees[turn % len(trees)], turn // len(trees))
            say("done")
        except RatchetError as error:
            say(f"{type(error).__name__}: {error}")


def fetch(tree: Path, turn: int) -> None:
    """What an editor or a person does meanwhile.

    Git may refuse it, as while a reference is locked.
    """
    subprocess.run(
        ["git", *FETCHES[turn % len(FETCHES)]], cwd=tree, check=False, capture_output=True
    )


def promote_next(tree: Path, turn: int) -> None:
    names = sorted(version.name for version in Toy(tree).registry.versions())
    index = 2 * turn + (tree.name == "there")
    promote.fn(tree, names[index % len(names)], "prod", reason=f"promotion {tree.name} {turn}")


def push_everything(tree: Path, turn: int) -> None:
    push(Toy(tree).params, tree)


def collect_garbage(tree: Path, turn: int) -> None:
    collect(tree, apply=True, grace_s=0)


def roll_back(tree: Path, count: int) -> None:
    for turn in range(count):
        started = time.monotonic()
        done = rollback.fn(tree, "prod", reason=f"rollback {tree.name} {turn}")
        say([done.reason, done.version, round(time.monotonic() - started, 3), done.unpushed])


# ── what has to be true afterwards ──────────────────────────────────────────────────────────────


def check_steps(history: list[Assignment]) -> None:
    """Each rollback goes back to what served before, of the state that it saw: a stack of names says which."""
    stacks: dict[int, list[str]] = {
        0: []
    }  # by counter: what is in service after it, and under that
    originals: dict[
        tuple[str, int], int
    ] = {}  # who used a number that another machine had used, and its new number
    counters = [entry.counter for entry in history]
    last = 0
    for entry in history:
        who = entry.reason.split()[1] if entry.reason else ""
        seen = last
        if "was" in entry.tag.data:  # it was made when only the entries below this number existed
            below = max(counter for counter in stacks if counter < entry.tag.data["was"])
            seen = originals.get((who, entry.tag.data["was"] - 1), below)
            originals[who, entry.tag.data["was"]] = entry.counter
        stack = list(stacks[seen])
        if "again" in entry.tag.data:
            stack = list(stacks[entry.tag.data["again"]])
        elif entry.action == "promote":
            stack.append(entry.version)
        else:
            while stack[-1] == stacks[seen][-1]:
                stack.pop()
        assert stack[-1] == entry.version, "\n".join(
            map(line, history[: counters.index(entry.counter) + 1][-15:])
        )
        stacks[entry.counter] = stack
        last = entry.counter


def line(entry: Assignment) -> str:
    origin = {key: entry.tag.data[key] for key in ("was", "again") if key in entry.tag.data}
    return f"{entry.counter} {entry.action} {entry.version} over {entry.under} {origin or ''} {entry.reason}"


def check(toys: list[Toy], before: int) -> list[str]:
    """Both clones and the remote agree, nothing is pending or damaged.

    Returns the reasons in the history.
    """
    for toy in (*toys, *toys):
        publication.sync(toy.tree, "origin")
    origin = toys[0].tree.parent / "origin.git"
    assert refs(toys[0].tree) == refs(toys[1].tree) == refs(origin)
    for toy in toys:
        # a toy's weights do not load
        assert [
            finding for finding in verify(toy.tree) if "the card of a model" not in finding.message
        ] == []
    history = toys[0].registry.history("prod")
    check_steps(history)
    return [entry.reason for entry in history[before:] if "again" not in entry.tag.data]


def race(folder: Path, rollbacks: int, promotions: int) -> None:
    """Roll back from both clones, `rollbacks` times each, beside four loops that change the same state."""
    toys = clones(folder, versions=4, promotions=promotions)
    trees, stop = [toy.tree for toy in toys], folder / "stop"
    works = [fetch, promote_next, push_everything, collect_garbage]
    loops = [Worker(folder, loop, stop, trees, work) for work in works]
    for worker in loops:
        worker.wait_for_start()
    with until(stop, *loops):
        workers = [Worker(folder, roll_back, tree, rollbacks) for tree in trees]
        for worker in workers:
            worker.succeed(3600)
    results = [line for worker in workers for line in worker.lines()[1:]]
    seconds = sorted(took_s for _, _, took_s, _ in results)
    print(
        f"\n{len(results)} rollbacks: median {seconds[len(seconds) // 2]} s, at most {seconds[-1]} s"
    )
    print(f"unpushed at first: {[why for *_, why in results if why]}")
    for work, worker in zip(works, loops, strict=True):
        lines = worker.lines()[1:]
        print(
            f"{work.__name__}: {lines.count('done')} done, errors {[line for line in lines if line != 'done']}"
        )
    reasons = check(toys, promotions)
    expected = sorted(f"rollback {tree.name} {turn}" for tree in trees for turn in range(rollbacks))
    assert sorted(reason for reason in reasons if reason.startswith("rollback")) == expected
    assert sorted(reason for reason, *_ in results) == expected
    assert len(reasons) == len(set(reasons))
    assert all("done" in worker.lines() for worker in loops)


@pytest.mark.fault(37, 39)
def test_rollbacks_beside_four_loops(tmp_path: Path) -> None:
    race(tmp_path, rollbacks=3, promotions=8)


@pytest.mark.soak
@pytest.mark.long
@pytest.mark.fault(37, 39)
@pytest.mark.timeout(3600)
def test_two_hundred_rollbacks_beside_four_loops(tmp_path: Path) -> None:
    race(tmp_path, rollbacks=100, promotions=205)


def publish(tree: Path, count: int) -> None:
    for turn in range(count):
        Toy(tree).release(f"{tree.name} {turn}")
        say(turn)


def publications(folder: Path, count: int) -> None:
    """Two machines register and promote `count` versions each, at the same time."""
    toys = clones(folder, versions=0, promotions=0)
    workers = [Worker(folder, publish, toy.tree, count) for toy in toys]
    for worker in workers:
        worker.succeed()
    check(toys, 0)
    registry = toys[0].registry
    assert len({version.weights_sha256 for version in registry.versions()}) == 2 * count
    assert [entry.action for entry in registry.history("prod")] == ["promote"] * 2 * count


@pytest.mark.fault(9)
def test_two_machines_publish_at_once(tmp_path: Path) -> None:
    publications(tmp_path, 2)


@pytest.mark.soak
@pytest.mark.long
@pytest.mark.fault(9)
@pytest.mark.timeout(900)
def test_fifty_pairs_of_publications_at_once(tmp_path: Path) -> None:
    publications(tmp_path, 50)


# ── one fault at a time ─────────────────────────────────────────────────────────────────────────


@pytest.mark.fault(37)
def test_a_fetch_that_prunes_tags_does_not_lose_a_rollback_that_is_not_pushed(
    tmp_path: Path,
) -> None:
    here, there = clones(tmp_path, versions=3, promotions=3)
    git("remote", "set-url", "origin", str(tmp_path / "unmounted"), cwd=here.tree)
    done = rollback.fn(here.tree, "prod", reason="worse")
    assert done.unpushed
    git("remote", "set-url", "origin", str(tmp_path / "origin.git"), cwd=here.tree)
    git("fetch", "--quiet", "--prune", "--prune-tags", "origin", cwd=here.tree)
    assert here.serves() == "v1.0.2"  # git removed the tag
    publication.sync(here.tree, "origin")
    exchange.fetch(there.tree, "origin")
    assert here.serves() == there.serves() == "v1.0.1"
    assert [entry.reason for entry in there.registry.history("prod")][3:] == ["worse"]
    assert pending.read(here.tree) == []


@pytest.mark.fault(37)
@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_promotion_is_fetched_between_any_two_reads(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Whatever a command has read by then, what it writes follows from all that is below its number."""
    names = [toy.register(f"weights {number}").name for number in range(4)]
    for name in itertools.islice(itertools.cycle(names), 16):
        promote.fn(toy.tree, name, "prod")
    reads = 0
    real = {"names": tags.names, "read": tags.read}

    def arrive() -> None:
        last, counter = toy.registry.position("prod")
        assert last is not None
        name = names[(names.index(last.version) + 1) % len(names)]
        data = {
            "action": "promote",
            "version": name,
            "under": last.counter,
            "reason": f"from there {counter}",
        }
        commit = toy.registry.find(name).commit
        tag = tags.make(
            toy.tree, f"classifier#prod#{counter}", commit, tags.message("x", [], data), [last.tag]
        )
        tags.write(toy.tree, tag.name, tag.oid)

    def counted(kind: str) -> Callable[..., object]:
        def function(*arguments: object, **options: object) -> object:
            nonlocal reads
            reads += 1
            result = real[kind](*arguments, **options)  # type: ignore[operator]
            if reads == moment:
                with monkeypatch.context() as patched:
                    for kind_, read in real.items():
                        patched.setattr(tags, kind_, read)
                    arrive()
            return result

        return function

    for moment in itertools.count(1):
        reads = 0
        with monkeypatch.context() as patched:
            for kind in real:
                patched.setattr(tags, kind, counted(kind))
            if command == "rollback":
                rollback.fn(toy.tree, "prod", reason=f"by here {moment}")
            else:
                # not what serves, and not what arrives
                promote.fn(toy.tree, names[(names.index(str(toy.serves())) + 2) % 4], "prod")
        check_steps(toy.registry.history("prod"))
        if reads < moment:
            break
    assert moment > 5
