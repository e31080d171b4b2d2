"""The application, the options that commands share, and the printing of results and errors.

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

from ratchet.environment import isolate
from ratchet.errors import RatchetError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    help=(
        "Train a PyTorch classifier from versioned data, compare it with the one in service, and"
        " roll back.\n\n"
        "Start with `ratchet train`. List versions with `ratchet versions`. Roll back with"
        " `ratchet rollback`.\n"
        "Run the commands in a Ratchet checkout. `--json` prints output for programs."
    ),
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

# the panels of --help
TRAINING = "Train and predict"
VERSIONS = "Versions and service"
UPKEEP = "Upkeep"


def show(content: Any, text: Any, as_json: bool) -> None:
    """Print a result.

    Args:
        content: the result for programs: a dataclass or JSON values.
        text: the result for people: text or a table.
        as_json: print `content` as one JSON document instead of `text`.
    """
    if not as_json:
        from cli.tables import console

        console().print(text)
        return
    if is_dataclass(content) and not isinstance(content, type):
        content = asdict(content)
    print(json.dumps(content, indent=2, default=str))


def main() -> None:
    """Run the command line.

    Print a `RatchetError` as one message on stderr and exit with the code of its class.
    """
    isolate()
    try:
        app()
    except RatchetError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        print(f"ratchet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
