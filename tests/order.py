"""The order of the tests, and which of them run: cheap files first, no skips in CI, a random slice of the long tests."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

# What a fixture costs: a checkout with a trained model, then standing servers, then browsers. A
# file costs what the dearest fixture of its tests costs.
COSTS = {"released": 1, "project": 1, "service": 2, "browser": 3}
# Reasons to skip that nothing which CI installs can remove.
UNAVOIDABLE = ("this git has no reftable", "no namespaces here")
STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ratchet")
    group.addoption(
        "--seed",
        type=int,
        help="run the files, and the tests of a file, in an order drawn from this seed",
    )
    group.addoption("--seconds", type=float, help="start no test after this time; needs --seed")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--seconds") and config.getoption("--seed") is None:
        raise pytest.UsageError("--seconds needs --seed: the same tests would run every time")
    config.pluginmanager.register(Slice(config), "slice")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, but the slow tests of `tests/flows` one by one.

    These share only what is built once for all workers.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith("tests/flows/") else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seed = config.getoption("--seed")
    files = {item.path: 0.0 for item in items}
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        files[item.path] = max(files[item.path], *(COSTS.get(name, 0) for name in fixtures), 0)
    if seed is None:
        items.sort(key=lambda item: files[item.path])
        return
    generator = random.Random(seed)
    places = {path: generator.random() for path in sorted(files)}
    draws = {
        item.nodeid: generator.random() for item in sorted(items, key=lambda item: item.nodeid)
    }
    items.sort(key=lambda item: (places[item.path], draws[item.nodeid]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With RATCHET_NO_SKIPS=1 a test that is skipped fails: CI installs what the tests need."""
    report = yield
    if report.skipped and os.environ.get("RATCHET_NO_SKIPS") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(known in reason for known in UNAVOIDABLE):
            report.outcome = "failed"
            report.longrepr = (
                f"{reason}\nInstall what is missing, or unset RATCHET_NO_SKIPS to allow skips."
            )
    return report


class Slice:
    """Starts no test once the time is over, and says how many ran."""

    def __init__(self, config: pytest.Config) -> None:
        self.seed, self.limit_s = config.getoption("--seed"), config.getoption("--seconds")
        self.ran = self.left = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        over = time.monotonic() - STARTED > (self.limit_s or float("inf"))
        if over or (self.limit_s and item.get_closest_marker("soak")):
            self.left += 1
            return True  # neither run nor reported
        self.ran += 1
        return None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.seed is not None:
            total = self.ran + self.left
            terminalreporter.write_line(
                f"--seed {self.seed}: {self.ran} of {total} selected tests were started"
            )
