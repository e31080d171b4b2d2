"""A standing service for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Checkout
from tests.helpers.standing import Service, standing


@pytest.fixture(scope="module")
def service(released: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with standing(released, tmp_path_factory.mktemp("service")) as up:
        yield up
