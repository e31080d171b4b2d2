"""What the command line prints for people; for machines every command has `--json`."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from flows.outcome import Summary


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
    table.add_row("orchestration", "beyond the stage processes", f"{total_s - summary.process_s:.1f}", "", end_section=True)
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
