"""Sampling in slots: a batch whose shape never changes, and whose rows are taken over by whoever waits.

A completion is a function of its own prompt, its own uniform numbers and the fixed shape. A prompt is read alone, its
keys and values are copied into the slots of its group, a finished row hands its slot to the next, empty slots compute
for nobody. How many places a slot has follows from the row's own prompt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from common.decoding.generate import Completions, sample_token
from common.decoding.graph import Replayed
from common.decoding.masks import by_layer, dense
from common.errors import Code, FedReasonError

_ROWS = 4
"""Slots are a multiple of this: a float32 product on several CPU threads adds the last rows of others differently."""
_SHORT, _STEP, _LONG_STEP = 1024, 64, 512
"""Places of a slot: a multiple of 64, above 1024 of 512, so that prompts of like length share a shape."""


def slot_count(groups: int, group_size: int) -> int:
    """Return how many slots hold so many groups."""
    return -(-groups * group_size // _ROWS) * _ROWS


def capacity(prompt: int, completion: int) -> int:
    """Return the places of a slot for a prompt and completion of so many tokens."""
    step = _STEP if prompt + completion <= _SHORT else _LONG_STEP
    return -(-(prompt + completion) // step) * step


class Slots:
    """R slots of S places: keys and values of every layer, and the place of the token that each row reads next.

    Raises
    ------
    FedReasonError
        ROLLOUTS_SHARED where the model turns a row's keys by how long other rows are.
    """

    def __init__(self, model: torch.nn.Module, rows: int, places: int) -> None:
        _require_own_angles(model)
        self.rows, self.places = rows, places
        self._model = model
        self._base = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
        device = next(model.parameters()).device
        self._tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._next = torch.zeros(rows, dtype=torch.long, device=device)
        self._busy = torch.zeros(rows, dtype=torch.long, device=device)
        self._columns = torch.arange(places, device=device)
        self._cache = DynamicCache()
        self._pass = Replayed(device)

    def admit(self, slots: list[int], prompt: DynamicCache) -> None:
        """Have these slots go on from a prompt's keys and values; of who was there before nothing stays."""
        length = prompt.get_seq_length()
        if not self._cache.layers:
            self._cache.layers += [_SlotLayer(layer, self._next, self.places) for layer in prompt.layers]
        for mine, read in zip(self._cache.layers, prompt.layers, strict=True):
            cast(_SlotLayer, mine).take(slots, read)
        self._next[slots] = length
        self._busy[slots] = 1

    def release(self, slots: list[int]) -> None:
        """Leave these slots to nobody."""
        self._next[slots] = 0
        self._busy[slots] = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token [R] in every slot; logits [R, V] of the next, which the following step overwrites."""
        self._tokens.copy_(tokens[:, None])
        logits = self._pass.step(self._forward)
        self._next += self._busy
        return logits

    def _forward(self) -> Tensor:
        out = self._model(
            input_ids=self._tokens,
            attention_mask=by_layer(self._base, lambda window: dense(self._base, self._visible(window))),
            position_ids=self._next[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        return cast(Tensor, out.logits)[:, -1]

    def _visible(self, window: int | None) -> Tensor:
        """Which place [R, 1, 1, S] each row attends to: up to its own, within the window."""
        distance = self._next[:, None] - self._columns
        seen = distance >= 0
        return (seen if window is None else seen & (distance < window))[:, None, None]


class _SlotLayer(DynamicLayer):
    """A layer's keys and values [R, heads, S, width], written at every row's own place."""

    def __init__(self, like: Any, places: Tensor, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device = like.keys.dtype, like.keys.device
        self.keys, self.values = (
            torch.zeros((len(places), tensor.size(1), size, tensor.size(3)), dtype=self.dtype, device=self.device)
            for tensor in (like.keys, like.values)
        )
        self._rows, self._places = torch.arange(len(places), device=self.device), places
        self.is_initialized = True

    def take(self, slots: Sequence[int], read: Any) -> None:
        """Copy a prompt's keys and values [1, heads, N, width] into slots, zeros behind them."""
        for mine, theirs in ((self.keys, read.keys), (self.values, read.values)):
            assert mine is not None
            for slot in slots:
                mine[slot, :, : theirs.size(2)] = theirs[0]
                mine[slot, :, theirs.size(2) :] = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one new token of every row at its place and return all."""
        assert self.keys is not None and self.values is not None
        self.keys[self._rows, :, self._places] = key_states[:, :, 0]
        self.values[self._rows, :, self._places] = value_states[:, :, 0]
        return self.keys, self.values


@torch.no_grad()
def generate_in_slots(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    slots: int,
    group_size: int,
    max_tokens: int,
    eos: int,
    pad: int,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Completions:
    """Sample `group_size` completions for each prompt in so many slots, prompts of one capacity after another.

    Parameters
    ----------
    prompts
        P token lists.
    slots
        How many, as `slot_count` counts them; the bits of a completion depend on it.
    uniforms
        [P * group_size, max_tokens] float64 in [0, 1): the randomness of each token.
    """
    device = next(model.parameters()).device
    written = _Written(uniforms.to(device), eos, pad, temperature, top_p)
    sizes = [capacity(len(prompt), max_tokens) for prompt in prompts]
    for size in sorted(set(sizes)):
        numbers = [number for number, mine in enumerate(sizes) if mine == size]
        _decode(model, Slots(model, slots, size), prompts, numbers, group_size, written)
    return written.completions()


class _Written:
    """What was drawn so far, of every row and, in the last one, of nobody."""

    def __init__(self, uniforms: Tensor, eos: int, pad: int, temperature: float, top_p: float) -> None:
        self._uniforms = torch.cat([uniforms, uniforms.new_zeros(1, uniforms.size(1))])
        self._eos, self._temperature, self._top_p = eos, temperature, top_p
        self._tokens = torch.full(self._uniforms.shape, pad, dtype=torch.long, device=uniforms.device)
        self._mask = torch.zeros_like(self._tokens)
        self._logprobs = torch.zeros(self._uniforms.shape, device=uniforms.device)
        self.nobody = len(uniforms)

    def draw(self, logits: Tensor, rows: Tensor, steps: Tensor) -> tuple[Tensor, list[bool]]:
        """Draw the tokens [B] of some rows at their steps [B] from logits [B, V]; and which rows are at their end."""
        tokens, logprobs = sample_token(logits, self._uniforms[rows, steps], self._temperature, self._top_p)
        self._tokens[rows, steps] = tokens
        self._mask[rows, steps] = 1
        self._logprobs[rows, steps] = logprobs
        ended: list[bool] = ((tokens == self._eos) | (steps + 1 == self._tokens.size(1))).tolist()
        return tokens, ended

    def completions(self) -> Completions:
        """Return what was drawn, without nobody."""
        return Completions(self._tokens[:-1], self._mask[:-1], self._logprobs[:-1])


def _decode(
    model: torch.nn.Module,
    slots: Slots,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[int],
    group_size: int,
    written: _Written,
) -> None:
    """Write the completions of the prompts with these numbers; one prompt's cache waits at most."""
    device = next(model.parameters()).device
    rows = torch.full((slots.rows,), written.nobody, dtype=torch.long, device=device)
    steps, latest = torch.zeros_like(rows), torch.zeros_like(rows)
    unread, free = deque(numbers), list(range(slots.rows))
    waiting: _Group | None = None
    while True:
        while free and (waiting or unread):
            if waiting is None:
                waiting = _started(model, prompts, unread.popleft(), group_size, written)
            count = min(len(free), len(waiting.rows))
            taken, free = free[:count], free[count:]
            if taken:
                slots.admit(taken, waiting.cache)
                rows[taken], latest[taken], steps[taken] = waiting.rows[:count], waiting.latest[:count], 1
            waiting = waiting.after(count)
        if len(free) == slots.rows:
            return
        latest, ended = written.draw(slots.step(latest), rows, steps)
        steps += rows != written.nobody
        left = [slot for slot in range(slots.rows) if ended[slot] and slot not in free]
        if left:
            slots.release(left)
            rows[left], steps[left] = written.nobody, 0
            free = sorted(free + left)


