"""Rollouts by vLLM, on the site's own GPU: the engine is a child process that sleeps while the model trains.

The adapter goes to vLLM beside the base weights (LoRARequest), never into them. Folded into bfloat16 an early update is
mostly rounding (in a small model, with B of size 1e-4, more than 80 % of B A was lost), so that what is sampled is not
the policy that is trained (`common.model.policy`). And the live base stays as it is: `VLLMGeneration.sync_weights` of
TRL 1.16 merges a PeftModel in place and unmerges it, which moves the base's bits at every step. TRL's class also starts
vLLM without dtype, revision or adapter and offers no way to state them, so `vllm.LLM` is started here, by its
documented arguments. Neither is its `generate` used: it has one SamplingParams for all prompts, and one seed in it
gives every completion of a group the same draws.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from client.grpo.log import UNWATCHED, Watch
from common.config import GrpoConfig
from common.decoding.ends import Ends
from common.decoding.generate import Completions
from common.errors import Code, FedReasonError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has room for; a smaller adapter takes the next one."""

_FREE_SHARE = 0.9
"""Of the GPU's memory that is free when vLLM starts, what it may have while it is awake."""

_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Nothing is told to vLLM's makers, and its processes speak to each other on this machine alone."""


def require_vllm(quantization: str = "none") -> None:
    """Refuse where vLLM is not installed, and a quantised base: vLLM would sample from the one that it was made of.

    Raises
    ------
    FedReasonError
        ROLLOUTS_UNAVAILABLE.
    """
    if quantization != "none":
        raise FedReasonError(
            Code.ROLLOUTS_UNAVAILABLE,
            f'site.toml says rollouts = "vllm", and the run\'s base is quantised ({quantization}).',
            'Write rollouts = "transformers" into site.toml for this run.',
        )
    if find_spec("vllm") is None:
        raise FedReasonError(
            Code.ROLLOUTS_UNAVAILABLE,
            'site.toml says rollouts = "vllm", and the package vllm is not installed here.',
            "Install it by pip install 'fedreason[gpu]', or take the line out of site.toml.",
        )


