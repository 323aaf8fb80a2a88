"""Decoding with a shared prompt: a fixed number of groups, each handed on to the next prompt when its rows are done.

A prompt is read alone, and its keys and values are kept once for its group (`common.decoding.attend`). What a row
becomes depends on its own prompt, its own uniform numbers and the `Shape`, on nobody else; groups of nobody compute for
nobody. On a CUDA device a step, with the draw of the tokens, is recorded once and replayed: it takes less time there
than its thousand kernels take to be launched one by one. It reads weights where they stand, and they may be changed in
place, as `common.model.adapter` and `common.model.policy` do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import pad as padded
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from common.decoding.attend import NAME, Places, Shape
from common.decoding.determinism import unordered
from common.decoding.ends import Ends, ended
from common.decoding.generate import Completions, sample_token
from common.decoding.read import Read, read_prompt
from common.errors import Code, FedReasonError

FAMILIES = frozenset({"gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Model types whose layers attend as `attend` does, windows and caps included; every other one is refused."""
_WARM = 1
"""Steps before the recording, on a stream of their own, as torch's notes on CUDA graphs ask; the libraries start."""
_LOOK = 16
"""Recorded steps between two looks at who is done: each look waits for the device."""


class SharedDecoder:
    """D groups of G rows that decode together.

    Parameters
    ----------
    recorded
        Whether a step sees all places, under masks, as on a CUDA device; where it is not said, on such a device.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        shape: Shape,
        *,
        ends: Ends,
        pad: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        recorded: bool | None = None,
    ) -> None:
        self.model, self.shape = model, shape
        self._ends, self._pad, self._temperature, self._top_p = ends, pad, temperature, top_p
        base = _base(model)
        self._config = config = base.config.get_text_config()
        device, rows = base.device, (shape.groups * shape.size, shape.completion)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        windows = {None, getattr(config, "sliding_window", None)}
        on_cuda = device.type == "cuda"
        self.places = Places(shape, heads, windows, device, recorded=on_cuda if recorded is None else recorded)
        self._cache: Any = DynamicCache()
        self._cache.layers += [_Layer(self.places, width, base.dtype, device) for _ in range(config.num_hidden_layers)]
        self._uniforms = torch.zeros(rows, dtype=torch.float64, device=device)
        self._tokens = torch.full(rows, pad, dtype=torch.long, device=device)
        self._mask = torch.zeros_like(self._tokens)
        self._logprobs = torch.zeros(rows, device=device)
        self._columns = torch.arange(shape.completion, device=device)
        self._latest = torch.zeros(shape.rows, 1, dtype=torch.long, device=device)
        self._done = torch.ones(rows[0], dtype=torch.bool, device=device)
        self._graph = self._record(device) if on_cuda else None

    @torch.no_grad()
    def admit(self, group: int, prompt: DynamicCache, uniforms: Tensor, first: Completions) -> None:
        """Have a group go on from a prompt's keys and values and the first token of each row, in [G, T].

        Nothing stays of who was there before.
        """
        for mine, read in zip(self._cache.layers, prompt.layers, strict=True):
            mine.take(group, read)
        self.places.take(group, prompt.get_seq_length())
        rows = slice(group * self.shape.size, (group + 1) * self.shape.size)
        self._uniforms[rows] = uniforms
        self._tokens[rows], self._mask[rows], self._logprobs[rows] = first.tokens, first.mask, first.logprobs
        self._latest[rows] = first.tokens[:, :1]
        self._done[rows] = ended(first.tokens[:, 0], self._ends)

    def step(self) -> None:
        """Read the latest token of every row and draw the next."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def finished(self, groups: Sequence[int]) -> list[int]:
        """Return which of these groups have no row that still writes."""
        done = self._done.view(self.shape.groups, -1).all(1).tolist()
        return [group for group in groups if done[group]]

    def written(self, group: int) -> Completions:
        """Return what a group has written [G, T], and leave its place to nobody."""
        rows = slice(group * self.shape.size, (group + 1) * self.shape.size)
        self.places.leave(group)
        self._done[rows] = True
        return Completions(*(each[rows].clone() for each in (self._tokens, self._mask, self._logprobs)))

    @torch.no_grad()
    def _step(self) -> None:
        self.places.begin_step()
        position = self._by_row(self.places.lengths + self.places.spoken)
        before, self._config._attn_implementation = self._config._attn_implementation, NAME
        try:
            logits = self.model(
                input_ids=self._latest,
                position_ids=padded(position, (0, self.shape.rows - len(position)))[:, None],
                past_key_values=self._cache,
                use_cache=True,
                shared=self.places,
            ).logits
        finally:
            self._config._attn_implementation = before
        self._draw(logits[: len(self._done), -1])

    def _draw(self, logits: Tensor) -> None:
        """Draw the next token of every row that still writes; the others' groups stay where they are."""
        place = self._by_row((self.places.spoken + 1).clamp(max=self.shape.completion - 1))[:, None]
        uniforms = self._uniforms.gather(1, place)[:, 0]
        tokens, logprobs = sample_token(logits, uniforms, self._temperature, self._top_p)
        here = (self._columns == place) & ~self._done[:, None]
        for all_, drawn in ((self._tokens, tokens), (self._logprobs, logprobs), (self._mask, torch.ones_like(tokens))):
            all_.copy_(torch.where(here, drawn[:, None], all_))
        self._latest[: len(tokens), 0] = tokens
        self._done |= ended(tokens, self._ends) | (place[:, 0] == self.shape.completion - 1)
        self.places.spoken += (~self._done).view(self.shape.groups, -1).any(1)

    def _by_row(self, numbers: Tensor) -> Tensor:
        """Repeat a number of each group [D] for its rows [D*G]."""
        return numbers[:, None].expand(-1, self.shape.size).flatten()

    def _record(self, device: torch.device) -> torch.cuda.CUDAGraph:
        """Record a step before any prompt is there: it reads and writes buffers alone, which `admit` sets."""
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM):
                    self._step()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step()
        return graph


