"""Our GRPO step by stage on one device: prompts read, completions decoded in both ways, training passes.

Needs no TRL. Times are taken by CUDA events on a GPU and by the wall clock elsewhere. What does not fit is
reported as such, and the rest goes on.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from bench.grpo_work import Work, random_prompts
from bench.roofline import Decoder, floor
from client.grpo.attention import Attention, attention_for
from client.grpo.counts import Rollouts
from client.grpo.step import rollout_gradient
from common.config import GrpoConfig
from common.decoding.attend import Shape
from common.decoding.determinism import repeatable
from common.decoding.generate import Completions, generate
from common.decoding.shared import generate_shared
from common.model.policy import Policy
from common.stream import Stream

FORKED, PACKED, PARTS = "forked", "packed", "packed_parts"
"""Training passes: by the forked cache; by the packed row under a dense mask; by the packed row in parts."""
DECODES = {"shared": "decode", "plain": "decode_plain"}
"""Ways of sampling by name, all groups at once, and what their decoding is called: with a group's prompt kept once, and
one plain batch."""
_TRAINED = 3
_Result = TypeVar("_Result")


class Clock:
    """Points in the time of a device; `seconds` waits until the device has passed both."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")

    def mark(self) -> Any:
        """Return the present point in the device's work."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds from one point to another."""
        if not self._cuda:
            return float(end - start)
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000


