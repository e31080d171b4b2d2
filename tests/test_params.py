"""params.yaml: read as DVC reads it, and every fault named at once."""

from __future__ import annotations

import copy
import datetime
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml
from ruamel.yaml import YAML

from ratchet import overrides, params
from ratchet.errors import ParamsError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def raw() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    return content


def test_the_file_of_the_repository_is_read(raw: dict[str, Any]) -> None:
    assert params.load(ROOT).train.epochs == raw["train"]["epochs"]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file, text = tmp_path / "params.yaml", (ROOT / "params.yaml").read_text()
    for seed in (1, 2, 345):
        file.write_text(text.replace("seed: 0 ", f"seed: {seed} "))
        assert params.load(tmp_path).train.seed == seed


def test_numbers_are_yaml_1_2(tmp_path: Path) -> None:
    text = re.sub(
        r"max_bad_fraction: \S+", "max_bad_fraction: 1e-3", (ROOT / "params.yaml").read_text()
    )
    (tmp_path / "params.yaml").write_text(text)
    assert params.load(tmp_path).validate.max_bad_fraction == 0.001


def change(section: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw[section].update(values)


def source(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["ingest"].update(sources=[values])


PROBLEMS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda raw: raw["train"].pop("epochs"), "train.epochs: missing; add it"),
    (lambda raw: raw.pop("gate"), "gate: this section is missing; add it"),
    (change("train", epohcs=3), "train.epohcs: unknown key; did you mean train.epochs?"),
    (change("train", min_accuracy=0.5), "train.min_accuracy: unknown key; did you mean gate.min_accuracy?"),
    (lambda raw: raw.update(trian={}), "trian: unknown key; did you mean train?"),
    (lambda raw: raw.update(epochs=3), "epochs: unknown key; did you mean train.epochs?"),
    (lambda raw: raw.update(batch_size=3), "batch_size: unknown key; did you mean train.batch_size or evaluate.batch_size?"),
    (change("gate", foo=1), "gate.foo: unknown key; this section takes "),
    (change("train", epochs="3"), 'train.epochs: expected a whole number, found "3"; remove the quotes'),
    (change("train", epochs=True), "train.epochs: expected a whole number, found true"),
    (change("train", epochs=5.0), "train.epochs: expected a whole number, found 5.0"),
    (change("train", epochs=None), "train.epochs: expected a whole number, found null"),
    (change("train", epochs=0), "train.epochs: expected at least 1, found 0"),
    (change("train", lr=0), "train.lr: expected more than 0, found 0"),
    (change("train", lr=float("inf")), "train.lr: expected a finite number, found .inf"),
    (change("train", lr=float("nan")), "train.lr: expected a finite number, found .nan"),
    (change("gate", min_accuracy=1.5), "gate.min_accuracy: expected at most 1, found 1.5"),
    (change("train", precision="fp16"), 'train.precision: expected auto, float32 or bfloat16, found "fp16"'),
    (change("train", fused="yes"), 'train.fused: expected auto, true or false, found "yes"'),
    (change("train", precision="3"), 'train.precision: expected auto, float32 or bfloat16, found "3"'),
    (change("train", device=datetime.date(2026, 1, 31)),
     "train.device: expected a string, found 2026-01-31; put it in quotes"),
    (lambda raw: raw["train"]["augment"].update(flip="false"),
     'train.augment.flip: expected true or false, found "false"; remove the quotes'),
    (lambda raw: raw["train"]["augment"].update(flip="no"), 'train.augment.flip: expected true or false, found "no"'),
    (change("gate", epochen=1), "gate.epochen: unknown key; this section takes "),
    (change("gate", epoch=1), "gate.epoch: unknown key; did you mean train.epochs?"),
    (change("prepare", channels=2), "prepare.channels: expected 1 or 3, found 2"),
    (change("prepare", size=28), "prepare.size: expected a list, found 28"),
    (change("prepare", size=[28]), "prepare.size: expected at least 2 entries, found [28]"),
    (change("prepare", size=[8, 8, 8]), "prepare.size: expected at most 2 entries, found [8, 8, 8]"),
    (change("train", criterion="MSELoss"),
     'train.criterion: expected a mapping with name and arguments, found "MSELoss"'),
    (change("model", pretrained={"file": "x", "sha256": "abc"}),
     'model.pretrained.sha256: expected 64 hexadecimal digits in lower case, found "abc"'),
    (change("train", device=0), "train.device: expected a string, found 0; put it in quotes"),
    (change("run", cluster="host:1"), 'run.cluster: expected tcp://HOST:PORT, found "host:1"'),
    (change("validate", unique="a"), 'validate.unique: expected a list, found "a"'),
    (change("ingest", sources=[]), "ingest.sources: expected at least 1 entry, found []"),
    (change("ingest", sources=["x"]),
     'ingest.sources.0: expected a mapping with a type, such as {type: csv, ...}, found "x"'),
    (source(type="ftp"), 'ingest.sources.0.type: unknown type "ftp"; use torchvision, parquet, huggingface, '
                         "imagefolder, csv or custom"),
    (source(path="x"), "ingest.sources.0.type: missing; name the type of the source, such as csv"),
    (source(type="csv", path="x", label=7, features=["a"]),
     "ingest.sources.0.label: expected a string, found 7; put it in quotes"),
    (source(type="csv", path="x", label="y", features="a"), 'ingest.sources.0.features: expected a list, found "a"'),
    (source(type="csv", path="", label="y", features=["a"]),
     'ingest.sources.0.path: expected a path, without control characters, found ""'),
    (source(type="csv", path="a", label="y", features=[""]),
     'ingest.sources.0.features.0: expected text that is not empty, found ""'),
    (change("validate", columns={"a": {"dtype": "string", "min": 0.0, "max": None, "allowed": None, "nullable": True}}),
     "validate.columns.a: min and max are for numbers, and dtype is string; set them to null, or use dtype float"),
    (source(type="custom", source="custom.a", arguments={}),
     'ingest.sources.0.source: expected custom.module:Class, found "custom.a"'),
    (lambda raw: raw["ingest"]["sources"][0].update(nmae=1),
     "ingest.sources.0.nmae: unknown key; did you mean ingest.sources.0.name?"),
]  # fmt: skip


