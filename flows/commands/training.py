"""Commands that train, compare and predict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flows.cli import TRAINING, Environment, Json, VersionName, app, show
from tasks.errors import ParamsError

if TYPE_CHECKING:
    from flows.outcome import Summary


@app.command(rich_help_panel=TRAINING)
def train(
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a value of params.yaml for this run, such as train.epochs=3; it then works in a tree of its own.",
        ),
    ] = None,
    preset: Annotated[
        Path | None,
        typer.Option(
            "--params",
            metavar="FILE",
            help="Replace the values that a file lists, such as params/accurate.yaml; --set goes before it.",
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
    from tasks import params
    from tasks.process import age_s
    from tasks.stage import home, preload
    from tasks.versions.tree import check

    values = params.preset(preset) if preset else {}
    values |= dict(_pair(text) for text in settings or ())
    checkout = Path().resolve()
    check(checkout, values or None)  # before a server is started for nothing
    with server(home(checkout)):
        from flows.tables import show_lines, summary_table
        from flows.training import training

        preload(checkout)
        if not as_json:
            show_lines()
        try:
            summary = cast("Summary", training(environment, values or None))
        except KeyboardInterrupt:
            print("ratchet: stopped; run it again to go on from its checkpoint", file=sys.stderr)
            raise typer.Exit(130) from None
    show(summary, summary_table(summary, age_s()), as_json)


@app.command(rich_help_panel=TRAINING)
def refresh(as_json: Json = False) -> None:
    """Pin what the sources hold now in source.lock, and say what is new; the next run reads it."""
    from tasks import params
    from tasks.refresh import refresh as step

    pinned = step.fn(params.load(), Path())
    last = "source.lock is unchanged"
    if pinned["changed"]:
        last = "source.lock changed; run `dvc repro` or `ratchet train` to read what it pins"
    show(pinned, "\n".join([*pinned["summary"], last]), as_json)


@app.command(rich_help_panel=TRAINING)
def predict(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Parquet files, a folder of images, or hf://datasets/OWNER/NAME.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The parquet file to write.")],
    environment: Environment = "prod",
    as_json: Json = False,
) -> None:
    """Score new rows with the model in service: one row out for each row in, with the reason where one is bad."""
    from tasks.predict import predict as step

    scored = step.fn(Path(), source, environment, output)
    show(scored, f"{scored.rows} rows ({scored.bad} bad) scored by {scored.version} into {output}", as_json)


@app.command(rich_help_panel=TRAINING)
def models(as_json: Json = False) -> None:
    """List what `model.name` may name, with the number of parameters: ours for Fashion-MNIST, torchvision's for ImageNet."""
    from tasks.learning.models import described

    listed = described()
    show(listed, "\n".join(f"{name:32} {count:>14,}" for name, count in listed.items()), as_json)


@app.command(rich_help_panel=TRAINING)
def gate(
    champion: Annotated[str, typer.Argument(metavar="A", help="A version, or an environment.")],
    challenger: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    as_json: Json = False,
) -> None:
    """Compare any two versions on the test rows of B, as the gate would; nothing is written."""
    from tasks import params
    from tasks.compare import gate_versions

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
    """Write a version's model in another format; it is loaded again and has to give the same outputs first."""
    from tasks.learning.export import export as write
    from tasks.versions.loading import files
    from tasks.versions.registry import Registry

    found = Registry(Path()).find(version)
    weights, card = files(Path(), found)
    write(card, weights, format, target)
    done = {"version": found.name, "format": format, "output": str(target)}
    show(done, f"{found.name} as {format} in {target}; loaded again, the same outputs", as_json)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ParamsError(f"--set {text}: expected KEY=VALUE, such as train.epochs=3")
    return key, value
