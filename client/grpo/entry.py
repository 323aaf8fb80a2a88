"""What is kept of a step: a line of the log of training. Light, so that the command that shows it loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.collapse import LETTERS

_KILOWATT_HOUR = 3.6e6


@dataclass(frozen=True)
class Entry:
    """One step: a round of fedsgd, or a local step of fedavg. A share or a mean of nothing is None.

    Attributes
    ----------
    config
        SHA-256 of the run's configuration: another configuration of the same name is another run.
    round, step, attempt
        Which step it was. A round that was asked for again stands there again.
    patients, questions, too_long, rollouts
        Patients sampled, questions asked of them, questions left out for their length, completions.
    reward, zero_variance, unboxed, disagreeing, truncated
        Mean reward of the completions; share of the questions whose completions all got the same; share of the
        completions without a boxed answer, with boxes that hold different answers, and without an end.
    letter
        Share of the commonest letter among the boxed answers; `letter_a` to `letter_e` are their counts.
    collapse
        How the latest steps have collapsed, in words; empty where they have not.
    prompt_tokens, prompt_longest, completion_tokens, completion_longest
        Mean and longest.
    kl
        Mean divergence from the frozen base by token (k3 estimator), where the run weighs it.
    mismatch
        Mean distance of a token's log-probability where it is trained and where it was sampled, where that is vLLM.
    clipped
        Share of the patients whose gradient was longer than the clip norm, in a private run.
    gradient_norm, gradient_norm_largest
        Median and largest norm of the patients' gradients that are finite and not zero, before the clip.
    not_finite
        Patients whose gradient is no number, and counts as zero in a private run.
    adapter_norm
        Norm of the adapter that the step started from.
    seconds, seconds_prefill, seconds_decode, seconds_train
        The whole step, and the stages in it.
    speed_prefill, speed_decode, speed_train
        Tokens per second: of prompts; of completions; of both, the prompt once, in the pass with gradient.
    device, peak_bytes
        Where it was computed, and the largest memory: of the GPU in this step, else of the process since its start.
    joules_gpu, joules_processor
        What all devices of the step used meanwhile, by their own counters; None where one has none to read.
    time
        When the step ended (UTC).
    """

    config: str
    round: int
    step: int
    attempt: int
    patients: int
    questions: int
    too_long: int
    rollouts: int
    reward: float | None = None
    zero_variance: float | None = None
    unboxed: float | None = None
    letter: float | None = None
    disagreeing: float | None = None
    truncated: float | None = None
    prompt_tokens: float | None = None
    prompt_longest: int | None = None
    completion_tokens: float | None = None
    completion_longest: int | None = None
    kl: float | None = None
    mismatch: float | None = None
    clipped: float | None = None
    gradient_norm: float | None = None
    gradient_norm_largest: float | None = None
    not_finite: int = 0
    adapter_norm: float | None = None
    seconds: float | None = None
    seconds_prefill: float | None = None
    seconds_decode: float | None = None
    seconds_train: float | None = None
    speed_prefill: float | None = None
    speed_decode: float | None = None
    speed_train: float | None = None
    device: str | None = None
    peak_bytes: int | None = None
    joules_gpu: float | None = None
    joules_processor: float | None = None
    letter_a: int = 0
    letter_b: int = 0
    letter_c: int = 0
    letter_d: int = 0
    letter_e: int = 0
    collapse: str = ""
    time: str | None = None

    @property
    def counted(self) -> dict[str, float]:
        """Counts of the step, from which a collapse is seen."""
        return {
            "questions": self.questions,
            "rollouts": self.rollouts,
            "reward": (self.reward or 0.0) * self.rollouts,
            "zero_variance": round((self.zero_variance or 0.0) * self.questions),
            "unboxed": round((self.unboxed or 0.0) * self.rollouts),
            "truncated": round((self.truncated or 0.0) * self.rollouts),
            **{name: getattr(self, name) for name in LETTERS},
        }


def energy_text(entries: Sequence[Entry]) -> str:
    """Say what the steps of a log used, and of how many it is known."""
    parts = []
    for device, name in (("GPU", "joules_gpu"), ("processor", "joules_processor")):
        known = [joules for entry in entries if isinstance(joules := getattr(entry, name), int | float)]
        if known:
            some = "" if len(known) == len(entries) else f" in {len(known):,} of them"
            parts.append(f"{device} {sum(known) / _KILOWATT_HOUR:.3g} kWh{some}")
    steps = "1 step" if len(entries) == 1 else f"{len(entries):,} steps"
    return f"Energy of {steps}: {', '.join(parts) or 'not known, no counter of this machine can be read'}"
