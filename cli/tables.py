"""The tables that the command line prints for people; `--json` is the output for programs."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from ratchet.overrides import in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flows.summary import Summary
    from ratchet.registry.history import Difference, Shown, Span
    from ratchet.registry.records import Assignment, Version


CLASS_METRICS = ("recall", "precision", "f1")  # that a comparison of two versions shows


def summary_table(summary: Summary, total_s: float) -> Table:
    """Return the table that `ratchet train` prints at its end.

    Args:
        summary: the results of the run.
        total_s: seconds since the start of the command's process.
    """
    table = Table(box=box.SIMPLE_HEAD, show_header=True, pad_edge=False)
    table.add_column("stage")
    table.add_column("result")
    table.add_column("seconds", justify="right")
    table.add_column("of that start-up", justify="right")
    for stage in summary.stages:
        ran = stage.how == "ran"
        table.add_row(
            stage.stage, stage.how, f"{stage.seconds:.1f}", f"{stage.startup_s:.1f}" if ran else ""
        )
    table.add_row("everything", "", f"{total_s:.1f}", f"{summary.startup_s:.1f}")
    table.add_row(
        "orchestration",
        "beyond the stage processes",
        f"{total_s - summary.process_s:.1f}",
        "",
        end_section=True,
    )
    table.add_row("test accuracy", f"{summary.accuracy:.4f}")
    table.add_row("test loss", f"{summary.loss:.4f}")
    for line in summary.data:
        table.add_row("data", line)
    table.add_row("gate", f"{summary.name.lower()}: {summary.reason}")
    table.add_row("new version", summary.version or "none")
    table.add_row(
        summary.environment, f"{summary.serves} serves" if summary.serves else "nothing serves"
    )
    table.add_row("report", summary.report)
    return table


def console() -> Console:
    """Return standard output, plain and 160 columns wide if it is not a terminal.

    Markup is off, since the text contains reasons that people wrote.
    """
    terminal = Console(markup=False, emoji=False)
    if terminal.is_terminal:
        return terminal
    return Console(width=160, highlight=False, markup=False, emoji=False)


def versions_table(
    versions: Sequence[Version], served: Mapping[str, Sequence[Assignment]]
) -> Table:
    """Return the table of versions, with the environments that each serves in and served in.

    Args:
        versions: newest first.
        served: the history of every environment.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (
        "version",
        "serves in",
        "served in",
        "made",
        "accuracy",
        "rows",
        "from commit",
        "why this number",
    ):
        table.add_column(column)
    for version in versions:
        now, before = places(version, served)
        table.add_row(
            version.name,
            _state(version, now),
            ", ".join(before),
            _time(version.date),
            _with_interval("accuracy", version.metrics),
            f"{version.metrics.get('rows', 0):,}",
            str(version.data.get("base", ""))[:10],
            str(version.data.get("reason", "")),
        )
    return table


def _state(version: Version, environments: Sequence[str]) -> str:
    """Return "expired", "withdrawn", or the environments that the version serves in."""
    if version.withdrawn:
        return "expired" if version.expired else "withdrawn"
    words = [*environments]
    if version.cancels:
        words.append("reinstated")
    return ", ".join(words)


def places(
    version: Version, served: Mapping[str, Sequence[Assignment]]
) -> tuple[list[str], list[str]]:
    """Return the environments that a version serves in now, and those that it served in before."""
    now, before = [], []
    for environment, history in served.items():
        if not any(assignment.version == version.name for assignment in history):
            continue
        last = history[-1]
        if last.version == version.name and last.action != "unassign":
            now.append(environment)
        else:
            before.append(environment)
    return now, before


