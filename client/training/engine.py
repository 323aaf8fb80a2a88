"""The resident model of a site: base, adapter, tokenizer and the policy that rollouts run on; loaded once."""

from __future__ import annotations

import gc
import hashlib
import time
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from client.grpo import packed
from client.grpo.fit import require_fit
from client.grpo.groups import cached_bytes, groups_together
from client.grpo.sampler import Sampler, TransformersSampler
from client.grpo.selftest import TOLERANCE, require_adapter, require_isolated
from client.grpo.vllm import VllmSampler, require_vllm
from client.privacy.validity import require_invariant_rollouts
from client.site.config import Rollouts
from client.site.devices import pick_device
from client.site.stage import Stage, at
from common.arrays import Vector
from common.codebook import Codebook
from common.config import GrpoConfig, RunConfig
from common.decoding.ends import ends_of
from common.logs import logger
from common.model.adapter import AdapterLayout, read_adapter, write_adapter
from common.model.base import add_lora, load_base
from common.model.policy import Policy
from common.stream import Stream
from common.tiny import Embedded

_log = logger("site")
_ENDS = 1024
"""Values at either end of a tensor that tell one base model from another; whole ones would take minutes."""


class Engine:
    """A model that can be set to an adapter, trained and sampled from.

    Raises
    ------
    FedReasonError
        Where the model cannot be loaded, or the rollouts that the site chose cannot be used or trusted.
    """

    def __init__(self, config: RunConfig, place: str | None, device: str, rollouts: Rollouts = "transformers") -> None:
        if rollouts == "vllm":
            require_invariant_rollouts(config, rollouts)
            require_vllm(config.model.quantization)
        self.device = device
        base, self.tokenizer = load_base(config.model, place, device)
        self.model = add_lora(base, config.adapter, config.seed)
        self._fit: list[GrpoConfig] = []
        self.require_fit(config)
        self.policy = Policy(self.model)
        self.sampler: Sampler = TransformersSampler.of(self.policy.model, self.tokenizer)
        self.layout = AdapterLayout.of(self.model)
        self._isolated: list[tuple[GrpoConfig, int]] = []
        if rollouts == "vllm":
            self._sample_by_vllm(config)

    def set_adapter(self, vector: Vector) -> None:
        """Set the adapter and bring policy and sampler in step."""
        write_adapter(self.model, vector)
        self.policy.refresh()
        if isinstance(self.sampler, VllmSampler):
            self.sampler.refresh()

    def _sample_by_vllm(self, config: RunConfig) -> None:
        """Have vLLM sample, once it has shown that it samples from the adapter."""
        grpo, tokenizer = config.grpo, self.tokenizer
        self.sampler = VllmSampler(
            self.model,
            revision=config.model.revision,
            rank=config.adapter.rank,
            ends=ends_of(self.model, tokenizer),
            pad=tokenizer.pad_token_id,
            longest=grpo.max_prompt_tokens + grpo.max_completion_tokens,
            rows=self.groups(config) * grpo.group_size,
        )
        with torch.no_grad():
            require_adapter(
                self.sampler,
                self.set_adapter,
                partial(
                    packed.completion_logprobs, self.model, group_size=grpo.group_size, temperature=grpo.temperature
                ),
                grpo,
                size=self.layout.size,
                tolerance=TOLERANCE[config.model.dtype],
                vocabulary=len(tokenizer),
                groups=self.groups(config),
            )

    def require_fit(self, config: RunConfig) -> None:
        """Refuse a run that the model would be trained wrongly by; looked at once for each way to train.

        Raises
        ------
        FedReasonError
            MODEL_UNFIT.
        """
        if config.grpo not in self._fit:
            require_fit(self.model, self.tokenizer, config)
            self._fit.append(config.grpo)

    def require_isolated(self, config: RunConfig) -> None:
        """Refuse rollouts that do not keep patients apart here; tried once, at a random adapter.

        One patient's questions decoded as one batch need no trial.

        Raises
        ------
        FedReasonError
            ROLLOUTS_SHARED.
        """
        grpo, groups = self.sized(config), self.groups(config)
        alone = grpo.decode == "patient" and isinstance(self.sampler, TransformersSampler)
        if alone or (grpo, groups) in self._isolated:
            return
        adapter = read_adapter(self.model)
        self.set_adapter((0.02 * Stream.named("isolation").uniforms(adapter.size) - 0.01).astype(adapter.dtype))
        try:
            require_isolated(self.sampler, grpo, vocabulary=len(self.tokenizer), groups=groups)
        finally:
            self.set_adapter(adapter)
        self._isolated.append((grpo, groups))

    def require_working(self) -> None:
        """Sample a token, which fails where the device or the sampler is broken, whoever is computed next."""
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        least = GrpoConfig(group_size=2, max_completion_tokens=1)
        self.sampler.sample([[self.tokenizer.eos_token_id]], torch.zeros(1, 2, 1, dtype=torch.float64), least)

    def groups(self, config: RunConfig) -> int:
        """Return how many groups a run samples at once here: one patient's questions, or as many as are together."""
        return self.sized(config).decode_groups or config.questions.per_patient

    def sized(self, config: RunConfig) -> GrpoConfig:
        """Return how a run samples here: with the number of groups decoded together, where it leaves that open."""
        grpo = config.grpo
        if grpo.decode == "patient":
            return grpo
        tensors = [
            each for model in (self.model, self.policy.model) for each in (*model.parameters(), *model.buffers())
        ]
        on_cuda = self.device.startswith("cuda") and torch.cuda.is_available()
        base = self.model.get_base_model()
        assert isinstance(base, PreTrainedModel)
        groups = groups_together(
            config,
            cached=cached_bytes(base.config, base.dtype.itemsize),
            vocabulary=base.config.get_text_config().vocab_size,
            held=sum({each.data_ptr(): each.nbytes for each in tensors}.values()),
            memory=torch.cuda.mem_get_info(self.device)[1] if on_cuda else None,
        )
        return grpo.model_copy(update={"decode_groups": groups})

    def layout_sha256(self) -> str:
        """Hash of what an adapter means here: names and shapes, and the ends of every frozen tensor, base and A."""
        digest = hashlib.sha256(repr((self.layout.names, self.layout.shapes)).encode())
        for name, parameter in sorted(self.model.named_parameters()):
            if not parameter.requires_grad:
                digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
                packed = getattr(parameter, "quant_state", None)
                for tensor in (parameter,) if packed is None else (parameter, packed.absmax):
                    flat = tensor.detach().flatten()
                    ends = torch.cat([flat[:_ENDS], flat[-_ENDS:]]).cpu().contiguous()
                    digest.update(ends.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def resident_engine(
    config: RunConfig, codebook: Codebook, device: str, rollouts: Rollouts = "transformers", models: Path = Path()
) -> Engine:
    """Return the process's engine for this run; another model or adapter section replaces it.

    Parameters
    ----------
    models
        Folder that a relative path of a base model starts from.

    Raises
    ------
    FedReasonError
        ROLLOUTS_SHARED where the run is private and its rollouts do not keep patients apart on this machine.
    """
    engine = _ENGINES.get(config, codebook, pick_device(device), rollouts, models)
    engine.require_fit(config)
    if config.privacy is not None:
        engine.require_isolated(config)
    return engine


def require_working() -> None:
    """Have the engine that this process holds sample a token, where it holds one."""
    _ENGINES.require_working()


class _Engines:
    """Hold one engine at a time, so that a long-lived worker never holds two models."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] | None = None
        self._engine: Engine | None = None

    def require_working(self) -> None:
        """Raise whatever the engine raises that is held and cannot work any more."""
        if self._engine is not None:
            self._engine.require_working()

    def get(self, config: RunConfig, codebook: Codebook, device: str, rollouts: Rollouts, models: Path) -> Engine:
        """Return the engine of a run, loading it where it is not the one held."""
        embedded = Embedded.of_run(config, codebook)
        place = config.model.place(models) if embedded is None else str(embedded.made())
        key: tuple[str, ...] = (
            config.model.model_dump_json(),
            config.adapter.model_dump_json(),
            str(config.seed),
            place,
            device,
        )
        if rollouts == "vllm":
            key += (config.grpo.model_dump_json(), config.questions.model_dump_json(), str(config.privacy is not None))
        if self._engine is None or self._key != key:
            self._engine = None
            gc.collect()
            started = time.monotonic()
            with at(Stage.LOADING):
                self._engine, self._key = Engine(config, place, device, rollouts), key
            _log.info("model loaded on %s in %.1f s", device, time.monotonic() - started)
        return self._engine


_ENGINES = _Engines()
