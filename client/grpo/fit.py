"""What an engine asks of a base model before anything is charged, on what nobody's record is in.

That its template makes prompts, that a row's angles do not hang on what else is in its batch, and that the packed pass
computes what the model itself computes.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from client.grpo import forked, packed
from client.grpo.selftest import TOLERANCE
from common.config import GrpoConfig, RunConfig
from common.decoding.generate import Completions
from common.decoding.shared import changing_angles
from common.errors import Code, FedReasonError
from common.questions.prompt import prompt_tokens
from common.questions.question import Question
from common.stream import Stream

_PROMPT, _GROUP, _LENGTH = 12, 2, 6
_ROUNDING = 0.05
"""Of a log-probability: large ones are rounded more; what another scale does is many times that."""
_EXAMPLE = Question("", "", "categorical", ("Sex: female",), "What is the value of Sex?", ("female", "male"), 0)


def require_fit(model: PeftModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
    """Refuse a base model that a run would train wrongly.

    Raises
    ------
    FedReasonError
        MODEL_UNFIT.
    """
    prompt_tokens(_EXAMPLE, tokenizer, config.grpo.prompt)
    _require_one_scale(model, config.grpo)
    if config.grpo.checkpointing:
        _require_same_pass(model, tokenizer, config)


def _require_one_scale(model: PeftModel, grpo: GrpoConfig) -> None:
    """Refuse rows so long that the model takes other rotary angles for all that is in their batch."""
    longest = grpo.max_prompt_tokens + grpo.max_completion_tokens
    for angles, limit in changing_angles(model):
        if longest > limit:
            raise FedReasonError(
                Code.MODEL_UNFIT,
                f"The model's rotary angles ({angles}) change beyond {limit} tokens, and a row may have {longest}.",
                f"Have grpo.max_prompt_tokens and grpo.max_completion_tokens be {limit} together, or less.",
            )


def _require_same_pass(model: PeftModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
    """Refuse a model that does more than the packed pass knows of, such as scaling what its head says."""
    stream, device = Stream.named("self-test of a pass"), next(model.parameters()).device
    vocabulary = len(tokenizer)
    drawn = [int(number * vocabulary) for number in stream.uniforms(_PROMPT + _GROUP * _LENGTH).tolist()]
    tokens = torch.tensor(drawn[_PROMPT:], device=device).view(_GROUP, _LENGTH)
    made = Completions(tokens, torch.ones_like(tokens), torch.zeros(tokens.shape, device=device))
    prompts = [drawn[:_PROMPT]]
    with torch.no_grad():
        ours = packed.completion_logprobs(model, prompts, made, group_size=_GROUP)
        theirs = forked.completion_logprobs(model, prompts, made, group_size=_GROUP, pad=tokenizer.pad_token_id)
    distance, size = (float(each.abs().mean()) for each in (ours - theirs, theirs))
    if not distance <= max(TOLERANCE[config.model.dtype], _ROUNDING * size):
        raise FedReasonError(
            Code.MODEL_UNFIT,
            f"The packed pass tells log-probabilities that are {distance:.3g} off the model's own.",
            "State grpo.checkpointing = false: then the model's own pass is taken, in more memory.",
        )
