"""Torch's settings are what they were once an operation in any order, or in a fixed one, is over."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from common.decoding.determinism import unordered

SETTINGS: Any = torch.utils.deterministic


@pytest.mark.parametrize("before", [False, True])
def test_memory_is_not_filled_meanwhile_and_is_as_before_afterwards(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(SETTINGS, "fill_uninitialized_memory", before)
    with pytest.raises(RuntimeError), unordered():
        assert SETTINGS.fill_uninitialized_memory is False
        assert not torch.are_deterministic_algorithms_enabled()
        raise RuntimeError
    assert SETTINGS.fill_uninitialized_memory is before