def version_table(shown: Shown) -> Table:
    """Return the table of one version, with one fact per row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    _add_history(table, shown)
    _add_results(table, shown)
    data = [f"{path} {md5[:12]}" for path, md5 in shown.outputs.items() if path.startswith("data/")]
    table.add_row("data", ", ".join(data))
    base = (shown.base or "")[:12]
    code = f"{len(shown.code)} files and folders as in commit {base}; --json lists them"
    table.add_row("code", code)
    for section, values in sorted(shown.params.items()):
        table.add_row(f"params {section}", _pairs(values, ": "))
    if shown.overrides:
        table.add_row("for its run alone", in_words(shown.overrides))
    table.add_row("libraries", _pairs(dict(sorted(shown.libraries.items())), " "))
    table.add_row("weights", f"SHA-256 {shown.weights_sha256}")
    return table


def _add_history(table: Table, shown: Shown) -> None:
    """Add when the version was made, served and changed."""
    withdrawn = f" (withdrawn: {shown.withdrawn})" if shown.withdrawn else ""
    table.add_row("version", shown.version + withdrawn)
    base = (shown.base or "")[:12]
    origin = f"{_time(shown.date)}{_from(shown.origin)} from commit {base}; {shown.reason}"
    table.add_row("made", origin)
    for span in reversed(shown.served):
        until = _time(span.until) if span.until else "now"
        period = f"{span.environment}, {_time(span.since)} to {until}"
        reason = f": {span.reason}" if span.reason else ""
        text = f"{period}, {span.action} by {span.by}{_from(span.origin)}{reason}"
        table.add_row("served", text)
    for change in shown.changes:
        reason = f": {change['reason']}" if change["reason"] else ""
        text = f"{_time(change['date'])} by {change['by']}{_from(change['from'])}{reason}"
        table.add_row(f"{change['action']}", text)


def _add_results(table: Table, shown: Shown) -> None:
    """Add the metrics, the gate's decision and the sources."""
    figures = [
        name
        for name, value in shown.metrics.items()
        if isinstance(value, int | float) and name != "rows"
    ]
    for name in sorted(figures):
        table.add_row(name, _with_interval(name, shown.metrics))
    table.add_row("rows", f"{shown.metrics.get('rows', 0):,}")
    table.add_row("gate", f"{shown.gate.get('verdict', '')}: {shown.gate.get('reason', '')}")
    if isinstance(shown.sources, dict):
        for source in shown.sources.get("sources", []):
            table.add_row("source", _source_line(source))


def _pairs(values: Mapping[str, object], separator: str) -> str:
    return ", ".join(f"{name}{separator}{value}" for name, value in values.items())


def _from(origin: str) -> str:
    return f" ({origin})" if origin else ""


def _source_line(entry: Mapping[str, object]) -> str:
    """Return an entry of `source.lock` in one line: params, revision and number of files."""
    params = entry.get("source")
    values = {**params, **entry} if isinstance(params, dict) else entry
    facts = [
        f"{name}: {value}"
        for name, value in values.items()
        if not isinstance(value, list | dict | None)
    ]
    files = entry.get("files")
    if isinstance(files, list):
        facts.append(f"{len(files)} files")
    return ", ".join(facts)


def difference_table(difference: Difference) -> Table:
    """Return the table of what differs between two versions, side by side.

    Of the metrics of a class it shows `CLASS_METRICS`.
    """
    table = Table("what", difference.old, difference.new, box=box.SIMPLE_HEAD, pad_edge=False)
    for kind, pairs in (("param", difference.params), ("contract", difference.contract)):
        for name, (old, new) in pairs.items():
            table.add_row(f"{kind} {name}", str(old), str(new))
    for name, (old, new) in difference.metrics.items():
        old_interval, new_interval = difference.intervals.get(name, (None, None))
        table.add_row(f"metric {name}", _number(old, old_interval), _number(new, new_interval))
    for label, metrics in difference.per_class.items():
        pairs = {name: metrics[name] for name in CLASS_METRICS if name in metrics}
        if pairs:
            old, new = _class_metrics(pairs, 0), _class_metrics(pairs, 1)
            table.add_row(f"class {label}", old, new)
    for kind, paths in (("data", difference.data), ("code", difference.code)):
        for path in paths:
            table.add_row(f"{kind} {path}", "", "changed")
    if not table.row_count:
        table.add_row("nothing differs", "", "")
    return table


def _class_metrics(pairs: Mapping[str, Sequence[object]], side: int) -> str:
    """Return the metrics of a class in the old version (side 0) or the new one (side 1)."""
    return ", ".join(f"{name} {_number(pair[side], None)}" for name, pair in pairs.items())


def history_table(spans: Sequence[Span]) -> Table:
    """Return the table of what served from when to when, newest first."""
    columns = ("version", "from", "to", "by", "where", "what", "reason")
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for span in reversed(spans):
        until = _time(span.until) if span.until else "now"
        table.add_row(
            span.version, _time(span.since), until, span.by, span.origin, span.action, span.reason
        )
    return table


def _with_interval(name: str, metrics: Mapping[str, Any]) -> str:
    return _number(metrics.get(name), metrics.get("intervals", {}).get(name))


def _number(value: object, interval: Sequence[float] | None) -> str:
    """Return a figure with its interval: `0.9317 (0.9270 to 0.9366)`."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if not interval:
        return f"{value:.4f}"
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


class _Lines(logging.Handler):
    """Prints the lines of the stages as they come."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def show_lines() -> None:
    """Print the stages' own lines on the terminal, as well as in the log of the run in Prefect."""
    logging.getLogger("prefect.task_runs.stage").addHandler(_Lines())
