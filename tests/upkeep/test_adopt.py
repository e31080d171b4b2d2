"""`ratchet adopt`: one commit makes a version the state of the branch, and nothing of the user's is ever lost."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet import locks, params
from ratchet.errors import Busy, CorruptData, ObjectsMissing, ParamsError, VersionError
from ratchet.git import git, head
from ratchet.store import pipeline, remote, working_tree
from ratchet.upkeep.adopt import adopt
from ratchet.upkeep.withdraw import withdraw
from ratchet.workspace import branch
from tasks.register import register
from tests.helpers.toy import ROOT, Toy, contents, dvc_status

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")

STATE = (
    "params.yaml",
    "source.lock",
    "dvc.lock",
    "reports/metrics.json",
    "reports/training/curves.tsv",
)


class Killed(BaseException):
    """Like SIGKILL: nothing handles it, and what follows does not happen."""


@pytest.fixture(scope="module")
def template_of_two(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = Toy.make(tmp_path_factory.mktemp("two") / "checkout")
    toy.release("a")
    at_first = {path: (toy.tree / path).read_bytes() for path in contents(toy.tree)}
    toy.set("train.epochs", 3)
    toy.write({"source.lock": '{"rows": 2}\n'})
    toy.release("bb")
    for path, content in at_first.items():
        (toy.tree / path).write_bytes(content)
    return toy


@pytest.fixture(scope="module")
def template_of_moved(template_of_two: Toy, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = template_of_two.copy(tmp_path_factory.mktemp("moved") / "checkout")
    graph = (toy.tree / "dvc.yaml").read_text()
    toy.write(
        {"code/train.py": "# other\n", "code/helper.py": "# new\n", "dvc.yaml": f"# other\n{graph}"}
    )
    toy.write({"notes.md": "ours\n"})
    toy.commit("Go on")
    toy.release("ccc")
    toy.commit("Keep the state of v1.1.1")
    return toy


@pytest.fixture
def two(template_of_two: Toy, tmp_path: Path) -> Toy:
    """v1.0.0 and v1.1.0, which differ in params, sources, data and model; everything of v1.0.0 lies in the
    checkout, where the first run left dvc.lock and the reports untracked.
    """
    return template_of_two.copy(tmp_path / "checkout")


@pytest.fixture
def moved(template_of_moved: Toy, tmp_path: Path) -> Toy:
    """`two`, whose branch then went on: other code, another graph, and a committed state of its own."""
    return template_of_moved.copy(tmp_path / "checkout")


def in_version(toy: Toy, name: str, path: str) -> bytes:
    content = (toy.tree / path).read_bytes()
    assert git("hash-object", "--no-filters", path, cwd=toy.tree) == git(
        "rev-parse", f"classifier@{name}:{path}", cwd=toy.tree
    )
    return content


def assert_adopted(toy: Toy, name: str, base: str, weights: str) -> None:
    """The branch is one commit ahead of `base`, and the checkout is clean for git and for DVC."""
    tree = toy.tree
    assert git("rev-parse", "HEAD^", cwd=tree) == base
    assert git("symbolic-ref", "HEAD", cwd=tree) == "refs/heads/main"
    for path in STATE:
        in_version(toy, name, path)
    assert (tree / "models/classifier.pt").read_text() == weights
    status = git("status", "--porcelain", "--untracked-files=all", cwd=tree).splitlines()
    assert [
        line for line in status if line[3:] not in {"reports/gate.json", "reports/gate.html"}
    ] == []
    assert dvc_status(tree) == {}
    assert not [file for file in (tree / ".dvc/tmp").iterdir() if "adopt" in file.name]


def refused(
    toy: Toy, match: str, *arguments: Any, error: type[BaseException] = VersionError
) -> None:
    """Adopting fails with this message, and changes neither the branch nor a file."""
    before = (head(toy.tree), git("ls-files", "--stage", cwd=toy.tree), contents(toy.tree))
    with pytest.raises(error, match=match):
        adopt(toy.tree, *(arguments or ("v1.1.0",)))
    assert (head(toy.tree), git("ls-files", "--stage", cwd=toy.tree), contents(toy.tree)) == before


def test_a_version_after_a_first_run_that_left_its_state_untracked(two: Toy) -> None:
    base = head(two.tree)
    assert "?? dvc.lock" in git("status", "--porcelain", cwd=two.tree)
    done = adopt(two.tree, "v1.1.0")
    assert (done.version, done.branch, done.changed, done.rebuilt) == ("v1.1.0", "main", True, [])
    assert done.commit == head(two.tree)
    assert_adopted(two, "v1.1.0", base, "bb")
    assert two.serves() == "v1.1.0"
    assert git("log", "-1", "--format=%s|%an", cwd=two.tree) == "Adopt classifier v1.1.0|Ada"
    assert "Adopt classifier v1.1.0" in git("reflog", "-1", "main", cwd=two.tree)


def test_again_there_is_nothing_to_do(two: Toy) -> None:
    first = adopt(two.tree, "v1.1.0")
    before = contents(two.tree)
    again = adopt(two.tree, "v1.1.0")
    assert (again.changed, again.commit) == (False, first.commit)
    assert contents(two.tree) == before
    assert adopt(two.tree, "prod").changed is False  # the environment that it serves in


def test_back_and_forth(two: Toy) -> None:
    adopt(two.tree, "v1.1.0")
    base = head(two.tree)
    adopt(two.tree, "v1.0.0")
    assert_adopted(two, "v1.0.0", base, "a")


def test_edits_elsewhere_and_what_is_staged_elsewhere_stay(two: Toy) -> None:
    base = head(two.tree)
    two.write({"notes.md": "mine\n", "todo.md": "mine\n", ".dvcignore": "__pycache__\n# mine\n"})
    git("add", "todo.md", cwd=two.tree)
    adopt(two.tree, "v1.1.0")
    status = git("status", "--porcelain", cwd=two.tree).splitlines()
    assert {" M .dvcignore", "?? notes.md", "A  todo.md"} <= set(status)
    assert git("rev-parse", "HEAD^", cwd=two.tree) == base
    assert "todo.md" not in git("ls-tree", "-r", "--name-only", "HEAD", cwd=two.tree)


def test_reports_of_the_run_before_that_the_version_lacks_go(toy: Toy) -> None:
    toy.register("a")
    toy.set("train.epochs", 3)
    toy.write({"reports/training/more.tsv": "epoch\n"})
    toy.register("b")
    base = head(toy.tree)
    toy.commit("Keep v1.1.0")
    adopt(toy.tree, "v1.0.0")
    assert not (toy.tree / "reports/training/more.tsv").exists()
    assert_adopted(toy, "v1.0.0", git("rev-parse", "HEAD^", cwd=toy.tree), "a")
    assert git("rev-parse", "HEAD~2", cwd=toy.tree) == base


@pytest.mark.parametrize(
    "path",
    ["params.yaml", "source.lock", "dvc.lock", "reports/metrics.json", "reports/training/own.tsv",
     "models/classifier.pt", "data/raw/b", "data/raw/own"],
)  # fmt: skip
def test_an_edit_is_never_lost(two: Toy, path: str) -> None:
    with (two.tree / path).open("a") as file:
        file.write("# edited\n")
    refused(
        two,
        rf"{path}: not committed and in no version, so adopting v1\.1\.0 would lose it; commit it, or set",
    )


def test_a_staged_edit_is_never_lost(two: Toy) -> None:
    before = (two.tree / "params.yaml").read_bytes()
    two.set("train.epochs", 7)
    git("add", "params.yaml", cwd=two.tree)
    (two.tree / "params.yaml").write_bytes(before)
    refused(two, r"params\.yaml: not committed")


def test_a_folder_or_a_file_in_the_way_is_never_lost(two: Toy) -> None:
    (two.tree / "dvc.lock").unlink()
    two.write({"dvc.lock/mine": "x"})
    refused(two, "dvc.lock/mine: not committed")


def test_a_deleted_file_comes_back(two: Toy) -> None:
    base = head(two.tree)
    for path in ("params.yaml", "dvc.lock", "models/classifier.pt"):
        (two.tree / path).unlink()
    adopt(two.tree, "v1.1.0")
    assert_adopted(two, "v1.1.0", base, "bb")


def test_a_clone_takes_data_and_model_from_the_remote(two: Toy, tmp_path: Path) -> None:
    two.remote(tmp_path / "store")
    remote.push(two.tree, pipeline.of_commit(two.tree, two.registry.find("v1.1.0").commit).outputs)
    clone = two.clone(tmp_path / "clone")
    (clone.tree / ".dvc/cache").mkdir(exist_ok=True)
    prepared = pipeline.of_commit(two.tree, two.registry.find("v1.1.0").commit).output(
        "data/prepared"
    )
    for md5 in remote.Cache(two.tree).objects(
        prepared
    ):  # never pushed: a clone would run its stage
        target = clone.object(md5)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(two.object(md5).read_bytes())
    base = head(clone.tree)
    adopt(clone.tree, "v1.1.0")
    assert_adopted(clone, "v1.1.0", base, "bb")


EVALUATE = """\
import json, pathlib
pathlib.Path("data/prepared").mkdir(parents=True, exist_ok=True)
pathlib.Path("data/prepared/x").write_bytes(pathlib.Path("source.lock").read_bytes())
for path, text in json.loads(pathlib.Path("evaluated.json").read_text()).items():
    pathlib.Path(path).parent.mkdir(exist_ok=True)
    pathlib.Path(path).write_text(text)
