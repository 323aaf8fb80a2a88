"""What completions are sampled by: the interface of every backend, and the one that decodes with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from client.grpo.log import UNWATCHED, Watch
from common.config import GrpoConfig
from common.decoding.generate import Completions, generate
from common.decoding.slots import generate_in_slots, slot_count


class Sampler(Protocol):
    """Samples from the policy as it stands."""

    def sample(
        self, prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig, watch: Watch = UNWATCHED
    ) -> Completions:
        """Return a group of completions for each of P prompts, P at least 1.

        Parameters
        ----------
        uniforms
            [P, G, T] float64 in [0, 1): all the randomness there is.
        """
        ...


@dataclass(frozen=True)
class TransformersSampler:
    """Decodes all prompts it is given in one batch, or in slots where the run says so."""

    model: torch.nn.Module
    eos: int
    pad: int

    @classmethod
    def of(cls, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> TransformersSampler:
        """Return the sampler of a model with a tokenizer's end and padding."""
        return cls(model, tokenizer.eos_token_id, tokenizer.pad_token_id)

    def sample(
        self, prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig, watch: Watch = UNWATCHED
    ) -> Completions:
        """Return a group of completions for each prompt."""
        sampled = generate
        if config.decode == "slots":
            assert config.decode_groups is not None
            sampled = partial(generate_in_slots, slots=slot_count(config.decode_groups, config.group_size))
        with watch.sampling(self.model):
            return sampled(
                self.model,
                prompts,
                group_size=config.group_size,
                max_tokens=config.max_completion_tokens,
                eos=self.eos,
                pad=self.pad,
                uniforms=uniforms.flatten(0, 1),
                temperature=config.temperature,
                top_p=config.top_p,
            )