class VllmSampler:
    """Samples from a model's base with its present adapter, by an engine of vLLM's own.

    Parameters
    ----------
    model
        The live model: its base is loaded again by vLLM from where it came from, its adapter is read and never written.
    revision
        Commit of a base from the Hub.
    rank
        Of the adapter.
    ends, pad
        Tokens that end a completion, and the one that fills the rows.
    longest
        Most tokens of a prompt and its completion together.
    rows
        Most completions that are sampled at once; others wait. What a run relies on has been tried with as many.
    """

    def __init__(
        self, model: PeftModel, *, revision: str | None, rank: int, ends: Ends, pad: int, longest: int, rows: int
    ) -> None:
        self._model, self._ends, self._pad = model, ends, pad
        self._device = next(model.parameters()).device
        self._sleeps = self._device.type == "cuda"
        self._asleep, self._known = False, False
        self._number, self._adapter = 0, None
        self._llm = self._started(revision, rank, longest, rows)
        self._sleep()

    def refresh(self) -> None:
        """Say that the adapter has changed: the next sample is of the new one."""
        self._known = False

    def sample(
        self, prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig, watch: Watch = UNWATCHED
    ) -> Completions:
        """Return a group of completions for each prompt.

        Each completion has a seed of its own, made of its row of `uniforms`. The cache of prompts is emptied before,
        and a group finds its own entries alone: it shares its prompt, and nobody shares anything with another. With
        `top_p` below 1 log-probabilities are those among the tokens that may be drawn.
        """
        salts = [str(seed(rows[0])) for rows in uniforms]
        requests = [
            {"prompt_token_ids": prompt, "cache_salt": salt}
            for prompt, salt in zip(prompts, salts, strict=True)
            for _ in range(config.group_size)
        ]
        parameters = [sampling(row, config, self._ends) for row in uniforms.flatten(0, 1)]
        with watch.sampling(self._model):
            self._wake()
            try:
                self._llm.reset_prefix_cache()
                answers = self._answers(requests, parameters)
            except Exception:
                # Who computes next needs the memory; an engine that died has none, nor sleeps.
                with suppress(Exception):
                    self._sleep()
                raise
            self._sleep()
        return completions(answers, config.max_completion_tokens, self._pad, self._device)

    def _answers(self, requests: list[dict[str, Any]], parameters: list[Any]) -> list[Any]:
        """Return the outputs in the order of the requests, of the present adapter.

        vLLM reads a new adapter with the first requests that name it and keeps it; its files are gone afterwards.
        """
        from vllm.lora.request import LoRARequest

        with tempfile.TemporaryDirectory(prefix="fedreason-") as folder:
            if not self._known:
                self._number += 1
                self._model.save_pretrained(folder, save_embedding_layers=False)
                self._adapter = LoRARequest(f"adapter-{self._number}", self._number, folder)
            answers = list(self._llm.generate(requests, parameters, use_tqdm=False, lora_request=self._adapter))
        self._known = True
        return answers

    def _started(self, revision: str | None, rank: int, longest: int, rows: int) -> Any:
        os.environ.update(_ENVIRONMENT)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        base = self._model.get_base_model()
        dtype = str(base.dtype).removeprefix("torch.")
        try:
            from vllm import LLM

            return LLM(
                model=base.name_or_path,
                revision=revision,
                dtype=dtype,
                max_model_len=longest,
                max_num_seqs=rows,
                enable_lora=True,
                max_loras=1,
                max_lora_rank=_room(rank),
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                skip_tokenizer_init=True,
                **(self._gpu(dtype) if self._sleeps else {}),
            )
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise FedReasonError(
                Code.ROLLOUTS_UNAVAILABLE,
                f"vLLM does not start here ({type(error).__name__}): {str(error).partition(chr(10))[0]}",
                'Mend what it says, or write rollouts = "transformers" into site.toml.',
            ) from None

    def _gpu(self, dtype: str) -> dict[str, Any]:
        """Arguments on a GPU: sleep, and a share of its memory that the model leaves free."""
        if dtype != "bfloat16":
            raise ValueError(f'on a GPU it applies an adapter to bfloat16 models, and the run says dtype = "{dtype}".')
        if self._device.index:
            raise ValueError("it takes the first GPU that it sees; choose one by CUDA_VISIBLE_DEVICES.")
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info(self._device)
        return {"enable_sleep_mode": True, "gpu_memory_utilization": _FREE_SHARE * free / whole}

    def _sleep(self) -> None:
        """Move vLLM's weights to the CPU's memory, so that the training pass has the GPU's."""
        if self._sleeps:
            self._llm.sleep(level=1)
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            torch.cuda.empty_cache()
            self._llm.wake_up()
            self._asleep = False


def _room(rank: int) -> int:
    fitting = [room for room in _RANKS if room >= rank]
    if not fitting:
        raise ValueError(f"an adapter of rank {rank} is larger than {_RANKS[-1]}, the largest it has room for.")
    return fitting[0]


def seed(row: Tensor) -> int:
    """Return a completion's seed of 63 bits, from all of its row [T] of uniform numbers."""
    digest = hashlib.sha256(row.cpu().contiguous().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def sampling(row: Tensor, config: GrpoConfig, ends: Ends) -> Any:
    """Return vLLM's parameters of one completion: its seed, and the ends as the only ones."""
    from vllm import SamplingParams

    return SamplingParams(
        seed=seed(row),
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=0,
        max_tokens=config.max_completion_tokens,
        logprobs=0,
        ignore_eos=True,
        stop_token_ids=list(ends),
        detokenize=False,
    )


def completions(answers: Sequence[Any], longest: int, pad: int, device: torch.device) -> Completions:
    """Put vLLM's outputs, one completion each, into rows [R, T] of tokens, mask and log-probabilities."""
    shape = (len(answers), longest)
    tokens = torch.full(shape, pad, dtype=torch.long)
    mask, logprobs = torch.zeros(shape, dtype=torch.long), torch.zeros(shape)
    for row, answer in enumerate(answers):
        (output,) = answer.outputs
        length = len(output.token_ids)
        tokens[row, :length] = torch.tensor(output.token_ids)
        mask[row, :length] = 1
        chosen = [place[token].logprob for token, place in zip(output.token_ids, output.logprobs, strict=True)]
        logprobs[row, :length] = torch.tensor(chosen)
    return Completions(tokens.to(device), mask.to(device), logprobs.to(device))
