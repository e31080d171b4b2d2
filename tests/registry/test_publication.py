"""Rollback with a git remote that is down, refuses, or has other assignments.

And what catches up later.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import RemoteRefused, Unreachable, VersionError
from ratchet.git import git
from ratchet.registry import exchange, pending, publication, tags
from ratchet.upkeep.push import push
from ratchet.upkeep.verify import verify
from ratchet.upkeep.withdraw import withdraw
from tasks.promote import promote, rollback
from tests.helpers.toy import ROOT, Toy, gto_stages, tool

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `pair` copies."""
    folder = tmp_path_factory.mktemp("machines")
    toy = Toy.make(folder / "checkout")
    toy.remote(Path("../../store"))  # read from .dvc
    toy.set("register.push_to", "origin")
    toy.commit("Publish")
    git("clone", "--quiet", "--bare", str(toy.tree), str(folder / "origin.git"), cwd=folder)
    git("remote", "add", "origin", str(folder / "origin.git"), cwd=toy.tree)
    for weights in "abcd":
        toy.release(weights)
    git("clone", "--quiet", str(folder / "origin.git"), str(folder / "other"), cwd=folder)
    return folder


@pytest.fixture
def pair(machines: Path, tmp_path: Path) -> tuple[Toy, Toy]:
    """Two machines with four versions (v1.0.3 serves) and a bare repository that both publish to."""
    shutil.copytree(machines, tmp_path, symlinks=True, dirs_exist_ok=True)
    toys = Toy(tmp_path / "checkout"), Toy(tmp_path / "other")
    for toy in toys:
        connect(toy)
    return toys


def disconnect(toy: Toy) -> None:
    git("remote", "set-url", "origin", str(toy.tree / "unmounted"), cwd=toy.tree)


def connect(toy: Toy) -> None:
    git("remote", "set-url", "origin", str(toy.tree.parent / "origin.git"), cwd=toy.tree)


def refs(tree: Path, pattern: str = "refs/tags") -> list[str]:
    return git("for-each-ref", "--format=%(refname) %(objectname)", pattern, cwd=tree).splitlines()


def settled(pair: tuple[Toy, Toy]) -> list[tuple[str, str]]:
    """Both machines meet the remote again.

    Returns the history of prod, which has to be the same on both.
    """
    for toy in (*pair, *pair):
        connect(toy)
        publication.sync(toy.tree, "origin")
    assert refs(pair[0].tree) == refs(pair[1].tree) == refs(pair[0].tree.parent / "origin.git")
    assert [ref for toy in pair for ref in refs(toy.tree, "refs/ratchet")] == []
    assert [
        each
        for each in verify(pair[0].tree)
        if "does not hold the card of a model" not in each.message
    ] == []
    histories = [toy.registry.history("prod") for toy in pair]
    assert histories[0] == histories[1]
    assert gto_stages(pair[0].tree)["prod"] == pair[0].serves()
    return [(str(entry.action), entry.version) for entry in histories[0]][4:]


