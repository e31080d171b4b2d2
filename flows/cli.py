"""What every command of the command line shares: the application, its options, and how it prints.

Each command imports what it needs when it runs, so that one that needs no torch, Prefect or DVC loads none.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import typer

from tasks.errors import RatchetError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Train a PyTorch model from versioned data, let it through a gate, give it a version, and take it back.

A first run: `ratchet train`. What serves now: `ratchet versions`. It disappoints: `ratchet rollback`.
Every command takes `--json` for machines and works in the checkout that it is called in.""",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Environment = Annotated[
    str, typer.Option("--environment", "-e", help="Where a version serves, such as prod or staging.")
]
VersionName = Annotated[str, typer.Argument(metavar="VERSION", help="Such as v1.2.0, or an environment such as prod.")]
Reason = Annotated[str, typer.Option("--reason", help="Kept in the history.")]

TRAINING, VERSIONS, UPKEEP = "Train and predict", "Versions and service", "Upkeep"  # panels of --help


def show(content: Any, shown: Any, as_json: bool) -> None:
    """Print `content` (a dataclass, or what JSON knows) for machines, or `shown` (text, a table) for people."""
    if as_json:
        plain = asdict(content) if is_dataclass(content) and not isinstance(content, type) else content
        print(json.dumps(plain, indent=2, default=str))
        return
    from flows.tables import console

    console().print(shown)


def main() -> None:
    """Run the command line; what a user can be told is one message on stderr and an exit code that is not 0."""
    try:
        app()
    except RatchetError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        print(f"ratchet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
