"""A data set of the Hugging Face Hub, at the commit that source.lock pins.

A token comes from the environment only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ratchet.errors import CorruptData, SourceMissing, Unreachable
from ratchet.files import sha256
from ratchet.source_params import HuggingFaceSource
from ratchet.sources import parquet_files
from ratchet.sources.base import (
    IMAGE,
    Entry,
    Part,
    Places,
    Rows,
    require,
    used_columns,
    with_shard_names,
)

ROWS = 10  # rows in one batch


def resolve(source: HuggingFaceSource, places: Places) -> Entry:
    """Pin the commit of the data set, and its parquet files."""
    from huggingface_hub import HfApi

    with answering(source):
        info = HfApi().dataset_info(source.repository, revision=source.revision)
        card = info.card_data
        licence = card.get("license") if card is not None else None
        licence = " and ".join(licence) if isinstance(licence, list) else licence
        entry = {"resolved": info.sha, "licence": licence}
        return {**entry, **_parquet(source, str(info.sha), places)}


def _parquet(source: HuggingFaceSource, commit: str, places: Places) -> dict[str, Any]:
    """Pin the parquet files of the splits, so that a new commit costs only its new files.

    Data sets in other formats have none.
    """
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet
    from huggingface_hub import HfApi, RepoFile, hf_hub_download

    cache = str(_cache(places))
    builder = datasets.load_dataset_builder(
        source.repository, source.config, revision=commit, cache_dir=cache
    )
    if not isinstance(builder, Parquet):
        return {}
    listed = builder.config.data_files or {}
    if missing := [theirs for theirs in source.splits.values() if theirs not in listed]:
        raise CorruptData(
            f"{source.repository} has no split {', '.join(missing)}; it has {', '.join(listed)};"
            " correct ingest.sources"
        )
    names = {
        str(url).partition(f"@{commit}/")[2]: split
        for split, theirs in source.splits.items()
        for url in listed[theirs]
    }
    infos = HfApi().get_paths_info(
        source.repository, list(names), revision=commit, repo_type="dataset"
    )
    by_path = {file.path: file for file in infos if isinstance(file, RepoFile)}
    files = []
    for name, split in names.items():
        file = by_path[name]
        if file.lfs is not None:
            digest = file.lfs.sha256
        else:  # a small file is in git itself
            fetched = hf_hub_download(
                source.repository, name, repo_type="dataset", revision=commit, cache_dir=cache
            )
            digest = sha256(Path(fetched))
        files.append({"name": name, "size": file.size, "sha256": digest, "split": split})
    classes = {
        column: list(feature.names)
        for column, feature in (builder.info.features or {}).items()
        if isinstance(feature, datasets.ClassLabel)
    }
    return {"classes": classes, "files": files}


def parts(source: HuggingFaceSource, entry: Entry, places: Places) -> list[Part]:
    """List one part per parquet file, or one per split for other formats."""
    cache, licence = _cache(places), entry["licence"]
    if "files" not in entry:
        detail = {"resolved": entry["resolved"], "licence": licence}
        return [
            Part(
                source,
                cache,
                (),
                {**detail, "split": split},
                name=f"{source.repository}, split {theirs}",
            )
            for split, theirs in source.splits.items()
        ]
    name = "--".join(["datasets", *source.repository.split("/")])
    folder = cache / name / "snapshots" / entry["resolved"]
    classes = entry["classes"].get(source.label)
    parts = []
    for file in entry["files"]:
        detail = {"partition": {}, "split": file["split"], "classes": classes, "licence": licence}
        parts.append(Part(source, folder, (file,), detail, name=file["name"]))
    return parts


def fetch(part: Part) -> None:
    """Download the part's files at the pinned commit into the Hub client's own cache."""
    from huggingface_hub import hf_hub_download

    snapshot = part.root  # <cache>/datasets--<owner>--<name>/snapshots/<commit>
    for file in part.files:
        with answering(part.source):
            hf_hub_download(
                part.source.repository,
                file["name"],
                repo_type="dataset",
                revision=snapshot.name,
                cache_dir=snapshot.parents[2],
                force_download=(snapshot / file["name"]).is_file(),  # here, but damaged
            )


def _cache(places: Places) -> Path:
    return places.downloads / "huggingface"


def read(part: Part) -> Rows:
    """Read the rows of a parquet file or a split."""
    if part.files:
        rows = parquet_files.read(part)
        return replace(
            rows, classes=part.detail["classes"] or rows.classes, licence=part.detail["licence"]
        )
    return _read_split(part)


def _read_split(part: Part) -> Rows:
    import datasets

    source: HuggingFaceSource = part.source
    datasets.disable_progress_bars()
    with answering(source):
        data = datasets.load_dataset(
            source.repository,
            source.config,
            split=source.splits[part.detail["split"]],
            revision=part.detail["resolved"],
            cache_dir=str(part.root),
        )
    names = used_columns(source, part.keep)
    require(names, data.column_names, source.repository)
    if source.image:
        data = data.cast_column(source.image, datasets.Image(decode=False))
    label = data.features[source.label]
    classes = list(label.names) if isinstance(label, datasets.ClassLabel) else None
    return Rows(_batches(data.select_columns(names), part), classes, part.detail["licence"])


def _batches(data: Any, part: Part) -> Iterator[pa.Table]:
    source = part.source
    for table in data.with_format("arrow").iter(ROWS):
        table = with_shard_names(table, source, part.keep)
        if source.image:
            images = pa.array([_bytes(image) for image in table["image"].to_pylist()], IMAGE)
            table = table.set_column(table.column_names.index("image"), "image", images)
        if source.split is None:
            table = table.append_column(
                "split", pa.array([part.detail["split"]] * len(table), pa.string())
            )
        yield table


def _bytes(image: dict[str, Any] | None) -> dict[str, Any] | None:
    """Read an image that is a separate file on the Hub: it comes as a path into the cache."""
    if image is None or image["bytes"] is not None:
        return image
    path = Path(image["path"])
    return {"bytes": path.read_bytes(), "path": path.name}


@contextmanager
def answering(source: HuggingFaceSource, key: str = "ingest.sources") -> Iterator[None]:
    """Turn the exceptions of the Hub's libraries into Ratchet's.

    Args:
        source: the data set.
        key: where the data set is named, for messages.

    Raises:
        SourceMissing: the data set or its revision does not exist, or is private.
        Unreachable: the Hub does not respond.
        CorruptData: the data set cannot be read.
    """
    import datasets.exceptions
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{source.repository} at {source.revision or 'its newest commit'}"
    try:
        yield
    except (
        RepositoryNotFoundError,
        RevisionNotFoundError,
        DatasetNotFoundError,
        HFValidationError,
    ) as error:
        cause = str(error).splitlines()[0]
        raise SourceMissing(
            f"{key}: the Hub has no {where} ({cause}); correct it, or set HF_TOKEN"
        ) from None
    except (OfflineModeIsEnabled, OSError) as error:
        raise Unreachable(
            f"the Hub does not answer for {where}: {str(error).splitlines()[0]}; try again"
        ) from None
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        cause = " ".join(str(error).split())
        raise CorruptData(f"{where} cannot be read: {cause}; correct {key}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "huggingface_hub"):
            raise Unreachable(
                f"the Hub does not answer for {where}: {type(error).__name__}; try again"
            ) from None
        raise
