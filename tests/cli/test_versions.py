"""The commands about versions as a person types them: what they print, and one line with the next command when they can't."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from cli.__main__ import main
from ratchet.git import git
from ratchet.store import pipeline
from tests.helpers.toy import Toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


class Said(NamedTuple):
    code: int
    out: str
    err: str


Ratchet = Callable[..., Said]


@pytest.fixture
def ratchet(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ratchet:
    """Runs a command in the toy's checkout, or `within` another."""

    def run(*arguments: str, within: Path = toy.tree) -> Said:
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
            patched.chdir(within)
            patched.setattr(sys, "argv", ["ratchet", *arguments])
            main()
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def three(toy: Toy) -> Toy:
    """v1.0.0, v1.1.0 and v1.1.1; the last was rolled back from prod."""
    toy.release("a", accuracy=0.9)
    toy.set("train.epochs", 3)
    toy.release("b", accuracy=0.93)
    toy.release("c", accuracy=0.94)
    return toy


def test_what_there_is(three: Toy, ratchet: Ratchet) -> None:
    said = ratchet("rollback", "--reason", "worse on [Mondays]")
    assert (said.code, said.out) == (0, "v1.1.0 serves in prod again\n")
    ratchet("promote", "v1.0.0", "--environment", "staging")
    lines = [
        line.split()
        for line in ratchet("versions").out.splitlines()
        if line.strip().startswith("v1")
    ]
    assert [line[:3] for line in lines] == [["v1.1.1", "prod", lines[0][2]], ["v1.1.0", "prod", lines[1][2]],
                                            ["v1.0.0", "staging", "prod"]]  # fmt: skip
    assert "0.9300 (0.9100 to 0.9500)   1,000" in ratchet("versions").out
    listed = json.loads(ratchet("versions", "--json").out)
    assert [(each["environments"], each["environments_before"]) for each in listed] == [
        ([], ["prod"]), (["prod"], []), (["staging"], ["prod"])]  # fmt: skip
    assert listed[1]["metrics"]["intervals"] == {"accuracy": [0.91, 0.9500000000000001]}


def test_where_one_comes_from_and_how_two_differ(three: Toy, ratchet: Ratchet) -> None:
    shown = ratchet("show", "v1.1.0").out
    for words in (
        "minor: changed params (train.epochs)", "0.9300 (0.9100 to 0.9500)", "promote: a toy", "prod, 2",
        "data/raw", "3 files and folders", "epochs: 3", "libraries", "SHA-256",
    ):  # fmt: skip
        assert words in shown, words
    assert json.loads(ratchet("show", "prod", "--json").out)["version"] == "v1.1.1"
    differ = ratchet("diff", "v1.0.0", "v1.1.0").out
    for words in (
        "param train.epochs",
        "metric accuracy",
        "0.9000 (0.8800 to 0.9200)",
        "class cat",
        "recall 0.9000",
    ):
        assert words in differ
    assert "nothing differs" in ratchet("diff", "prod", "prod").out


def test_what_served_and_why_it_changed(three: Toy, ratchet: Ratchet) -> None:
    ratchet("rollback", "--to", "v1.0.0", "--reason", "worse on [Mondays]")
    lines = [
        line.split()
        for line in ratchet("history", "prod").out.splitlines()
        if line.strip().startswith("v1")
    ]
    assert [line[0] for line in lines] == ["v1.0.0", "v1.1.1", "v1.1.0", "v1.0.0"]
    host = socket.gethostname()
    assert " ".join(lines[0][3:]) == f"now Ada terminal on {host} rollback worse on [Mondays]"
    assert ratchet("history", "staging").out.startswith(
        "no version has served in staging yet; run `ratchet promote"
    )


def test_upkeep(three: Toy, ratchet: Ratchet, tmp_path: Path) -> None:
    three.remote(tmp_path / "store")
    assert ratchet("push", "--all").out.startswith("v1.1.1, v1.1.0, v1.0.0: ")
    assert ratchet("withdraw", "v1.0.0", "--reason", "leaks").out == "v1.0.0 is withdrawn\n"
    assert "withdrawn: leaks" in ratchet("show", "v1.0.0").out
    assert (
        ratchet("reinstate", "v1.0.0", "--reason", "a false alarm").out
        == "v1.0.0 can be promoted again\n"
    )
    assert "a false alarm" in ratchet("show", "v1.0.0").out
    assert "reinstated" in ratchet("versions").out
    assert "`ratchet gc --apply` deletes" in ratchet("expire", "v1.0.0").out
    assert "younger than 1 hour; run this again later" in ratchet("gc").out
    assert "deleted 0 objects" in ratchet("gc", "--apply", "--remote").out
    out = ratchet("checkout", "v1.1.0", "--into", str(tmp_path / "old")).out
    assert out.startswith("v1.1.0 is in ")
    assert Path(ratchet("path", "v1.1.0").out.strip()).read_text() == "b"
    assert ratchet("verify", "v1.0.0").out == "no faults\n"
    assert ratchet("verify", "--all").code == 1  # a toy's weights are no model


