"""The command line: `ratchet ...`, the same as `python -m flows ...`.

Each command imports what it needs when it runs, so that one that needs no torch, Prefect or DVC loads none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tasks.errors import ParamsError, RatchetError

if TYPE_CHECKING:
    from flows.outcome import Summary

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
VersionName = Annotated[str, typer.Argument(metavar="VERSION", help="Such as v1.2.0.")]
Reason = Annotated[str, typer.Option("--reason", help="Kept in the history.")]


@app.command()
def train(
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a value of params.yaml for this run, such as train.epochs=3; it then works in a tree of its own.",
        ),
    ] = None,
    environment: Environment = "prod",
    as_json: Json = False,
) -> None:
    """Run the training flow: data, model, gate, version, service.

    Stages whose data, params and code have not changed are not run again. Uses the Prefect server that PREFECT_API_URL
    names, or a temporary one.
    """
    from flows.server import server
    from tasks.process import age_s
    from tasks.stage import home

    values = dict(_pair(text) for text in settings or ())
    checkout = Path().resolve()
    with server(home(checkout)):
        from flows.tables import show_lines, summary_table
        from flows.training import training

        if not as_json:
            show_lines()
        try:
            summary = cast("Summary", training(environment, values or None))
        except KeyboardInterrupt:
            print("ratchet: stopped; run it again to go on from its checkpoint", file=sys.stderr)
            raise typer.Exit(130) from None
    _print(summary.as_dict(), summary_table(summary, age_s()), as_json)


@app.command()
def refresh(as_json: Json = False) -> None:
    """Look what the sources hold now and write it to source.lock; the next run reads what is new."""
    from tasks import params
    from tasks.refresh import refresh as step

    lock = step.fn(params.load(), Path())
    _print(
        lock,
        f"source.lock pins {len(lock['sources'])} source(s); `dvc repro` or `ratchet train` reads what is new",
        as_json,
    )


@app.command()
def versions(as_json: Json = False) -> None:
    """List the versions, newest first, and where each serves."""
    from flows.tables import versions_table
    from tasks.versions.registry import Registry

    registry = Registry(Path())
    places = registry.environments()
    listed = [
        {**version.as_dict(), "environments": [where for where, name in places.items() if name == version.name]}
        for version in registry.versions()
    ]
    _print(listed, versions_table(registry), as_json)


@app.command()
def promote(
    version: VersionName, environment: Environment = "prod", reason: Reason = "", as_json: Json = False
) -> None:
    """Put a version into service. The one that served stays in the history, for `ratchet rollback`."""
    from tasks.promote import promote as step

    assignment = step.fn(Path(), version, environment, reason or "promoted by hand")
    _print(assignment.as_dict(), f"{assignment.version} serves in {environment}", as_json)


@app.command()
def rollback(
    environment: Environment = "prod",
    to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="Default: what served before.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Take the version that served before back into service. No unattended run undoes it."""
    from tasks.promote import rollback as step

    assignment = step.fn(Path(), environment, to, reason)
    _print(assignment.as_dict(), f"{assignment.version} serves in {environment} again", as_json)


@app.command()
def predict(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A parquet file, or a folder of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The parquet file to write.")],
    environment: Environment = "prod",
    as_json: Json = False,
) -> None:
    """Score new rows with the model in service: one row out for each row in, with the reason where one is bad."""
    from tasks.predict import predict as step

    scored = step.fn(Path(), source, environment, output)
    _print(scored.as_dict(), f"{scored.rows} rows ({scored.bad} bad) scored by {scored.version} into {output}", as_json)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ParamsError(f"--set {text}: expected KEY=VALUE, such as train.epochs=3")
    return key, value


def _print(content: Any, shown: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=2))
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


if __name__ == "__main__":
    main()
