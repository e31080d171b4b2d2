"""Check every row, decode every image and quarantine the bad rows.

Reads `data/raw/`.
Writes `data/quarantine.parquet`, `reports/validation.json` and `reports/validation.html`.
Params: `validate`; `prepare` for the warnings.
"""

from __future__ import annotations

import time
from pathlib import Path

from ratchet.files import write_json
from ratchet.formats import VALIDATION
from ratchet.params import Params
from ratchet.shards import memo, quarantine
from ratchet.shards.executor import executor
from ratchet.shards.shards import Shards
from ratchet.stage import scratch, stage
from ratchet.validation import all_shards, page


@stage
def validate(params: Params, tree: Path) -> None:
    """Check all rows and write the reports, even if validation fails.

    Args:
        params: all params; `validate`, `prepare` and `run` are used.
        tree: the checkout to work in.

    Raises:
        CorruptData: a shard differs from what `dataset.json` lists.
        ValidationFailed: more than `validate.max_bad_fraction` of the rows are bad, or the data set
            as a whole is not valid.
    """
    began = time.monotonic()
    tree = tree.resolve()
    shards, out = Shards.open(tree / "data/raw"), tree / quarantine.FILE
    memory = memo.entries(scratch(tree) / ".memo/validate", params.run.memo_bytes)
    with memory as store, executor(params.run) as pool:
        report = all_shards.run(params.validate, params.prepare, shards, out, store, pool)
    write_json(tree / "reports/validation.json", VALIDATION.stamped(report))
    page.write(tree / "reports/validation.html", report, shards, out, params.validate.max_pixels)
    rows, rate = report["rows"], report["rows"]["in"] / (time.monotonic() - began)
    counts = [f"{rows['in']:,} rows", f"{rate:,.0f} rows/s", f"{rows['quarantined']:,} quarantined"]
    counts += [f"{count:,} {reason}" for reason, count in sorted(report["reasons"].items())]
    print(f"validate: {', '.join(counts)}")
    for warning in report["warnings"]:
        print(f"validate: warning: {warning}")
    all_shards.fail_if_bad(params.validate, report, shards.info)


if __name__ == "__main__":
    validate.main()
