"""Where the work on shards runs: in this process, in local processes, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

# pyarrow imports pandas on first use. Imported here, it is loaded once and not in every worker.
import pandas  # type: ignore[import-untyped]  # noqa: F401

from ratchet.errors import ParamsError, Unreachable
from ratchet.params import RunParams
from ratchet.process import die_with_parent


@contextmanager
def executor(params: RunParams) -> Iterator[Executor]:
    """Open the executor that `run.cluster` and `run.workers` ask for.

    A single worker is a thread of this process; several workers are processes, which may be
    forked. So open the executor before doing anything else.

    Raises:
        Unreachable: no scheduler responds at `run.cluster`.
        ParamsError: the extra `dask` is not installed.
    """
    if params.cluster is not None:
        with _cluster(params.cluster) as pool:
            yield pool
    elif params.workers == 1:
        with ThreadPoolExecutor(1) as pool:
            yield pool
    else:
        context = multiprocessing.get_context(_start_method())
        with ProcessPoolExecutor(params.workers, context, die_with_parent) as pool:
            yield pool


def _start_method() -> str:
    """How worker processes start: `fork` in a stage's own process on Linux, otherwise `spawn`.

    A stage's own process has not used polars' threads yet, so forking is safe there. It saves a
    second of imports.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if sys.platform == "linux" and main and main.name.startswith("tasks."):
        return "fork"
    return "spawn"


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """Connect to a cluster whose workers see this checkout at the same path.

    If a worker is lost, another one takes over its shard.
    """
    try:
        import distributed
    except ImportError:
        raise ParamsError(
            "run.cluster needs Dask; run `pip install -c constraints.txt -e '.[dask]'`, or set"
            " run.cluster to null"
        ) from None
    connect: Any = distributed.Client
    try:
        client = connect(address, timeout="5s")
    except (OSError, ValueError) as error:
        raise Unreachable(
            f"no Dask scheduler responds at run.cluster {address}: {error}; start one, or set"
            " run.cluster to null"
        ) from None
    with client, client.get_executor(pure=False) as pool:
        yield pool
