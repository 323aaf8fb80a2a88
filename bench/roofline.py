"""The least time that a GRPO step of one group takes on one H200, by arithmetic and by bytes moved."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

FLOPS = 790e12
"""bf16 matrix products per second: 8192 x 8192 x 8192 on random data, measured on the lent H200 (method.md)."""
BYTES = 4.3e12
"""Bytes per second of its memory, read and written, measured there too."""


@dataclass(frozen=True)
class Decoder:
    """A decoder as far as its arithmetic goes; `width` is that of one head, `size` the bytes of a value."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    width: int
    intermediate: int
    vocabulary: int
    size: int = 2

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Decoder:
        """Read the shape off a configuration; weights are taken to be bfloat16."""
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            intermediate=config.intermediate_size,
            vocabulary=config.vocab_size,
        )

    @property
    def attention(self) -> int:
        """Values of all heads together."""
        return self.heads * self.width

    @property
    def linear(self) -> int:
        """Weights of all layers' linear maps: queries, keys, values, output, and three of the inner layer."""
        keys = self.key_heads * self.width
        return self.layers * self.hidden * (2 * self.attention + 2 * keys + 3 * self.intermediate)

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.hidden * self.vocabulary

    @property
    def cached(self) -> int:
        """Bytes of keys and values of one token."""
        return 2 * self.layers * self.key_heads * self.width * self.size


@dataclass(frozen=True)
class Floor:
    """Seconds per group; `decode_shared` is what `decode` would be if a group's rows read their prompt's keys once."""

    prefill: float
    decode: float
    decode_shared: float
    training: float


def floor(decoder: Decoder, *, prompt: int, completion: int, groups: int, generations: int) -> Floor:
    """Return the least seconds per group, the prompt computed once; nothing overlaps from stage to stage.

    Parameters
    ----------
    prompt, completion
        Tokens N and T of each.
    groups, generations
        D groups are decoded together, G completions each.

    Notes
    -----
    With W weights in the layers' linear maps, V in the LM head, L layers, A values of all heads, b bytes a value and
    c bytes of keys and values a token:

    - prefill, arithmetic: 2 W N + 2 V, and for attention 4 A L a visible pair, N N / 2 pairs; or, by bytes, the
      weights b W for D groups;
    - decode, bytes: for each of the T - 1 steps after the first token b (W + V) for D groups, and for each row the
      keys and values of what stands before it, c (N + t); shared, those of the prompt once a group;
    - training, arithmetic: forward and back to the activations, 4 W a token of N + G T (weights are frozen, and what
      is recomputed is no part of the least), 12 A L a pair of N N / 2 + G (T N + T T / 2), and 4 V a completion token.

    The adapter, norms, rotations and softmax are left out: the floor is a little too low.
    """
    weights, head, pair = decoder.linear, decoder.head, decoder.attention * decoder.layers
    steps = range(1, completion)
    prefill = 2 * weights * prompt + 2 * head + 4 * pair * prompt**2 / 2
    read = (completion - 1) * decoder.size * (weights + head) / groups
    written = decoder.cached * generations * sum(steps)
    held = decoder.cached * prompt * (completion - 1)
    pairs = prompt**2 / 2 + generations * (completion * prompt + completion**2 / 2)
    tokens = prompt + generations * completion
    training = 4 * weights * tokens + 12 * pair * pairs + 4 * head * generations * completion
    return Floor(
        prefill=max(prefill / FLOPS, decoder.size * weights / groups / BYTES),
        decode=(read + written + held * generations) / BYTES,
        decode_shared=(read + written + held) / BYTES,
        training=training / FLOPS,
    )
