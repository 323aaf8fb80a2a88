"""The repository's folder, its packages, and the folder of the real tables."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "client", "server", "simulation")
DATA = Path(os.environ.get("FEDREASON_DATA", ROOT.parent / "shared" / "data"))
"""Tests that read it are marked `real_data`, and skipped where it is absent."""
SUPPORT2 = DATA / "support2"
SEPSIS = SUPPORT2 / "support2_sepsis_dev.csv"
