"""Files behind URLs: which ones a URL means, what is downloaded again, and what a bad server does."""

from __future__ import annotations

import contextlib
import email.utils
import http.server
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

import fsspec
import pytest

from ratchet.errors import ParamsError, SourceChanged, SourceMissing, Unreachable
from ratchet.sources import urls

BODY = b"PAR1" + bytes(3000)


# ── which files a URL means ─────────────────────────────────────────────────────────────────────

TREE = [
    "a.parquet",
    "b.parquet",
    "c.txt",
    "label=cat/part-0.parquet",
    "label=cat/part-1.parquet",
    "label=dog/part-0.parquet",
    "label=dog/_SUCCESS",
    "_temporary/0/part-0.parquet",
    ".hidden.parquet",
    "x[1].parquet",
    "deep/er/d.parquet",
    "table.parquet/part-0.parquet",
    "with space/größe.parquet",
]

SKIPPED = {"c.txt", "label=dog/_SUCCESS", "_temporary/0/part-0.parquet", ".hidden.parquet"}

PATTERNS = [
    ("a.parquet", ["a.parquet"]),
    ("?.parquet", ["a.parquet", "b.parquet"]),  # fsspec/filesystem_spec#58
    ("[ab].parquet", ["a.parquet", "b.parquet"]),  # fsspec/filesystem_spec#957
    ("[!a].parquet", ["b.parquet"]),
    ("label=cat/part-?.parquet", ["part-0.parquet", "part-1.parquet"]),
    ("label=*/part-0.parquet", ["label=cat/part-0.parquet", "label=dog/part-0.parquet"]),
    ("label=???/part-[01].parquet", TREE[3:6]),
    ("label=*", TREE[3:6]),
    ("x[1].parquet", ["x[1].parquet"]),  # a file by that very name
    ("**/d.parquet", ["deep/er/d.parquet"]),
    ("label=cat", ["part-0.parquet", "part-1.parquet"]),
    ("label=cat/", ["part-0.parquet", "part-1.parquet"]),
    ("table.parquet", ["part-0.parquet"]),  # the folder that Spark writes
    ("with space/*.parquet", ["größe.parquet"]),
    ("", sorted(set(TREE) - SKIPPED)),
]


@pytest.fixture
def bucket() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for name in TREE:
        system.pipe(f"/bucket/{name}", BODY + name.encode())
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize(("pattern", "names"), PATTERNS)
def test_what_a_pattern_means_in_a_bucket(bucket, tmp_path, pattern, names):
    url = f"{bucket}/{pattern}"
    files, _ = urls.resolve(url, tmp_path)
    assert [file["name"] for file in files] == names
    fetch_all(url, files, tmp_path / "another machine")


@pytest.mark.parametrize(("pattern", "names"), PATTERNS)
def test_what_a_pattern_means_on_a_disk(tmp_path, pattern, names):
    for name in TREE:
        file = tmp_path / "bucket" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(BODY + name.encode())
    url = f"file://{tmp_path}/bucket/{pattern}"
    files, _ = urls.resolve(url, tmp_path / "downloads")
    assert [file["name"] for file in files] == names
    fetch_all(url, files, tmp_path / "another machine")


def fetch_all(url: str, files: list[dict], downloads: Path) -> None:
    for file in files:
        urls.fetch(url, file["name"], file, downloads)
        stored = urls.folder(downloads) / urls.local(file)
        assert stored.stat().st_size == file["size"]


def test_what_is_skipped_is_counted(bucket, tmp_path):
    _, note = urls.resolve(f"{bucket}/", tmp_path)
    assert note.endswith("; 4 other files skipped (.hidden.parquet, say)")


@pytest.mark.parametrize("pattern", ["*.csv", "none-?.parquet", "label=dog/_*", "nowhere/"])
def test_nothing_to_read_is_said(bucket, tmp_path, pattern):
    with pytest.raises(SourceMissing, match=r"(no parquet file|nothing) at memory://bucket"):
        urls.resolve(f"{bucket}/{pattern}", tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://h/part-?.parquet", "it starts the query, so write \\* or \\[0-9\\]"),
        (
            "https://h/*.parquet?token=hunter2",
            r"https://h/\*.parquet\?… has both a pattern and a query",
        ),
        ("https://me:hunter2@h/a.parquet", "a URL holds a user or password"),
        ("gopher://h/a.parquet", "cannot be read"),
    ],
)
def test_urls_that_are_refused(tmp_path, url, message):
    with pytest.raises(ParamsError, match=message) as raised:
        urls.resolve(url, tmp_path)
    assert "hunter2" not in str(raised.value)


# ── a web server ────────────────────────────────────────────────────────────────────────────────


