"""A federation of one host and a free port."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.provisioning.federation import Federation
from tests.federations import free_port, made


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path, hosts=["localhost"], port=free_port()).federation
