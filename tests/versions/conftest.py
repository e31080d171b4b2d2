from __future__ import annotations

from pathlib import Path

import pytest

from tests.versions.toy import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy.make(tmp_path / "checkout")
