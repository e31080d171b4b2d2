"""Test runs in forks of this process, in copies of the repository: without a mutant, then with one."""

from __future__ import annotations

import compileall
import contextlib
import ctypes
import functools
import json
import os
import py_compile
import shutil
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from coverage import Coverage

from tests.mutants.mistakes import Mutant
from tests.mutants.selection import CODE, ROOT, tests_of

LIMIT_S = (
    45.0  # for the tests of a mutant, besides five times what they take; one that hangs is noticed
)
FIXTURE = "fixture "  # begins the context of a fixture that tests share
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Record:
    """What the tests do without a mutant."""

    seconds: dict[str, float] = field(default_factory=dict)  # by test
    failed: list[str] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)  # the tests that pass "path:line"

    def add(self, other: Record) -> None:
        self.seconds |= other.seconds
        self.failed += other.failed
        for line, tests in other.lines.items():
            self.lines.setdefault(line, []).extend(tests)

    def passing(self, mutant: Mutant) -> set[str]:
        """The tests that pass through the statement of a mutant."""
        return {
            test for line in mutant.lines for test in self.lines.get(f"{mutant.path}:{line}", ())
        }


@dataclass(frozen=True)
class Verdict:
    """How the tests took a mutant."""

    mutant: Mutant
    how: str  # "noticed", "timeout" (noticed, too) or "survived"
    test: str  # the one that failed
    seconds: float


@dataclass(frozen=True)
class Runner:
    """Runs tests in copies of the repository below `area`, one for each process."""

    area: Path
    marks: str  # pytest's `-m`
    paths: tuple[str, ...]  # the modules whose lines are recorded

    def recorded(self, file: str) -> Record:
        """Run a test file without a mutant."""
        folder, result = self._folder(), self.area / f"{os.getpid()}.json"
        result.unlink(missing_ok=True)
        code = _fork(folder, [file], Recorder(folder, self.paths, result), None, ["-m", self.marks])
        if not result.exists():
            log = folder.with_suffix(".log").read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{file} ended with exit code {code} without a mutant:\n{log}")
        return Record(**json.loads(result.read_text()))

    def judged(self, mutant: Mutant, record: Record) -> Verdict:
        """Run the tests that pass the changed statement, then the module's others, until one fails."""
        began = time.monotonic()
        passing, own = record.passing(mutant), set(tests_of(mutant.path))
        usable = [test for test in record.seconds if test not in record.failed]
        first = [test for test in usable if test in passing]
        others = [test for test in usable if test not in passing and test.partition("::")[0] in own]
        folder, result = self._folder(), self.area / f"{os.getpid()}.txt"
        file = folder / mutant.path
        original = file.read_text()
        result.write_text("")
        file.write_text(mutant.source)
        try:
            how = self._asked(folder, first, record.seconds, result)
            if how == "survived":
                how = self._asked(folder, others, record.seconds, result)
        finally:
            file.write_text(original)
        return Verdict(mutant, how, result.read_text(), time.monotonic() - began)

    def _asked(
        self, folder: Path, tests: Sequence[str], seconds: Mapping[str, float], result: Path
    ) -> str:
        if not tests:
            return "survived"
        order = _cheapest_first(tests, seconds)
        limit_s = LIMIT_S + 5 * sum(seconds[test] for test in order)
        files = list(dict.fromkeys(test.partition("::")[0] for test in order))
        code = _fork(folder, files, Chosen(order, result), limit_s, ["-x", "-m", self.marks])
        if code is None:
            return "timeout"
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            raise RuntimeError(f"none of the chosen tests was collected in {files}")
        return "noticed" if code else "survived"

    def _folder(self) -> Path:
        return _copy(self.area, os.getpid())


