"""How training goes, for whoever watches: a bar on a terminal, elsewhere a plain line at times and after each epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_S = 20.0  # without a terminal: between two lines within an epoch


class Display:
    """Counts steps, and says what there is to say. Use it as a context manager.

    Args:
        done: steps of the whole run that were done before; `total`: steps of the whole run.
        rows: rows of a step, on average.
        say: where lines go.
        shown: whether a bar may show.
        unit: what a row is: images, or rows.
    """

    def __init__(
        self, done: int, total: int, rows: float, say: Callable[[str], None], shown: bool, unit: str
    ) -> None:
        self._first, self._total, self._rows, self._say = done, total, rows, say
        self._began = self._said = self._epoch_began = time.monotonic()
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
        """One more step is done; `where` is like "epoch 3/8"."""
        self._done += 1
        self._rate = (
            (self._done - self._epoch_first)
            * self._rows
            / (time.monotonic() - self._epoch_began + 1e-9)
        )
        self._bar.update(
            self._task, advance=1, description=where, rate=f"{self._rate:,.0f} {self._unit}/s"
        )
        if self._bar.disable and time.monotonic() - self._said > QUIET_S:
            self._said = time.monotonic()
            self._say(f"{where}  {self._rate:,.0f} {self._unit}/s  {self._left()}")

    def epoch(self, line: str) -> None:
        """An epoch is done: say `line`, the rate of its steps and the time left.

        What comes next is another epoch.
        """
        self._say(
            f"{line}  {self._rate:,.0f} {self._unit}/s"
            + (f"  {self._left()}" if self._done < self._total else "")
        )
        self._said = self._epoch_began = time.monotonic()
        self._epoch_first = self._done

    def _left(self) -> str:
        spent = (time.monotonic() - self._began) / max(self._done - self._first, 1)
        return f"{timedelta(seconds=round(spent * (self._total - self._done)))} left"
