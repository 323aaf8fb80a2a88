"""What completions are sampled by: the interface of every backend, and the one that decodes with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from client.grpo.log import UNWATCHED, Watch
from common.config import GrpoConfig
from common.decoding.attend import Shape
from common.decoding.ends import Ends, ends_of
from common.decoding.generate import Completions, generate
from common.decoding.read import Read, read_prompt
from common.decoding.shared import generate_shared, unshareable


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


_LONG = 200
"""Tokens of a prompt from which on a CPU is faster where its keys and values stand once for its group."""


@dataclass(frozen=True)
class TransformersSampler:
    """Decodes the prompts it is given together: in groups of the run's shape, or as the only ones, in theirs.

    The only ones are one plain batch where they are short and on a CPU, and for a model that cannot be decoded in
    groups.
    """

    model: torch.nn.Module
    ends: Ends
    pad: int

    @classmethod
    def of(cls, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> TransformersSampler:
        """Return the sampler of a model with its ends and a tokenizer's padding."""
        return cls(model, ends_of(model, tokenizer), tokenizer.pad_token_id)

    def read(
        self, trained: PeftModel, prompts: Sequence[list[int]], config: GrpoConfig, watch: Watch = UNWATCHED
    ) -> list[Read]:
        """Read a patient's prompts by the model that is trained, with gradient, for sampling and training to go on.

        None is where they would not: on a GPU, whose memory decoding needs, and where activations are made again.
        """
        alone = config.decode == "patient" and not config.checkpointing
        if not alone or _on_cuda(trained) or not self._shares(max(map(len, prompts))):
            return []
        with watch.sampling(trained):
            return [read_prompt(trained, prompt) for prompt in prompts]

    def sample(
        self,
        prompts: Sequence[list[int]],
        uniforms: Tensor,
        config: GrpoConfig,
        watch: Watch = UNWATCHED,
        reads: Sequence[Read] = (),
    ) -> Completions:
        """Return a group of completions for each prompt, going on from where they were read."""
        size, longest = config.group_size, config.max_completion_tokens
        options: dict[str, Any] = {
            "ends": self.ends,
            "pad": self.pad,
            "uniforms": uniforms.flatten(0, 1),
            "temperature": config.temperature,
            "top_p": config.top_p,
        }
        with watch.sampling(self.model):
            if config.decode == "together":
                if config.decode_groups is None:
                    raise ValueError("how many groups are decoded together is for the engine to say")
                shape = Shape(config.decode_groups, size, config.max_prompt_tokens, longest)
            elif self._shares(longest_prompt := max(map(len, prompts))):
                shape = Shape(len(prompts), size, longest_prompt, longest)
            else:
                return generate(self.model, prompts, group_size=size, max_tokens=longest, **options)
            return generate_shared(self.model, prompts, shape=shape, reads=reads, **options)

    def _shares(self, longest_prompt: int) -> bool:
        """Whether prompts that are decoded as the only ones stand once for their group."""
        return (_on_cuda(self.model) or longest_prompt >= _LONG) and unshareable(self.model) is None


def _on_cuda(model: torch.nn.Module) -> bool:
    return next(model.parameters()).is_cuda
