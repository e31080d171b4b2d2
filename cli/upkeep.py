"""Commands that check, publish, withdraw and delete versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.app import UPKEEP, Json, Reason, VersionName, app, show
from ratchet.errors import VersionError


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
            help="Rebuild the version from its sources and compare (as long as a training run).",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check versions: tags, commits, SHA-256 of objects in cache and remote, safe loading.

    The exit code is 1 if there is a fault.
    """
    from ratchet.upkeep.verify import rerun as rebuild
    from ratchet.upkeep.verify import verify as step

    if (version and every) or (rerun and not version):
        raise VersionError("expected one version or --all; --rerun needs a version")
    findings = step(Path(), version)
    if rerun and version and not findings:
        findings = rebuild(Path(), version)
    lines = [f"{finding.version}  {finding.what}: {finding.message}" for finding in findings]
    show([vars(finding) for finding in findings], "\n".join(lines) or "no faults", as_json)
    if findings:
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
    """Publish versions: push the objects to the DVC remote, confirm them, then push the tags."""
    from ratchet import params
    from ratchet.upkeep.push import push as step

    if bool(version) == every:
        raise VersionError("expected a version or --all; `ratchet versions` lists the versions")
    result = step(params.load(), Path(), version, to)
    names = ", ".join(result.versions) or "nothing"
    text = f"{names}: {result.objects} objects on the DVC remote, {len(result.tags)} new tags"
    show(result, text, as_json)


@app.command(rich_help_panel=UPKEEP)
def withdraw(version: VersionName, reason: Reason, as_json: Json = False) -> None:
    """Withdraw a version, so that it cannot be promoted; refused while it serves."""
    from flows import events
    from ratchet.upkeep.withdraw import withdraw as step

    result = step(Path(), version, reason)
    text = f"{result.name} is withdrawn"
    if not result.changed:
        text += " already; nothing changed"
    show(result.as_dict(), text, as_json)
    if result.changed:
        events.changed("withdrawn", result, reason)


@app.command(rich_help_panel=UPKEEP)
def reinstate(version: VersionName, reason: Reason, as_json: Json = False) -> None:
    """Make a withdrawn version usable again, unless it has expired.

    The history keeps the reason.
    """
    from flows import events
    from ratchet.upkeep.withdraw import reinstate as step

    result = step(Path(), version, reason)
    text = f"{result.name} is not withdrawn; nothing changed"
    if result.changed:
        text = f"{result.name} can be promoted again"
    show(result.as_dict(), text, as_json)
    if result.changed:
        events.changed("reinstated", result, reason)


@app.command(rich_help_panel=UPKEEP)
def expire(version: VersionName, reason: Reason = "", as_json: Json = False) -> None:
    """Withdraw a version permanently, so that `ratchet gc --apply` can delete its objects."""
    from flows import events
    from ratchet.upkeep.withdraw import expire as step

    result = step(Path(), version, reason)
    text = (
        f"{result.name} is expired;"
        f" `ratchet gc --apply` deletes its objects that are older than {_grace()}"
    )
    show(result.as_dict(), text, as_json)
    if result.changed:
        events.changed("expired", result, reason)


@app.command(rich_help_panel=UPKEEP)
def gc(
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Delete the objects instead of only counting them."),
    ] = False,
    on_remote: Annotated[
        bool,
        typer.Option("--remote", help="Include objects of expired versions on the DVC remote."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Count the objects that no version, branch or running stage needs; --apply deletes them."""
    from ratchet.upkeep.gc import collect

    report = collect(Path(), apply, on_remote)
    verb = "deleted" if apply else "can be deleted with --apply:"
    text = f"{verb} {len(report.objects)} objects, {report.bytes / 1e6:,.1f} MB, in the cache"
    if on_remote:
        text += f", and {len(report.on_remote)} objects on the remote"
    text += f"; {report.kept} stay"
    if report.young:
        text += (
            f", {report.young} of them unneeded but younger than {_grace()};"
            " run this again later to delete those"
        )
    show(report, text, as_json)


def _grace() -> str:
    from ratchet.upkeep.gc import GRACE_S

    return f"{GRACE_S / 3600:g} hour" + ("" if GRACE_S == 3600 else "s")
