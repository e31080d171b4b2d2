"""Commands that list, inspect, promote and roll back versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.app import VERSIONS, Environment, Json, Reason, VersionName, app, show


@app.command(rich_help_panel=VERSIONS)
def versions(as_json: Json = False) -> None:
    """List the versions, newest first, with the environments that each serves in or served in."""
    from cli.tables import places, versions_table
    from ratchet.registry.versions import Registry

    registry = Registry(Path())
    all_versions, histories = registry.versions(), registry.histories()
    if not all_versions and not as_json:
        show([], registry.none(), as_json)
        return
    rows = []
    for version in all_versions:
        now, before = places(version, histories)
        rows.append({**version.as_dict(), "environments": now, "environments_before": before})
    show(rows, versions_table(all_versions, histories), as_json)


@app.command("show", rich_help_panel=VERSIONS)
def show_version(version: VersionName, as_json: Json = False) -> None:
    """Show a version: its data, params, code, metrics, gate decision, and when it served where."""
    from cli.tables import version_table
    from ratchet.registry.history import show as describe

    description = describe(Path(), version)
    show(description.as_dict(), version_table(description), as_json)


@app.command(rich_help_panel=VERSIONS)
def diff(
    old: Annotated[str, typer.Argument(metavar="A")],
    new: Annotated[str, typer.Argument(metavar="B")],
    as_json: Json = False,
) -> None:
    """Show how version B differs from version A: params, data, metrics, classes, code."""
    from cli.tables import difference_table
    from ratchet.registry.history import diff as compare

    difference = compare(Path(), old, new)
    show(difference.as_dict(), difference_table(difference), as_json)


@app.command(rich_help_panel=VERSIONS)
def history(environment: Annotated[str, typer.Argument()] = "prod", as_json: Json = False) -> None:
    """Show which versions served in an environment, when, and why it changed."""
    from cli.tables import history_table
    from ratchet.registry.history import spans
    from ratchet.registry.versions import Registry

    periods = spans(Registry(Path()), environment)
    if periods:
        show([vars(period) for period in periods], history_table(periods), as_json)
        return
    text = (
        f"no version has served in {environment} yet;"
        f" run `ratchet promote VERSION --environment {environment}`"
    )
    show([], text, as_json)


@app.command(rich_help_panel=VERSIONS)
def promote(
    version: VersionName,
    environment: Environment = "prod",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Put a version into service. The previous one stays in the history, for `ratchet rollback`."""
    from flows import events
    from tasks.promote import promote as step

    assignment = step.fn(Path(), version, environment, reason)
    events.assigned(assignment)
    text = f"{assignment.version} serves in {environment}"
    if not assignment.changed:
        text += " already; nothing changed"
    show(assignment.as_dict(), text, as_json)


@app.command(rich_help_panel=VERSIONS)
def rollback(
    environment: Environment = "prod",
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="VERSION", help="Default: the version that served before."),
    ] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Put the previous version back into service, also while the git remote is unreachable.

    Scheduled runs do not undo a rollback.
    """
    from flows import events
    from tasks.promote import rollback as step

    assignment = step.fn(Path(), environment, to, reason)
    text = f"{assignment.version} serves in {environment} again{assignment.not_pushed}"
    show(assignment.as_dict(), text, as_json)
    events.assigned(assignment)


@app.command(rich_help_panel=VERSIONS)
def path(version: VersionName, as_json: Json = False) -> None:
    """Print the path of a version's verified weights, for other programs.

    The file belongs to DVC's cache: do not change it.
    """
    from ratchet import path as find

    weights = str(find(version).resolve())
    if as_json:
        show({"version": version, "path": weights}, "", as_json)
    else:
        print(weights)


@app.command(rich_help_panel=VERSIONS)
def checkout(
    version: VersionName,
    into: Annotated[Path, typer.Option("--into", help="The folder to create.")],
    as_json: Json = False,
) -> None:
    """Check out a version into a new folder: code, params, locks, data and model.

    `dvc repro` finds nothing to do there.
    """
    from ratchet.upkeep.checkout import checkout as step

    result = step(Path(), version, into)
    text = f"{result.version} is in {result.into}"
    if result.to_make:
        text += f"; run `dvc repro` there to make {', '.join(result.to_make)}"
    show(result, text, as_json)


@app.command(rich_help_panel=VERSIONS)
def adopt(
    version: VersionName,
    code: Annotated[
        bool, typer.Option("--code", help="Take the version's code too, dvc.yaml included.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Commit a version's params, locks, reports, data and model to the current branch."""
    import cli.tables  # noqa: F401  # imported now because --code replaces the files of this program
    from ratchet.upkeep.adopt import adopt as step

    result = step(Path(), version, code)
    if not result.changed:
        text = f"nothing to do: {result.branch} already has the state of {result.version}"
    else:
        text = f"{result.branch} has the state of {result.version} (commit {result.commit[:12]})"
        if result.rebuilt:
            text += f"; rebuilt {', '.join(result.rebuilt)}"
    show(result, text, as_json)
