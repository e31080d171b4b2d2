"""Commands that list, inspect, promote, roll back and maintain versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.app import UPKEEP, VERSIONS, Environment, Json, Reason, VersionName, app, show
from ratchet.errors import VersionError


@app.command(rich_help_panel=VERSIONS)
def versions(as_json: Json = False) -> None:
    """List the versions, newest first, with the environments that each serves in or served in."""
    from cli.tables import places, versions_table
    from ratchet.registry.versions import Registry

    registry = Registry(Path())
    found, served = registry.versions(), registry.histories()
    if not found and not as_json:
        show([], registry.none(), as_json)
        return
    where = [
        dict(zip(("environments", "environments_before"), places(each, served), strict=True))
        for each in found
    ]
    listed = [{**version.as_dict(), **at} for version, at in zip(found, where, strict=True)]
    show(listed, versions_table(found, served), as_json)


@app.command("show", rich_help_panel=VERSIONS)
def show_version(version: VersionName, as_json: Json = False) -> None:
    """Show a version: its data, params, code, metrics, gate decision, and when it served where."""
    from cli.tables import version_table
    from ratchet.registry.history import show as look

    found = look(Path(), version)
    show(found.as_dict(), version_table(found), as_json)


@app.command(rich_help_panel=VERSIONS)
def diff(
    old: Annotated[str, typer.Argument(metavar="A")],
    new: Annotated[str, typer.Argument(metavar="B")],
    as_json: Json = False,
) -> None:
    """Show how version B differs from version A: params, data, metrics, classes, code."""
    from cli.tables import difference_table
    from ratchet.registry.history import diff as compare

    found = compare(Path(), old, new)
    show(found.as_dict(), difference_table(found), as_json)


@app.command(rich_help_panel=VERSIONS)
def history(environment: Annotated[str, typer.Argument()] = "prod", as_json: Json = False) -> None:
    """Show which versions served in an environment, from when to when, and why it changed."""
    from cli.tables import history_table
    from ratchet.registry.history import spans
    from ratchet.registry.versions import Registry

    found = spans(Registry(Path()), environment)
    nothing = (
        f"no version has served in {environment} yet; run `ratchet promote VERSION --environment"
        f" {environment}`"
    )
    show([vars(span) for span in found], history_table(found) if found else nothing, as_json)


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
    already = "" if assignment.changed else " already; nothing changed"
    show(assignment.as_dict(), f"{assignment.version} serves in {environment}{already}", as_json)


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
    """Put the previous version back into service, with or without the git remote.

    No scheduled run undoes it.
    """
    from flows import events
    from tasks.promote import rollback as step

    assignment = step.fn(Path(), environment, to, reason)
    show(
        assignment.as_dict(),
        f"{assignment.version} serves in {environment} again{assignment.not_pushed}",
        as_json,
    )
    events.assigned(assignment)


@app.command(rich_help_panel=VERSIONS)
def path(version: VersionName, as_json: Json = False) -> None:
    """Print the path of a version's weights, verified, for other programs.

    The file belongs to DVC's cache: only read it.
    """
    from ratchet import path as find

    found = str(find(version).resolve())
    if as_json:
        show({"version": version, "path": found}, "", as_json)
    else:
        print(found)


@app.command(rich_help_panel=VERSIONS)
def checkout(
    version: VersionName,
    into: Annotated[Path, typer.Option("--into", help="The folder to create.")],
    as_json: Json = False,
) -> None:
    """Check out a version into a new folder: code, params, locks, data and model.

    `dvc repro` has nothing to do there.
    """
    from ratchet.upkeep.checkout import checkout as step

    done = step(Path(), version, into)
    left = f"; run `dvc repro` there to make {', '.join(done.to_make)}" if done.to_make else ""
    show(done, f"{done.version} is in {done.into}{left}", as_json)


@app.command(rich_help_panel=VERSIONS)
def adopt(
    version: VersionName,
    code: Annotated[
        bool, typer.Option("--code", help="Take the version's code too, dvc.yaml included.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a version's params, locks, reports, data and model those of the current branch, by one commit."""
    import cli.tables  # noqa: F401  # imported now because --code replaces the files of this program
    from ratchet.upkeep.adopt import adopt as step

    done = step(Path(), version, code)
    if not done.changed:
        text = f"nothing to do: {done.branch} has the state of {done.version} already"
    else:
        rebuilt = f"; rebuilt {', '.join(done.rebuilt)}" if done.rebuilt else ""
        text = f"{done.branch} has the state of {done.version} (commit {done.commit[:12]}){rebuilt}"
    show(done, text, as_json)


