"""Check every row and decode every image; set the bad ones aside.

Reads `data/raw/`; writes `data/quarantine.parquet`, `reports/validation.json` and
`reports/validation.html`. Params: `validate`; `prepare` for the warnings.
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
    """Never stops at the first fault: the reports stand even where it fails.

    Raises:
        CorruptData: a shard is not what `dataset.json` lists.
        ValidationFailed: more than `validate.max_bad_fraction` of the rows are bad, or a fault of
            the whole.
    """
    began = time.monotonic()
    tree = tree.resolve()
    shards, out = Shards.open(tree / "data/raw"), tree / quarantine.FILE
    memory = memo.entries(scratch(tree) / ".memo/validate", params.run.memo_bytes)
    with memory as store, executor(params.run) as pool:
        report = all_shards.run(params.validate, params.prepare, shards, out, store, pool)
    write_json(tree / "reports/validation.json", VALIDATION.stamped(report))
    page.write(tree / "reports/validation.html", report, shards, out, params.validate.max_pixels)
    rows, reasons = report["rows"], sorted(report["reasons"].items())
    print(
        f"validate: {rows['in']:,} rows, {rows['in'] / (time.monotonic() - began):,.0f} rows/s, "
        f"{rows['quarantined']:,} quarantined"
        + "".join(f", {count:,} {reason}" for reason, count in reasons)
    )
    for warning in report["warnings"]:
        print(f"validate: warning: {warning}")
    all_shards.fail_if_bad(params.validate, report, shards.info)


if __name__ == "__main__":
    validate.main()