@dataclass
class Site:
    """Files by their decoded path (with its query), and how they are served."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    modified: dict[str, float] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)  # half of the body, sent as if it were all of it
    heads: bool = True  # a signed URL for GET refuses HEAD
    raw: list[str] = field(default_factory=list)  # the GETs, undecoded


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with serving(handler(site)) as site.address:
        yield site


@contextlib.contextmanager
def serving(kind: type) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def handler(site: Site) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(self.path).lstrip("/")
            if self.command == "GET":
                site.raw.append(self.path)
            if name in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[name])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = site.files.get(name)
            if name in site.status or (self.command == "HEAD" and not site.heads):
                self.send_error(site.status.get(name, 403))
                return
            if body is None and (name == "" or name.endswith("/")):
                inside = sorted({quote(f[len(name) :]) for f in site.files if f.startswith(name)})
                body = "".join(f'<a href="{link}">{link}</a>' for link in inside).encode()
                self.answer(body, "text/html", name)
            elif body is None:
                self.send_error(404)
            else:
                self.answer(body, "application/octet-stream", name)

        do_HEAD = do_GET

        def answer(self, body: bytes, kind: str, name: str) -> None:
            if self.command == "GET" and name in site.short:
                body = body[: len(body) // 2]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if name in site.etags:
                self.send_header("ETag", site.etags[name])
            if name in site.modified:
                stamp = email.utils.formatdate(site.modified[name], usegmt=True)
                self.send_header("Last-Modified", stamp)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if name in site.cut else body)

        def log_message(self, *_: object) -> None: ...

    return Handler


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("a.parquet", ["a.parquet"]),
        ("with%20space/%C3%BC.parquet", ["ü.parquet"]),
        ("with space/ü.parquet", ["ü.parquet"]),
        ("with space/*.parquet", ["ü.parquet"]),
        ("part-[01].parquet", ["part-0.parquet", "part-1.parquet"]),
        ("part-*.parquet", ["part-0.parquet", "part-1.parquet"]),
        ("label=a/", ["x.parquet"]),
        (
            "",
            [
                "a.parquet",
                "label=a/x.parquet",
                "part-0.parquet",
                "part-1.parquet",
                "with space/ü.parquet",
            ],
        ),
        ("export?format=parquet&id=1", ["export"]),  # fsspec/filesystem_spec#418
    ],
)
def test_what_a_url_means_on_a_web_server(site, tmp_path, path, names):
    listed = [
        "a.parquet",
        "part-0.parquet",
        "part-1.parquet",
        "label=a/x.parquet",
        "with space/ü.parquet",
        "notes.txt",
    ]
    site.files |= {name: BODY + name.encode() for name in listed}
    if "?" in path:
        site.files = {path: BODY}
    url = f"{site.address}/{path}"
    files, _ = urls.resolve(url, tmp_path)
    assert [file["name"] for file in files] == names
    fetch_all(url, files, tmp_path / "another machine")


def test_a_signature_reaches_the_server_as_it_was_written(site, tmp_path):  # aio-libs/aiohttp#5512
    site.heads = False
    query = "X-Credential=me%2F2026%2Feu&X-Signature=a%2Bb%3D%3D"
    site.files[f"a.parquet?{unquote(query)}"] = BODY
    url = f"{site.address}/a.parquet?{query}"
    files, note = urls.resolve(url, tmp_path)
    assert files[0]["name"] == "a.parquet" and files[0]["size"] == len(BODY)
    assert set(site.raw) == {f"/a.parquet?{query}"} and "X-Signature" not in note
    site.status[f"a.parquet?{unquote(query)}"] = 403
    with pytest.raises(SourceMissing, match=r"was refused: .*403") as raised:
        urls.resolve(url, tmp_path)
    assert "X-Signature" not in str(raised.value)


def test_a_redirect_is_followed(site, tmp_path):
    site.redirects["latest.parquet"] = "/v2/data.parquet"
    site.files["v2/data.parquet"] = BODY
    files, _ = urls.resolve(f"{site.address}/latest.parquet", tmp_path)
    assert files[0]["name"] == "latest.parquet" and files[0]["size"] == len(BODY)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, SourceMissing),
        (401, SourceMissing),
        (403, SourceMissing),
        (404, SourceMissing),
        (410, SourceMissing),
        (408, Unreachable),
        (429, Unreachable),
        (500, Unreachable),
        (503, Unreachable),
    ],
)
def test_only_what_may_pass_is_tried_again(site, tmp_path, status, error):
    site.status["a.parquet"] = status
    with pytest.raises(error, match=r"http://127.0.0.1:\d+/a.parquet"):
        urls.resolve(f"{site.address}/a.parquet", tmp_path)


def test_a_server_that_is_down_is_unreachable(tmp_path):
    with pytest.raises(
        Unreachable, match=r"http://127.0.0.1:9/a.parquet does not answer: .*; try again"
    ):
        urls.resolve("http://127.0.0.1:9/a.parquet", tmp_path)


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("cut", r"a.parquet"),
        ("short", r"^a\.parquet: the download ended after 1,502 of 3,004 bytes; try again"),
    ],
    ids=["cut off", "short, and claims to be complete"],
)
def test_a_cut_download_leaves_nothing(site, tmp_path, fault, message):
    site.files["a.parquet"] = BODY
    site.etags["a.parquet"] = '"1"'
    getattr(site, fault).add("a.parquet")
    with pytest.raises(Unreachable, match=message):
        urls.resolve(f"{site.address}/a.parquet", tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


# ── what is downloaded again ────────────────────────────────────────────────────────────────────

HOUR = 3600.0


@pytest.mark.parametrize(
    ("etag", "age", "same_etag", "same_date", "again"),
    [
        ('"v1"', None, True, True, False),
        ('"v1"', None, False, True, True),
        ('W/"v1"', None, True, True, True),  # a weak ETag does not promise equal bytes
        (None, HOUR, True, True, False),
        (None, HOUR, True, False, True),
        (None, 0.0, True, True, True),  # written this second, it may be written once more
        (None, None, True, True, True),  # no validator at all
        ('"v1"', HOUR, True, False, False),
    ],
)
def test_a_file_is_downloaded_again_unless_its_validator_is_the_same(
    site, tmp_path, etag, age, same_etag, same_date, again
):
    site.files["a.parquet"] = BODY
    if etag:
        site.etags["a.parquet"] = etag
    if age is not None:
        site.modified["a.parquet"] = time.time() - age
    first, note = urls.resolve(f"{site.address}/a.parquet", tmp_path)
    assert note.endswith("1 of 1 files downloaded")
    if not same_etag:
        site.etags["a.parquet"] = '"v2"'
    if not same_date:
        site.modified["a.parquet"] += 60
    site.raw.clear()
    second, note = urls.resolve(f"{site.address}/a.parquet", tmp_path)
    assert bool(site.raw) == again and first == second
    assert ("0 of 1 files downloaded, 1 not downloaded again" in note) == (not again)


def test_a_stored_file_that_is_gone_is_downloaded_again(site, tmp_path):
    site.files["a.parquet"], site.etags["a.parquet"] = BODY, '"v1"'
    url = f"{site.address}/a.parquet"
    (file,), _ = urls.resolve(url, tmp_path)
    (urls.folder(tmp_path) / urls.local(file)).unlink()
    _, note = urls.resolve(url, tmp_path)
    assert note.endswith("1 of 1 files downloaded")


def test_a_file_on_disk_is_always_compared(tmp_path):
    file = tmp_path / "a.parquet"
    file.write_bytes(BODY)
    before = file.stat()
    (first,), _ = urls.resolve(f"file://{file}", tmp_path / "downloads")
    file.write_bytes(BODY[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (second,), _ = urls.resolve(f"file://{file}", tmp_path / "downloads")
    assert first["size"] == second["size"] and first["sha256"] != second["sha256"]


def test_one_pinned_file_of_many_costs_no_other(site, tmp_path):
    site.files |= {f"{name}.parquet": BODY + name.encode() for name in "abc"}
    files, _ = urls.resolve(f"{site.address}/*.parquet", tmp_path)
    site.raw.clear()
    urls.fetch(f"{site.address}/*.parquet", "b.parquet", files[1], tmp_path / "another machine")
    assert [path for path in site.raw if path.endswith("parquet")] == ["/b.parquet"]


def test_a_file_that_moved_upstream_is_named_with_both_hashes(site, tmp_path):
    site.files["a.parquet"] = BODY
    url = f"{site.address}/a.parquet"
    (file,), _ = urls.resolve(url, tmp_path)
    site.files["a.parquet"] = BODY[::-1]
    expected = rf"a.parquet at {url} is not what source.lock pins: expected SHA-256 {file['sha256'][:12]}…, found "
    with pytest.raises(SourceChanged, match=expected):
        urls.fetch(url, "a.parquet", file, tmp_path)


@pytest.mark.fault(43)
def test_a_proxy_is_used_but_not_for_this_machine(
    site, tmp_path, monkeypatch
):  # fsspec/filesystem_spec#609
    asked: list[str] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(BODY)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    site.files["a.parquet"] = BODY
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serving(Proxy) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        urls.resolve(f"{site.address}/a.parquet", tmp_path)
        assert asked == []
        files, _ = urls.resolve("http://data.example.org/a.parquet", tmp_path)
    assert set(asked) == {"http://data.example.org/a.parquet"} and files[0]["size"] == len(BODY)


def test_two_fetches_at_once_leave_one_right_file(site, tmp_path):
    site.files["a.parquet"] = BODY * 1000
    url = f"{site.address}/a.parquet"
    (file,), _ = urls.resolve(url, tmp_path / "first")
    failures: list[BaseException] = []

    def fetch() -> None:
        try:
            urls.fetch(url, "a.parquet", file, tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.name for path in urls.folder(tmp_path).iterdir()] == [urls.local(file)]
