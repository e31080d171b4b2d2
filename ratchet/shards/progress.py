"""Show the progress of a stage: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS = 10.0  # between two lines


def progress(items: Iterable[T], total: int, name: str) -> Iterator[T]:
    """Yield `items` and show how many of `total` shards are done."""
    if sys.stdout.isatty():
        from rich.progress import track

        yield from track(items, f"{name}: shards", total, transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > SECONDS and done < total:
            last = time.monotonic()
            print(f"{name}: {done} of {total} shards", flush=True)