def _cheapest_first(tests: Sequence[str], seconds: Mapping[str, float]) -> list[str]:
    """The tests file by file, the cheapest file first."""
    files: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests, key=lambda test: seconds[test]):
        files[test.partition("::")[0]].append(test)
    by_cost = sorted(files.values(), key=lambda tests: sum(seconds[test] for test in tests))
    return [test for tests in by_cost for test in tests]


@functools.cache
def _copy(area: Path, process: int) -> Path:
    """The repository as it is, edits included, in a folder of its own for each process."""
    folder = area / str(process)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    for code in (
        *CODE,
        "custom",
        "tests",
    ):  # a changed module is known by its hash, not by its time
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(folder / code, quiet=2, invalidation_mode=mode)
    if sys.platform == "linux":  # what a test leaves running becomes a child of this process
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return folder


def _fork(
    folder: Path,
    files: Sequence[str],
    plugin: object,
    limit_s: float | None,
    options: Sequence[str],
) -> int | None:
    """Run test files in a fork; returns pytest's exit code, None if the time was over."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(_pytest(folder, files, plugin, options))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(pytest.ExitCode.INTERNAL_ERROR)
    end = time.monotonic() + limit_s if limit_s else None
    code = None
    while end is None or time.monotonic() < end:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.02)
    _end_children()
    return code


def _pytest(folder: Path, files: Sequence[str], plugin: object, options: Sequence[str]) -> int:
    os.setsid()
    output = os.open(folder.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    for number, target in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
        os.dup2(target, number)
    os.chdir(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [
        str(folder),
        *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT),
    ]
    os.environ["PYTHONPATH"] = str(folder)
    arguments = ["-q", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed", "0", *options]
    arguments += ["--basetemp", f"{folder}-temp", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*arguments, *files], plugins=[plugin]))


def _end_children() -> None:
    """Kill what a run of tests left behind."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


class Recorder:
    """A plugin of pytest that notes how long each test takes, and which lines it passes."""

    def __init__(self, folder: Path, paths: Sequence[str], result: Path) -> None:
        self._folder, self._paths, self._result = folder, paths, result
        self._record = Record()
        self._fixtures: dict[str, list[str]] = {}  # of each test
        self._test = ""

    def pytest_sessionstart(self) -> None:
        include = [str(self._folder / path) for path in self._paths]
        self._coverage = Coverage(data_file=None, config_file=False, include=include)
        self._coverage.set_option(
            "run:disable_warnings", ["no-data-collected"]
        )  # a file of tests that start processes
        self._coverage.start()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._fixtures = {
            item.nodeid: list(getattr(item, "fixturenames", ())) for item in session.items
        }

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._test = nodeid
        self._coverage.switch_context(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """What a shared fixture passes counts for every test that uses it."""
        if fixturedef.scope != "function":
            self._coverage.switch_context(FIXTURE + fixturedef.argname)
        try:
            return (yield)
        finally:
            self._coverage.switch_context(self._test)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._record.seconds[report.nodeid] = (
            self._record.seconds.get(report.nodeid, 0.0) + report.duration
        )
        if report.failed:
            self._record.failed.append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        for path in self._paths:
            for line, contexts in data.contexts_by_lineno(str(self._folder / path)).items():
                tests = {test for context in contexts for test in self._tests(context)}
                self._record.lines[f"{path}:{line}"] = sorted(tests)
        self._result.write_text(json.dumps(vars(self._record)))

    def _tests(self, context: str) -> list[str]:
        if not context.startswith(FIXTURE):
            return [context] if context else []  # empty: an import while the tests are collected
        fixture = context.removeprefix(FIXTURE)
        return [test for test, fixtures in self._fixtures.items() if fixture in fixtures]


class Chosen:
    """A plugin of pytest that runs some tests in an order, and writes to `result` which one fails."""

    def __init__(self, order: Sequence[str], result: Path) -> None:
        self._places = {test: place for place, test in enumerate(order)}
        self._result = result

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._places]
        items[:] = sorted(chosen, key=lambda item: self._places[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._result.write_text(report.nodeid)
