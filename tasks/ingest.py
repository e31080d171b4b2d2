"""Turn what `source.lock` pins into shards of one schema.

Reads `source.lock` and the files that it pins; writes `data/raw/`: `shard-*.parquet` and `dataset.json`.
Params: `ingest`.
"""

from __future__ import annotations

from pathlib import Path

from tasks.data import ingestion, lock
from tasks.data.executor import executor
from tasks.data.files import writing
from tasks.data.sources.base import Places
from tasks.params import Params
from tasks.stage import home, stage


@stage
def ingest(params: Params, tree: Path) -> None:
    """Read every source, in the order of the params.

    Raises:
        SourceChanged: a source is not what `source.lock` pins.
        SourceMissing: a pinned file is gone.
        CorruptData: a source cannot be read, or the sources have no common schema.
    """
    places = Places(tree, home(tree))
    entries = lock.read(tree, params.ingest)
    with executor(params.run) as pool, writing(tree / "data" / "raw") as raw:
        raw.mkdir()
        info = ingestion.run(params, entries, places, raw, pool)
    print(f"ingest: {info['rows']:,} rows in {len(info['shards'])} shards")


if __name__ == "__main__":
    ingest.main()
