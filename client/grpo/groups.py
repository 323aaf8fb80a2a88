"""How many groups a site decodes together where the run leaves it open: by public numbers and the device alone.

Nothing here may look at who is there: the bits of every completion depend on the answer.
"""

from __future__ import annotations

import math

from transformers import PreTrainedConfig

from common.config import RunConfig
from common.decoding.attend import Shape

MOST = 32
"""More groups share little more: a step's time is then theirs, no longer that of reading the weights."""
_DRAW = 32
"""Bytes of a token of the vocabulary and a row while the row's next token is drawn."""
USED = 0.9
"""Share of the device's memory that is counted on."""


def cached_bytes(config: PreTrainedConfig, size: int) -> int:
    """Bytes of the keys and values of one token in all layers of a model, `size` bytes each."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width * size)


def sampling_bytes(shape: Shape, *, cached: int, vocabulary: int, prompt: int) -> int:
    """Bytes for the keys and values of all places and of a prompt that is being read, and for the draw.

    Parameters
    ----------
    cached
        Bytes of the keys and values of one token in all layers.
    prompt
        Tokens of the longest prompt.
    """
    return (shape.places + prompt) * cached + shape.rows * vocabulary * _DRAW


def groups_together(run: RunConfig, *, cached: int, vocabulary: int, held: int, memory: int | None) -> int:
    """Return the groups that the run states, else as many as a site samples on average and its device holds.

    `MOST` at most.

    Parameters
    ----------
    held
        Bytes of weights and adapter.
    memory
        Bytes of the device, free or not; None for a CPU.
    """
    if run.grpo.decode_groups is not None:
        return min(MOST, run.grpo.decode_groups)
    federation, longest = run.federation, run.grpo.max_prompt_tokens
    share = federation.population / federation.sites * federation.sampling_rate * run.questions.per_patient
    groups = min(MOST, max(1, math.ceil(share)))
    if memory is None:
        return groups

    def fits(count: int) -> bool:
        shape = Shape(count, run.grpo.group_size, longest, run.grpo.max_completion_tokens)
        needed = sampling_bytes(shape, cached=cached, vocabulary=vocabulary, prompt=longest)
        return held + needed <= USED * memory

    return next((count for count in range(groups, 1, -1) if fits(count)), 1)
