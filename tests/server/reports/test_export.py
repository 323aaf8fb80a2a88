"""An exported adapter is the checkpoint's bit for bit, and names the model that it belongs to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from common import synthetic
from common.arrays import adapter_sha256
from common.config import ModelConfig, load_config
from common.errors import Code
from common.model.adapter import save_peft
from common.model.base import add_lora, load_base
from common.tiny import Embedded
from common.tiny.network import network_shape
from server.provisioning.federation import Federation
from server.reports.export import export_adapter
from server.rounds.runs import RunRecord
from server.rounds.store import Checkpoint, RunStore
from simulation.prepare import prepare
from tests.federations import SUPPORT2, command, refused
from tests.paths import ROOT
from tests.small import make_small_tokenizer, small_config


def test_an_exported_adapter_is_the_checkpoints_bit_for_bit(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    base, _ = load_base(config.model)
    model = add_lora(base, config.adapter, config.seed)
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    vector = np.random.default_rng(1).normal(size=size).astype(np.float32)
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(2, vector, {}))
    only_shape = tmp_path / "shape"
    only_shape.mkdir()
    shutil.copy(small_model / "config.json", only_shape)
    out = export_adapter(tmp_path / "run", tmp_path / "out", base=str(only_shape))
    save_peft(model, vector, tmp_path / "expected")
    loaded = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_model), folder).state_dict()
        for folder in (out, tmp_path / "expected")
    ]
    assert loaded[0].keys() == loaded[1].keys()
    assert all(loaded[0][name].equal(loaded[1][name]) for name in loaded[0])
    description = json.loads((out / "fedreason.json").read_text())
    assert (description["round"], description["adapter_sha256"]) == (2, adapter_sha256(vector))
    refused(Code.KIT_EXISTS, lambda: export_adapter(tmp_path / "run", out))


@pytest.mark.parametrize("codebook", ["synthetic", "others.toml"])
def test_the_adapter_of_an_embedded_model_is_exported_without_making_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codebook: str
) -> None:
    """Of any codebook: its own decides the size of the embeddings alone."""
    monkeypatch.setenv("FEDREASON_CACHE", str(tmp_path / "cache"))
    tokenizer = make_small_tokenizer()
    model = LlamaForCausalLM(network_shape(len(tokenizer)))
    config = small_config(Path("/none"), questions={"codebook": codebook})
    config = config.model_copy(update={"model": ModelConfig(base="tiny")})
    adapted = add_lora(model, config.adapter, config.seed)
    size = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    vector = np.random.default_rng(1).normal(size=size).astype(np.float32)
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(2, vector, {}))
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "cache").exists()
    save_peft(adapted, vector, tmp_path / "expected")
    names = ("adapter_model.safetensors",)
    loaded = [load_file(folder / name) for folder in (out, tmp_path / "expected") for name in names]
    assert loaded[0].keys() == loaded[1].keys()
    assert all(loaded[0][name].equal(loaded[1][name]) for name in loaded[0])
    base = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == (str(Embedded.of().folder) if codebook == "synthetic" else "tiny")


def test_an_exported_adapter_names_the_model_that_was_made_for_the_runs_codebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREASON_CACHE", str(tmp_path / "cache"))
    table = {"name": "own", "model": {"base": "tiny"}, "questions": {"codebook": str(SUPPORT2), "view": "full"},
             "federation": {"name": "f", "rounds": 1, "sites": 1, "population": 9, "sampling_rate": 0.5},
             "optimizer": {"learning_rate": 1e-2}}  # fmt: skip
    (tmp_path / "run.toml").write_text(tomli_w.dumps(table))
    config, codebook = load_config(tmp_path / "run.toml")
    size = sum(
        p.numel()
        for p in add_lora(LlamaForCausalLM(network_shape(9)), config.adapter, 0).parameters()
        if p.requires_grad
    )
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(1, np.zeros(size, dtype=np.float32), {}))
    record = RunRecord(run_id=1, config=tmp_path / "run.toml", submitted=datetime.now(UTC))
    (tmp_path / "run" / "run.json").write_text(record.model_dump_json())
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    base = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(Embedded.of(codebook, "full").folder) and not Path(base).exists()


def test_a_simulated_run_is_exported_from_any_folder_though_its_base_is_named_from_its_configurations(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    (tmp_path / "models").symlink_to(small_model.parent)
    relative = ModelConfig(base=f"../models/{small_model.name}")
    config = small_config(small_model, simulation={"patients": 6}).model_copy(update={"model": relative})
    prepare(config, synthetic.codebook(), tmp_path / "runs" / "small", base=configs)
    base, _ = load_base(small_config(small_model).model)
    size = sum(p.numel() for p in add_lora(base, config.adapter, config.seed).parameters() if p.requires_grad)
    with RunStore.opened(tmp_path / "runs" / "small", config) as store:
        store.save(Checkpoint(1, np.zeros(size, dtype=np.float32), {}))
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    out = export_adapter(tmp_path / "runs" / "small", tmp_path / "out")
    named = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named).samefile(small_model)


_KILLED = """
import os, signal, sys
from pathlib import Path
from server.reports.export import export_adapter

run, out, left = Path(sys.argv[1]), Path(sys.argv[2]), [int(sys.argv[3])]

def look(event, arguments):
    if event == "os.rename" and out in (to := Path(os.fsdecode(arguments[1])), to.parent):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(look)
export_adapter(run, out, base=sys.argv[4])
"""
"""Exports, and is killed just before so many things have got their names in the folder, or the folder its own."""


@pytest.mark.parametrize("names", [1, 2])
def test_an_export_that_is_killed_leaves_all_or_nothing_and_is_done_again(
    small_model: Path, tmp_path: Path, names: int
) -> None:
    config = small_config(small_model)
    model = add_lora(load_base(config.model)[0], config.adapter, config.seed)
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(2, np.ones(size, dtype=np.float32), {}))
    words = [sys.executable, "-c", _KILLED, *map(str, (tmp_path / "run", tmp_path / "out", names, small_model))]
    died = subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode
    whole = sorted(one.name for one in export_adapter(tmp_path / "run", tmp_path / "whole").iterdir())
    assert names > 1 or died == -signal.SIGKILL
    if (tmp_path / "out").exists():
        assert sorted(one.name for one in (tmp_path / "out").iterdir()) == whole
        refused(Code.KIT_EXISTS, lambda: export_adapter(tmp_path / "run", tmp_path / "out"))
    else:
        assert died == -signal.SIGKILL
        export_adapter(tmp_path / "run", tmp_path / "out")
        assert sorted(one.name for one in (tmp_path / "out").iterdir()) == whole


def test_an_adapter_is_not_exported_for_another_model(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    with RunStore.opened(tmp_path / "run", config) as store:
        refused(Code.RUN_CHECKPOINT, lambda: export_adapter(tmp_path / "run", tmp_path / "out"))
        store.save(Checkpoint(1, np.zeros(7, dtype=np.float32), {}))
    refused(Code.MODEL_ADAPTER, lambda: export_adapter(tmp_path / "run", tmp_path / "out"))
    refused(Code.MODEL_MISSING, lambda: export_adapter(tmp_path / "run", tmp_path / "out", base=str(tmp_path)))


def test_export_takes_a_run_by_name(federation: Federation, small_model: Path, tmp_path: Path) -> None:
    done = command("server", "export", "none", "--out", tmp_path / "out", "--federation", federation.folder)
    assert (done.returncode, done.stderr[:4]) == (1, "E911")
