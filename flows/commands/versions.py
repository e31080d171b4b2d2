"""Commands about versions: what there is, what serves, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import UPKEEP, VERSIONS, Environment, Json, Reason, VersionName, app, show
from tasks.errors import VersionError


@app.command(rich_help_panel=VERSIONS)
def versions(as_json: Json = False) -> None:
    """List the versions, newest first, with where each serves and where it did."""
    from flows.tables import places, versions_table
    from tasks.versions.registry import Registry

    registry = Registry(Path())
    found, served = registry.versions(), registry.histories()
    if not found and not as_json:
        show([], registry.none(), as_json)
        return
    where = [dict(zip(("environments", "environments_before"), places(each, served), strict=True)) for each in found]
    listed = [{**version.as_dict(), **at} for version, at in zip(found, where, strict=True)]
    show(listed, versions_table(found, served), as_json)


@app.command("show", rich_help_panel=VERSIONS)
def show_version(version: VersionName, as_json: Json = False) -> None:
    """Everything about a version: its data, params, code, metrics, what the gate said, and when it served where."""
    from flows.tables import version_table
    from tasks.versions.lineage import show as look

    found = look(Path(), version)
    show(found.as_dict(), version_table(found), as_json)


@app.command(rich_help_panel=VERSIONS)
def diff(
    old: Annotated[str, typer.Argument(metavar="A")],
    new: Annotated[str, typer.Argument(metavar="B")],
    as_json: Json = False,
) -> None:
    """How version B differs from version A: params, data, metrics, classes, code."""
    from flows.tables import difference_table
    from tasks.versions.lineage import diff as compare

    found = compare(Path(), old, new)
    show(found.as_dict(), difference_table(found), as_json)


@app.command(rich_help_panel=VERSIONS)
def history(environment: Annotated[str, typer.Argument()] = "prod", as_json: Json = False) -> None:
    """What served in an environment from when to when, and why it changed."""
    from flows.tables import history_table
    from tasks.versions.lineage import spans
    from tasks.versions.registry import Registry

    found = spans(Registry(Path()), environment)
    nothing = f"nothing has served in {environment} yet; `ratchet promote VERSION --environment {environment}`"
    show([vars(span) for span in found], history_table(found) if found else nothing, as_json)


@app.command(rich_help_panel=VERSIONS)
def promote(
    version: VersionName, environment: Environment = "prod", reason: Reason = "", as_json: Json = False
) -> None:
    """Put a version into service. The one that served stays in the history, for `ratchet rollback`."""
    from tasks.promote import promote as step

    assignment = step.fn(Path(), version, environment, reason)
    show(assignment.as_dict(), f"{assignment.version} serves in {environment}", as_json)


@app.command(rich_help_panel=VERSIONS)
def rollback(
    environment: Environment = "prod",
    to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="Default: what served before.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Bring code, params, locks, data and model of this checkout back too.")
    ] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Take the version that served before back into service. No unattended run undoes it."""
    import flows.tables  # noqa: F401  # before --whole puts other code in its place
    from tasks.promote import rollback as step

    assignment = step.fn(Path(), environment, to, reason, whole)
    show(assignment.as_dict(), f"{assignment.version} serves in {environment} again", as_json)


@app.command(rich_help_panel=VERSIONS)
def path(version: VersionName, as_json: Json = False) -> None:
    """Print the checked file with a version's weights, for other programs. It is DVC's: read it, don't write it."""
    from tasks.versions import path as find

    found = str(find(version).resolve())
    if as_json:
        show({"version": version, "path": found}, "", as_json)
    else:
        print(found)


@app.command(rich_help_panel=VERSIONS)
def checkout(
    version: VersionName,
    into: Annotated[Path, typer.Option("--into", help="A new folder.")],
    as_json: Json = False,
) -> None:
    """Lay a version out in a folder: code, params, locks, data and model, where `dvc repro` has nothing to do."""
    from tasks.checkout import checkout as step

    done = step(Path(), version, into)
    left = f"; `dvc repro` there makes {', '.join(done.to_make)} again" if done.to_make else ""
    show(done, f"{done.version} lies in {done.into}{left}", as_json)


@app.command(rich_help_panel=UPKEEP)
def verify(
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="Default: every version.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every version and environment (the default).")] = False,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Make the version again from its sources and compare; as long as a run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check versions: tags, commits, objects in cache and remote by SHA-256, safe loading. Exit code 1 on any fault."""
    from tasks.verify import rerun as make_again
    from tasks.verify import verify as step

    if (version and every) or (rerun and not version):
        raise VersionError("name one version, or give --all; --rerun takes one version")
    found = step(Path(), version)
    if rerun and version and not found:
        found = make_again(Path(), version)
    lines = [f"{finding.version}  {finding.what}: {finding.message}" for finding in found]
    show([vars(finding) for finding in found], "\n".join(lines) or "everything is as it should be", as_json)
    if found:
        raise typer.Exit(1)


@app.command(rich_help_panel=UPKEEP)
def push(
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every version that is not expired.")] = False,
    to: Annotated[str, typer.Option("--to", metavar="REMOTE", help="The git remote; default: register.push_to.")] = "",
    as_json: Json = False,
) -> None:
    """Publish versions: objects to the DVC remote, confirmed there by listing, then the tags to a git remote."""
    from tasks import params
    from tasks.push import push as step

    if bool(version) == every:
        raise VersionError("say what to push: a version, or --all")
    done = step(params.load(), Path(), version, to)
    text = (
        f"{', '.join(done.versions) or 'nothing'}: {done.objects} objects on the DVC remote, {len(done.tags)} new tags"
    )
    show(done, text, as_json)


@app.command(rich_help_panel=UPKEEP)
def withdraw(version: VersionName, reason: Reason, as_json: Json = False) -> None:
    """Take a version out of use for ever; refused while it serves anywhere."""
    from tasks.withdraw import withdraw as step

    done = step(Path(), version, reason)
    show(done.as_dict(), f"{done.name} is withdrawn", as_json)


@app.command(rich_help_panel=UPKEEP)
def expire(version: VersionName, reason: Reason = "", as_json: Json = False) -> None:
    """Withdraw a version and let go of its objects: `ratchet gc` drops them then."""
    from tasks.withdraw import expire as step

    done = step(Path(), version, reason)
    show(done.as_dict(), f"{done.name} is expired; `ratchet gc --apply` drops its objects", as_json)


@app.command(rich_help_panel=UPKEEP)
def gc(
    apply: Annotated[bool, typer.Option("--apply", help="Drop it; without this, it is only shown.")] = False,
    on_remote: Annotated[bool, typer.Option("--remote", help="Objects of expired versions on the remote too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what no version, no branch and no run in progress needs, and drop it with --apply."""
    from tasks.collect import collect

    found = collect(Path(), apply, on_remote)
    verb = "dropped" if apply else "can go; --apply drops them"
    text = (
        f"{len(found.objects)} objects, {found.bytes / 1e6:,.1f} MB, and {len(found.on_remote)} on the remote: {verb}"
    )
    show(found, f"{text}; {found.kept} stay", as_json)
