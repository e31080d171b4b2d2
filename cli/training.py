"""Commands that train, compare and predict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cli.app import TRAINING, Environment, Json, VersionName, app, show
from ratchet.errors import ParamsError

if TYPE_CHECKING:
    from flows.summary import Summary


@app.command(rich_help_panel=TRAINING)
def train(
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help=(
                "Override a value of params.yaml for this run, such as train.epochs=3; the run"
                " then uses its own git worktree."
            ),
        ),
    ] = None,
    preset: Annotated[
        Path | None,
        typer.Option(
            "--params",
            metavar="FILE",
            help=(
                "Override the values that a file lists, such as params/accurate.yaml;"
                " --set takes precedence."
            ),
        ),
    ] = None,
    environment: Environment = "prod",
    as_json: Json = False,
) -> None:
    """Run the training flow: read data, train, compare, register a version, promote it.

    Stages whose data, params and code are unchanged are skipped. Uses the Prefect server at
    PREFECT_API_URL, or starts a temporary one.
    """
    from ratchet import overrides
    from ratchet.out_of_date import preload
    from ratchet.process import age_s
    from ratchet.repository import home
    from ratchet.workspace.run_tree import check
    from service.server import server

    values = overrides.preset(preset) if preset else {}
    values |= dict(map(_pair, settings or ()))
    checkout = Path().resolve()
    check(checkout, values or None)  # fail before a server starts
    with server(home(checkout)):
        from cli.tables import show_lines, summary_table
        from flows.training import training

        preload(checkout)
        if not as_json:
            show_lines()
        try:
            summary = cast("Summary", training(environment, values or None))
        except KeyboardInterrupt:
            print(
                "ratchet: stopped; run the same command again to continue from the last checkpoint",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None
    show(summary, summary_table(summary, age_s()), as_json)


@app.command(rich_help_panel=TRAINING)
def refresh(as_json: Json = False) -> None:
    """Pin the current content of the sources in source.lock, and list what is new."""
    from ratchet import params
    from tasks.refresh import refresh as step

    report = step.fn(params.load(), Path())
    outcome = "source.lock is unchanged"
    if report["changed"]:
        outcome = "source.lock changed; run `dvc repro` or `ratchet train` to read what it pins"
    show(report, "\n".join([*report["summary"], outcome]), as_json)


@app.command(rich_help_panel=TRAINING)
def predict(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help=(
                "A CSV or parquet file, an image, a folder or glob of them,"
                " or hf://datasets/OWNER/NAME."
            ),
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .parquet or .csv.")
    ],
    environment: Environment = "prod",
    as_json: Json = False,
) -> None:
    """Score rows with the model in service.

    Each input row gives one output row. A row that cannot be scored has a reason instead.
    """
    from tasks.predict import predict as step

    report = step.fn(Path(), source, environment, output)
    show(report, str(report), as_json)


@app.command(rich_help_panel=TRAINING)
def models(as_json: Json = False) -> None:
    """List the architectures for `model.name` with their number of parameters.

    Our architectures are counted for the input of Fashion-MNIST, torchvision's for ImageNet's.
    """
    from ratchet.models.architectures import parameter_counts

    counts = parameter_counts()
    show(counts, "\n".join(f"{name:32} {count:>14,}" for name, count in counts.items()), as_json)


@app.command(rich_help_panel=TRAINING)
def gate(
    champion: Annotated[
        str, typer.Argument(metavar="A", help="The champion: a version or an environment.")
    ],
    challenger: Annotated[
        str, typer.Argument(metavar="B", help="The challenger: a version or an environment.")
    ],
    as_json: Json = False,
) -> None:
    """Compare two versions on the test rows of B, as the gate does; this writes nothing."""
    from ratchet import params
    from tasks.gate import gate_versions

    decision = gate_versions(params.load(), Path(), champion, challenger)
    show(decision.to_dict(), f"{decision.verdict}: {decision.reason}", as_json)


@app.command(rich_help_panel=TRAINING)
def export(
    version: VersionName,
    target: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    format: Annotated[
        str, typer.Option("--format", help="state_dict, safetensors, torch_export or whole_model.")
    ] = "state_dict",
    as_json: Json = False,
) -> None:
    """Write a version's model in another format, and check that the file gives the same outputs."""
    from ratchet.registry import loading
    from ratchet.registry.versions import Registry
    from ratchet.upkeep.export import export as write

    source = Registry(Path()).find(version)
    weights, card = loading.files(Path(), source)
    write(card, weights, format, target, loading.package(Path(), source, card))
    result = {"version": source.name, "format": format, "output": str(target)}
    text = f"wrote {source.name} as {format} to {target}; the file gives the same outputs"
    show(result, text, as_json)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ParamsError(f"--set {text}: expected KEY=VALUE, such as train.epochs=3")
    return key, value