def attempted(work: Callable[[], _Result]) -> _Result | None:
    """Return what the work gives; None where the device has not the memory for it, all of which is given back."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
    gc.collect()
    torch.cuda.empty_cache()
    return None


def passes_on(model: PeftModel) -> tuple[str, ...]:
    """Return the training passes that the engine may take there."""
    base = cast(PreTrainedModel, model.get_base_model())
    return (FORKED, PACKED, PARTS) if attention_for(base) == "parts" else (FORKED, PACKED)


def decodes_on(device: str) -> dict[str, str]:
    """Return the ways of sampling that are measured: on a GPU no plain batch is ever decoded by the engine."""
    return {"shared": DECODES["shared"]} if device.startswith("cuda") else DECODES


def trained(work: Work) -> int:
    """Return how many groups the training passes are measured on: one follows another."""
    return min(work.groups, _TRAINED)


def stages(model: PeftModel, work: Work, device: str, repeats: int) -> dict[str, Any]:
    """Measure a step; medians per group. The training passes take turns, each over one group at a time."""
    policy, passes, decodes = Policy(model).model, passes_on(model), decodes_on(device)
    seconds: dict[str, list[float]] = {name: [] for name in ("prefill", *decodes.values(), *passes)}
    peaks: dict[str, float | None] = {}
    failed: set[str] = set()
    gradients: dict[str, Tensor] = {}
    for repeat in range(repeats + 1):
        for name, decode in decodes.items():
            if name in failed:
                continue
            limit = work.completion if repeat else min(8, work.completion)
            taken = attempted(partial(_rollout, policy, work, device, limit, name))
            peaks[name] = _peak(device)
            if taken is None:
                failed.add(name)
            elif repeat:
                seconds[decode].append(taken[1] / work.groups)
                seconds["prefill"] += [taken[0] / work.groups] * (name == "shared")
        for name in passes:
            if name in failed:
                continue
            done = attempted(partial(_train, model, work, device, name))
            peaks[name] = _peak(device)
            if done is None:
                failed.add(name)
            else:
                gradients[name] = done[1]
                seconds[name] += [done[0] / trained(work)] * (repeat > 0)
        told = ", ".join(f"{name} {taken[-1]:.3f}" for name, taken in seconds.items() if taken)
        print(f"  {repeat}: {told or 'warm'} s per group; failed: {sorted(failed)}", file=sys.stderr, flush=True)
    lost = failed | {DECODES[name] for name in failed & set(DECODES)}
    kept = {name: statistics.median(taken) for name, taken in seconds.items() if taken and name not in lost}
    return _figures(model, work, device, kept) | {
        "peak_gib": peaks,
        "out_of_memory": sorted(failed),
        "finite": all(bool(gradient.isfinite().all()) for gradient in gradients.values()),
        "packed_to_forked": _ratio(seconds, PACKED, FORKED, failed),
        "parts_to_packed": _ratio(seconds, PARTS, PACKED, failed),
        "passes_relative_difference": _difference(gradients),
    }


def _figures(model: PeftModel, work: Work, device: str, kept: dict[str, float]) -> dict[str, Any]:
    """Seconds, tokens per second, and share of the roofline by stage: on a GPU alone, whose rates are known."""
    passes = [taken for name, taken in kept.items() if name in (FORKED, PACKED, PARTS)]
    decodes = [kept[name] for name in DECODES.values() if name in kept]
    tokens = work.prompt + work.generations * work.completion
    counts = {"prefill": work.prompt} | dict.fromkeys(DECODES.values(), work.generations * (work.completion - 1))
    result: dict[str, Any] = {
        "seconds_per_group": kept,
        "whole": kept["prefill"] + min(decodes) + min(passes) if "prefill" in kept and passes else None,
        "tokens_per_second": {name: counts.get(name, tokens) / taken for name, taken in kept.items()},
    }
    if not device.startswith("cuda"):
        return result | {"floor": None, "share_of_roofline": None}
    base = cast(PreTrainedModel, model.get_base_model())
    least = floor(Decoder.of(base.config), **vars(work))
    at_best = {"prefill": least.prefill, DECODES["shared"]: least.decode_shared, DECODES["plain"]: least.decode}
    share = {name: at_best.get(name, least.training) / taken for name, taken in kept.items()}
    if result["whole"] is not None:
        share["whole"] = (least.prefill + least.decode_shared + least.training) / result["whole"]
    return result | {"floor": asdict(least), "share_of_roofline": share}


def _rollout(policy: torch.nn.Module, work: Work, device: str, completion: int, way: str) -> tuple[float, float]:
    """Sample all groups together, in one of both ways; seconds of reading the prompts, and of all the rest."""
    _forget(device)
    clock = Clock(device)
    reading: list[Any] = []

    def mark(_: torch.nn.Module, __: Any, named: dict[str, Any], *___: Any) -> None:
        if named["input_ids"].size(1) > 1:
            reading.append(clock.mark())

    hooks = (
        policy.register_forward_pre_hook(mark, with_kwargs=True),
        policy.register_forward_hook(mark, with_kwargs=True),
    )
    rows = work.groups * work.generations
    uniforms = torch.from_numpy(Stream.named("bench stages", rows).uniforms(rows * completion)).view(rows, completion)
    shape = Shape(work.groups, work.generations, work.prompt, completion)
    shared = partial(generate_shared, shape=shape)
    sample = shared if way == "shared" else partial(generate, group_size=work.generations, max_tokens=completion)
    prompts = random_prompts(work.groups, work.prompt)
    try:
        start = clock.mark()
        with repeatable(device):
            sample(policy, prompts, ends=(-1,), pad=0, uniforms=uniforms)
        end = clock.mark()
    finally:
        for hook in hooks:
            hook.remove()
    read = sum(clock.seconds(*pair) for pair in zip(reading[::2], reading[1::2], strict=True))
    return read, clock.seconds(start, end) - read


def _train(model: PeftModel, work: Work, device: str, name: str) -> tuple[float, Tensor]:
    """Differentiate group after group by a training pass; seconds of all, and the last gradient."""
    config = GrpoConfig(
        group_size=work.generations, max_completion_tokens=work.completion, checkpointing=name != FORKED
    )
    attention: Attention = "parts" if name == PARTS else "dense"
    groups = [_random_rollouts(prompt, work, device) for prompt in random_prompts(trained(work), work.prompt)]
    _forget(device)
    clock = Clock(device)
    start = clock.mark()
    with repeatable(device):
        for group in groups:
            gradient = rollout_gradient(model, group, config, per_patient=1, pad=0, attention=attention)
    return clock.seconds(start, clock.mark()), gradient


def _random_rollouts(prompt: list[int], work: Work, device: str) -> Rollouts:
    """One group of random tokens, no two rewards alike: the work does not depend on what was said."""
    shape = (work.generations, work.completion)
    tokens = torch.tensor(random_prompts(*shape), device=device)
    rewards = torch.linspace(-1, 1, work.generations)[None]
    completions = Completions(tokens, torch.ones_like(tokens), torch.zeros(shape, device=device))
    return Rollouts([prompt], completions, [], rewards, rewards)


def _forget(device: str) -> None:
    """Give back what is not in use, so that the peak is that of the stage to come."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> float | None:
    """GiB at the highest point since `_forget`; not known on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None


def _ratio(seconds: dict[str, list[float]], one: str, other: str, failed: set[str]) -> float | None:
    """Median of one pass over another, pair by pair; None where either was not measured."""
    if {one, other} & failed or one not in seconds:
        return None
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def _difference(gradients: dict[str, Tensor]) -> float | None:
    """Largest ||other - first|| / ||first|| of the passes' gradients; forked is the first where it fits."""
    if len(gradients) < 2:
        return None
    first, *others = gradients.values()
    return max(float((other - first).norm() / first.norm()) for other in others)
