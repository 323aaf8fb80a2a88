"""Tokenizer and network of the embedded model: a small Llama whose initial weights can already look a value up.

A plain random initialisation stays at chance for the length of the warm-up; this one holds a head that attends to the
previous token (layer 0) and two that look up what follows a name and what stands before a value (layer 1). The
architecture is Llama with attention biases, for which AutoTokenizer keeps the tokenizer that was saved; for Qwen2 it
would put Qwen's own in its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS = 128, 3, 4
_PIECES = Regex(
    r"\n?[A-E]\.(?= )|\n?\[?[A-Za-z][A-Za-z0-9_/-]*[\]:]| ?\\boxed\{| ?\[MASK\]"
    r"| ?[A-Za-z]+| ?-?\d+(?:\.\d+)?|\n| ?[^\s\w]|\s|."
)
_PREVIOUS = 14.0
_LOOKUP = 2.0


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that keeps letters, labels, words and numbers apart and pads on the left."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(_PIECES, "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_network(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return the structured initial network (0.7 million parameters, float32)."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = LlamaForCausalLM(
            network_shape(len(tokenizer), pad=tokenizer.pad_token_id, eos=tokenizer.eos_token_id)
        )
        _share_embeddings(network, tokenizer)
        _plant_heads(network)
    return network


def network_shape(vocabulary: int, *, pad: int = 0, eos: int = 1) -> LlamaConfig:
    """Return the network's configuration; the vocabulary decides the size of its embeddings alone."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=3 * WIDTH,
        max_position_embeddings=2048,
        attention_bias=True,
        tie_word_embeddings=True,
        pad_token_id=pad,
        eos_token_id=eos,
        bos_token_id=None,
        initializer_range=0.04,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )


def _share_embeddings(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a word mostly the same embedding wherever it stands: before a colon, after a space, at a line's start."""
    embeddings = network.model.embed_tokens.weight
    words: dict[str, torch.Tensor] = {}
    for token in range(len(tokenizer)):
        word = re.sub(r"[^A-Za-z0-9.]", "", str(tokenizer.decode([token]))).rstrip(".") or f"#{token}"
        shared = words.setdefault(word, torch.randn(WIDTH))
        embeddings[token] = 0.08 * (0.9 * shared + 0.43 * torch.randn(WIDTH))
    embeddings[tokenizer.pad_token_id] = 0


def _plant_heads(network: LlamaForCausalLM) -> None:
    """Set head 0 of layer 0 to read the previous token, heads 0 and 1 of layer 1 to match by content.

    A rotary head turns the pair (i, i + half) by the angle position x frequency i. A key bias turned one step ahead of
    the query bias makes the score peak at distance one; keeping only the slow frequencies makes a score that hardly
    depends on distance.
    """
    head = WIDTH // HEADS
    half = head // 2
    frequencies = network.model.rotary_emb.inv_freq.clone()
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0]
    read, written = basis[:, :head].T.clone(), basis[:, head : 2 * head].clone()

    previous = network.model.layers[0].self_attn
    fast = torch.where(frequencies < 0.05, 0.0, frequencies)
    amplitude = (_PREVIOUS * math.sqrt(head) / fast.sum() * fast).sqrt()
    query, key = torch.zeros(head), torch.zeros(head)
    query[:half] = amplitude
    key[:half] = amplitude * torch.cos(frequencies)
    key[half:] = amplitude * torch.sin(frequencies)
    previous.q_proj.bias[:head] = query
    previous.k_proj.bias[:head] = key
    previous.q_proj.weight[:head] *= 0.1
    previous.k_proj.weight[:head] *= 0.1
    previous.v_proj.weight[:head] = read
    previous.o_proj.weight[:, :head] = written * 0.16

    lookup = network.model.layers[1].self_attn
    slow = (frequencies < 0.05).float().repeat(2)[:, None] * _LOOKUP * math.sqrt(2)
    value_of_name, letter_of_value = slice(0, head), slice(head, 2 * head)
    lookup.q_proj.weight[value_of_name] = slow * written.T
    lookup.k_proj.weight[value_of_name] = slow * read
    lookup.v_proj.weight[value_of_name] = written.T
    lookup.o_proj.weight[:, value_of_name] = read.T * 0.16
    lookup.q_proj.weight[letter_of_value] = slow * read
    lookup.k_proj.weight[letter_of_value] = slow * written.T
    lookup.v_proj.weight[letter_of_value] = read
    lookup.o_proj.weight[:, letter_of_value] = read.T * 0.16
