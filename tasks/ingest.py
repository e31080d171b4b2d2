"""Convert the data that `source.lock` pins to shards of one schema.

Reads `source.lock` and the files that it pins; downloads missing ones.
Writes `data/raw/`: `shard-*.parquet` and `dataset.json`.
Params: `ingest`.
"""

from __future__ import annotations

import time
from pathlib import Path

from ratchet import custom_imports
from ratchet.files import writing
from ratchet.params import Params
from ratchet.shards import memo
from ratchet.shards.executor import executor
from ratchet.sources import source_lock, to_shards
from ratchet.sources.base import Places
from ratchet.stage import home, scratch, stage


@stage
def ingest(params: Params, tree: Path) -> None:
    """Read every source, in the order of the params.

    Args:
        params: all params; `ingest` and `run` are used.
        tree: the checkout to work in.

    Raises:
        ParamsError: a custom source imports code that is not a dependency of this stage.
        SourceChanged: a source differs from what `source.lock` pins.
        SourceMissing: a pinned file no longer exists.
        Unreachable: a pinned file has to be downloaded, and its host does not respond.
        CorruptData: a source cannot be read, or the sources have no common schema.
    """
    began = time.monotonic()
    tree = tree.resolve()
    custom_imports.check_sources(tree, params)
    places = Places(tree, home(tree))
    entries = source_lock.read(tree, params.ingest)
    memory = memo.entries(scratch(tree) / ".memo/ingest", params.run.memo_bytes)
    with memory as store, executor(params.run) as pool, writing(tree / "data/raw") as raw:
        raw.mkdir()
        info = to_shards.run(params, entries, places, store, raw, pool)
    rate = info["rows"] / (time.monotonic() - began)
    print(f"ingest: {info['rows']:,} rows in {len(info['shards'])} shards, {rate:,.0f} rows/s")


if __name__ == "__main__":
    ingest.main()
