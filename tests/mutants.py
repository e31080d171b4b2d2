"""Change one place of the code at a time and see whether a test notices: `make mutants GROUP=gate`.

Each mutant is one small mistake: a guard or a call left out, a lock not taken, an argument or a
command-line flag dropped, a condition negated, a comparison moved by one. It is written into a copy
of the repository, and the tests of its group run there until one fails. Tools such as mutmut and
cosmic-ray change expressions only and start Python anew for each mutant; here the libraries are
imported once and each mutant runs in a fork.

`tests/survivors.toml` lists the mutants that no test can or needs to notice, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = 0.9
LIMIT_S = 900.0  # for the tests without a mutant; with one they get three times as long as without
WARM = ("torch", "torchvision", "prefect", "dvc.repo", "polars", "pandera.polars", "pyarrow.parquet",
        "pydantic", "ruamel.yaml", "jinja2", "hypothesis", "scipy.stats", "_pytest.assertion")  # fmt: skip

# The code where a mistake costs most, and the tests that are responsible for it, cheap ones first.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gate": (
        ("tasks/data/tango.py", "tasks/versions/paired.py", "tasks/versions/judgement.py",
         "tasks/versions/gate.py", "tasks/versions/scoring.py", "tasks/compare.py"),
        ("tests/versions/test_judgement.py", "tests/versions/test_gate.py", "tests/test_compare.py"),
    ),
    "registry": (
        ("tasks/versions/tags.py", "tasks/versions/registry.py", "tasks/versions/git.py",
         "tasks/versions/repository.py", "tasks/versions/lineage.py", "tasks/versions/number.py",
         "tasks/promote.py", "tasks/withdraw.py"),
        ("tests/versions/test_registry.py", "tests/versions/test_texts.py", "tests/test_promote.py",
         "tests/test_withdraw.py", "tests/versions/test_repository.py",
         "tests/versions/test_lineage.py",
         "tests/versions/test_locks.py", "tests/versions/test_faults.py"),
    ),
    "publication": (
        ("tasks/versions/publication.py", "tasks/versions/remote.py", "tasks/versions/cache.py",
         "tasks/versions/transport.py", "tasks/versions/pipeline.py", "tasks/versions/snapshot.py",
         "tasks/register.py", "tasks/push.py", "tasks/collect.py"),
        ("tests/versions/test_transport.py", "tests/test_register.py", "tests/test_push.py",
         "tests/test_collect.py", "tests/test_checkout.py", "tests/versions/test_publication.py",
         "tests/versions/test_git_remotes.py", "tests/versions/test_faults.py"),
    ),
    "loading": (
        ("tasks/versions/loading.py", "tasks/learning/card.py", "tasks/verify.py",
         "tasks/data/custom_code.py"),
        ("tests/versions/test_loading.py", "tests/test_verify.py", "tests/versions/test_faults.py",
         "tests/learning/test_models.py"),
    ),
    "quarantine": (
        ("tasks/data/schema.py", "tasks/data/checking.py", "tasks/data/validation.py",
         "tasks/data/quarantine.py", "tasks/data/twins.py", "tasks/data/shards.py",
         "tasks/data/files.py", "tasks/data/memo.py"),
        ("tests/data/test_files.py", "tests/data/test_memo.py", "tests/data/test_twins.py",
         "tests/data/test_schema.py", "tests/data/test_shards.py", "tests/data/test_validation.py",
         "tests/data/test_pipeline.py", "tests/data/test_parquet.py", "tests/test_validate.py",
         "tests/data/test_pictures.py", "tests/data/test_columns.py", "tests/data/test_labels.py"),
    ),
    "preparation": (
        ("tasks/data/splits.py", "tasks/data/moments.py", "tasks/data/shaping.py",
         "tasks/data/preparation.py", "tasks/data/spec.py"),
        ("tests/data/test_pipeline.py", "tests/data/test_splits.py", "tests/data/test_features.py",
         "tests/test_prepare.py", "tests/data/test_dataset.py"),
    ),
    "training": (
        ("tasks/learning/checkpoint.py", "tasks/learning/batches.py", "tasks/learning/state.py",
         "tasks/learning/loop.py", "tasks/train.py"),
        ("tests/learning/test_batches.py", "tests/learning/test_loop.py",
         "tests/learning/test_precision.py", "tests/test_train.py"),
    ),
    "stage": (
        ("tasks/stage.py", "tasks/process.py", "tasks/versions/tree.py"),
        ("tests/test_stage.py", "tests/test_process.py", "tests/flows/test_training.py"),
    ),
}  # fmt: skip

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
UNIMPORTANT = ("encoding", "help", "description", "strict", "stacklevel")  # keyword arguments

Change = Callable[[Any], ast.AST]


@dataclass(frozen=True)
class Mutant:
    """One changed place: where it is, what was there, what is there now, and the whole new module."""

    path: str
    line: int
    operator: str
    old: str
    new: str
    module: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.operator}\n  - {self.old}\n  + {self.new}"


# ── operators ───────────────────────────────────────────────────────────────────────────────────


def _without(field: str, position: int) -> Change:
    def change(node: Any) -> ast.AST:
        del getattr(node, field)[position]
        return node

    return change


def _with(field: str, value: Callable[[Any], Any]) -> Change:
    def change(node: Any) -> ast.AST:
        setattr(node, field, value(node))
        return node

    return change


def _flip(node: Any) -> ast.AST:
    node.ops[0] = COMPARISONS[type(node.ops[0])]()
    return node


def _nothing(_node: Any) -> ast.AST:
    return ast.Pass()


def _body(node: Any) -> ast.AST:
    return ast.If(ast.Constant(True), node.body, [])


def _negated(node: Any) -> ast.AST:
    return ast.UnaryOp(ast.Not(), node.test)


def _changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """The small mistakes that can be made at this node."""
    match node:
        case ast.Expr(value=ast.Call()):
            yield "leave out the call", _nothing
        case ast.Raise() | ast.AugAssign() | ast.Break() | ast.Continue():
            yield "leave out the statement", _nothing
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "leave out the assignment", _nothing
        case ast.If():
            yield "negate the condition", _with("test", _negated)
            if not node.orelse:
                yield "leave out the if", _nothing
        case ast.IfExp():
            yield "negate the condition", _with("test", _negated)
        case ast.With() if all(item.optional_vars is None for item in node.items):
            yield "leave out the with", _body
        case ast.Compare() if type(node.ops[0]) in COMPARISONS:
            yield "flip the comparison", _flip
        case ast.BoolOp():
            for position in range(len(node.values)):
                yield "leave out a condition", _without("values", position)
        case ast.UnaryOp(op=ast.Not()):
            yield "leave out the not", lambda operation: operation.operand
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            yield "change the operator", _with("op", lambda it: ARITHMETIC[type(it.op)]())
        case ast.Call():
            for position, keyword in enumerate(node.keywords):
                if keyword.arg and keyword.arg not in UNIMPORTANT:
                    yield "leave out an argument", _without("keywords", position)
        case ast.Tuple(ctx=ast.Load()) | ast.List(ctx=ast.Load()) if len(node.elts) > 1:
            for position, element in enumerate(node.elts):
                if isinstance(element, ast.Constant | ast.Starred):
                    yield "leave out an element", _without("elts", position)
        case ast.comprehension():
            for position in range(len(node.ifs)):
                yield "leave out the filter", _without("ifs", position)
        case ast.Constant(value=bool()):
            yield "flip the constant", lambda constant: ast.Constant(not constant.value)
        case ast.Constant(value=int()):
            yield "add one", lambda constant: ast.Constant(constant.value + 1)


def _steps(node: ast.AST, path: tuple[tuple[str, int | None], ...] = ()) -> Iterator[Any]:
    """Every node below with the way to it; annotations, messages and docstrings are left out."""
    yield node, path
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return  # what a message says is not a mistake of this kind
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_params"):
            continue
        for position, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                step = (field, position if isinstance(value, list) else None)
                yield from _steps(child, (*path, step))


def mutants(path: str) -> list[Mutant]:
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse((ROOT / path).read_text())
    collected = []
    for node, way in list(_steps(tree)):
        if not way:
            continue
        for operator, change in _changes(node):
            mutant = copy.deepcopy(tree)
            parent, target = mutant, mutant
            for field, position in way:
                parent, value = target, getattr(target, field)
                target = value if position is None else value[position]
            old = ast.unparse(target)
            replacement = change(target)
            field, position = way[-1]
            if position is None:
                setattr(parent, field, replacement)
            else:
                getattr(parent, field)[position] = replacement
            try:
                module = ast.unparse(ast.fix_missing_locations(mutant))
                new = ast.unparse(replacement)
                compile(module, path, "exec")
            except (ValueError, SyntaxError, IndexError):
                continue  # such as `and` with one operand of another kind
            line = getattr(node, "lineno", 0)
            collected.append(Mutant(path, line, operator, old, new, module))
    return collected


# ── running ─────────────────────────────────────────────────────────────────────────────────────


def _copy(folder: Path) -> Path:
    """The repository, as committed or edited, as a repository of its own."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def _tests(folder: Path, tests: tuple[str, ...], log: Path, limit_s: float) -> int:
    """Run the tests in a fork until one fails; the exit code, 0 if none did. One that hangs is ended."""
    child = os.fork()
    if child == 0:
        os.setsid()
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        import pytest

        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not long and not trains"]
        options += ["--basetemp", str(folder) + "-temp", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        os._exit(int(pytest.main([*options, *tests])))
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def _explained(mutant: Mutant, reasons: list[dict[str, str]]) -> bool:
    return any((reason["old"], reason["new"]) == (mutant.old, mutant.new) for reason in reasons)


def check(group: str, sample: int, seed: int) -> bool:
    """Run a sample of a group's mutants and print the survivors; whether enough were noticed."""
    modules, tests = GROUPS[group]
    everything = [mutant for path in modules for mutant in mutants(path)]
    chosen = random.Random(seed).sample(everything, min(sample, len(everything)))
    survivors_file = ROOT / "tests/survivors.toml"
    reasons = tomllib.loads(survivors_file.read_text()).get("survivor", [])
    with tempfile.TemporaryDirectory(prefix="ratchet-mutants-") as area:
        folder, log = _copy(Path(area) / "copy"), Path(area) / "log"
        began = time.monotonic()
        if _tests(folder, tests, log, LIMIT_S):
            sys.exit(f"the tests of {group} fail without a mutant:\n{log.read_text()[-3000:]}")
        seconds = time.monotonic() - began
        print(f"{group}: {len(chosen)} of {len(everything)} mutants, seed {seed}; "
              f"the tests take {seconds:.1f} s", flush=True)  # fmt: skip
        survivors = []
        for mutant in chosen:
            file = folder / mutant.path
            original = file.read_text()
            file.write_text(mutant.module)
            if _tests(folder, tests, log, 3 * seconds + 10) == 0:
                survivors.append(mutant)
                known = " (explained in tests/survivors.toml)" * _explained(mutant, reasons)
                print(f"survived{known}: {mutant}", flush=True)
            file.write_text(original)
    unexplained = [mutant for mutant in survivors if not _explained(mutant, reasons)]
    noticed = len(chosen) - len(survivors)
    print(f"{group}: {noticed} of {len(chosen)} noticed ({noticed / len(chosen):.0%}), "
          f"{len(survivors) - len(unexplained)} harmless, {len(unexplained)} to look at; "
          f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    return len(chosen) - len(unexplained) >= TARGET * len(chosen)


def main() -> None:
    """Run the groups that the command line names; exit code 1 if too many mutants survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], default=list(GROUPS))
    parser.add_argument("--sample", type=int, default=50, help="mutants per group")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tests")]
    for name in WARM:
        importlib.import_module(name)
    results = [check(group, options.sample, options.seed) for group in options.groups or GROUPS]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
