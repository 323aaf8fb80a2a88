"""The benchmark of the step: what it needs, what it says when memory is short, and the floor it is held against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config

from bench.grpo_stages import attempted, stages
from bench.grpo_work import MODELS, Work, named_model
from bench.roofline import Decoder, floor
from bench.waiting import PATIENCE
from bench.words import spread
from tests.paths import ROOT

NOT_NEEDED = ["flwr", "trl", "opacus", "datasets", "pandas"]
COMMAND = "--device cpu --model tiny-random --prompt 20 40 --completion 6 --groups 2 --generations 3 --repeats 1"
PHI4 = Phi3Config(**MODELS["phi4-random"][0], pad_token_id=0)
SHORT_OF_MEMORY = """
import resource, sys, torch
from pathlib import Path
from bench.grpo_stages import stages
from bench.grpo_work import Work, named_model
torch.set_num_threads(1)
model = named_model("tiny-random", "cpu")
stages(model, Work(20, 4, 1, 2), "cpu", 1)
held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (int(held.split()[1]) * 1024 + int(sys.argv[1]) * 2**20,) * 2)
result = stages(model, Work(1500, 30, 1, 32), "cpu", 1)
print(result["out_of_memory"], sorted(result["seconds_per_group"]))
"""


def without(*packages: str, arguments: str = COMMAND) -> subprocess.CompletedProcess[str]:
    """Run the benchmark in a process in which these packages cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({list(packages)}))\n"
        f"sys.argv = ['bench.grpo', *{arguments.split()}]\n"
        "import runpy; runpy.run_module('bench.grpo', run_name='__main__')"
    )
    return python(code)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=PATIENCE,
    )  # fmt: skip


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.federation
def test_the_stages_run_where_neither_flower_nor_trl_nor_opacus_is_installed() -> None:
    result = last_line(without(*NOT_NEEDED))
    assert [row["prompt"] for row in result["results"]] == [20, 40]
    for row in result["results"]:
        assert set(row["seconds_per_group"]) == {"prefill", "decode", "decode_plain", "forked", "packed"}
        assert min(row["seconds_per_group"].values()) > 0 and min(row["tokens_per_second"].values()) > 0
        assert row["out_of_memory"] == [] and row["finite"] and row["passes_relative_difference"] < 1e-5
        assert row["share_of_roofline"] is None, "a CPU has another roofline"
        assert "trl" not in row
    assert "peft" in without("peft").stderr, "what is needed is missed: the packages are really not there"


@pytest.mark.federation
def test_the_row_of_trl_appears_where_trl_is_installed() -> None:
    result = last_line(without(arguments=COMMAND.replace("20 40", "20")))
    row = result["results"][0]["trl"]
    assert 0 < row["training"] < row["whole"] and 0 < row["rollout"] < row["whole"]


@pytest.mark.federation
def test_what_does_not_fit_is_named_and_the_rest_is_measured() -> None:
    short = python(SHORT_OF_MEMORY, "300").stdout.splitlines()[-1]
    assert short == "['forked'] ['decode', 'decode_plain', 'packed', 'prefill']"
    enough = python(SHORT_OF_MEMORY, "3000").stdout.splitlines()[-1]
    assert enough == "[] ['decode', 'decode_plain', 'forked', 'packed', 'prefill']"


def test_only_a_lack_of_memory_is_taken_for_one() -> None:
    def out_of_it() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken() -> torch.Tensor:
        return torch.ones(2) @ torch.ones(3)

    assert attempted(out_of_it) is None
    assert attempted(lambda: torch.empty(2**50)) is None
    assert attempted(lambda: 3) == 3
    with pytest.raises(RuntimeError, match="size"):
        attempted(broken)


@pytest.mark.model
def test_the_stages_run_in_bfloat16_and_the_passes_agree_as_far_as_it_reaches() -> None:
    result = stages(named_model("tiny-random", "cpu", torch.bfloat16), Work(30, 6, 2, 3), "cpu", 1)
    assert result["finite"] and 1e-5 < result["passes_relative_difference"] < 0.1


@pytest.mark.model
def test_the_stages_run_in_four_bits() -> None:
    pytest.importorskip("bitsandbytes")
    result = stages(named_model("tiny-random-nf4", "cpu"), Work(30, 6, 2, 3), "cpu", 1)
    assert result["finite"] and 1e-5 < result["passes_relative_difference"] < 0.1


def test_phi4_has_the_parameters_that_the_roofline_counts() -> None:
    decoder = Decoder.of(PHI4)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(PHI4)
    whole = sum(parameter.numel() for parameter in model.parameters())
    norms = (2 * decoder.layers + 1) * decoder.hidden
    assert decoder.linear + 2 * decoder.head + norms == whole == 14_659_507_200


@pytest.mark.parametrize(("prompt", "seconds"), [(4000, 1.8), (9000, 3.1)])
def test_the_floor_is_the_one_of_the_method(prompt: int, seconds: float) -> None:
    five = floor(Decoder.of(PHI4), prompt=prompt, completion=400, groups=5, generations=7)
    assert five.prefill + five.decode + five.training == pytest.approx(seconds, abs=0.05)
    one = floor(Decoder.of(PHI4), prompt=prompt, completion=400, groups=1, generations=7)
    assert 2 < one.decode / five.decode < 3, "a group alone waits for the weights by itself"
    assert one.training == five.training and five.decode_shared < five.decode


def test_the_floor_of_one_token_is_arithmetic_by_hand() -> None:
    decoder = Decoder(layers=1, hidden=2, heads=2, key_heads=1, width=1, intermediate=3, vocabulary=5)
    assert (decoder.linear, decoder.head, decoder.cached) == (2 * 2 + 2 * 1 * 2 + 2 * 2 + 3 * 2 * 3, 10, 4)
    least = floor(decoder, prompt=1, completion=2, groups=1, generations=1)
    assert least.prefill == 2 * 30 / 4.3e12, "few tokens wait for the weights"
    assert least.decode == pytest.approx((2 * 40 + 4 * (1 + 1)) / 4.3e12)
    assert least.training == pytest.approx((4 * 30 * 3 + 12 * 2 * (0.5 + 2 + 2) + 4 * 10 * 2) / 790e12)


def test_several_values_may_follow_one_option() -> None:
    each = ["--device", "cpu", "--prompt", "80", "--prompt", "500", "--groups", "5"]
    assert spread(["--device", "cpu", "--prompt", "80", "500", "--groups", "5"], "--prompt") == each
    assert spread(each, "--prompt") == each
    assert spread(["--groups", "5", "6"], "--prompt") == ["--groups", "5", "6"]


@pytest.mark.model
@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_our_gradient_is_that_of_trl_and_no_other(kl: float) -> None:
    from bench.grpo_trl import gradient_differences
    from bench.grpo_work import random_prompts
    from common.config import GrpoConfig

    config = GrpoConfig(group_size=4, max_completion_tokens=6, kl=kl)
    same = gradient_differences(random_prompts(2, 30), config)
    assert same["gradient_relative_difference"] < 2e-6
    assert same["gradient_relative_difference_float64"] < 1e-12
    other = gradient_differences(random_prompts(2, 30), config.model_copy(update={"temperature": 1.01}))
    assert other["gradient_relative_difference"] > 1e-3
