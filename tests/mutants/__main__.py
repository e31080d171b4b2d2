"""Make one mistake at a time in the code and see whether a test notices: `make mutants GROUP=gate`.

A mutant is one small mistake (`mistakes.py`): a guard or a call left out, a lock not taken, an
argument or a command-line flag dropped, a comparison moved by one. It is written into a copy of
the repository, and the default tests of its module run there until one fails. They run once
without a mutant before, and each line is noted with the tests that pass through it: these run
first, the module's other tests only if none of them fails. The libraries are imported once, and
each run is a fork.

Other tools change expressions only, start Python anew for each mutant, or replace functions in a
way that child processes do not see.

`mutants.toml` has the groups, the tests that a module needs beyond those that import it, mistakes
planted by hand (`GROUP=planted`), and the survivors that no test needs to notice, with reasons.
The results are in `.mutants/`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.mutants import selection
from tests.mutants.mistakes import Mutant
from tests.mutants.runs import Record, Runner, Verdict

RESULTS = selection.ROOT / ".mutants"
TARGET = 0.9
WARM = (
    *("torch", "torchvision", "prefect", "dvc.repo", "polars", "pandera.polars", "pyarrow.parquet"),
    *("pydantic", "ruamel.yaml", "jinja2", "hypothesis", "scipy.stats", "_pytest.assertion"),
)

# Processes are forked after these are set.
_runner: Runner
_record: Record


def main() -> None:
    """Check the groups that the command line names; exit code 1 if too many mutants survive."""
    options = _options()
    groups = options.groups or list(selection.config()["groups"])
    if options.list:
        for group in groups:
            print(
                *(mutant.id for mutant in _chosen(selection.mutants(group), group, options)),
                sep="\n",
            )
        return
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in WARM:
        importlib.import_module(name)
    sys.dont_write_bytecode = True
    results = [check(group, options) for group in groups]
    sys.exit(not all(results))


def check(group: str, options: argparse.Namespace) -> bool:
    """Run mutants of a group, print those that survive, and write the results.

    Were enough noticed?.
    """
    global _runner, _record
    everything = selection.mutants(group)
    chosen = _chosen(everything, group, options)
    paths = tuple(sorted({mutant.path for mutant in chosen}))
    files = list(dict.fromkeys(test for path in paths for test in selection.tests_of(path)))
    marks = "not long" if options.trained else "not long and not trains"
    began = time.monotonic()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="ratchet-mutants-", ignore_cleanup_errors=True) as area:
        _runner, _record = Runner(Path(area), marks, paths), Record()
        with ProcessPoolExecutor(options.workers, context) as pool:
            for record in pool.map(_recorded, files):
                _record.add(record)
        print(
            f"{group}: {len(chosen)} of {len(everything)} mutants (seed {options.seed}); without a mutant, "
            f"{len(_record.seconds)} tests took {sum(_record.seconds.values()):.0f} s",
            flush=True,
        )
        for test in dict.fromkeys(_record.failed):
            print(f"  left out, since it fails without a mutant: {test}", flush=True)
        verdicts = []
        with ProcessPoolExecutor(options.workers, context) as pool:
            for verdict in pool.map(_judged, chosen):
                verdicts.append(verdict)
                if verdict.how == "survived":
                    print(_shown(verdict.mutant), flush=True)
    return _concluded(group, verdicts, f"seed {options.seed}, {time.monotonic() - began:.0f} s")


def _recorded(file: str) -> Record:
    return _runner.recorded(file)


def _judged(mutant: Mutant) -> Verdict:
    return _runner.judged(mutant, _record)


def _chosen(everything: Sequence[Mutant], group: str, options: argparse.Namespace) -> list[Mutant]:
    if options.only:
        return [mutant for mutant in everything if any(text in mutant.id for text in options.only)]
    if group == selection.PLANTED:
        return list(everything)
    return selection.sample(everything, options.sample, options.seed)


def _shown(mutant: Mutant) -> str:
    """A survivor's id, and what it changes."""
    before, after = selection.source(mutant.path).splitlines(), mutant.source.splitlines()
    diff = list(difflib.unified_diff(before, after, n=1, lineterm=""))[3:]
    reason = selection.reason(mutant)
    title = f"survived {mutant.id}" + (f" (harmless: {reason})" if reason else "")
    return "\n".join([title, *(f"    {line}" for line in diff)])


def _entry(mutant: Mutant) -> str:
    """A survivor as an entry for `mutants.toml`."""
    if not mutant.way:
        return ""
    old, new = mutant.statements(selection.source(mutant.path))
    values = {"function": mutant.function, "old": old, "new": new, "reason": ""}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["[[harmless]]", *lines])


def _concluded(group: str, verdicts: Sequence[Verdict], how: str) -> bool:
    """Print and write how many were noticed: `.mutants/<group>.txt` for people, `.json` for programs."""
    count = Counter(verdict.how for verdict in verdicts)
    survivors = [verdict.mutant for verdict in verdicts if verdict.how == "survived"]
    harmless = [mutant for mutant in survivors if selection.reason(mutant)]
    noticed = len(verdicts) - len(survivors)
    line = (
        f"{group}: {noticed} of {len(verdicts)} noticed ({noticed / max(1, len(verdicts)):.0%}), "
        f"{count['timeout']} of them by the time limit; {len(survivors)} survived, {len(harmless)} of them harmless; {how}"
    )
    print(line, flush=True)
    RESULTS.mkdir(exist_ok=True)
    name = group.strip("/").replace("/", ".")
    texts = [f"{_shown(mutant)}\n\n{_entry(mutant)}" for mutant in survivors]
    (RESULTS / f"{name}.txt").write_text("\n\n".join([line, *texts]) + "\n")
    results: list[dict[str, Any]] = [
        {
            "id": verdict.mutant.id,
            "how": verdict.how,
            "test": verdict.test,
            "seconds": round(verdict.seconds, 1),
        }
        for verdict in verdicts
    ]
    summary = {
        "group": group,
        "noticed": noticed,
        "harmless": len(harmless),
        "of": len(verdicts),
        "mutants": results,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")
    return noticed + len(harmless) >= TARGET * len(verdicts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description="Make one mistake at a time and see whether a test notices.",
    )
    parser.add_argument(
        "groups",
        nargs="*",
        help="groups of mutants.toml, planted, folders or modules; default: all groups",
    )
    parser.add_argument(
        "--sample", type=int, default=50, help="mutants per group (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes at once (default: %(default)s)"
    )
    parser.add_argument(
        "--only", action="append", help="run only the mutants whose id contains this text"
    )
    parser.add_argument(
        "--trained", action="store_true", help="run the tests that need a trained repository, too"
    )
    parser.add_argument("--list", action="store_true", help="list the ids and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