@dataclass(frozen=True)
class _Group:
    """Rows of a prompt that wait for a slot, and the token [B] that each begins with."""

    cache: DynamicCache
    rows: Tensor
    latest: Tensor

    def after(self, count: int) -> _Group | None:
        """Return those that wait still when so many have a slot."""
        if count == len(self.rows):
            return None
        return _Group(self.cache, self.rows[count:], self.latest[count:])


def _started(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], number: int, group_size: int, written: _Written
) -> _Group:
    """Read a prompt alone and draw the first tokens of its group; who ends with it needs no slot."""
    device = next(model.parameters()).device
    cache = DynamicCache()
    ids = torch.tensor([prompts[number]], dtype=torch.long, device=device)
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    rows = torch.arange(number * group_size, (number + 1) * group_size, device=device)
    first, ended = written.draw(logits.expand(group_size, -1), rows, torch.zeros_like(rows))
    going = [place for place, end in enumerate(ended) if not end]
    return _Group(cache, rows[going], first[going])


def _require_own_angles(model: torch.nn.Module) -> None:
    """Refuse rotary angles that are chosen for the longest row of a batch."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for kind in kinds.values() if isinstance(kinds, dict) else [kinds]:
            if kind == "longrope" or (isinstance(kind, str) and "dynamic" in kind):
                raise FedReasonError(
                    Code.ROLLOUTS_SHARED,
                    f"The model's rotary angles ({kind}) follow the longest row of a batch.",
                    'Set grpo.decode = "patient".',
                )
