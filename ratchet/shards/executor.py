"""Where the work on shards runs: in this process, on processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pandas  # type: ignore[import-untyped]  # noqa: F401  # pyarrow does so on first use: once here, not in each worker

from ratchet.errors import ParamsError, Unreachable
from ratchet.params import RunParams
from ratchet.process import die_with_parent


@contextmanager
def executor(params: RunParams) -> Iterator[Executor]:
    """One worker stays in this process; more are processes. Open it before anything else is done.

    Raises:
        Unreachable: no scheduler answers at `run.cluster`.
        ParamsError: the extra `dask` is not installed.
    """
    if params.cluster is not None:
        with _cluster(params.cluster) as pool:
            yield pool
    elif params.workers == 1:
        with ThreadPoolExecutor(1) as pool:
            yield pool
    else:
        with ProcessPoolExecutor(
            params.workers, multiprocessing.get_context(_start()), die_with_parent
        ) as pool:
            yield pool


def _start() -> str:
    """A stage's own process has not used polars' threads yet, so it may fork, which saves a second of imports."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    return (
        "fork" if sys.platform == "linux" and main and main.name.startswith("tasks.") else "spawn"
    )


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """A cluster whose workers see this checkout at the same path.

    A shard whose worker is lost goes to another.
    """
    try:
        import distributed
    except ImportError:
        raise ParamsError(
            "run.cluster needs Dask: `pip install -c constraints.txt -e '.[dask]'`, or set it to"
            " null"
        ) from None
    connect: Any = distributed.Client
    try:
        client = connect(address, timeout="5s")
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"no Dask scheduler answers at run.cluster {address}: {error}; start it, or set null"
        ) from None
    with client, client.get_executor(pure=False) as pool:
        yield pool
