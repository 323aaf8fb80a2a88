"""A federation at Phi-4's full width and reduced depth, from the questions to the report's adapter: `bench.rehearsal`.

Every matrix, message and vocabulary has the size that it has in `configs/phi4.toml`; only layers, sites, rounds and
lengths are few, and weights are random. Each of the model's words says some box, so that rewards differ and gradients
are not zero. Flower's simulation engine runs the ClientApp and the round loop that hospitals run; beside it the same
patients are trained in one place. `--run FILE` rehearses a simulation's own model and patients instead, without its
evaluation: `bench.rehearsal --run configs/smollm2.toml`. The last line is JSON.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bench.grpo_work import random_phi3
from bench.result import print_result
from client.training.workplace import Workplace
from common.arrays import adapter_sha256
from common.config import RunConfig, load_config
from common.model.base import manifest
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange, one_site
from simulation.federated import run_federated
from simulation.prepare import POOLED, prepare

LETTERS = "ABCDE"


def boxing_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words are boxes with a letter, all but two; a prompt is of unknown words."""
    words = {"<pad>": 0, "<eos>": 1}
    words |= {f"\\boxed{{{LETTERS[number % len(LETTERS)]}}}{number}": number for number in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def write_model(folder: Path, name: str, layers: int) -> None:
    """Write a model of MODELS with random weights and its tokenizer."""
    base = random_phi3(name, "cpu", torch.bfloat16, layers=layers)
    base.save_pretrained(folder)
    boxing_tokenizer(base.config.vocab_size).save_pretrained(folder)


def rehearsed(model: Path, sites: int, rounds: int, completion: int) -> RunConfig:
    """Return `configs/phi4.toml` over this model, with few sites, rounds and words."""
    config, _ = load_config(Path("configs/phi4.toml"))
    table = config.model_dump(mode="json", exclude_none=True)
    table["model"] = {"base": str(model), "dtype": "bfloat16", "manifest_sha256": manifest(model)}
    table["questions"] |= {"held_out": 0.0, "view": "core"}
    table["grpo"] |= {"max_prompt_tokens": 1000, "max_completion_tokens": completion, "kl": 0.0}
    few = {"rounds": rounds, "sites": sites, "quorum": sites, "population": 4 * sites, "sampling_rate": 0.5}
    table["federation"] |= {"name": "rehearsal", **few}
    table["optimizer"] |= {"warmup_rounds": 0}
    table |= {"name": "rehearsal", "simulation": {"hospitals": ["north", "south", "west"][:sites], "patients": 4}}
    table.pop("evaluation", None)
    return RunConfig.model_validate(table)


def shortened(config: RunConfig, rounds: int) -> RunConfig:
    """Return a simulation's run with few rounds, where every patient is for training."""
    table = config.model_dump(mode="json", exclude_none=True)
    table["federation"] |= {"rounds": rounds}
    table["optimizer"] |= {"warmup_rounds": 0}
    table["questions"] |= {"held_out": 0.0}
    table.pop("evaluation", None)
    return RunConfig.model_validate(table)


def main(
    run: Annotated[Path | None, typer.Option(help="A simulation whose own model is rehearsed instead.")] = None,
    model: Annotated[str, typer.Option(help="phi4-random or tiny-random.")] = "phi4-random",
    layers: Annotated[int, typer.Option(help="Of the model.")] = 2,
    sites: Annotated[int, typer.Option(help="Hospitals, up to three.")] = 2,
    rounds: Annotated[int, typer.Option(help="Of the run.")] = 2,
    completion: Annotated[int, typer.Option(help="Tokens of a completion.")] = 8,
) -> None:
    """Rehearse; progress goes to standard error."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stated = run or Path("configs/phi4.toml")
        config, codebook = load_config(stated)
        if run is None:
            write_model(folder / "model", model, layers)
            config = rehearsed(folder / "model", sites, rounds, completion)
        else:
            config = shortened(config, rounds)
        prepare(config, codebook, folder, base=stated.parent)
        started = time.monotonic()
        federated = run_federated(config, folder, lambda told: print(f"  {told.round}", file=sys.stderr, flush=True))
        seconds = time.monotonic() - started
        with RunStore.opened(folder, config) as store:
            rows = store.rounds()
        torch.set_num_threads(1)  # as at the federation's sites
        alone = one_site(config)
        with RunStore.opened(folder / "pooled", alone) as store:
            exchange = LocalExchange([Workplace(folder / POOLED / POOLED)], evaluate=False)
            pooled = run_rounds(alone, exchange, store)
    print_result(
        {
            "run": config.name,
            "adapter": int(federated.size),
            "moved": bool(federated.any()),
            "identical": adapter_sha256(federated) == adapter_sha256(pooled),
            "sha256": adapter_sha256(federated),
            "rewards": [row.counts["reward"] if row.counts else None for row in rows],
            "bytes_up": [row.bytes_up for row in rows],
            "seconds": seconds,
            "peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
        }
    )


if __name__ == "__main__":
    typer.run(main)
