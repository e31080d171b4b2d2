"""Bring the good rows to the shape that models are fed, split into training, validation and test.

Reads `data/raw/` and `data/quarantine.parquet`; writes `data/prepared/`: memory-mapped arrays per split, `spec.json`.
Params: `prepare`.
"""

from __future__ import annotations

from pathlib import Path

from tasks.data import preparation
from tasks.data.executor import executor
from tasks.data.files import writing
from tasks.data.shards import Shards
from tasks.params import Params
from tasks.stage import home, stage


@stage
def prepare(params: Params, tree: Path) -> None:
    """Raises `CorruptData` on a shard that changed, `ValidationFailed` on a class that training never sees."""
    shards = Shards.open(tree / "data" / "raw")
    store = home(tree) / ".memo" / "prepare"
    with executor(params.run) as pool, writing(tree / "data" / "prepared") as out:
        out.mkdir()
        spec = preparation.run(params.prepare, shards, tree / "data" / "quarantine.parquet", store, pool, out)
    counts = ", ".join(f"{rows:,} {split}" for split, rows in spec.counts.items())
    print(f"prepare: {counts}; {len(spec.classes)} classes, inputs {' x '.join(map(str, spec.input_shape))}")


if __name__ == "__main__":
    prepare.main()
