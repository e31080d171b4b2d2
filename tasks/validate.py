"""Check every row and decode every image; set the bad ones aside.

Reads `data/raw/`; writes `data/quarantine.parquet`, `reports/validation.json` and `reports/validation.html`.
Params: `validate`.
"""

from __future__ import annotations

from pathlib import Path

from tasks.data import page, validation
from tasks.data.executor import executor
from tasks.data.files import write_json
from tasks.data.shards import Shards
from tasks.params import Params
from tasks.stage import home, stage


@stage
def validate(params: Params, tree: Path) -> None:
    """Never stops at the first fault: the reports stand even where it fails.

    Raises:
        CorruptData: a shard is not what `dataset.json` lists.
        ValidationFailed: more than `validate.max_bad_fraction` of the rows are bad, or a fault of the whole.
    """
    shards = Shards.open(tree / "data" / "raw")
    quarantine = tree / "data" / "quarantine.parquet"
    with executor(params.run) as pool:
        report = validation.run(shards, quarantine, home(tree) / ".memo" / "validate", pool)
    write_json(tree / "reports" / "validation.json", report)
    page.write(tree / "reports" / "validation.html", report, shards, quarantine)
    rows = report["rows"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report["reasons"].items()))
    print(f"validate: {rows['in']:,} rows, {rows['quarantined']:,} quarantined" + (f" ({reasons})" if reasons else ""))
    validation.fail_if_bad(report, shards.info["classes"], params.validate.max_bad_fraction)


if __name__ == "__main__":
    validate.main()
