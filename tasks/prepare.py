"""Convert the good rows to the inputs of a model and split them into training, validation and test.

Reads `data/raw/` and `data/quarantine.parquet`.
Writes `data/prepared/`: memory-mapped arrays per split, and `spec.json`.
Params: `prepare`.
"""

from __future__ import annotations

import time
from pathlib import Path

from ratchet.files import writing
from ratchet.params import Params
from ratchet.preparation import all_shards
from ratchet.shards import memo, quarantine
from ratchet.shards.executor import executor
from ratchet.shards.shards import Shards
from ratchet.stage import scratch, stage


@stage
def prepare(params: Params, tree: Path) -> None:
    """Prepare the rows of all shards.

    Args:
        params: all params; `prepare` and `run` are used.
        tree: the checkout to work in.

    Raises:
        CorruptData: a shard differs from what `dataset.json` lists.
        ValidationFailed: a class has no training rows.
    """
    began = time.monotonic()
    tree = tree.resolve()
    shards = Shards.open(tree / "data/raw")
    memory = memo.entries(scratch(tree) / ".memo/prepare", params.run.memo_bytes)
    with memory as store, executor(params.run) as pool, writing(tree / "data/prepared") as out:
        out.mkdir()
        spec = all_shards.run(params.prepare, shards, tree / quarantine.FILE, store, pool, out)
    counts = ", ".join(f"{rows:,} {split}" for split, rows in spec.counts.items())
    rate = sum(spec.counts.values()) / (time.monotonic() - began)
    shape = f"{len(spec.classes)} classes, inputs {spec.input_shape}"
    print(f"prepare: {counts} rows, {rate:,.0f} rows/s, {shape}")


if __name__ == "__main__":
    prepare.main()
