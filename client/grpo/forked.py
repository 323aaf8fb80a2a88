"""Log-probabilities with gradient, the prompt read once: its cache is forked, the gradient flows back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.decoding.generate import Completions, chosen_logprobs, left_pad, positions


def completion_logprobs(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Completions,
    *,
    group_size: int,
    pad: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Differentiable log-probabilities [P*G, T] of the completions' tokens; masked ones are of no meaning.

    They are those of sampling with `temperature` and `top_p`. Each completion attends to its prompt and itself, at the
    positions it would have in a row of its own.
    """
    ids, mask = left_pad(prompts, pad, completions.tokens.device)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
    cache, logits = out.past_key_values, out.logits.repeat_interleave(group_size, 0)
    length = completions.tokens.size(1)
    if length > 1:
        cache.batch_repeat_interleave(group_size)
        mask = mask.repeat_interleave(group_size, 0)
        start = mask.sum(-1, keepdim=True)
        rest = model(
            input_ids=completions.tokens[:, :-1],
            attention_mask=torch.cat([mask, completions.mask[:, :-1]], 1),
            position_ids=start + torch.arange(length - 1, device=start.device),
            past_key_values=cache,
            use_cache=True,
        )
        logits = torch.cat([logits, rest.logits], 1)
    return chosen_logprobs(logits[:, :length], completions.tokens, temperature, top_p)
