"""Which tokens end a completion: a chat model ends its turn by another token than a text."""

from __future__ import annotations

from functools import reduce
from operator import or_

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Ends = tuple[int, ...]


def ends_of(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> Ends:
    """Return the tokenizer's end, and where the model's generation config lists several, these too.

    A single one there is often what its architecture has by default.
    """
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = map(int, stated) if isinstance(stated, list) else ()
    return tuple(dict.fromkeys((int(tokenizer.eos_token_id), *listed)))


def ended(tokens: Tensor, ends: Ends) -> Tensor:
    """Say of each token whether it is an end; bool, of the same shape."""
    return reduce(or_, (tokens == end for end in ends))
