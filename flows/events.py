"""Events about versions, for automations, and how a command without Prefect sends them.

    ratchet.version.registered    promoted    rolled-back    withdrawn    expired    reinstated

A flow emits them through Prefect. A command in a terminal posts them to the standing server, if
one is set up and responds at once. Importing Prefect takes a second, and a rollback must not wait.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ratchet.registry.records import Assignment, Version
from ratchet.repository import home
from service.server import open_url

LIMIT_S = 0.3  # how long a command waits for an event to be sent


def resource(version: str) -> dict[str, str]:
    """Return the resource that an event is about."""
    return {
        "prefect.resource.id": f"ratchet.version.{version}",
        "prefect.resource.name": f"classifier@{version}",
    }


def of_assignment(assignment: Assignment) -> tuple[str, str, dict[str, object]]:
    """Return the last word of the event's name, the version and the payload."""
    word = "rolled-back" if assignment.action == "rollback" else "promoted"
    payload: dict[str, object] = {
        "environment": assignment.environment,
        "reason": assignment.reason,
    }
    return word, assignment.version, payload


def assigned(assignment: Assignment) -> None:
    """Post that a version was promoted or rolled back, if that changed anything."""
    if assignment.changed:
        word, version, payload = of_assignment(assignment)
        post(word, version, payload)


def changed(word: str, version: Version, reason: str) -> None:
    """Post that a version was withdrawn, expired or reinstated."""
    post(word, version.name, {"reason": reason})


def post(word: str, version: str, payload: Mapping[str, object]) -> None:
    """Send one event to the standing server; give up after `LIMIT_S` seconds."""
    sender = threading.Thread(target=_post, args=(word, version, payload), daemon=True)
    sender.start()
    sender.join(LIMIT_S)


def _post(word: str, version: str, payload: Mapping[str, object]) -> None:
    try:
        url, password = _server()
        if not url:
            return
        event = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": f"ratchet.version.{word}",
            "resource": resource(version),
            "payload": dict(payload),
        }
        headers = {"Content-Type": "application/json"}
        if password:
            headers["Authorization"] = f"Basic {b64encode(password.encode()).decode()}"
        request = urllib.request.Request(f"{url}/events", json.dumps([event]).encode(), headers)
        with open_url(request, timeout_s=LIMIT_S):
            pass
    except Exception:
        # The change itself was made. A problem of the server must not make the command fail.
        return


def _server() -> tuple[str, str]:
    """Return address and password of the server that the shell names, or of that of `make up`."""
    settings: Mapping[str, Any] = os.environ
    if "PREFECT_API_URL" not in settings:
        file = home(Path()) / ".prefect/service.json"
        settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    url = str(settings.get("PREFECT_API_URL") or "").rstrip("/")
    return url, str(settings.get("PREFECT_API_AUTH_STRING") or "")
