"""The example of docs/deployment.md, as it stands there, against a real server and a webhook on loopback."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import ROOT
from tests.helpers.standing import Service, until


class Hook:
    """A webhook that keeps what it is sent."""

    def __init__(self) -> None:
        texts = self.texts = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                texts.append(
                    json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
                )
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.long
def test_a_failure_and_a_promotion_are_told(service: Service, hook: Hook) -> None:
    text = (ROOT / "docs/deployment.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text.split("## Notifications")[1], re.DOTALL)
    assert "https://chat.example.org/hook" in example
    example = example.replace("https://chat.example.org/hook", hook.url)
    service.checkout.run(
        "python",
        "-W",
        "ignore",
        "-c",
        example,
        PREFECT_HOME=str(service.checkout.path / ".prefect"),
    )
    failed = service.wait(service.trigger("training/training", settings={"train.epohcs": "3"}))
    until(lambda: hook.texts, 30)
    assert hook.texts[0].startswith("A run failed: ")
    assert hook.texts[0].endswith(failed["message"])
    settings = {"train.seed": "5", "train.threads": "1", "gate.margin": "0.9"}
    promoted = service.wait(service.trigger("training/training", settings=settings))
    assert promoted["name"] == "Promoted"
    until(lambda: len(hook.texts) > 1, 30)
    assert hook.texts[1:] == [f"Promoted: classifier@v1.0.1 serves in prod: {promoted['message']}"]
