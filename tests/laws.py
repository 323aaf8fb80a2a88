"""What hypothesis is told by tests that need more than the one profile in conftest.py."""

from __future__ import annotations

from hypothesis import HealthCheck

ONE_FOLDER = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
"""For a law that writes each example over the last one, in the folder of its test."""