def at(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Move the clock on, by so many seconds since the last call."""
    now = int(time.time()) + seconds
    monkeypatch.setattr(time, "time", lambda: now)


@pytest.mark.fault(38)
def test_a_rollback_without_the_remote_is_pushed_by_the_next_command(pair: tuple[Toy, Toy]) -> None:
    toy, other = pair
    disconnect(toy)
    done = rollback.fn(toy.tree, "prod", reason="worse")
    assert done.version == toy.serves() == "v1.0.2"
    assert "got no answer from the remote" in done.unpushed
    assert rollback.fn(toy.tree, "prod").version == "v1.0.1"
    assert [tag.name for tag in pending.read(toy.tree)] == [
        "classifier#prod#5",
        "classifier#prod#6",
    ]
    with pytest.raises(Unreachable):  # no emergency: Prefect repeats it
        promote.fn(toy.tree, "v1.0.3", "prod")
    assert toy.serves() == "v1.0.1"
    connect(toy)
    promote.fn(toy.tree, "v1.0.0", "staging")
    assert pending.read(toy.tree) == []
    rolled = rollback.fn(other.tree, "prod")
    assert (rolled.version, rolled.unpushed) == ("v1.0.0", "")
    assert settled(pair) == [("rollback", "v1.0.2"), ("rollback", "v1.0.1"), ("rollback", "v1.0.0")]


@pytest.mark.parametrize("command", ["push", "withdraw", "rollback"])
def test_every_command_that_reaches_the_remote_pushes_what_is_pending(
    pair: tuple[Toy, Toy], command: str
) -> None:
    toy, other = pair
    disconnect(toy)
    rollback.fn(toy.tree, "prod")
    connect(toy)
    if command == "push":
        assert push(toy.params, toy.tree).tags == ["classifier#prod#5"]
    elif command == "withdraw":
        withdraw(toy.tree, "v1.0.3", "worse")
    else:
        assert rollback.fn(toy.tree, "prod").version == "v1.0.1"
    assert pending.read(toy.tree) == []
    exchange.fetch(other.tree, "origin")
    assert other.serves() == toy.serves()


def test_the_later_rollback_is_in_force_and_both_are_in_the_history(
    pair: tuple[Toy, Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, other = pair
    disconnect(toy)
    at(monkeypatch, 10)
    rollback.fn(other.tree, "prod", to="v1.0.0", reason="theirs")
    at(monkeypatch, 20)
    rollback.fn(toy.tree, "prod", reason="ours")
    at(monkeypatch, 30)
    assert settled(pair) == [("rollback", "v1.0.0"), ("rollback", "v1.0.2")]
    last = toy.registry.history("prod")[-1]
    assert (last.reason, last.under, last.tag.data["was"], last.counter) == ("ours", 2, 5, 6)
    assert rollback.fn(other.tree, "prod").version == "v1.0.1"


def test_an_earlier_rollback_does_not_undo_a_later_one(
    pair: tuple[Toy, Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, other = pair
    disconnect(toy)
    at(monkeypatch, 10)
    rollback.fn(toy.tree, "prod", reason="ours")
    at(monkeypatch, 20)
    rollback.fn(other.tree, "prod", to="v1.0.0", reason="theirs")
    at(monkeypatch, 30)
    assert settled(pair) == [("rollback", "v1.0.0"), ("rollback", "v1.0.2"), ("rollback", "v1.0.0")]
    assert [entry.reason for entry in toy.registry.history("prod")][4:] == [
        "theirs",
        "ours",
        "theirs",
    ]
    assert toy.registry.history("prod")[-1].tag.data["again"] == 5
    assert toy.registry.was_rolled_back("v1.0.3", "prod")


def test_a_promotion_made_while_a_rollback_was_pending(
    pair: tuple[Toy, Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took a higher number or the same one; whichever came later is in force."""
    toy, other = pair
    disconnect(toy)
    at(monkeypatch, 10)
    promote.fn(other.tree, "v1.0.0", "staging")
    promote.fn(other.tree, "v1.0.1", "prod")  # number 6
    at(monkeypatch, 20)
    rollback.fn(toy.tree, "prod", reason="ours")  # number 5
    at(monkeypatch, 30)
    assert settled(pair)[-1] == ("rollback", "v1.0.2")
    assert [entry.counter for entry in toy.registry.history("prod")][4:] == [5, 6, 7]


def test_several_pending_rollbacks_keep_their_order(
    pair: tuple[Toy, Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, other = pair
    disconnect(toy)
    at(monkeypatch, 10)
    promote.fn(other.tree, "v1.0.0", "prod")
    at(monkeypatch, 20)
    for _ in range(3):
        rollback.fn(toy.tree, "prod")
    at(monkeypatch, 30)
    expected = [("promote", "v1.0.0"), *(("rollback", f"v1.0.{patch}") for patch in (2, 1, 0))]
    assert settled(pair) == expected
    assert [entry.counter for entry in toy.registry.history("prod")] == list(range(1, 9))


def test_both_machines_were_offline(pair: tuple[Toy, Toy], monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, toy in enumerate(pair):
        disconnect(toy)
        at(monkeypatch, 10 + seconds)
        rollback.fn(toy.tree, "prod", to=f"v1.0.{seconds}")
    at(monkeypatch, 30)
    assert settled(pair)[-1] == ("rollback", "v1.0.1")
    assert len(pair[0].registry.history("prod")) in (6, 7)


@pytest.mark.fault(37)
def test_a_plain_fetch_that_replaced_the_tag_loses_nothing(pair: tuple[Toy, Toy]) -> None:
    toy, other = pair
    disconnect(toy)
    rollback.fn(other.tree, "prod", to="v1.0.0")
    rollback.fn(toy.tree, "prod", to="v1.0.1")
    connect(toy)
    git("fetch", "--quiet", "--tags", "--force", "origin", cwd=toy.tree)
    assert toy.serves() == "v1.0.0"
    assert {version for _, version in settled(pair)} == {"v1.0.0", "v1.0.1"}


@pytest.mark.fault(37)
def test_a_missing_assignment_is_fetched_or_named(pair: tuple[Toy, Toy]) -> None:
    """Somebody's `git fetch --prune-tags` removed what served before."""
    toy, _ = pair
    git("update-ref", "-d", "refs/tags/classifier#prod#3", cwd=toy.tree)
    assert rollback.fn(toy.tree, "prod").version == "v1.0.2"
    git("update-ref", "-d", "refs/tags/classifier#prod#2", cwd=toy.tree)
    disconnect(toy)
    with pytest.raises(
        VersionError, match=r"assignment 2 of prod is missing here.*git fetch --tags.*--to VERSION"
    ):
        rollback.fn(toy.tree, "prod")
    assert toy.serves() == "v1.0.2"


def test_a_settlement_that_was_cut_off_leaves_nothing(pair: tuple[Toy, Toy]) -> None:
    toy, _ = pair
    tag = tags.read(toy.tree, "classifier#prod#4")[0]
    for namespace in ("theirs", "written"):
        git("update-ref", f"refs/ratchet/{namespace}/{tag.name}", tag.oid, cwd=toy.tree)
    assert settled(pair) == []


def refuse(
    origin: Path,
    message: str = "GitLab: You are not allowed to create this tag as it is protected.",
) -> Path:
    hook = origin / "hooks/pre-receive"
    hook.write_text(f'#!/bin/sh\necho x >> {origin}/attempts\necho "{message}" >&2\nexit 1\n')
    hook.chmod(0o755)
    return hook


@pytest.mark.fault(38)
def test_a_remote_that_refuses_is_asked_once_and_quoted(
    pair: tuple[Toy, Toy], tmp_path: Path
) -> None:
    toy, _ = pair
    hook = refuse(tmp_path / "origin.git")
    with pytest.raises(
        RemoteRefused, match="You are not allowed to create this tag as it is protected"
    ):
        promote.fn(toy.tree, "v1.0.0", "prod")
    assert (tmp_path / "origin.git/attempts").read_text() == "x\n"
    assert toy.serves() == "v1.0.3"
    done = rollback.fn(toy.tree, "prod")
    assert (done.version, toy.serves()) == ("v1.0.2", "v1.0.2")
    assert "You are not allowed to create this tag as it is protected" in done.unpushed
    assert (tmp_path / "origin.git/attempts").read_text() == "x\nx\n"
    with pytest.raises(RemoteRefused, match="You are not allowed"):
        push(toy.params, toy.tree)
    hook.unlink()
    assert push(toy.params, toy.tree).tags == ["classifier#prod#5"]
    assert settled(pair) == [("rollback", "v1.0.2")]


GIT = """\
#!/bin/sh
# The real git, with another process that acts at the worst moment.
case " $* " in *" {verb} "*) if mkdir {once} 2>/dev/null; then {before}; {real} "$@"; code=$?; {after}; exit $code; fi;; esac
exec {real} "$@"
"""


def interfere(
    monkeypatch: pytest.MonkeyPatch, folder: Path, verb: str, before: str = ":", after: str = ":"
) -> None:
    """Let a shell command run once, right before or after our first `git VERB`."""
    real = str(shutil.which("git"))
    (folder / "bin").mkdir()
    script = GIT.format(verb=verb, once=folder / "once", before=before, after=after, real=real)
    (folder / "bin/git").write_text(script)
    (folder / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("REAL_GIT", real)


@pytest.mark.fault(37)
@pytest.mark.parametrize("operation", ["promote", "rollback"])
def test_a_fetch_between_our_push_and_our_tag(
    pair: tuple[Toy, Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    toy, _ = pair
    fetch = f"{shutil.which('git')} -C {toy.tree} fetch --quiet --tags --prune origin"
    with monkeypatch.context() as patched:
        interfere(patched, tmp_path, "push", after=fetch)
        if operation == "promote":
            promote.fn(toy.tree, "v1.0.0", "prod")
        else:
            rollback.fn(toy.tree, "prod")
    assert (tmp_path / "once").exists()
    expected = {"promote": ("promote", "v1.0.0"), "rollback": ("rollback", "v1.0.2")}[operation]
    assert settled(pair) == [expected]


OTHER = """
import sys
from pathlib import Path
from tasks.promote import promote
promote.fn(Path(sys.argv[1]), "v1.0.0", "prod")
"""


def promotion(other: Toy, folder: Path) -> str:
    """The shell command by which the other machine promotes v1.0.0."""
    script = folder / "other.py"
    script.write_text(OTHER)
    variables = [f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT}"]
    return shlex.join(["env", *variables, sys.executable, str(script), str(other.tree)])


@pytest.mark.fault(9)
@pytest.mark.parametrize("operation", ["promote", "rollback"])
def test_a_lost_race_is_decided_again(
    pair: tuple[Toy, Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Another machine promotes right before our push: the rollback goes one step back from there."""
    toy, other = pair
    command = promotion(other, tmp_path)
    with monkeypatch.context() as patched:
        interfere(patched, tmp_path, "push", before=command)
        if operation == "promote":
            promote.fn(toy.tree, "v1.0.1", "prod")
        else:
            done = rollback.fn(toy.tree, "prod")
            assert (done.version, done.unpushed) == ("v1.0.3", "")
    expected = {"promote": ("promote", "v1.0.1"), "rollback": ("rollback", "v1.0.3")}[operation]
    assert settled(pair) == [("promote", "v1.0.0"), expected]


def test_the_last_lost_race_leaves_the_rollback_to_be_settled(
    pair: tuple[Toy, Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, other = pair
    command = promotion(other, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("tasks.promote._TRIES", 1)
        interfere(patched, tmp_path, "push", before=command)
        done = rollback.fn(toy.tree, "prod")
    assert (done.version, done.unpushed) == ("v1.0.2", "")
    assert settled(pair)[:2] == [("promote", "v1.0.0"), ("rollback", "v1.0.2")]
    assert toy.registry.history("prod")[5].tag.data["was"] == 5


@pytest.mark.parametrize("in_turn", [True, False])
def test_only_what_nothing_followed_is_taken_back(pair: tuple[Toy, Toy], in_turn: bool) -> None:
    """A higher number is another machine's if nothing was published from here meanwhile."""
    toy, other = pair
    disconnect(toy)
    rollback.fn(toy.tree, "prod")
    (tag,) = pending.read(toy.tree)
    promote.fn(other.tree, "v1.0.0", "staging")  # number 5 there
    promote.fn(other.tree, "v1.0.1", "staging")
    connect(toy)
    refspec = "refs/tags/classifier#staging#6:refs/tags/classifier#staging#6"
    git("fetch", "--quiet", "--no-tags", "origin", refspec, cwd=toy.tree)
    assert pending.take_back(toy.tree, tag, in_turn) == in_turn
    assert [left.name for left in pending.read(toy.tree)] == ([] if in_turn else [tag.name])
    assert toy.serves() == ("v1.0.3" if in_turn else "v1.0.2")
    assert toy.serves("staging") == "v1.0.1"


def test_a_tag_that_differs_only_for_a_moment_is_not_a_fault(
    pair: tuple[Toy, Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a rollback that is being taken back. One that stays was moved by hand."""
    toy, other = pair
    promote.fn(other.tree, "v1.0.0", "prod")
    here = tags.read(toy.tree, "classifier#prod#4")[0]
    git("update-ref", "refs/tags/classifier#prod#5", here.oid, cwd=toy.tree)
    with pytest.raises(exchange.Moved, match="a tag differs here and on origin"):
        publication.sync(toy.tree, "origin")
    real = publication.differences

    def then_it_goes(*arguments: Any) -> Any:
        result = real(*arguments)
        git("update-ref", "-d", "refs/tags/classifier#prod#5", cwd=toy.tree)
        return result

    monkeypatch.setattr(publication, "differences", then_it_goes)
    publication.sync(toy.tree, "origin")
    assert toy.serves() == "v1.0.0"
    git("update-ref", "refs/tags/classifier#prod#5", here.oid, cwd=toy.tree)
    toy.set("register.push_to", "")
    assert push(toy.params, toy.tree, to="origin").tags == []


def test_a_push_that_loses_a_race_is_repeated(
    pair: tuple[Toy, Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, _ = pair
    git("init", "--quiet", "--bare", str(tmp_path / "backup.git"), cwd=tmp_path)
    lost = "printf '!\\trefs/tags/x:refs/tags/x\\t[rejected] (already exists)\\n'; exit 1"
    with monkeypatch.context() as patched:
        interfere(patched, tmp_path, "push", before=lost)
        pushed = push(toy.params, toy.tree, to=str(tmp_path / "backup.git")).tags
    assert (tmp_path / "once").exists()
    assert len(pushed) == len(set(pushed)) == 8
    assert refs(tmp_path / "backup.git") == refs(toy.tree)


def test_what_is_pending_is_pushed_to_no_other_remote(
    pair: tuple[Toy, Toy], tmp_path: Path
) -> None:
    """Its number may still change."""
    toy, _ = pair
    git("init", "--quiet", "--bare", str(tmp_path / "backup.git"), cwd=tmp_path)
    disconnect(toy)
    rollback.fn(toy.tree, "prod")
    push(toy.params, toy.tree, to=str(tmp_path / "backup.git"))
    there = {ref.split()[0] for ref in refs(tmp_path / "backup.git")}
    assert {ref.split()[0] for ref in refs(toy.tree)} - there == {"refs/tags/classifier#prod#5"}


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a host that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/ratchet.git"


@pytest.mark.fault(38)
def test_a_remote_that_never_answers_does_not_hold_a_rollback_up(
    pair: tuple[Toy, Toy], black_hole: str
) -> None:
    toy, _ = pair
    git("remote", "set-url", "origin", black_hole, cwd=toy.tree)
    started = time.monotonic()
    command = [sys.executable, "-m", "cli", "rollback", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=toy.tree, env=environment, capture_output=True, text=True, check=False
    )
    took_s = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["version"] == "v1.0.2"
    assert "no answer from the remote within" in shown["unpushed"]
    assert took_s < 6  # 2 s on a machine of its own; this one runs tests
    assert "git-remote-http" not in tool_processes(toy.tree)


def tool_processes(tree: Path) -> str:
    """The command lines of processes that work in `tree`."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cwd").readlink() == tree:
                lines.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return "\n".join(lines)


@pytest.mark.fault(2)
def test_killed_between_the_two_references(pair: tuple[Toy, Toy]) -> None:
    """The pending reference is written first; alone it is a rollback that never was in force."""
    toy, _ = pair
    version = toy.registry.find("v1.0.2")
    text = tags.message("x", [], {"version": "v1.0.2", "action": "rollback"})
    tag = tags.make(toy.tree, "classifier#prod#5", version.commit, text, [])
    git("update-ref", pending.PENDING + tag.name, tag.oid, cwd=toy.tree)
    assert toy.serves() == "v1.0.3"
    disconnect(toy)
    assert (
        rollback.fn(toy.tree, "prod").version == "v1.0.2"
    )  # one step, under the number of the other
    assert settled(pair) == [("rollback", "v1.0.2")]


def test_gto_reads_a_settled_history(pair: tuple[Toy, Toy]) -> None:
    toy, other = pair
    disconnect(toy)
    rollback.fn(other.tree, "prod", to="v1.0.0")
    rollback.fn(toy.tree, "prod")
    settled(pair)
    events = json.loads(tool("gto", "history", "classifier", "--json", "--asc", cwd=toy.tree))
    assigned = [event["version"] for event in events if event["event"] == "assignment"]
    assert assigned == [entry.version for entry in toy.registry.history("prod")]


def test_verify_tells_what_is_not_pushed_from_what_was_moved_by_hand(pair: tuple[Toy, Toy]) -> None:
    toy, other = pair

    def messages() -> list[str]:
        return [
            finding.message for finding in verify(toy.tree) if finding.what == "classifier#prod#5"
        ]

    disconnect(toy)
    rollback.fn(toy.tree, "prod")
    connect(toy)
    assert messages() == ["is not pushed to origin yet; `ratchet push` pushes it"]

    promote.fn(other.tree, "v1.0.0", "prod")
    taken = ", under the next free number, since another machine used this one"
    assert messages() == [f"is not pushed to origin yet; `ratchet push` pushes it{taken}"]

    text = git("for-each-ref", "--format=%(contents)", "refs/tags/classifier#prod#5", cwd=toy.tree)
    git(
        "tag",
        "--force",
        "-a",
        "-m",
        text,
        "classifier#prod#5",
        "classifier@v1.0.1^{commit}",
        cwd=toy.tree,
    )
    assert messages()[-1].startswith("differs on origin: moved or made again by hand")
