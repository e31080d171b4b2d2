"""What all commands share: the application, its options, and how results and errors are printed.

Each command imports what it needs when it runs, so that a command without torch, Prefect or DVC
starts fast.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ratchet.errors import RatchetError
from ratchet.process import isolate

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Train a PyTorch classifier from versioned data, compare it with the one in service, and roll back.

Start with `ratchet train`. List versions with `ratchet versions`. Roll back with `ratchet rollback`.
Run the commands in a Ratchet checkout. `--json` prints output for programs.""",
)


@app.callback()
def _in_a_checkout(context: typer.Context) -> None:
    """Refuse to run outside a Ratchet checkout, before anything is written."""
    from ratchet.repository import require_checkout

    if context.invoked_subcommand != "models" and "--help" not in sys.argv:
        require_checkout(Path())


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Environment = Annotated[
    str, typer.Option("--environment", "-e", help="An environment, such as prod or staging.")
]
VersionName = Annotated[
    str,
    typer.Argument(
        metavar="VERSION", help="A version such as v1.2.0, or an environment such as prod."
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Kept in the history.")]

TRAINING, VERSIONS, UPKEEP = (
    "Train and predict",
    "Versions and service",
    "Upkeep",
)  # panels of --help


def show(content: Any, shown: Any, as_json: bool) -> None:
    """Print `content` (a dataclass or JSON values) for programs, or `shown` (text or a table) for people."""
    if as_json:
        plain = (
            asdict(content) if is_dataclass(content) and not isinstance(content, type) else content
        )
        print(json.dumps(plain, indent=2, default=str))
        return
    from cli.tables import console

    console().print(shown)


def main() -> None:
    """Run the command line.

    A `RatchetError` is printed as one message on stderr; the exit code is the error's.
    """
    isolate()
    try:
        app()
    except RatchetError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        print(f"ratchet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
