"""What the command line prints for people; for machines every command has `--json`."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.outcome import Summary
    from tasks.versions.lineage import Difference, Shown, Span
    from tasks.versions.registry import Registry


def summary_table(summary: Summary, total_s: float) -> Table:
    """The one table at the end of `ratchet train`.

    Args:
        total_s: seconds from the start of the command's process.
    """
    table = Table(box=box.SIMPLE_HEAD, show_header=True, pad_edge=False)
    table.add_column("stage")
    table.add_column("result")
    table.add_column("seconds", justify="right")
    table.add_column("of that start-up", justify="right")
    for stage in summary.stages:
        ran = stage.how == "ran"
        table.add_row(stage.stage, stage.how, f"{stage.seconds:.1f}", f"{stage.startup_s:.1f}" if ran else "")
    table.add_row("everything", "", f"{total_s:.1f}", f"{summary.startup_s:.1f}")
    table.add_row(
        "orchestration", "beyond the stage processes", f"{total_s - summary.process_s:.1f}", "", end_section=True
    )
    table.add_row("test accuracy", f"{summary.accuracy:.4f}")
    table.add_row("test loss", f"{summary.loss:.4f}")
    table.add_row("gate", f"{summary.name.lower()}: {summary.reason}")
    table.add_row("new version", summary.version or "none")
    table.add_row(summary.environment, f"{summary.serves} serves" if summary.serves else "nothing serves")
    table.add_row("report", summary.report)
    return table


def console() -> Console:
    """Standard output; plain and unwrapped where it is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=160, highlight=False)


def versions_table(registry: Registry) -> Table:
    """The versions, newest first, and where each serves."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("version", "serves in", "accuracy", "rows", "made", "from", "why this number"):
        table.add_column(column)
    places: dict[str, list[str]] = {}
    for environment, name in registry.environments().items():
        places.setdefault(name, []).append(environment)
    for version in registry.versions():
        where = "withdrawn" if version.withdrawn else ", ".join(places.get(version.name, []))
        data, metrics = version.data, version.metrics
        table.add_row(
            *(version.name, where, f"{metrics.get('accuracy', float('nan')):.4f}", f"{metrics.get('rows', 0):,}"),
            *(_time(version.date), str(data.get("base", ""))[:10], str(data.get("reason", ""))),
        )
    return table


def version_table(shown: Shown) -> Table:
    """One version, a row a fact."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_row("version", shown.version + (f" (withdrawn: {shown.withdrawn})" if shown.withdrawn else ""))
    table.add_row("made", f"{_time(shown.date)} from commit {(shown.base or '')[:12]}; {shown.reason}")
    table.add_row("metrics", ", ".join(f"{name} {value:.4g}" for name, value in sorted(shown.metrics.items())))
    table.add_row("gate", str(shown.gate.get("reason", "")))
    for section, values in sorted(shown.params.items()):
        table.add_row(section, ", ".join(f"{name}: {value}" for name, value in values.items()))
    table.add_row("libraries", ", ".join(f"{name} {version}" for name, version in sorted(shown.libraries.items())))
    table.add_row("weights", f"SHA-256 {shown.weights_sha256}")
    for span in shown.served:
        table.add_row(
            "served", f"{span.environment}, {_time(span.since)} to {_time(span.until) if span.until else 'now'}"
        )
    return table


def difference_table(found: Difference) -> Table:
    """Two versions side by side, only what differs."""
    table = Table("what", found.old, found.new, box=box.SIMPLE_HEAD, pad_edge=False)
    for kind, pairs in (("param", found.params), ("metric", found.metrics), ("contract", found.contract)):
        for name, (old, new) in pairs.items():
            table.add_row(f"{kind} {name}", str(old), str(new))
    for label, metrics in found.per_class.items():
        for name, (old, new) in metrics.items():
            table.add_row(f"class {label}: {name}", str(old), str(new))
    for kind, paths in (("data", found.data), ("code", found.code)):
        for path in paths:
            table.add_row(f"{kind} {path}", "", "changed")
    return table


def history_table(spans: Sequence[Span]) -> Table:
    """What served from when to when, newest first."""
    table = Table("version", "from", "to", "by", "what", "reason", box=box.SIMPLE_HEAD, pad_edge=False)
    for span in reversed(spans):
        until = _time(span.until) if span.until else "now"
        table.add_row(span.version, _time(span.since), until, span.by, span.action, span.reason)
    return table


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


class _Lines(logging.Handler):
    """Prints what the stages print, as it comes."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def show_lines() -> None:
    """Pass the stages' own lines on to the terminal; Prefect keeps them in the run's log too."""
    logging.getLogger("prefect.task_runs.stage").addHandler(_Lines())
