"""Sums in a fixed order on CUDA, where two runs of one computation may otherwise differ in their last bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def prepare(device: str) -> None:
    """Have cuBLAS keep to workspaces of a fixed size, before CUDA is first used: later it does not look again."""
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Have torch use deterministic algorithms on CUDA for a while, and raise where there is none; then go on as before.

    Only warned, torch keeps the faster backward passes of attention, whose sums have no order. Memory that is about to
    be written is not filled before, which torch would do to find who reads it: that costs a pass over all of it.
    """
    if not device.startswith("cuda"):
        yield
        return
    with _deterministic(True):
        yield


@contextmanager
def unordered() -> Iterator[None]:
    """Have an operation that writes each place once write in any order: torch's deterministic form sorts first."""
    with _deterministic(False):
        yield


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warning = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warning)
        memory.fill_uninitialized_memory = filled
