"""Show the progress of training.

A terminal shows a progress bar. Elsewhere, a plain line appears every 20 seconds and after each
epoch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_S = 20.0  # between two lines within an epoch, without a terminal


class Display:
    """Count the steps and report speed and time left. Use it as a context manager.

    Args:
        done: steps of the run that an earlier process did.
        total: steps of the whole run.
        rows: mean rows per step.
        say: the function that prints a line.
        shown: whether a bar may appear.
        unit: what a row is: "images" or "rows".
    """

    def __init__(
        self, done: int, total: int, rows: float, say: Callable[[str], None], shown: bool, unit: str
    ) -> None:
        self._first, self._total, self._rows, self._say = done, total, rows, say
        self._began = self._last_line = self._epoch_began = time.monotonic()
        self._done = self._epoch_first = done
        self._rate, self._unit = 0.0, unit
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, transient=True, disable=not (shown and sys.stdout.isatty()))
        self._task = self._bar.add_task("training", total=total, completed=done, rate="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, where: str) -> None:
        """Count one more step; `where` is a label like "epoch 3/8"."""
        self._done += 1
        seconds = time.monotonic() - self._epoch_began + 1e-9
        self._rate = (self._done - self._epoch_first) * self._rows / seconds
        rate = f"{self._rate:,.0f} {self._unit}/s"
        self._bar.update(self._task, advance=1, description=where, rate=rate)
        if self._bar.disable and time.monotonic() - self._last_line > QUIET_S:
            self._last_line = time.monotonic()
            self._say(f"{where}  {rate}  {self._left()}")

    def epoch(self, line: str) -> None:
        """Print `line`, the speed of the epoch and the time left, and start a new epoch."""
        text = f"{line}  {self._rate:,.0f} {self._unit}/s"
        if self._done < self._total:
            text += f"  {self._left()}"
        self._say(text)
        self._last_line = self._epoch_began = time.monotonic()
        self._epoch_first = self._done

    def _left(self) -> str:
        spent = (time.monotonic() - self._began) / max(self._done - self._first, 1)
        return f"{timedelta(seconds=round(spent * (self._total - self._done)))} left"
