"""Loading models: verified, offline, and decoded as transformers itself decodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from bench.waiting import PATIENCE
from client.training.engine import Engine
from common.config import AdapterConfig, ModelConfig
from common.decoding.generate import generate
from common.errors import Code, FedReasonError
from common.model.adapter import AdapterLayout, write_adapter
from common.model.base import add_lora, load_base, manifest
from tests.paths import ROOT
from tests.small import small_config
from tests.tuned import PROMPTS, SIZES


@pytest.mark.parametrize(
    "make",
    [
        lambda: LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **SIZES)),
        lambda: MistralForCausalLM(MistralConfig(num_hidden_layers=2, sliding_window=6, **SIZES)),
    ],
    ids=["llama", "mistral-past-its-window"],
)
def test_greedy_decoding_is_that_of_transformers(make: Callable[[], PreTrainedModel]) -> None:
    torch.manual_seed(1)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    ours = generate(model, PROMPTS, group_size=2, max_tokens=12, ends=(299,), pad=0)
    for row, prompt in enumerate(PROMPTS):
        theirs = model.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=299, pad_token_id=0
        )[0, len(prompt) :]
        for copy in (0, 1):
            assert ours.tokens[2 * row + copy, : len(theirs)].tolist() == theirs.tolist()


def test_a_model_folder_is_checked_against_its_manifest(small_model: Path, tmp_path: Path) -> None:
    stated = manifest(small_model)
    load_base(ModelConfig(base=str(small_model), manifest_sha256=stated))
    copy = tmp_path / "copy"
    AutoModelForCausalLM.from_pretrained(small_model).save_pretrained(copy)
    for folder in (copy, tmp_path / "absent"):
        with pytest.raises(FedReasonError) as refusal:
            load_base(ModelConfig(base=str(folder), manifest_sha256=stated))
        assert refusal.value.code == Code.MODEL_MANIFEST


def test_a_missing_or_torn_model_is_refused_by_name(small_model: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(small_model).save_pretrained(tmp_path / "torn")
    (tmp_path / "torn" / "config.json").write_text("{")
    for folder in (tmp_path / "absent", tmp_path / "torn"):
        with pytest.raises(FedReasonError) as refusal:
            load_base(ModelConfig(base=str(folder)))
        assert refusal.value.code == Code.MODEL_MISSING
        assert folder.name in str(refusal.value)


def without_a_weight(model: Path, folder: Path, name: str) -> Path:
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_base_that_lacks_a_weight_is_refused_for_each_load_would_draw_another(
    small_model: Path, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    folder = without_a_weight(small_model, tmp_path / "torn", name)
    with pytest.raises(FedReasonError) as refusal:
        load_base(ModelConfig(base=str(folder), manifest_sha256=manifest(folder)))
    assert refusal.value.code is Code.MODEL_MISSING and name in refusal.value.found


def test_a_four_bit_base_without_bitsandbytes_is_refused_by_number(small_model: Path) -> None:
    program = (
        "import sys; sys.modules['bitsandbytes'] = None\n"
        "from common.config import ModelConfig; from common.model.base import load_base\n"
        "config = ModelConfig(base=sys.argv[1], dtype='bfloat16')\n"
        "load_base(config); print('loaded')\n"
        "load_base(config.model_copy(update={'quantization': 'nf4'}))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(small_model)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "loaded\n"
    assert f"E{Code.MODEL_QUANTIZATION.value}: " in done.stderr and "pip install 'bitsandbytes>=0.50'" in done.stderr


def test_target_modules_that_the_model_lacks_are_refused(small_model: Path) -> None:
    base, _ = load_base(ModelConfig(base=str(small_model)))
    with pytest.raises(FedReasonError) as refusal:
        add_lora(base, AdapterConfig(rank=4, target_modules=("qkv_proj",)), 0)
    assert refusal.value.code == Code.MODEL_TARGETS


def test_an_adapter_of_another_size_is_refused(small_model: Path) -> None:
    base, _ = load_base(ModelConfig(base=str(small_model)))
    model = add_lora(base, AdapterConfig(rank=4), 0)
    with pytest.raises(FedReasonError) as refusal:
        write_adapter(model, torch.zeros(AdapterLayout.of(model).size + 1).numpy())
    assert refusal.value.code == Code.MODEL_ADAPTER


def test_sites_with_another_base_or_seed_state_another_layout(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    here = Engine(config, None, "cpu").layout_sha256()
    assert Engine(config, None, "cpu").layout_sha256() == here
    assert Engine(config.model_copy(update={"seed": 4}), None, "cpu").layout_sha256() != here
    base, tokenizer = load_base(config.model)
    with torch.no_grad():
        next(base.parameters())[0, 0] += 1
    base.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    other = config.model_copy(update={"model": ModelConfig(base=str(tmp_path / "other"))})
    assert Engine(other, None, "cpu").layout_sha256() != here


CONNECTIONS = """
import os, socket, sys
def refuse(*where, **_):
    os._exit(7)
socket.socket.connect = socket.getaddrinfo = refuse
from common.config import ModelConfig
from common.errors import FedReasonError
from common.model.base import load_base, manifest
from pathlib import Path
folder = sys.argv[1]
load_base(ModelConfig(base=folder, manifest_sha256=manifest(Path(folder))))
try:
    load_base(ModelConfig(base="microsoft/phi-4", revision="0" * 40))
except FedReasonError as error:
    os._exit(0 if error.code.name == "MODEL_MISSING" else 1)
"""


@pytest.mark.parametrize(("offline", "ends"), [("1", 0), ("0", 7)])
def test_no_network_is_touched_where_the_hub_is_switched_off(
    small_model: Path, tmp_path: Path, offline: str, ends: int
) -> None:
    environment = {"HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CONNECTIONS, str(small_model)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == ends, done.stderr


SITE = """
import runpy, sys
sys.argv = ["client", "status", "--site", "/nowhere"]
try:
    runpy.run_module("client", run_name="__main__")
except SystemExit:
    pass
from huggingface_hub import constants
print(constants.HF_HUB_OFFLINE)
"""


@pytest.mark.parametrize(("said", "offline"), [({}, "True"), ({"HF_HUB_OFFLINE": "0"}, "False")])
def test_a_site_looks_for_no_model_in_the_network_unless_it_is_told_to(said: dict[str, str], offline: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", SITE], capture_output=True, text=True, cwd=ROOT, env=environment | said, timeout=PATIENCE
    )
    assert done.stdout.split()[-1] == offline, done.stderr


@pytest.mark.parametrize("base", ["models/x", "gpt2", "x"])
def test_a_base_that_may_be_a_folder_or_a_hub_id_is_refused_with_both_ways_out(base: str) -> None:
    with pytest.raises(ValueError, match=rf"\./{base}.*pinned revision"):
        ModelConfig(base=base)
    assert ModelConfig(base=base, revision="0" * 40).place(Path("/srv")) == base


@pytest.mark.parametrize(
    ("base", "place"), [("./x", "/srv/x"), ("../x", "/srv/../x"), ("/y/x", "/y/x"), ("tiny", "tiny")]
)
def test_a_relative_base_starts_from_the_folder_that_is_given(base: str, place: str) -> None:
    assert ModelConfig(base=base).place(Path("/srv")) == place


def test_a_gguf_file_alone_is_told_with_its_way_out(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(FedReasonError, match=r"python -m server model"):
        load_base(ModelConfig(base=str(tmp_path)))