def refused(said: Said, *words: str, code: int = 1) -> None:
    """One line on stderr, with these words and a command to run next."""
    assert said.code == code
    assert said.err.count("\n") == 1
    assert said.err.startswith("ratchet: ")
    assert "`" in said.err
    for word in words:
        assert word in said.err


def test_unknown_versions(toy: Toy, ratchet: Ratchet) -> None:
    refused(ratchet("show", "v1.0.0"), "there is none yet; `ratchet train` makes the first")
    assert ratchet("versions").out == "there is none yet; `ratchet train` makes the first\n"
    toy.release("a")
    for command in (["show"], ["promote"], ["path"], ["rollback", "--to"], ["verify"], ["push"], ["expire"],
                    ["diff", "v1.0.0"], ["withdraw", "--reason", "x"], ["checkout", "--into", "out"]):  # fmt: skip
        refused(
            ratchet(*command, "v1.0.7"),
            "no version v1.0.7; the nearest is v1.0.0; `ratchet versions` lists all",
        )


def test_nothing_to_roll_back_to(toy: Toy, ratchet: Ratchet) -> None:
    refused(ratchet("rollback"), "nothing serves in prod")
    toy.release("a")
    refused(
        ratchet("rollback"), "nothing to roll back to in prod", "`ratchet rollback --to VERSION`"
    )


def test_a_withdrawn_version(three: Toy, ratchet: Ratchet) -> None:
    refused(
        ratchet("withdraw", "prod", "--reason", "leaks"),
        "v1.1.1 serves in prod",
        "`ratchet rollback",
    )
    ratchet("withdraw", "v1.1.0", "--reason", "leaks")
    refused(ratchet("promote", "v1.1.0"), "v1.1.0 is withdrawn (leaks)")
    refused(ratchet("rollback", "--to", "v1.1.0"), "v1.1.0 is withdrawn (leaks)")
    assert ratchet("rollback").out == "v1.0.0 serves in prod again\n"


def test_a_dirty_tree(three: Toy, ratchet: Ratchet) -> None:
    three.write({"code/train.py": "# edited\n"})
    refused(
        ratchet("train"),
        "code/train.py: differs from commit",
        "`git add code/train.py && git commit`",
    )


def test_adopt(three: Toy, ratchet: Ratchet) -> None:
    three.write({"params.yaml": (three.tree / "params.yaml").read_text() + "# edited\n"})
    refused(
        ratchet("adopt", "v1.0.0"), "params.yaml: not committed and in no version", "`git stash"
    )
    git("checkout", "--", "params.yaml", cwd=three.tree)
    said = ratchet("adopt", "v1.0.0")
    commit = git("rev-parse", "--short=12", "HEAD", cwd=three.tree)
    assert (said.code, said.out) == (0, f"main has the state of v1.0.0 (commit {commit})\n")
    assert ratchet("adopt", "v1.0.0").out == "nothing to do: main already has the state of v1.0.0\n"
    three.write({"code/train.py": "# other\n"})
    three.commit("Go on")
    refused(
        ratchet("adopt", "v1.1.0"),
        "code/train.py: not as in v1.1.0",
        "`ratchet adopt v1.1.0 --code`",
    )
    found = json.loads(ratchet("adopt", "v1.1.0", "--code", "--json").out)
    assert (found["version"], found["branch"], found["changed"], found["rebuilt"]) == (
        "v1.1.0",
        "main",
        True,
        [],
    )
    assert three.serves() == "v1.1.1"


@pytest.mark.fault(23)
def test_no_objects_and_a_remote_that_is_gone(three: Toy, ratchet: Ratchet, tmp_path: Path) -> None:
    weights = pipeline.of_commit(three.tree, three.registry.find("v1.1.0").commit).output(
        "models/classifier.pt"
    )
    three.object(weights.md5).unlink()
    for command in (["rollback"], ["path", "v1.1.0"], ["checkout", "v1.1.0", "--into", "out"]):
        refused(
            ratchet(*command),
            "models/classifier.pt: not in DVC's cache",
            "`dvc remote add -d NAME URL`",
        )
    three.remote(tmp_path / "store")
    for command in (["rollback"], ["path", "v1.1.0"]):
        refused(ratchet(*command), f"the DVC remote {tmp_path}/store", "`dvc remote list`", code=75)
    assert three.serves() == "v1.1.1"


