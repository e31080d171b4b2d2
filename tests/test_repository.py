"""Where the main checkout is, for each kind of place that a repository can be in.

Public reports: a submodule oalders/dot-files#1031, a `.git` that is a file
    ingydotnet/git-subrepo#407.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.errors import DirtyCode, NotARepository, VersionError
from ratchet.git import git
from ratchet.repository import add_worktree, home, require_checkout, worktrees
from ratchet.workspace import run_tree as trees
from tasks.promote import promote, rollback
from tests.helpers.toy import Toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")


def clone(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    return toy.tree, toy.tree


def odd_name(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    return (target := shutil.move(toy.tree, folder / "Übung mit 'Leerzeichen'")), target


def symlink(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    (folder / "link").symlink_to(toy.tree)
    return folder / "link", toy.tree


def worktree(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    git("worktree", "add", "--quiet", str(folder / "linked"), cwd=toy.tree)
    return folder / "linked", toy.tree


def submodule(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    inner = as_submodule(toy, folder)
    return inner, inner


def worktree_of_a_submodule(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    inner = as_submodule(toy, folder)
    git("worktree", "add", "--quiet", str(folder / "linked"), cwd=inner)
    return folder / "linked", inner


def separate_git_dir(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    git("init", "--quiet", "--separate-git-dir", str(folder / "repository"), cwd=toy.tree)
    return toy.tree, toy.tree


def our_worktree_of_a_separate_git_dir(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    separate_git_dir(toy, folder)
    add_worktree(toy.tree, folder / "linked", "HEAD")
    return folder / "linked", toy.tree


def worktree_of_a_separate_git_dir(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    separate_git_dir(toy, folder)
    git("worktree", "add", "--quiet", str(folder / "linked"), cwd=toy.tree)
    return folder / "linked", "git does not know the main checkout of the worktree"


def bare(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    git("clone", "--quiet", "--bare", str(toy.tree), str(folder / "bare.git"), cwd=folder)
    return (
        folder / "bare.git",
        "is a bare repository or a git directory; run this in one of its worktrees",
    )


def default_worktree_of_a_bare(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    repository, _ = bare(toy, folder)
    git("worktree", "add", "--quiet", str(folder / "main"), "main", cwd=repository)
    return folder / "main", folder / "main"


def other_worktree_of_a_bare(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    main, _ = default_worktree_of_a_bare(toy, folder)
    git("worktree", "add", "--quiet", "-b", "topic", str(folder / "topic"), cwd=main)
    return folder / "topic", main


def bare_without_its_default_branch(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    repository, _ = bare(toy, folder)
    git("worktree", "add", "--quiet", "-b", "topic", str(folder / "topic"), cwd=repository)
    return folder / "topic", "has its default branch main checked out"


def subfolder_of_another_repository(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    git("init", "--quiet", cwd=folder)
    shutil.rmtree(toy.tree / ".git")
    return (
        toy.tree,
        f"is a subfolder of the git repository {folder}, but Ratchet must be at the root of its own",
    )


def folder_in_a_checkout(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    return (
        toy.tree / "code",
        f"is not a Ratchet checkout (it has no params.yaml); run `cd {toy.tree}` first",
    )


def no_repository(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    shutil.rmtree(toy.tree / ".git")
    return toy.tree, "is not a git repository; clone Ratchet with git, or run `git init` and commit"


def elsewhere(toy: Toy, folder: Path) -> tuple[Path, Path | str]:
    (folder / "empty").mkdir()
    return (
        folder / "empty",
        "is not a Ratchet checkout (it has no params.yaml); `cd` to a Ratchet checkout first",
    )


def as_submodule(toy: Toy, folder: Path) -> Path:
    above = folder / "above"
    git("init", "--quiet", str(above), cwd=folder)
    shutil.move(toy.tree, above / "inner")
    git("submodule", "add", "--quiet", "./inner", cwd=above)
    git("submodule", "absorbgitdirs", cwd=above)
    return above / "inner"


PLACES: list[Callable[[Toy, Path], tuple[Path, Path | str]]] = [
    *(clone, odd_name, symlink, worktree, submodule, worktree_of_a_submodule, separate_git_dir),
    *(
        our_worktree_of_a_separate_git_dir,
        worktree_of_a_separate_git_dir,
        bare,
        default_worktree_of_a_bare,
    ),
    *(other_worktree_of_a_bare, bare_without_its_default_branch, subfolder_of_another_repository),
    *(folder_in_a_checkout, no_repository, elsewhere),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_home(
    place: Callable[[Toy, Path], tuple[Path, Path | str]], toy: Toy, tmp_path: Path
) -> None:
    tree, expected = place(toy, tmp_path)
    before = sorted(tree.rglob("*"))
    if isinstance(expected, Path):
        require_checkout(tree)
        assert home(tree) == expected.resolve()
    else:
        with pytest.raises(NotARepository, match=re.escape(expected)) as refusal:
            (home if place is bare else require_checkout)(tree)
        assert "\n" not in str(refusal.value)
    assert sorted(tree.rglob("*")) == before


def test_a_submodule_has_no_run_trees_but_versions(toy: Toy, tmp_path: Path) -> None:
    toy.release("a")
    toy.release("b")
    inner = as_submodule(toy, tmp_path)
    with pytest.raises(VersionError, match="is a git submodule"), trees.workplace(inner, {}):
        pass
    with pytest.raises(VersionError, match="is a git submodule"):
        trees.check(inner, {"train.epochs": "3"})
    assert not (inner / ".runs").exists()
    assert rollback.fn(inner, "prod").version == "v1.0.0"
    assert promote.fn(inner, "v1.0.1", "prod").version == "v1.0.1"


def test_a_worktree_that_cannot_be_created_leaves_nothing(toy: Toy, tmp_path: Path) -> None:
    (toy.tree / ".gitattributes").write_text("*.py filter=broken\n")
    toy.commit("Use a filter")
    git("config", "filter.broken.smudge", "false", cwd=toy.tree)
    git("config", "filter.broken.required", "true", cwd=toy.tree)
    with pytest.raises(VersionError, match="git worktree failed"):
        add_worktree(toy.tree, tmp_path / "linked", "HEAD")
    assert not (tmp_path / "linked").exists()
    assert worktrees(toy.tree) == [toy.tree]
    assert not list((toy.tree / ".git/worktrees").glob("*"))


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            {"params.yaml": "# edited\n"},
            r"^params\.yaml is edited and not committed, and a run with --set",
        ),
        ({"code/train.py": "# edited\n"}, r"^code/train\.py: differs from commit"),
        ({"custom/new.py": "# new\n"}, r"^custom/new\.py: differs from commit"),
        (
            {"dvc.yaml": "# edited\n", "params.yaml": "# edited\n"},
            r"^dvc\.yaml, params\.yaml: differs from commit",
        ),
        (
            {"code/train.py": "# train\r\n"},
            r"^code/train\.py: same as in commit \w+ except for the line endings",
        ),
        ({"source.lock": "{}\n", "README.md": "a draft\n"}, None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_a_run_with_settings_refuses_edits_that_it_would_not_use(
    toy: Toy, edits: dict[str, str], message: str | None
) -> None:
    for name, text in edits.items():
        file = toy.tree / name
        before = file.read_text() if name in ("params.yaml", "dvc.yaml") else ""
        file.write_bytes((before + text).encode())
    if message is None:
        trees.check(toy.tree, {"train.epochs": "3"})
        return
    with pytest.raises(DirtyCode, match=message):
        trees.check(toy.tree, {"train.epochs": "3"})
    with trees.workplace(toy.tree, {}) as place:  # a deployment goes on, and says so
        (place.tree / "reports").mkdir(exist_ok=True)
        assert place.unused
        assert all((place.tree / name).exists() for name in ("params.yaml", "dvc.yaml"))


def test_the_remedy_for_line_endings_works(toy: Toy) -> None:
    git("config", "core.autocrlf", "true", cwd=toy.tree)
    for file in ("code/train.py", "dvc.yaml"):
        text = (toy.tree / file).read_bytes().replace(b"\n", b"\r\n")
        (toy.tree / file).write_bytes(text)
    with pytest.raises(DirtyCode, match="except for the line endings") as refusal:
        trees.check(toy.tree, None)
    commands = str(refusal.value).split("run `")[1].split("` and this again")[0]
    subprocess.run(commands, shell=True, cwd=toy.tree, check=True, capture_output=True)
    trees.check(toy.tree, None)
