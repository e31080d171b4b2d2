"""A run with a real model over real shards: rows of one feature x, labelled "right" where x > 0; the model says "right" where
x is above a threshold, so the threshold sets how often it errs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ratchet.dataset.spec import Spec
from ratchet.models.card import Card, pack
from ratchet.shards import shards
from tests.helpers.toy import Toy

ROWS = 1000
CLASSES = ("left", "right")
ROW_IDS = [hashlib.md5(str(row).encode(), usedforsecurity=False).hexdigest() for row in range(ROWS)]


def lay(
    toy: Toy,
    threshold: float,
    classes: Sequence[str] = CLASSES,
    model: str = "mlp",
    trained: Sequence[int] = (),
    keys: Sequence[str] = ("1.weight", "1.bias"),
    inputs: Sequence[str] = ("x",),
) -> str:
    """Leave in `toy` what a run leaves whose model errs on the rows between 0 and `threshold`.

    Returns the SHA-256.
    """
    x = np.linspace(-1, 1, ROWS, dtype=np.float64)
    targets = (x > 0).astype(np.int64)
    raw = toy.tree / "data/raw"
    raw.mkdir(parents=True, exist_ok=True)
    table = pa.table({"row_id": ROW_IDS, "label": targets, **dict.fromkeys(inputs, x)})
    shards.write(raw / "shard-00000.parquet", iter([table]))
    listed = [{"file": "shard-00000.parquet", "rows": ROWS, "sha256": "", "source": 0}]
    (raw / "dataset.json").write_text(
        json.dumps({"kind": "features", "features": list(inputs), "shards": listed})
    )

    spec = Spec(kind="features", input_shape=(len(inputs),), classes=tuple(classes), mean=(0.0,) * len(inputs),
                std=(1.0,) * len(inputs), counts={"test": ROWS}, features=tuple(inputs), size=None, channels=None)  # fmt: skip
    arguments: dict[str, list[int]] = {"widths": []} if model == "mlp" else {}
    weight = torch.tensor([[-1.0], [1.0]]) / len(inputs) * torch.ones(1, len(inputs))
    bias = torch.tensor([threshold, -threshold])
    content = pack(dict(zip(keys, (weight, bias), strict=True)))
    sha256 = hashlib.sha256(content).hexdigest()
    card = Card(
        architecture={"name": model, "arguments": arguments},
        spec=json.loads(json.dumps(asdict(spec))),
        spec_sha256="0" * 64,
        weights_sha256=sha256,
        params={"model": {}, "train": {"criterion": {"name": "CrossEntropyLoss"}}},
        libraries={},
        device_type="cpu",
    )
    toy.write({"models/.keep": "", "reports/training/curves.tsv": "epoch\n"})
    prepared = toy.tree / "data/prepared/train"
    prepared.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"row_id": [ROW_IDS[row] for row in trained]}), prepared / "meta.parquet"
    )
    (toy.tree / "models/classifier.pt").write_bytes(content)
    card.write(toy.tree / "models/classifier.json")
    said = (x > threshold).astype(np.int64)
    sure = np.full(ROWS, 0.8, np.float32)
    given = np.stack(
        [np.where(said == 0, sure, 1 - sure), np.where(said == 1, sure, 1 - sure)], axis=1
    )
    predictions = {
        "row_id": ROW_IDS,
        "target": targets,
        "prediction": said,
        "probabilities": list(given),
    }
    pq.write_table(pa.table(predictions), toy.tree / "reports/predictions.parquet")
    accuracy = float((said == targets).mean())
    toy.write(
        {
            "reports/metrics.json": json.dumps({"accuracy": accuracy, "loss": 0.5, "rows": ROWS})
            + "\n"
        }
    )
    toy.lock()
    return sha256