def test_a_git_remote_that_is_gone(three: Toy, ratchet: Ratchet) -> None:
    git("remote", "add", "origin", "/no/such/place.git", cwd=three.tree)
    three.set("register.push_to", "origin")
    for command in (["promote", "v1.0.0"], ["withdraw", "v1.0.0", "--reason", "x"], ["push", "--all"],
                    ["verify"], ["gc", "--apply"]):  # fmt: skip
        refused(ratchet(*command), "got no answer from the remote", code=75)
    assert three.serves() == "v1.1.1"


@pytest.mark.fault(38)
def test_a_rollback_works_without_its_git_remote(three: Toy, ratchet: Ratchet) -> None:
    git("remote", "add", "origin", "/no/such/place.git", cwd=three.tree)
    three.set("register.push_to", "origin")
    done = ratchet("rollback")
    assert (done.code, done.err) == (0, "")
    for words in (
        "v1.1.0 serves in prod again; not pushed to origin yet (git fetch got no answer from the remote",
        "): the next command that reaches it pushes it, such as `ratchet push --all`",
    ):
        assert words in " ".join(done.out.split())
    three.set("register.push_to", "orgin")
    assert "there is no git remote 'orgin'; `git remote` lists" in " ".join(
        ratchet("rollback").out.split()
    )
    assert three.serves() == "v1.0.0"


def test_a_rollback_works_with_a_mistake_in_params(three: Toy, ratchet: Ratchet) -> None:
    file = three.tree / "params.yaml"
    file.write_text(file.read_text() + "unknown: 1\n")
    assert ratchet("rollback").out == "v1.1.0 serves in prod again\n"


class Events(BaseHTTPRequestHandler):
    """A Prefect server that only takes events."""

    seen: ClassVar[list[tuple[str, str, str]]] = []
    delay_s = 0.0

    def do_POST(self) -> None:
        time.sleep(self.delay_s)
        (event,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert datetime.fromisoformat(event["occurred"])
        about = (
            event["event"],
            event["resource"]["prefect.resource.id"],
            str(self.headers["Authorization"]),
        )
        self.seen.append(about)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("slow", [False, True])
def test_commands_send_events_to_the_standing_server(
    three: Toy, ratchet: Ratchet, slow: bool
) -> None:
    """Nothing that changed nothing, and a server that hangs does not hold a command up."""

    class Handler(Events):
        seen: ClassVar[list[tuple[str, str, str]]] = []
        delay_s = 2.0 if slow else 0.0

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        service = {
            "PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api",
            "PREFECT_API_AUTH_STRING": "a:b",
        }
        (three.tree / ".prefect").mkdir()
        (three.tree / ".prefect/service.json").write_text(json.dumps(service))
        started = time.monotonic()
        ratchet("promote", "v1.1.1")
        ratchet("rollback")
        if not slow:
            ratchet("withdraw", "v1.1.1", "--reason", "x")
            ratchet("withdraw", "v1.1.1", "--reason", "x")
            ratchet("reinstate", "v1.1.1", "--reason", "y")
        assert time.monotonic() - started < 20
        server.shutdown()
    if slow:
        return
    assert Handler.seen == [
        ("ratchet.version.rolled-back", "ratchet.version.v1.1.0", "Basic YTpi"),
        ("ratchet.version.withdrawn", "ratchet.version.v1.1.1", "Basic YTpi"),
        ("ratchet.version.reinstated", "ratchet.version.v1.1.1", "Basic YTpi"),
    ]


def test_tags_that_were_not_fetched_and_a_branch_that_is_gone(
    three: Toy, ratchet: Ratchet, tmp_path: Path
) -> None:
    git("checkout", "--quiet", "-b", "other", cwd=three.tree)
    git("branch", "--quiet", "-D", "main", cwd=three.tree)
    shallow = tmp_path / "shallow"
    git(
        "clone",
        "--quiet",
        "--depth=1",
        "--no-tags",
        f"file://{three.tree}",
        str(shallow),
        cwd=tmp_path,
    )
    refused(
        ratchet("show", "prod", within=shallow),
        "there is none here; `git fetch --tags origin` brings those",
    )
    git("fetch", "--quiet", "origin", "tag", "classifier@v1.0.0", cwd=shallow)
    refused(
        ratchet("show", "v1.1.0", within=shallow),
        "the nearest is v1.0.0",
        "`git fetch --tags origin` brings those",
    )
    git("fetch", "--quiet", "--tags", "origin", cwd=shallow)
    assert "v1.1.1" in ratchet("show", "prod", within=shallow).out


@pytest.mark.fault(26)
def test_no_repository(tmp_path: Path, ratchet: Ratchet) -> None:
    refused(
        ratchet("versions", within=tmp_path),
        "is not a Ratchet checkout",
        "`cd` to a Ratchet checkout first",
    )
