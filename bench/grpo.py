"""What a GRPO step costs: beside TRL's GRPOTrainer on the CPU, or by stage on one GPU with a model of Phi-4's size.

`python -m bench.grpo --device cpu --prompt 80 500 1000` compares, with `--dp` a site's private step and an exact one;
with `--model`, and on CUDA always, the stages are measured, for which neither TRL nor Flower need be there. The last
line is JSON.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer

from bench.result import print_result
from bench.words import spread

REPEATS = {"compared": 7, "stages": 3}


def main(
    prompt: Annotated[list[int], typer.Option(help="Prompt tokens; several may follow.", default_factory=lambda: [80])],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    model: Annotated[str | None, typer.Option(help="By stage: phi4-random[-nf4], tiny-random[-nf4].")] = None,
    dp: Annotated[
        bool, typer.Option("--dp", help="A site's part of a private round beside an exact one, on the CPU.")
    ] = False,
    groups: Annotated[int, typer.Option(help="Prompts a step.")] = 8,
    generations: Annotated[int, typer.Option(help="Completions of a prompt.")] = 8,
    completion: Annotated[int, typer.Option(help="Completion tokens.")] = 14,
    repeats: Annotated[int | None, typer.Option(help="Counted steps of each; 7 beside TRL, 3 by stage.")] = None,
) -> None:
    """Measure; progress goes to standard error."""
    import torch

    from bench.grpo_work import MODELS, Work

    if model is not None and model not in MODELS:
        raise typer.BadParameter(f"models are {', '.join(MODELS)}", param_hint="--model")
    torch.set_num_threads(1)
    works = [Work(length, completion, groups, generations) for length in prompt]
    with contextlib.redirect_stdout(sys.stderr):
        if dp:
            results = private(works, repeats or REPEATS["compared"])
        elif model is None and device == "cpu":
            results = compared(works, repeats or REPEATS["compared"])
        else:
            results = by_stage(model or "phi4-random", works, device, repeats or REPEATS["stages"])
    shared = {"device": device, "model": model, "groups": groups, "generations": generations, "completion": completion}
    print_result(shared | results[0] | {"results": results})


def compared(works: Sequence[Any], repeats: int) -> list[dict[str, Any]]:
    """Compare with TRL, one length of prompt after another."""
    from bench import grpo_trl

    results = []
    for work in works:
        print(f"prompt {work.prompt}", file=sys.stderr)
        results.append({"prompt": work.prompt, **grpo_trl.compared(work, repeats)})
    return results


def private(works: Sequence[Any], repeats: int) -> list[dict[str, Any]]:
    """Compare a private step of a site with an exact one; prompts are real questions, as long as they are."""
    from bench import grpo_private

    return [grpo_private.compared(work, repeats) for work in works]


def by_stage(name: str, works: Sequence[Any], device: str, repeats: int) -> list[dict[str, Any]]:
    """Measure the stages of every length of prompt, and TRL last of all where it is installed: it changes the model.

    Not TRL of a packed model, whose adapter it would cast to bfloat16.
    """
    import torch

    from bench.grpo_stages import attempted, stages
    from bench.grpo_work import PACKED, named_model

    model = named_model(name, device)
    results = []
    for work in works:
        print(f"prompt {work.prompt}", file=sys.stderr)
        results.append({"prompt": work.prompt, **stages(model, work, device, repeats)})
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    if name.endswith(PACKED) or importlib.util.find_spec("trl") is None:
        return results
    from bench.grpo_trl import trl_stages

    for result, work in zip(results, works, strict=True):
        print(f"TRL, prompt {work.prompt}", file=sys.stderr)
        theirs = attempted(partial(trl_stages, model, work, device, repeats))
        ratio = theirs["whole"] / result["whole"] if theirs and result["whole"] else None
        result |= {"trl": theirs, "ratio_to_trl": ratio}
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    return results


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(args=spread(sys.argv[1:], "--prompt"))