"""


def test_an_output_that_is_never_pushed_is_rebuilt(two: Toy) -> None:
    """The only stage that runs is the one whose output is gone.

    The commands of the others do not exist.
    """
    base = head(two.tree)
    version = two.registry.find("v1.1.0")
    graph = pipeline.of_commit(two.tree, version.commit)
    evaluated = {"reports/metrics.json": git("show", f"{version.commit}:reports/metrics.json", cwd=two.tree) + "\n",
                 "reports/predictions.parquet": "by bb"}  # fmt: skip
    two.write(
        {
            "code/__init__.py": "",
            "code/evaluate.py": EVALUATE,
            "evaluated.json": json.dumps(evaluated),
        }
    )
    two.object(graph.output("data/prepared").md5).unlink()
    done = adopt(two.tree, "v1.1.0")
    assert done.rebuilt == ["data/prepared"]
    assert (two.tree / "data/prepared/x").read_text() == '{"rows": 2}\n'
    for name in ("code/__init__.py", "code/evaluate.py", "evaluated.json"):
        (two.tree / name).unlink()
    assert_adopted(two, "v1.1.0", base, "bb")


@pytest.mark.parametrize("damage", ["missing", "flipped"])
@pytest.mark.parametrize("path", ["data/raw", "models/classifier.pt"])
def test_an_object_that_is_missing_or_damaged_changes_nothing(
    two: Toy, path: str, damage: str
) -> None:
    output = pipeline.of_commit(two.tree, two.registry.find("v1.1.0").commit).output(path)
    file = two.object(
        max(remote.Cache(two.tree).objects(output), key=lambda md5: not md5.endswith(".dir"))
    )
    content = file.read_bytes()
    file.unlink()
    if damage == "flipped":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    refused(two, path, error=ObjectsMissing if damage == "missing" else CorruptData)
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    assert adopt(two.tree, "v1.1.0").changed


@pytest.mark.parametrize("lock", [locks.RUN, locks.STAGE])
def test_an_active_run_refuses_it(two: Toy, lock: str) -> None:
    with locks.locked(two.tree / lock, "a run"):
        refused(two, f"the checkout .* is busy: process {os.getpid()} works in it", error=Busy)
    assert adopt(two.tree, "v1.1.0").changed


def test_an_index_that_is_locked_refuses_it(two: Toy) -> None:
    (two.tree / ".git/index.lock").touch()
    refused(two, r"another git command .* or remove .*index\.lock", error=Busy)
    assert (two.tree / ".git/index.lock").exists()


def test_a_detached_head_refuses_it(two: Toy) -> None:
    git("checkout", "--quiet", "--detach", cwd=two.tree)
    refused(two, "HEAD is detached.*`git switch --create NAME`")


def test_a_merge_that_waits_refuses_it(two: Toy) -> None:
    two.commit("Keep v1.0.0")
    with pytest.raises(VersionError):
        git("merge", "classifier@v1.1.0", cwd=two.tree)
    refused(two, "MERGE_HEAD.*`git merge --abort`")


def test_a_withdrawn_version_and_an_unknown_one(two: Toy) -> None:
    withdraw(two.tree, "v1.0.0", "leaks")
    refused(two, r"v1\.0\.0 is withdrawn \(leaks\); `ratchet versions`", "v1.0.0")
    refused(two, r"no version v9\.0\.0", "v9.0.0")


def test_code_that_differs_refuses_it_without_the_flag(moved: Toy) -> None:
    refused(
        moved, r"dvc\.yaml, code/train\.py: not as in v1\.1\.0.*`ratchet adopt v1\.1\.0 --code`"
    )


def test_edited_code_refuses_it(two: Toy) -> None:
    two.write({"code/train.py": "# edited\n"})
    refused(two, r"code/train\.py: edited and not committed; commit it, or run `git stash` first")
    refused(two, r"code/train\.py: not committed and in no version", "v1.1.0", True)
    git("checkout", "--quiet", "code/train.py", cwd=two.tree)
    two.write({"custom/own.py": "# own\n"})
    refused(two, r"custom: edited and not committed")
    refused(two, r"custom/own\.py: not committed and in no version", "v1.1.0", True)


def test_params_that_the_code_here_does_not_take_refuse_it(toy: Toy) -> None:
    with (toy.tree / "params.yaml").open("a") as file:
        file.write("old_section: 1\n")
    toy.commit("As an older release")
    sha256 = toy.run("a")
    register.fn(params.load(ROOT), toy.tree, toy.decide(sha256), head(toy.tree))
    refused(
        toy,
        r"does not accept the params of v1\.0\.0; `ratchet adopt v1\.0\.0 --code` .*\n.*\n  old_section",
        "v1.0.0",
        error=ParamsError,
    )


def test_code_and_graph_come_along_on_request(moved: Toy) -> None:
    base = head(moved.tree)
    done = adopt(moved.tree, "v1.1.0", code=True)
    assert done.changed
    assert_adopted(moved, "v1.1.0", base, "bb")
    for path in ("dvc.yaml", "code/train.py", "custom/__init__.py"):
        in_version(moved, "v1.1.0", path)
    assert not (moved.tree / "code/helper.py").exists()
    assert (moved.tree / "notes.md").read_text() == "ours\n"
    assert adopt(moved.tree, "v1.1.0", code=True).changed is False
    assert adopt(moved.tree, "v1.1.0").changed is False  # the code is the version's now


def test_links_and_executables_come_along(toy: Toy) -> None:
    toy.write({"code/run.sh": "#!/bin/sh\n"})
    (toy.tree / "code/run.sh").chmod(0o755)
    (toy.tree / "code/again.py").symlink_to("train.py")
    toy.commit("Add a script and a link")
    toy.register("a")
    (toy.tree / "code/again.py").unlink()
    toy.write({"code/again.py": "# a file now\n"})
    (toy.tree / "code/run.sh").unlink()
    toy.write({"code/run.sh/inner.py": "# a folder now\n"})
    toy.commit("Go on")
    base = head(toy.tree)
    adopt(toy.tree, "v1.0.0", code=True)
    assert_adopted(toy, "v1.0.0", base, "a")
    assert str((toy.tree / "code/again.py").readlink()) == "train.py"
    assert os.access(toy.tree / "code/run.sh", os.X_OK)


def test_the_users_settings_of_git_change_nothing(
    two: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = two.tree / ".git/hooks"
    hook.mkdir(exist_ok=True)
    for name in (
        "pre-commit",
        "post-checkout",
        "reference-transaction",
        "commit-msg",
        "post-index-change",
    ):
        (hook / name).write_text("#!/bin/sh\nexit 1\n")
        (hook / name).chmod(0o755)
    (tmp_path / "ignored").write_text("*.tsv\n*.json\n")
    settings = "[core]\n autocrlf = true\n excludesFile = {}\n[commit]\n gpgSign = true\n[user]\n name = Eve\n"
    (tmp_path / "settings").write_text(settings.format(tmp_path / "ignored"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    base = head(two.tree)
    adopt(two.tree, "v1.1.0")
    assert_adopted(two, "v1.1.0", base, "bb")
    assert b"\r" not in (two.tree / "params.yaml").read_bytes()


def test_in_a_worktree_the_main_checkout_stays(two: Toy, tmp_path: Path) -> None:
    main = head(two.tree)
    git("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "other"), cwd=two.tree)
    before = contents(two.tree)
    done = adopt(tmp_path / "other", "v1.1.0")
    assert done.branch == "other"
    assert (tmp_path / "other/models/classifier.pt").read_text() == "bb"
    assert dvc_status(tmp_path / "other") == {}
    assert git("status", "--porcelain", cwd=tmp_path / "other") == ""
    assert (head(two.tree), contents(two.tree)) == (main, before)


def test_a_commit_made_meanwhile_is_never_lost(two: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    move = branch.move

    def late(tree: Path, *arguments: str) -> None:
        commit = git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "Meanwhile", cwd=tree)
        git("update-ref", "refs/heads/main", commit, cwd=tree)
        move(tree, *arguments)

    with (
        monkeypatch.context() as patched,
        pytest.raises(VersionError, match="main got another commit meanwhile"),
    ):
        patched.setattr(branch, "move", late)
        adopt(two.tree, "v1.1.0")
    assert git("log", "-1", "--format=%s", cwd=two.tree) == "Meanwhile"
    assert adopt(two.tree, "v1.1.0").changed


def dying(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """`function`, which dies at its call number `calls` (from 0) without doing anything."""
    left = [calls]

    def call(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return function(*arguments, **options)

    return call


POINTS = [
    *((branch, name, 0) for name in ("commit", "move", "write_index")),
    *((branch, "place", call) for call in (0, 1)),
    (working_tree, "check_out", 0),
    *((Path, "replace", call) for call in (0, 1, 3, 5)),  # the index, then file by file
    *((Path, "unlink", call) for call in (0, 2)),
]


@pytest.mark.parametrize(
    ("module", "name", "calls"), POINTS, ids=[f"{name}-{calls}" for _, name, calls in POINTS]
)
def test_cut_off_anywhere_the_same_command_completes_it(
    moved: Toy, module: Any, name: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = head(moved.tree)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, dying(getattr(module, name), calls))
        with contextlib.suppress(Killed):
            adopt(moved.tree, "v1.1.0", code=True)
    assert base in {head(moved.tree), git("rev-parse", "HEAD^", cwd=moved.tree)}
    adopt(moved.tree, "v1.1.0", code=True)
    assert_adopted(moved, "v1.1.0", base, "bb")


def test_a_lock_that_a_kill_left_on_the_index_is_removed(two: Toy) -> None:
    base = head(two.tree)
    (two.tree / ".git/index.lock").symlink_to("ratchet-adopt")
    adopt(two.tree, "v1.1.0")
    assert_adopted(two, "v1.1.0", base, "bb")


def test_an_edit_after_it_was_cut_off_is_never_lost(
    two: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(branch, "place", dying(branch.place, 0))
        adopt(two.tree, "v1.1.0")
    two.set("train.epochs", 9)
    refused(two, r"params\.yaml: not committed")


def test_what_dvc_left_when_it_was_killed_goes(two: Toy) -> None:
    base = head(two.tree)
    for folder in ("models", "data/raw"):
        (two.tree / folder / ".abcdefghijklmnopqrst_-.tmp").write_text("half")
    adopt(two.tree, "v1.1.0")
    assert_adopted(two, "v1.1.0", base, "bb")
    assert not list(two.tree.glob("*/**/*.tmp"))