TINY = 1e-300
BOUNDS: dict[str, tuple[list[float], list[float]]] = {  # values that are taken, values that are not
    "ingest.shard_rows": ([1, 10**9], [0]),
    "validate.max_bad_fraction": ([0, 1], [-TINY, 1.000001]),
    "validate.max_pixels": ([1, 178956970], [0, 178956971]),
    "validate.warn.duplicate": ([0, 1], [-TINY, 1.000001]),
    "validate.warn.leak": ([0, 1], [-TINY, 1.000001]),
    "validate.warn.conflict": ([0, 1], [-TINY, 1.000001]),
    "validate.warn.other": ([0, 1], [-TINY, 1.000001]),
    "validate.warn.imbalance": ([1, 1e9], [0.999999]),
    "prepare.size.0": ([1, 10**4], [0]),
    "prepare.size.1": ([1, 10**4], [0]),
    "prepare.channels": ([1, 3], [0, 2, 4]),
    "prepare.decoded_limit_bytes": ([0, 10**15], [-1]),
    "prepare.val_fraction": ([0, 0.84], [-TINY, 0.85]),  # beside test_fraction 0.15
    "prepare.test_fraction": ([0, 0.89], [-TINY, 0.9]),  # beside val_fraction 0.1
    "train.seed": ([0, 10**9], [-1]),
    "train.epochs": ([1, 10**9], [0]),
    "train.batch_size": ([1, 10**9], [0]),
    "train.accumulate": ([1, 256], [0, 257]),  # beside batch_size 256
    "train.lr": ([TINY, 1e9], [0]),
    "train.clip": ([TINY, 1e9], [0]),
    "train.ema": ([TINY, 0.999999], [0, 1]),
    "train.patience": ([1, 10**9], [0]),
    "train.augment.crop": ([0, 10**9], [-1]),
    "train.augment.erase": ([0, 1], [-TINY, 1.000001]),
    "train.augment.mixup": ([0, 1e9], [-TINY]),
    "train.augment.cutmix": ([0, 1e9], [-TINY]),
    "train.processes": ([1, 10**9], [0]),
    "train.threads": ([1, 10**9], [0]),
    "evaluate.batch_size": ([1, 10**9], [0]),
    "evaluate.worst": ([0, 10**9], [-1]),
    "evaluate.resamples": ([0, 10**9], [-1]),
    "gate.min_accuracy": ([0, 1], [-TINY, 1.000001]),
    "gate.margin": ([0, 1], [-TINY, 1.000001]),
    "gate.confidence": ([0.5, 0.999999], [0.499999, 1]),
    "gate.min_slice": ([1, 10**9], [0]),
    "gate.slice_margin": ([0, 1], [-TINY, 1.000001]),
    "gate.max_shrink": ([0, 1], [-TINY, 1.000001]),
    "run.workers": ([1, 10**9], [0]),
    "run.loader_workers": ([0, 10**9], [-1]),
    "run.checkpoint_seconds": ([TINY, 1e9], [0]),
    "run.retries": ([0, 10**9], [-1]),
    "run.timeouts.network": ([TINY, 1e9], [0]),
    "run.timeouts.compute": ([TINY, 1e9], [0]),
    "run.timeouts.git": ([TINY, 1e9], [0]),
    "run.memo_bytes": ([0, 10**15], [-1]),
}
FREE = {
    "train.optimizer.arguments.weight_decay",
    "train.criterion.arguments.label_smoothing",
}  # PyTorch's own