@app.command(rich_help_panel=UPKEEP)
def verify(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Default: every version.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every version and environment (the default).")
    ] = False,
    rerun: Annotated[
        bool,
        typer.Option(
            "--rerun",
            help=(
                "Rebuild the version from its sources and compare; takes as long as a training run."
            ),
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check versions: tags, commits, SHA-256 of objects in cache and remote, safe loading.

    Exit code 1 on any fault.
    """
    from ratchet.upkeep.verify import rerun as make_again
    from ratchet.upkeep.verify import verify as step

    if (version and every) or (rerun and not version):
        raise VersionError("expected one version or --all; --rerun needs a version")
    found = step(Path(), version)
    if rerun and version and not found:
        found = make_again(Path(), version)
    lines = [f"{finding.version}  {finding.what}: {finding.message}" for finding in found]
    show([vars(finding) for finding in found], "\n".join(lines) or "no faults", as_json)
    if found:
        raise typer.Exit(1)


@app.command(rich_help_panel=UPKEEP)
def push(
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every version that is not expired.")
    ] = False,
    to: Annotated[
        str,
        typer.Option("--to", metavar="REMOTE", help="The git remote; default: register.push_to."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Publish versions: first the objects to the DVC remote, which are confirmed there, then the tags to a git remote."""
    from ratchet import params
    from ratchet.upkeep.push import push as step

    if bool(version) == every:
        raise VersionError("expected a version or --all; `ratchet versions` lists the versions")
    done = step(params.load(), Path(), version, to)
    text = (
        f"{', '.join(done.versions) or 'nothing'}: {done.objects} objects on the DVC remote,"
        f" {len(done.tags)} new tags"
    )
    show(done, text, as_json)


@app.command(rich_help_panel=UPKEEP)
def withdraw(version: VersionName, reason: Reason, as_json: Json = False) -> None:
    """Withdraw a version, so that it cannot be promoted; refused while it serves anywhere."""
    from flows import events
    from ratchet.upkeep.withdraw import withdraw as step

    done = step(Path(), version, reason)
    show(done.as_dict(), f"{done.name} is withdrawn{_already(done.changed)}", as_json)
    if done.changed:
        events.changed("withdrawn", done, reason)


@app.command(rich_help_panel=UPKEEP)
def reinstate(version: VersionName, reason: Reason, as_json: Json = False) -> None:
    """Make a withdrawn version usable again, unless it has expired.

    The reason is kept in the history.
    """
    from flows import events
    from ratchet.upkeep.withdraw import reinstate as step

    done = step(Path(), version, reason)
    text = (
        f"{done.name} can be promoted again"
        if done.changed
        else f"{done.name} is not withdrawn; nothing changed"
    )
    show(done.as_dict(), text, as_json)
    if done.changed:
        events.changed("reinstated", done, reason)


@app.command(rich_help_panel=UPKEEP)
def expire(version: VersionName, reason: Reason = "", as_json: Json = False) -> None:
    """Withdraw a version permanently and release its objects, so that `ratchet gc --apply` can delete them."""
    from flows import events
    from ratchet.upkeep.withdraw import expire as step

    done = step(Path(), version, reason)
    text = (
        f"{done.name} is expired; `ratchet gc --apply` deletes those of its objects that are older"
        f" than {_grace()}"
    )
    show(done.as_dict(), text, as_json)
    if done.changed:
        events.changed("expired", done, reason)


def _already(is_new: bool) -> str:
    return "" if is_new else " already; nothing changed"


@app.command(rich_help_panel=UPKEEP)
def gc(
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Delete them; without this option they are only counted."),
    ] = False,
    on_remote: Annotated[
        bool,
        typer.Option("--remote", help="Include objects of expired versions on the DVC remote."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Count the objects that no version, branch or running stage needs, and delete them with --apply."""
    from ratchet.upkeep.gc import collect

    found = collect(Path(), apply, on_remote)
    remote = f", and {len(found.on_remote)} objects on the remote" if on_remote else ""
    verb = "deleted" if apply else "can be deleted with --apply:"
    text = (
        f"{verb} {len(found.objects)} objects, {found.bytes / 1e6:,.1f} MB, in the cache{remote};"
        f" {found.kept} stay"
    )
    if found.young:
        text += (
            f", {found.young} of them unneeded but younger than {_grace()}; run this again later to"
            " delete those"
        )
    show(found, text, as_json)


def _grace() -> str:
    from ratchet.upkeep.gc import GRACE_S

    return f"{GRACE_S / 3600:g} hour" + ("" if GRACE_S == 3600 else "s")
