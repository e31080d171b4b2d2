"""Where the work on shards runs: on this machine's processes, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager

from tasks.params import RunParams


@contextmanager
def executor(params: RunParams) -> Iterator[Executor]:
    """One worker stays in this process; more are processes that import `tasks` anew, since threads do not fork."""
    if params.workers == 1:
        with ThreadPoolExecutor(1) as pool:
            yield pool
    else:
        with ProcessPoolExecutor(params.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield pool