def numbers(content: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all numbers, and of what may be one."""
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in pairs:
        if (isinstance(value, int | float) and not isinstance(value, bool)) or key in (
            "clip",
            "ema",
            "patience",
        ):
            yield f"{prefix}{key}"
        yield from numbers(value, f"{prefix}{key}.")


def put(content: Any, key: str, value: object) -> None:
    *sections, name = [int(part) if part.isdigit() else part for part in key.split(".")]
    for section in sections:
        content = content[section]
    content[name] = value


def test_every_number_has_the_range_that_is_documented(raw: dict[str, Any]) -> None:
    assert {*numbers(raw)} - FREE == BOUNDS.keys()
    for key, (taken, refused) in BOUNDS.items():
        for value in taken:
            content = copy.deepcopy(raw)
            put(content, key, value)
            params.parse(content)
        for value in refused:
            content = copy.deepcopy(raw)
            put(content, key, value)
            with pytest.raises(ParamsError, match=r"^params\.yaml: 1 problem\n"):
                params.parse(content)


TABLE = {
    "type": "parquet",
    "path": "x",
    "label": "y",
    "image": None,
    "features": ["a", "b"],
    "split": None,
}
HUB = {
    **TABLE,
    "type": "huggingface",
    "repository": "a/b",
    "config": None,
    "revision": None,
    "splits": {"test": "t"},
}
HUB.pop("path")
CSV = {"type": "csv", "path": "x", "label": "y", "features": ["a"]}
RULE = {"dtype": None, "min": None, "max": None, "allowed": None, "nullable": True}

ACROSS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [  # what is wrong, or "" where nothing is
    (source(**TABLE), ""),
    (source(**{**TABLE, "split": "s"}), ""),
    (source(**{**TABLE, "image": "i", "features": None}), ""),
    (source(**{**TABLE, "image": "i"}), "a source needs either image or features; both are set"),
    (source(**{**TABLE, "features": None}), "a source needs either image or features; neither is set"),
    (source(**{**TABLE, "features": ["a", "y"]}), "features names the label column y; name another column"),
    (source(**{**TABLE, "image": "y", "features": None}), "image names the label column y; name another column"),
    (source(**{**TABLE, "split": "y"}), "split names the label column y; name another column"),
    (source(**{**TABLE, "split": "b"}), "split names b, which is an input of the model; name another column"),
    (source(**{**TABLE, "image": "i", "features": None, "split": "i"}), "split names i, which is an input of the model"),
    (source(**{**TABLE, "features": ["a", "b", "a"]}), "a is listed twice; list each column once"),
    (source(**{**TABLE, "features": []}), "expected at least 1 entry, found []"),
    (source(**HUB), ""),
    (source(**{**HUB, "split": "s"}), ""),
    (source(**{**HUB, "split": "s", "splits": {"test": "t", "train": "u"}}), "and 2 entries of splits both give each row"),
    (source(**{**HUB, "splits": {"all": "t"}}), "expected train, val or test"),
    (source(**CSV), ""),
    (source(**{**CSV, "encoding": "cp1252"}), ""),
    (source(**{**CSV, "separator": ";", "decimal": ","}), ""),
    (source(**{**CSV, "separator": ",", "decimal": ","}), "separator and decimal are both ','; they must differ"),
    (source(**{**CSV, "separator": ";;"}), "expected one character, such as"),
    (source(**{**CSV, "separator": '"'}), "expected one character, such as"),
    (source(**{**CSV, "decimal": ";"}), "expected . or ,"),
    (source(**{**CSV, "encoding": "utf-9"}), "this encoding is unknown; use utf-8, cp1252, latin-1 or another"),
    (source(type="imagefolder", path="a\nb"), "expected a path, without control characters"),
    (source(type="imagefolder", path="x" * 1001), "expected at most 1000 characters"),
    (source(type="torchvision", name="9x", root=None, arguments={}), "expected the name of a class"),
    (change("ingest", keep=["a", "a"]), "a is listed twice; list each column once"),
    (change("validate", columns={"a": {**RULE, "min": 2.0, "max": 1.0}}), "min is 2 and max is 1, so no value can pass"),
    (change("validate", columns={"a": {**RULE, "min": 1.0, "max": 1.0}}), ""),
    (change("validate", columns={"a": {**RULE, "dtype": "string", "max": 1.0}}), "min and max are for numbers"),
    (change("validate", columns={"a": {**RULE, "dtype": "float", "max": 1.0}}), ""),
    (change("prepare", val_fraction=0.5, test_fraction=0.5), "val_fraction and test_fraction add up to 1; they must"),
    (change("train", accumulate=9, batch_size=8), "accumulate is 9, more than the 8 rows of batch_size"),
    (change("train", accumulate=8, batch_size=8), ""),
    (change("evaluate", slices=["site"]), "  evaluate.slices: site is not in ingest.keep; add it there"),
    (lambda raw: (raw["evaluate"].update(slices=["site"]), raw["ingest"].update(keep=["site"])), ""),
    (change("run", cluster="tls://h:1"), ""),
    (change("run", cluster="http://h:1"), "expected tcp://HOST:PORT"),
    (change("train", lr="1e-3"), "remove the quotes"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), ACROSS, ids=map(str, range(len(ACROSS))))
def test_what_goes_together(raw: dict[str, Any], edit: Callable[[Any], Any], message: str) -> None:
    edit(raw)
    if not message:
        parsed = json.loads(json.dumps(asdict(params.parse(raw))))
        assert parsed["train"] == raw["train"]
        (asked,), (read,) = raw["ingest"]["sources"], parsed["ingest"]["sources"]
        assert {key: read[key] for key in asked} == asked
        return
    with pytest.raises(ParamsError, match=r"^params\.yaml: 1 problem\n") as caught:
        params.parse(raw)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"), PROBLEMS, ids=[message[:50] for _, message in PROBLEMS]
)
def test_a_problem_is_one_line(
    raw: dict[str, Any], edit: Callable[[Any], Any], message: str
) -> None:
    edit(raw)
    with pytest.raises(ParamsError) as caught:
        params.parse(raw)
    heading, line = str(caught.value).splitlines()
    assert heading == "params.yaml: 1 problem"
    assert line.startswith(f"  {message}") if message.endswith(" ") else line == f"  {message}"


def test_the_key_that_is_missing_is_suggested_for_the_one_too_many(raw: dict[str, Any]) -> None:
    source(
        type="huggingface",
        name="a/b",
        config=None,
        revision=None,
        splits={},
        label="l",
        image="i",
        features=None,
    )(raw)
    with pytest.raises(ParamsError) as caught:
        params.parse(raw)
    assert str(caught.value).splitlines() == [
        "params.yaml: 2 problems",
        "  ingest.sources.0.repository: missing; add it",
        "  ingest.sources.0.name: unknown key; did you mean ingest.sources.0.repository?",
    ]


def test_all_faults_are_reported_at_once(raw: dict[str, Any]) -> None:
    raw["train"]["epohcs"] = raw["train"].pop("epochs")
    raw["run"]["workers"] = "two"
    with pytest.raises(ParamsError, match=r"3 problems") as caught:
        params.parse(raw)
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "train.epochs",
        "train.epohcs",
        "run.workers",
    ]


def test_a_missing_file_says_where_to_run() -> None:
    with pytest.raises(
        ParamsError, match=r"params.yaml is not in .*; run this in a Ratchet checkout"
    ):
        params.load(Path("/"))


QUOTE = 'put values that contain a colon in quotes, such as "custom.models.net:Net" or "https://...", and a space after '
# pre-commit/pre-commit-hooks#862, remarshal-project/remarshal#55 and yaml/libyaml#28 report the
# colon between braces, treeverse/dvc#8191 the missing space, swar/Swar-Chia-Plot-Manager#250 the
# value with a colon
NOT_YAML = [  # what DVC's parser refuses, although the one in pure Python takes some of it
    (
        "a: 1\nb: {source: custom.mydata:MyDataset}",
        f"at line 2, column 26: found unexpected ':'; {QUOTE}",
    ),
    ("a: {path: file:///x/y}", f"at line 1, column 15: found unexpected ':'; {QUOTE}"),
    ("a: [https://host/x.csv]", f"at line 1, column 10: found unexpected ':'; {QUOTE}"),
    ("a: {x:1}", f"at line 1, column 6: found unexpected ':'; {QUOTE}"),
    (
        "a: x: y",
        "at line 1, column 5: mapping values are not allowed in this context; put values that contain a colon",
    ),
    (
        "a:1\nb: 2",
        "at line 2, column 2: mapping values are not allowed in this context; put values that contain a ",
    ),
    (
        "\ta: 1",
        "at line 1, column 1: found character that cannot start any token; indent with spaces, not tabs",
    ),
    (
        "a: 1\na: 2",
        'at line 2, column 1: found duplicate key "a" with value "2"; keep one of the two',
    ),
    (
        "train: [",
        "at line 2, column 1: did not find expected node content; check the indentation of this line",
    ),
    ("a: [1, 2", "at line 2, column 1: did not find expected ',' or ']'; close the bracket"),
    ("a: 'x", "at line 1, column 6: found unexpected end of stream; close the quotes"),
    (
        'a: "C:\\data"',
        "at line 1, column 7: found unknown escape character; use single quotes, or double each ",
    ),
    (
        "a:\n  b: 1\n c: 2",
        "at line 3, column 2: did not find expected key; check the indentation of this line",
    ),
    ("a: 1\n---\nb: 2", "at line 2, column 1: but found another document; remove the line ---"),
    ("a: 1\nb: \x01", "at line 2: control characters are not allowed; remove that character"),
]


@pytest.mark.parametrize(("text", "message"), NOT_YAML, ids=[text for text, _ in NOT_YAML])
def test_what_dvc_cannot_read_is_refused_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError) as caught:
        params.load(tmp_path)
    assert str(caught.value).startswith(
        f"params.yaml is not valid YAML{message if message[0] == ':' else ' ' + message}"
    )
    with pytest.raises(YAMLFileCorruptedError):
        parse_yaml(text, "params.yaml")


def test_a_date_that_does_not_exist_has_no_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("a: 2026-02-30")
    message = r"^params\.yaml is not valid YAML: day is out of range for month; put the value in quotes if it is text$"
    with pytest.raises(ParamsError, match=message):
        params.load(tmp_path)


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes("a: 1\nb: ä\n".encode("latin-1"))
    with pytest.raises(
        ParamsError, match=r"^params\.yaml is not UTF-8 in line 2; save it with that encoding$"
    ):
        params.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"--params .*mine\.yaml: there is no such file; the presets are in params/"),
        ("- 1\n", r"mine\.yaml: expected one KEY: VALUE per line, such as train\.epochs: 12"),
        ("a: [", r"mine\.yaml is not valid YAML at line 2, column 1"),
    ],
)
def test_a_preset_that_is_none_is_explained(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParamsError, match=message):
        overrides.preset(file)


def test_a_preset_gives_what_set_takes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train.lr: 1e-3\ntrain.schedule: null\nmodel.arguments: {widths: [8, 16]}\n")
    assert overrides.preset(file) == {
        "train.lr": "0.001",
        "train.schedule": "null",
        "model.arguments": '{"widths": [8, 16]}',
    }
