"""The resident model of a site: base, adapter, tokenizer and the policy that rollouts run on; loaded once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch

from client.grpo.isolation import require_isolated
from client.grpo.sampler import Sampler, TransformersSampler
from common.adapter import AdapterLayout, read_adapter, write_adapter
from common.arrays import Vector
from common.codebook import Codebook
from common.config import SYNTHETIC, TINY, GrpoConfig, RunConfig
from common.logs import logger
from common.model import add_lora, load_base
from common.policy import Policy
from common.stream import Stream

_log = logger("site")
_ENDS = 1024
"""Values at either end of a tensor that tell one base model from another; whole ones would take minutes."""


class Engine:
    """A model that can be set to an adapter, trained and sampled from."""

    def __init__(self, config: RunConfig, tiny: Path | None, device: str) -> None:
        self.device = device
        base, self.tokenizer = load_base(config.model, tiny, device)
        self.model = add_lora(base, config.adapter, config.seed)
        self.policy = Policy(self.model)
        self.sampler: Sampler = TransformersSampler.of(self.policy.model, self.tokenizer)
        self.layout = AdapterLayout.of(self.model)
        self._isolated: list[GrpoConfig] = []

    def set_adapter(self, vector: Vector) -> None:
        """Set the adapter and bring the policy in step."""
        write_adapter(self.model, vector)
        self.policy.refresh()

    def require_isolated(self, config: GrpoConfig) -> None:
        """Refuse a run whose way of decoding does not keep patients apart here; tried once, at a random adapter.

        Raises
        ------
        FedReasonError
            MODEL_BATCHED.
        """
        if config.decode == "patient" or config in self._isolated:
            return
        adapter, vocabulary = read_adapter(self.model), len(self.tokenizer)
        self.set_adapter((0.02 * Stream.named("isolation").uniforms(adapter.size) - 0.01).astype(adapter.dtype))
        try:
            require_isolated(self.sampler, config, vocabulary)
        finally:
            self.set_adapter(adapter)
        self._isolated.append(config)

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


def tiny_folder(config: RunConfig, codebook: Codebook, report: Callable[[str], None] | None = None) -> Path | None:
    """Folder of the locally made model, where the run uses it; made on first use, with progress to `report`."""
    if config.model.base != TINY:
        return None
    from common.tiny import tiny_model, tiny_model_for

    if config.questions.codebook == SYNTHETIC:
        return tiny_model(report=report)
    return tiny_model_for(codebook, config.questions.view, report=report)


def pick_device(wanted: str) -> str:
    """Turn "auto" into the GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def resident_engine(config: RunConfig, codebook: Codebook, device: str) -> Engine:
    """Return the process's engine for this run; another model or adapter section replaces it.

    Raises
    ------
    FedReasonError
        MODEL_BATCHED where the run is private and decoding does not keep patients apart on this machine.
    """
    engine = _ENGINES.get(config, codebook, pick_device(device))
    if config.privacy is not None:
        engine.require_isolated(config.grpo)
    return engine


class _Engines:
    """Hold one engine at a time, so that a long-lived worker never holds two models."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] | None = None
        self._engine: Engine | None = None

    def get(self, config: RunConfig, codebook: Codebook, device: str) -> Engine:
        """Return the engine of a run, loading it where it is not the one held."""
        tiny = tiny_folder(config, codebook)
        key = (config.model.model_dump_json(), config.adapter.model_dump_json(), str(config.seed), str(tiny), device)
        if self._engine is None or self._key != key:
            self._engine = None
            started = time.monotonic()
            self._engine, self._key = Engine(config, tiny, device), key
            _log.info("model loaded on %s in %.1f s", device, time.monotonic() - started)
        return self._engine


_ENGINES = _Engines()
