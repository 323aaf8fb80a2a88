"""The folder of a hospital that has released nothing yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.privacy_checks.ledger import site


@pytest.fixture
def amc() -> Iterator[Path]:
    with site() as folder:
        yield folder
