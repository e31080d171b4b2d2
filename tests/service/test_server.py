"""The Prefect server of a command: it is reached past any proxy, and its end is reported at once.

Public reports: PrefectHQ/prefect#12896 and PrefectHQ/prefect#16538.
"""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ratchet.errors import ServerUnreachable
from service import server, standing

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY")


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/api"
        running.shutdown()
        thread.join()


@pytest.mark.fault(43)
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5h://127.0.0.1:9"])
@pytest.mark.parametrize("listed", ["", "example.org", "localhost, .corp", "*"])
def test_loopback_never_goes_through_a_proxy(
    url: str, listed: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    assert server.answers(url)
    assert server.ask(url, "/admin/version", None) is True
    monkeypatch.setenv("no_proxy", listed)
    server.keep_loopback_off_proxies()
    assert httpx.get(f"{url}/health").status_code == 200  # as Prefect's client


@pytest.mark.fault(20)
def test_a_server_that_ends_is_reported_at_once_with_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    code = "import sys; print('starting'); print('[Errno 98] address already in use'); print('-----'); sys.exit(3)"
    with log.open("w") as output:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=output)
    started = time.monotonic()
    with pytest.raises(ServerUnreachable) as error:
        server.wait("http://127.0.0.1:9/api", 60, f"see {log}", lambda: server._ended(child, log))
    assert time.monotonic() - started < 10
    assert "with exit code 3: [Errno 98] address already in use; see" in str(error.value)
    assert " 60 s" not in str(error.value)


def test_a_port_that_another_program_uses_is_named(url: str) -> None:
    port = int(url.rsplit(":", 1)[1].removesuffix("/api"))
    with pytest.raises(ServerUnreachable, match=rf"port {port} is in use by another program"):
        standing._check_port(port)