class _Layer(DynamicLayer):
    """A layer's flat buffers of keys and values."""

    def __init__(self, places: Places, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self._places = dtype, device, places
        self.keys, self.values = (torch.zeros(places.total, width, dtype=dtype, device=device) for _ in range(2))
        self.is_initialized = True

    def take(self, group: int, read: Any) -> None:
        """Copy a prompt's keys and values [1, H, N, d] to its group; where masks hide places, empty what they hide."""
        shape, length = self._places.shape, read.keys.size(2)
        for mine, theirs in ((self.keys, read.keys), (self.values, read.values)):
            assert mine is not None
            prefix = mine[: self._places.cut].view(shape.groups, -1, shape.prompt_places, mine.size(1))[group]
            prefix[:, :length] = theirs[0]
            if self._places.recorded:
                prefix[:, length:] = 0
                mine[self._places.cut :].view(shape.groups, -1)[group] = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one new token of every row [R, H, 1, d] and return all."""
        assert self.keys is not None and self.values is not None
        with unordered():
            for mine, states in ((self.keys, key_states), (self.values, value_states)):
                mine.index_copy_(0, self._places.target, states.reshape(-1, mine.size(1))[: len(self._places.target)])
        return self.keys, self.values


@torch.no_grad()
def generate_shared(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    shape: Shape,
    ends: Ends,
    pad: int,
    uniforms: Tensor,
    reads: Sequence[Read] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Completions:
    """Sample a group of completions for each prompt, as `common.decoding.generate.generate`, in groups of one shape.

    Parameters
    ----------
    prompts
        P token lists, none longer than the shape's.
    reads
        The prompts as they were read; where none is given each is read when its turn comes.
    uniforms
        [P * G, T] float64 in [0, 1): the randomness of each token.

    Raises
    ------
    FedReasonError
        ROLLOUTS_SHARED for a model that `unshareable` names.
    """
    if why := unshareable(model):
        raise FedReasonError(Code.ROLLOUTS_SHARED, f"{why}.", 'Set grpo.decode = "patient".')
    if max(map(len, prompts)) > shape.prompt or uniforms.size(1) != shape.completion:
        raise ValueError("prompts or uniform numbers do not fit the shape")
    device = _base(model).device
    numbers = uniforms.to(device).split(shape.size)
    done: dict[int, Completions] = {}
    unread, free, inside = deque(range(len(prompts))), list(range(shape.groups)), dict[int, int]()
    decoder: SharedDecoder | None = None
    while unread or inside:
        while unread and free:
            number = unread.popleft()
            known = reads[number] if reads else read_prompt(model, prompts[number])
            first = _started(known.logits, numbers[number], pad, temperature, top_p)
            if shape.completion == 1 or bool(ended(first.tokens[:, 0], ends).all()):
                done[number] = first
                continue
            decoder = decoder or SharedDecoder(model, shape, ends=ends, pad=pad, temperature=temperature, top_p=top_p)
            group = free.pop(0)
            decoder.admit(group, known.cache, numbers[number], first)
            del known
            inside[group] = number
        if decoder is None or not inside:
            continue
        for _ in range(min(_LOOK, shape.completion - 1) if decoder.places.recorded else 1):
            decoder.step()
        for group in decoder.finished(list(inside)):
            done[inside.pop(group)] = decoder.written(group)
            free.append(group)
    in_order = [vars(done[number]).values() for number in range(len(prompts))]
    return Completions(*(torch.cat(each) for each in zip(*in_order, strict=True)))


def unshareable(model: torch.nn.Module) -> str | None:
    """Say why a model cannot be decoded in groups; None where it can."""
    kind = _base(model).config.get_text_config().model_type
    if kind not in FAMILIES:
        return f"Models of the kind '{kind}' are not decoded in groups, only {', '.join(sorted(FAMILIES))}"
    for angles, _ in changing_angles(model):
        return f"The model's rotary angles ({angles}) follow the longest row of a batch"
    return None


def changing_angles(model: torch.nn.Module) -> Iterator[tuple[str, int]]:
    """Give each kind of rotary angles that follow a batch's longest row, and up to how many tokens they do not."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for layer, angles in (kinds if isinstance(kinds, dict) else {None: kinds}).items():
            if isinstance(angles, str) and (angles == "longrope" or "dynamic" in angles):
                stated: dict[str, Any] = getattr(module.config, "rope_parameters", None) or {}
                least = (stated if layer is None else stated.get(layer, stated)).get("original_max_position_embeddings")
                yield angles, int(least or getattr(module, "original_max_seq_len", None) or 0)


def _base(model: torch.nn.Module) -> PreTrainedModel:
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def _started(logits: Tensor, uniforms: Tensor, pad: int, temperature: float, top_p: float) -> Completions:
    """Completions [G, T] of which the first token is written, drawn by the logits [1, V] behind a prompt."""
    first, logprob = sample_token(logits.expand(len(uniforms), -1), uniforms[:, 0], temperature, top_p)
    tokens = torch.full(uniforms.shape, pad, dtype=torch.long, device=logits.device)
    mask, logprobs = torch.zeros_like(tokens), torch.zeros(uniforms.shape, device=logits.device)
    tokens[:, 0], mask[:, 0], logprobs[:, 0] = first, 1, logprob
    return Completions(tokens, mask, logprobs)
