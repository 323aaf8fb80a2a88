"""The repository's folder, and that of the real tables."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FEDREASON_DATA", ROOT.parent / "shared" / "data"))
"""Tests that read it are marked `real_data`, and skipped where it is absent."""
