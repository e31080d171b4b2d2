"""CSV files as they are found: separators, encodings, ragged rows, and text where a number belongs."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet.errors import CorruptData, ParamsError
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.refresh import refresh

pytest_plugins = ["tests.helpers.data_fixtures"]


@pytest.fixture
def rows(configured, tree):
    """Ingest one CSV file; returns its features x, y and labels."""

    def run(content: bytes, features=("x",), **keys: Any) -> list[tuple[Any, ...]]:
        (tree / "data").mkdir(exist_ok=True)
        (tree / "data/a.csv").write_bytes(content)
        source = {
            "type": "csv",
            "path": "data/a.csv",
            "label": "label",
            "features": list(features),
            **keys,
        }
        params = configured(source)
        refresh.fn(params, tree)
        ingest.fn(params, tree)
        names = ["label", *(f"feature:{name}" for name in features)]
        found = []
        for shard in Shards.open(tree / "data/raw"):
            for table in shard.batches(names):
                found += [tuple(row[name] for name in names) for row in table.to_pylist()]
        return found

    return run


GOOD = [("a", 1.0), ("b", 2.5)]


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (b"x,label\n1,a\n2.5,b\n", {}),
        (b"x,label\n1,a\n2.5,b", {}),
        (b"\xef\xbb\xbfx,label\r\n1,a\r\n\r\n2.5,b\r\n", {}),
        (b"\n\nx,label\n1,a\n2.5,b\n\n", {}),
        (b"x,label\r1,a\r2.5,b\r", {}),
        (b'"x","label"\n"1","a"\n" 2.5 ","b"\n', {}),
        (b'note,x,label\n"two\nlines, ""quoted""",1,a\n,2.5,b\n', {}),  # pandas-dev/pandas#59009
        (b"x;label\n1;a\n2,5;b\n", {"separator": ";", "decimal": ","}),
        (b"x\tlabel\n1\ta\n2.5\tb\n", {"separator": "\t"}),
        (b"x|label\n1|a\n2.5|b\n", {"separator": "|"}),
        ("x,label\n1,a\n2.5,b\n".encode("utf-16"), {"encoding": "utf-16"}),
        (b"caf\xe9,x,label\nna\xefve,1,a\n,2.5,b\n", {"encoding": "latin-1"}),
        (b"x,label,,\n1,a,,\n2.5,b,,\n", {}),
    ],
)
def test_what_is_read(rows, content, keys) -> None:
    assert rows(content, **keys) == GOOD


def test_missing_numbers_and_other_spellings(rows) -> None:
    values = ["", "NaN", "NA", "null", "N/A", "None", "+5", "1e3", ".5", "True", "false", "-0"]
    content = "x,label\n" + "".join(f"{value},a\n" for value in values)
    expected = [None] * 6 + [5.0, 1000.0, 0.5, 1.0, 0.0, 0.0]
    assert [value for _, value in rows(content.encode())] == expected


@pytest.mark.parametrize(
    ("content", "keys", "message"),
    [
        (
            b"x;label\n1;a\n",
            {},
            r'^a\.csv is separated by a semicolon; set `separator: ";"` of this source',
        ),
        (b"x\tlabel\n1\ta\n", {}, r'^a\.csv is separated by a tab; set `separator: "\\t"`'),
        (b"x|label\n1|a\n", {"separator": ";"}, r"^a\.csv is separated by a vertical bar"),
        (
            b"x,kind\n1,a\n",
            {},
            r"^a\.csv has no column label; it has kind, x; correct ingest\.sources",
        ),
        (b"label,y\na,1\n", {}, r"^a\.csv has no column x; it has label, y;"),
        (b"x,x,label\n1,2,a\n", {}, r"^a\.csv has more than one column x; rename or remove"),
        (
            b"x,label\n1,a\n2,b\n?,a\n",
            {},
            r"^a\.csv, line 4: the feature x is '\?', not a number; correct",
        ),
        (
            b'note,x,label\n"two\nlines",1,a\n\n,tall,b\n',
            {},
            r"^a\.csv, line 5: the feature x is 'tall', not",
        ),
        (
            b'x,label\n"1,234.5",a\n',
            {},
            r"^a\.csv, line 2: the feature x is '1,234\.5', not a number; correct",
        ),
        (
            b'x,label\n"1,5",a\n',
            {},
            r"line 2: the feature x is '1,5', not a number; if the comma is the decimal mark",
        ),
        (
            b"x;label\n1.5;a\n",
            {"separator": ";", "decimal": ","},
            r"line 2: the feature x is '1\.5', not a number",
        ),
        (b"x,label\n1,caf\xe9\n", {}, r"^a\.csv is not utf-8 text; set `encoding` of this source"),
        (b"caf\xe9,x,label\n1,2,a\n", {}, r"^a\.csv is not utf-8 text; set `encoding`"),
        (
            b"x,label\n1,a\n2\n",
            {},
            r"^a\.csv, line 3: 1 values, but the header has 2 columns; correct the line",
        ),
        (b"x,label\n1,a\n2,b,c\n", {}, r"^a\.csv, line 3: 3 values, but the header has 2 columns"),
        (b"", {}, r"^a\.csv is empty; a CSV file needs a header and rows"),
        (b"x,label\n", {}, r"^the sources hold no rows"),
    ],
)
def test_what_is_refused_in_one_line(rows, content, keys, message) -> None:
    with pytest.raises(CorruptData, match=message) as raised:
        rows(content, **keys)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"separator": ";;"}, "separator"),
        ({"decimal": ";"}, "decimal"),
        ({"decimal": ","}, "separator and decimal are both ','; they must differ"),
        ({"encoding": "utf-9"}, "this encoding is unknown"),
        ({"features": []}, "features"),
        ({"features": ["x", "x"]}, "x is listed twice; list each column once"),
        ({"features": ["label"]}, "features names the label column label"),
        ({"split": "label"}, "split names the label column label"),
        ({"split": "x"}, "split names x, which is an input of the model; name another column"),
        (
            {"separator": "\\t"},
            r'separator: expected one character, such as ";", or "\\t" in double quotes for a tab',
        ),
    ],
)
def test_keys_that_cannot_be(rows, keys, message) -> None:
    with pytest.raises(ParamsError, match=message) as raised:
        rows(b"x,label\n1,a\n", **keys)
    assert "1 problem" in str(raised.value)


def test_a_column_that_looks_like_a_split_is_mentioned(rows, capsys) -> None:
    content = b"x,label,Split\n1,a,train\n2.5,b,Validation\n"
    assert rows(content) == GOOD
    assert (
        "a.csv has a column Split with names of splits, which is not used as the split"
        in capsys.readouterr().out
    )
    rows(content, split="Split")
    assert "not used" not in capsys.readouterr().out
