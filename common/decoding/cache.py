"""A key-value cache for decoding a forked prompt: allocated once for prompt and completion, no copy per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _ReservedLayer(DynamicLayer):
    """A layer whose tensors have room for the tokens to come."""

    def __init__(self, source: DynamicLayer, copies: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert source.keys is not None and source.values is not None
        rows, heads, self._used, width = source.keys.shape
        shape = (rows * copies, heads, self._used + room)
        self.dtype, self.device = source.keys.dtype, source.keys.device
        self._all_keys = torch.empty((*shape, width), dtype=self.dtype, device=self.device)
        self._all_values = torch.empty((*shape, source.values.size(-1)), dtype=self.dtype, device=self.device)
        self._all_keys[:, :, : self._used] = source.keys.repeat_interleave(copies, 0)
        self._all_values[:, :, : self._used] = source.values.repeat_interleave(copies, 0)
        self._show()
        self.is_initialized = True

    def _show(self) -> None:
        self.keys, self.values = self._all_keys[:, :, : self._used], self._all_values[:, :, : self._used]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens behind the old ones and return all."""
        end = self._used + key_states.size(2)
        self._all_keys[:, :, self._used : end] = key_states
        self._all_values[:, :, self._used : end] = value_states
        self._used = end
        self._show()
        return self._all_keys[:, :, :end], self._all_values[:, :, :end]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone."""
        self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
        self._show()


def forked(cache: DynamicCache, copies: int, room: int) -> DynamicCache:
    """Return a cache of `copies` rows for each row, with room for `room` more tokens; the given one is used up.

    It is let go of layer by layer, so that two of a long prompt are never held. Layers that keep a sliding window of
    their own are repeated as they are.
    """
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        cache.batch_repeat_interleave(copies)
        return cache
    result = DynamicCache()
    while cache.layers:
        layer = cache.layers.pop(0)
        assert type(layer) is DynamicLayer
        result.layers.append(_ReservedLayer(layer, copies, room))
    return result
