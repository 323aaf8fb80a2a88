"""How many examples a law is tried on."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

_USUAL = 100


def examples(count: int, **more: Any) -> settings:
    """Try a law on so many examples; on fewer in proportion where the profile (tests/conftest.py) has fewer."""
    return settings(max_examples=max(1, count * settings.default.max_examples // _USUAL), **more)
