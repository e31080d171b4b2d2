"""Stream the rows to score from a data set of the Hub, without storing them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ratchet.dataset.spec import Spec
from ratchet.errors import ParamsError
from ratchet.prediction import unlabeled_rows as rows
from ratchet.prediction.unlabeled_rows import Arrivals
from ratchet.source_params import HuggingFaceSource

ADDRESS = "hf://datasets/"
ROWS = 100  # per request, at most


def parse(source: str) -> tuple[HuggingFaceSource, str | None]:
    """Parse `hf://datasets/OWNER/NAME[@REVISION][?config=...&split=...]`.

    Returns:
        The data set, and the split or None for all splits.

    Raises:
        ParamsError: the address is not valid.
    """
    from pydantic import ValidationError

    url = urlsplit(source.removeprefix(ADDRESS))
    repository, _, revision = url.path.partition("@")
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    split, config = options.pop("split", None), options.pop("config", None)
    try:
        if options:
            raise ValueError(f"unknown option {', '.join(options)}")
        address = HuggingFaceSource(
            type="huggingface",
            repository=repository,
            config=config,
            revision=revision or None,
            splits={},
            label="label",
            image="image",
        )
    except (ValidationError, ValueError):
        raise ParamsError(
            f"{source!r}: expected {ADDRESS}OWNER/NAME[@REVISION][?config=...&split=...]"
        ) from None
    return address, split


def path(address: HuggingFaceSource, split: str) -> str:
    """Return the name of the data set in predictions.

    It does not contain the revision, so that only the new rows of a new commit count as new.
    """
    config = f"config={address.config}&" if address.config else ""
    return f"{ADDRESS}{address.repository}?{config}split={split}"


def read(
    address: HuggingFaceSource, split: str | None, spec: Spec, count: int
) -> Iterator[Arrivals]:
    """Yield the rows of a split, or of all splits, at most `count` at a time.

    Raises:
        CorruptData: a table lacks a column.
        Unreachable: the Hub does not respond.
    """
    import datasets

    from ratchet.sources import huggingface

    datasets.disable_progress_bars()
    with huggingface.answering(address, "the input"):
        data = datasets.load_dataset(
            address.repository,
            address.config,
            split=split,
            revision=address.revision,
            streaming=True,
        )
        splits = data if isinstance(data, dict) else {split or str(data.split): data}
        for name, rows_of_split in splits.items():
            yield from _rows(rows_of_split, path(address, name), address, spec, count)


def _rows(
    split: Any, source: str, address: HuggingFaceSource, spec: Spec, count: int
) -> Iterator[Arrivals]:
    loader = functools.partial(load, address.repository)
    start = 0
    for table in split.decode(False).with_format("arrow").iter(min(count, ROWS)):
        table = table.cast(table.schema.remove_metadata())
        if spec.kind != "image":
            rows.require(spec, source, table.column_names)
        yield rows.of_table(table, spec, source, range(start, start + len(table)), loader)
        start += len(table)


def load(repository: str, address: str) -> tuple[bytes | None, str | None]:
    """Read an image that the Hub stores as a separate file.

    No other address is opened, in particular no local path.

    Args:
        repository: OWNER/NAME of the data set.
        address: the address of the image, such as `zip://a.png::hf://datasets/OWNER/NAME/b.zip`.

    Returns:
        The bytes, or None and the reason why the image is not read.
    """
    import fsspec

    target = address.rpartition("::")[2]
    inner = address.removesuffix(target).split("::")[:-1]
    archives = all(part.startswith(("zip://", "tar://", "gzip://")) for part in inner)
    if not _is_of_hub(target, repository) or not archives:
        return None, f"unread: {address} is not a file of {repository}"
    try:
        with fsspec.open(address) as file:
            content: bytes = file.read(rows.FILE_BYTES + 1)
    except FileNotFoundError:
        return None, f"unread: {address} does not exist"
    if len(content) > rows.FILE_BYTES:
        return None, f"unread: more than {rows.FILE_BYTES:,} bytes"
    return content, None


def _is_of_hub(address: str, repository: str) -> bool:
    """Return whether the address is a file of `repository` on the Hub."""
    from huggingface_hub import constants

    starts = (
        f"{ADDRESS}{repository}@",
        f"{ADDRESS}{repository}/",
        f"{constants.ENDPOINT}/datasets/{repository}/resolve/",
    )
    return address.startswith(starts) and ".." not in address.split("/")
