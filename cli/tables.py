"""What the command line prints for people; for machines every command has `--json`."""

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
    from ratchet.registry.versions import Assignment, Version


_OF_A_CLASS = ("recall", "precision", "f1")


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
    """Standard output; plain and unwrapped where it is no terminal.

    What people wrote, as a reason, is never markup.
    """
    terminal = Console(markup=False, emoji=False)
    return (
        terminal
        if terminal.is_terminal
        else Console(width=160, highlight=False, markup=False, emoji=False)
    )


def versions_table(
    versions: Sequence[Version], served: Mapping[str, Sequence[Assignment]]
) -> Table:
    """The versions, newest first, with where each serves and where it did.

    Args:
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
        gone = "expired" if version.expired else "withdrawn"
        reinstated = ["reinstated"] if version.cancels and not version.withdrawn else []
        data, metrics = version.data, version.metrics
        table.add_row(
            *(
                version.name,
                gone if version.withdrawn else ", ".join([*now, *reinstated]),
                ", ".join(before),
                _time(version.date),
            ),
            *(_with_interval("accuracy", metrics), f"{metrics.get('rows', 0):,}"),
            *(str(data.get("base", ""))[:10], str(data.get("reason", ""))),
        )
    return table


def places(
    version: Version, served: Mapping[str, Sequence[Assignment]]
) -> tuple[list[str], list[str]]:
    """The environments that a version serves in, and those that it served in before and does not now."""
    last = {
        at: history[-1]
        for at, history in served.items()
        if history and history[-1].action != "unassign"
    }
    now = [at for at in served if at in last and last[at].version == version.name]
    ever = [
        at
        for at, history in served.items()
        if any(each.version == version.name for each in history)
    ]
    return now, [at for at in ever if at not in now]


def version_table(shown: Shown) -> Table:
    """One version, a row a fact."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_row(
        "version", shown.version + (f" (withdrawn: {shown.withdrawn})" if shown.withdrawn else "")
    )
    made = (
        f"{_time(shown.date)}{_from(shown.origin)} from commit {(shown.base or '')[:12]};"
        f" {shown.reason}"
    )
    table.add_row("made", made)
    for span in reversed(shown.served):
        until = _time(span.until) if span.until else "now"
        why = f": {span.reason}" if span.reason else ""
        table.add_row(
            "served",
            f"{span.environment}, {_time(span.since)} to {until}, {span.action} by"
            f" {span.by}{_from(span.origin)}{why}",
        )
    for change in shown.changes:
        reason = f": {change['reason']}" if change["reason"] else ""
        about = f"{_time(change['date'])} by {change['by']}{_from(change['from'])}{reason}"
        table.add_row(f"{change['action']}", about)
    figures = [
        name
        for name, value in shown.metrics.items()
        if isinstance(value, int | float) and name != "rows"
    ]
    for name in sorted(figures):
        table.add_row(name, _with_interval(name, shown.metrics))
    table.add_row("rows", f"{shown.metrics.get('rows', 0):,}")
    table.add_row("gate", f"{shown.gate.get('verdict', '')}: {shown.gate.get('reason', '')}")
    for source in shown.sources.get("sources", []) if isinstance(shown.sources, dict) else []:
        table.add_row("source", _in_short(source))
    data = [f"{path} {md5[:12]}" for path, md5 in shown.outputs.items() if path.startswith("data/")]
    table.add_row("data", ", ".join(data))
    table.add_row(
        "code",
        f"{len(shown.code)} files and folders as in commit {(shown.base or '')[:12]}; --json lists"
        " them",
    )
    for section, values in sorted(shown.params.items()):
        table.add_row(
            f"params {section}", ", ".join(f"{name}: {value}" for name, value in values.items())
        )
    if shown.overrides:
        table.add_row("for its run alone", in_words(shown.overrides))
    table.add_row(
        "libraries",
        ", ".join(f"{name} {version}" for name, version in sorted(shown.libraries.items())),
    )
    table.add_row("weights", f"SHA-256 {shown.weights_sha256}")
    return table


def _from(origin: str) -> str:
    return f" ({origin})" if origin else ""


def _in_short(entry: Mapping[str, object]) -> str:
    """An entry of `source.lock` in one line: the params, the revision and the number of files."""
    params = entry.get("source")
    values = {**params, **entry} if isinstance(params, dict) else entry
    facts = [
        f"{name}: {value}"
        for name, value in values.items()
        if not isinstance(value, list | dict | None)
    ]
    files = entry.get("files")
    return ", ".join(facts + ([f"{len(files)} files"] if isinstance(files, list) else []))


def difference_table(found: Difference) -> Table:
    """Two versions side by side, only what differs; of classes the best known figures alone."""
    table = Table("what", found.old, found.new, box=box.SIMPLE_HEAD, pad_edge=False)
    for kind, pairs in (("param", found.params), ("contract", found.contract)):
        for name, (old, new) in pairs.items():
            table.add_row(f"{kind} {name}", str(old), str(new))
    for name, pair in found.metrics.items():
        spread = found.intervals.get(name, (None, None))
        table.add_row(
            f"metric {name}",
            *(_number(each, around) for each, around in zip(pair, spread, strict=True)),
        )
    for label, metrics in found.per_class.items():
        differ = [(name, metrics[name]) for name in _OF_A_CLASS if name in metrics]
        if differ:
            sides = (
                ", ".join(f"{name} {_number(pair[side], None)}" for name, pair in differ)
                for side in (0, 1)
            )
            table.add_row(f"class {label}", *sides)
    for kind, paths in (("data", found.data), ("code", found.code)):
        for path in paths:
            table.add_row(f"{kind} {path}", "", "changed")
    if not table.row_count:
        table.add_row("nothing differs", "", "")
    return table


def history_table(spans: Sequence[Span]) -> Table:
    """What served from when to when, newest first."""
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


def _number(value: object, around: Sequence[float] | None) -> str:
    """A figure with its interval: `0.9317 (0.9270 to 0.9366)`."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.4f}" + (f" ({around[0]:.4f} to {around[1]:.4f})" if around else "")


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


class _Lines(logging.Handler):
    """Prints what the stages print, as it comes."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def show_lines() -> None:
    """Pass the stages' own lines on to the terminal; Prefect keeps them in the run's log too."""
    logging.getLogger("prefect.task_runs.stage").addHandler(_Lines())
