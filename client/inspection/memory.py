"""How much memory of the device a run needs with the longest prompts and completions that it allows: an estimate.

Most of it is what the training pass keeps for its way back, where prompts or completions are long.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.site.config import Rollouts
from common.config import RunConfig
from common.model.quantization import BLOCK

_FLOAT32 = 4
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """A decoder as far as its memory goes.

    Parameters
    ----------
    parameters
        Of the base model, tied ones once.
    adapted
        Inputs and outputs of every linear layer that gets an adapter.
    linear
        Those of every linear layer but the head.
    heads, key_heads, head_width
        Attention heads, those of keys and values among them, and the width of one.
    """

    parameters: int
    adapted: tuple[tuple[int, int], ...]
    linear: tuple[tuple[int, int], ...]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int


@dataclass(frozen=True)
class Memory:
    """Bytes by part. Sampling, training and evaluation follow one another: only the largest of the three counts."""

    weights: int
    adapter: int
    sampling: int
    training: int
    evaluation: int

    @property
    def total(self) -> int:
        """Bytes at the highest point."""
        return self.weights + self.adapter + max(self.sampling, self.training, self.evaluation)

    @property
    def text(self) -> str:
        """The estimate for a person."""
        parts = {
            "weights": self.weights,
            "adapter": self.adapter,
            "sampling": self.sampling,
            "training pass": self.training,
            "evaluation": self.evaluation,
        }
        unit, size = ("GB", 1e9) if self.total >= 1e9 else ("MB", 1e6)
        told = ", ".join(f"{name} {part / size:.1f}" for name, part in parts.items())
        return f"about {self.total / size:.1f} {unit} ({told})"


def estimate(
    shape: Shape,
    run: RunConfig,
    *,
    prompt: int,
    evaluates: bool,
    rollouts: Rollouts = "transformers",
    memory: int | None = None,
) -> Memory:
    """Estimate the bytes that a run takes, without what the allocator loses (count on a tenth more).

    Parameters
    ----------
    prompt
        Tokens of the longest prompt.
    evaluates
        Whether the site answers held-out questions, or a guard's public ones.
    memory
        Bytes of the device, free or not: they decide how many groups are decoded together where the run does not.

    Notes
    -----
    With P questions of one patient, G completions each, prompts of N and completions of T tokens, L layers, width H,
    inner width I, heads of A values together, B of them distinct for keys and values, b bytes a value, rank r, K
    adapted layers, vocabulary V:

    - weights: b a parameter, twice where they are float32, for the copy that samples with the adapter folded in. In
      NF4 a linear layer's weights take 1/2 each, and 4 for each block of 64; the largest layer's are unpacked for use;
    - adapter: float32, and the gradient of B. The optimizer's state is at the server, or on the CPU;
    - sampling, as on a GPU: keys and values 2 L B b a token, for D (N + G T) tokens, N and T rounded up to 64 and 16,
      and the N of the prompt that is being read, where D is P or the groups decoded together, then with the longest
      prompt that the run allows for N. Those pass through a layer in 4 b (H + I) each. And 32 for each of V and each
      row while a token is drawn. vLLM holds the weights once more while it samples, and takes what else is free for its
      keys and values;
    - evaluation: the same for as many questions as `common.decoding.evaluate` answers at once, with one completion,
      whose prompts are read together;
    - training: see `_training`.
    """
    from client.grpo.groups import groups_together, sampling_bytes
    from common.decoding.attend import Shape as Decoded
    from common.decoding.evaluate import batch_rows

    grpo, rank, size = run.grpo, run.adapter.rank, _BYTES[run.model.dtype]
    cached = 2 * shape.layers * shape.key_heads * shape.head_width * size
    both = sum(inputs + 2 * outputs for inputs, outputs in shape.adapted)
    weights, adapter = _weights(shape, run), _FLOAT32 * rank * both
    groups, longest = run.questions.per_patient, prompt
    if grpo.decode == "together":
        held, longest = weights + adapter, grpo.max_prompt_tokens
        groups = groups_together(run, cached=cached, vocabulary=shape.vocabulary, held=held, memory=memory)
    decoded = Decoded(groups, grpo.group_size, longest, grpo.max_completion_tokens)
    sampling = sampling_bytes(decoded, cached=cached, vocabulary=shape.vocabulary, prompt=longest)
    rows = batch_rows(prompt, grpo.max_completion_tokens)
    alone = prompt + grpo.max_completion_tokens + prompt // shape.layers
    copy = shape.parameters * size if rollouts == "vllm" else 0
    return Memory(
        weights=weights,
        adapter=adapter,
        sampling=sampling + _passing(shape, run, longest) + copy,
        training=_training(shape, run, prompt),
        evaluation=rows * alone * cached + _passing(shape, run, rows * prompt) if evaluates else 0,
    )


def _passing(shape: Shape, run: RunConfig, tokens: int) -> int:
    """Bytes of so many tokens at the widest place of a layer, where nothing is kept for a way back."""
    return 4 * tokens * (shape.hidden + shape.intermediate) * _BYTES[run.model.dtype]


def _weights(shape: Shape, run: RunConfig) -> int:
    """Bytes of the frozen base."""
    size = _BYTES[run.model.dtype]
    if run.model.quantization == "none":
        return shape.parameters * size * (2 if run.model.dtype == "float32" else 1)
    matrices = [inputs * outputs for inputs, outputs in shape.linear]
    packed = sum(-(-weights // 2) + _FLOAT32 * -(-weights // BLOCK) for weights in matrices)
    return (shape.parameters - sum(matrices) + max(matrices, default=0)) * size + packed


def _training(shape: Shape, run: RunConfig, prompt: int) -> int:
    """Bytes of the training pass, the letters as in `estimate`.

    A layer keeps 8 H + 2 A b + 3 I b of a token (two norms in float32, queries and attention's output, three inner
    values), 2 A b of each place attended to and b of each entry of the mask; between the halves of the adapters stand
    4 r K of a token. The logits take 12 + b each: what the model gives, in float32, over the temperature, and the
    log-probabilities; 5 more with `top_p` below 1, for which tokens count and the logits of those.

    - Forked cache: every layer is kept, of P (N + G T) tokens, P (N + G (N + T)) places and P G T (N + T) entries, and
      P G T rows of logits; one layer more is at work. Where a CPU goes on from prompts as sampling read them,
      less is kept.
    - With `checkpointing`: of one question's S = N + G T tokens a layer's input is kept, H b; one layer with S places
      and S S entries is made again and one more is at work, with at most 1024 rows of logits.
    """
    from client.grpo.packed import HEAD_CHUNK

    grpo, size = run.grpo, _BYTES[run.model.dtype]
    rows, completion = grpo.group_size, grpo.max_completion_tokens
    halves = _FLOAT32 * run.adapter.rank * len(shape.adapted)
    attention = shape.heads * shape.head_width
    token = 8 * shape.hidden + (2 * attention + 3 * shape.intermediate) * size
    logit = (12 + size + (5 if grpo.top_p < 1 else 0)) * shape.vocabulary
    tokens = prompt + rows * completion
    if grpo.checkpointing:
        layer = tokens * (token + 2 * attention * size) + tokens**2 * size
        kept = tokens * (shape.layers * shape.hidden * size + halves)
        return kept + 2 * layer + min(HEAD_CHUNK, rows * completion) * logit
    places = prompt + rows * (prompt + completion)
    layer = tokens * token + places * 2 * attention * size + rows * completion * (prompt + completion) * size
    return run.questions.per_patient * ((shape.layers + 1) * layer + tokens * halves + rows * completion * logit)


def device_memory(device: str) -> tuple[int, int] | None:
    """Return the bytes that are free on a CUDA device, and all of them; None where there is none."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return None
    free, whole = torch.cuda.mem_get_info(None if device in ("auto", "cuda") else device)
    return int(free), int(whole)
