"""An adapter is taken as a whole, for the model it was made for, or refused by number; nothing is cast or filled in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import save
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from client.node.handlers import HANDLERS, answer
from client.privacy.ledger import Ledger
from client.training.engine import Engine
from common import synthetic
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.frames import read_task_frame, task_frame
from common.messages.kinds import Refusal, Task
from common.model.adapter import read_adapter, read_peft, save_peft, write_adapter
from common.model.base import add_lora, load_base
from server.reports.export import export_adapter
from server.rounds.store import Checkpoint, RunStore
from simulation.prepare import prepare
from tests.small import private_config, small_config
from tests.tuned import load, with_random_b

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SHORT = "base_model.model.model.layers.0.self_attn.q_proj."
A, B = f"{SHORT}lora_A.weight", f"{SHORT}lora_B.weight"
Tensors = dict[str, torch.Tensor]


def refused(act: Callable[[], object], code: Code = Code.MODEL_ADAPTER) -> FedReasonError:
    with pytest.raises(FedReasonError) as refusal:
        act()
    assert refusal.value.code is code
    return refusal.value


@pytest.fixture
def written(small_model: Path, tmp_path: Path) -> tuple[PeftModel, Path]:
    model = with_random_b(load(small_model)[0])
    save_peft(model, read_adapter(model), tmp_path / "adapter")
    return model, tmp_path / "adapter"


def test_a_folder_is_read_as_it_was_written_also_by_a_model_without_weights(
    written: tuple[PeftModel, Path], small_model: Path
) -> None:
    model, folder = written
    vector = read_adapter(model)
    write_adapter(model, np.zeros_like(vector))
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(small_model))
        empty = add_lora(bare, small_config(small_model).adapter, 0)
    for reader in (model, empty):
        assert read_peft(reader, folder).tobytes() == vector.tobytes() and vector.any()


BAD_TENSORS: dict[str, Callable[[Tensors], object]] = {
    "a tensor of B is missing": lambda t: t.pop(B),
    "a tensor of A is missing": lambda t: t.pop(A),
    "a layer is missing": lambda t: [t.pop(A), t.pop(B)],
    "nothing is there": lambda t: t.clear(),
    "a tensor too many": lambda t: t.update({B.replace("q_proj", "r_proj"): t[B].clone()}),
    "of another layer": lambda t: t.update({B.replace("layers.0", "layers.9"): t.pop(B)}),
    "transposed": lambda t: t.update({B: t[B].T.contiguous()}),
    "flat": lambda t: t.update({B: t[B].flatten()}),
    "empty": lambda t: t.update({B: t[B][:0]}),
    "of another rank": lambda t: t.update({B: t[B][:, :2].contiguous()}),
    "half": lambda t: t.update({B: t[B].half()}),
    "bfloat16": lambda t: t.update({B: t[B].bfloat16()}),
    "double": lambda t: t.update({A: t[A].double()}),
    "integers": lambda t: t.update({B: t[B].int()}),
    "not a number": lambda t: t[B].view(-1)[3:4].fill_(torch.nan),
    "infinite": lambda t: t[A].view(-1)[3:4].fill_(-torch.inf),
    "another A": lambda t: t[A].view(-1)[3:4].mul_(-1),
}


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_tensors_that_are_not_the_adapters_are_refused_with_their_name(
    written: tuple[PeftModel, Path], what: str
) -> None:
    model, folder = written
    tensors = load_file(folder / WEIGHTS)
    BAD_TENSORS[what](tensors)
    save_file(tensors, folder / WEIGHTS)
    error = refused(lambda: read_peft(model, folder))
    assert str(folder / WEIGHTS) in error.found and "lora_" in error.found


BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "no scale": {"lora_alpha": 0},
    "another scale": {"lora_alpha": 16},
    "a scale below zero": {"lora_alpha": -8},
    "a scale by layer": {"alpha_pattern": {"q_proj": 0}},
    "no rank": {"r": 0},
    "another rank": {"r": 8},
    "a rank by layer": {"rank_pattern": {"q_proj": 2}},
    "no module": {"target_modules": []},
    "fewer modules": {"target_modules": ["q_proj"]},
    "other modules": {"target_modules": ["fc1", "fc2"]},
    "modules by a pattern": {"target_modules": ".*proj"},
    "another kind": {"peft_type": "IA3"},
    "no kind": {"peft_type": None},
    "rank-stabilised": {"use_rslora": True},
    "decomposed": {"use_dora": True},
    "with biases": {"bias": "all"},
    "with whole modules": {"modules_to_save": ["lm_head"]},
    "of some layers": {"layers_to_transform": [0]},
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_a_configuration_of_another_adapter_is_refused_with_its_key(written: tuple[PeftModel, Path], what: str) -> None:
    model, folder = written
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | BAD_CONFIGS[what]))
    error = refused(lambda: read_peft(model, folder))
    ((key, value),) = BAD_CONFIGS[what].items()
    assert f"{path} says {key} = " in error.found
    assert not isinstance(value, int) or f"= {value}, this model has" in error.found


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b"\xff\xfe", b'"text"', b"{}" * 40])
def test_a_file_that_is_missing_or_torn_is_refused(
    written: tuple[PeftModel, Path], name: str, content: bytes | None
) -> None:
    model, folder = written
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert str(folder / name) in refused(lambda: read_peft(model, folder)).found


def test_an_exported_folder_is_read_back(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(small_model)
    vector = run_of(config, tmp_path / "run", np.linspace(-1, 1, 4))
    base, _ = load_base(config.model)
    model = add_lora(base, config.adapter, config.seed)
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    assert read_peft(model, out).tobytes() == vector.tobytes()
    other = add_lora(load_base(config.model)[0], config.adapter, config.seed + 1)
    assert "lora_A" in refused(lambda: read_peft(other, out)).found
    monkeypatch.setattr("safetensors.numpy.save_file", lambda tensors, path, metadata: path.write_bytes(b""))
    refused(lambda: export_adapter(tmp_path / "run", tmp_path / "torn"))


def run_of(config: RunConfig, folder: Path, values: Any) -> Any:
    """Leave a checkpoint whose adapter repeats these values."""
    size = Engine(config, None, "cpu").layout.size
    vector = np.resize(np.asarray(values, dtype=np.float32), size)
    with RunStore.opened(folder, config) as store:
        store.save(Checkpoint(1, vector, {}))
    return vector


def test_an_adapter_that_is_not_finite_is_not_exported(small_model: Path, tmp_path: Path) -> None:
    run_of(small_config(small_model), tmp_path / "run", [0.5, np.nan])
    assert "not finite" in refused(lambda: export_adapter(tmp_path / "run", tmp_path / "out")).found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "tensors",
    [{}, {"adapter": np.zeros((2, 4), np.float32)}, {"adapter": np.zeros(8)}, {"adapter": np.zeros(8, np.int32)}],
    ids=["missing", "a matrix", "float64", "integers"],
)
def test_a_checkpoint_without_an_adapter_of_float32_is_refused_when_a_run_goes_on_and_when_it_is_exported(
    small_model: Path, tmp_path: Path, tensors: dict[str, Any]
) -> None:
    config = small_config(small_model)
    with RunStore.opened(tmp_path / "run", config) as store:
        content = save({"optimizer.step": np.zeros(1), **tensors}, metadata={"round": "1", "config": config.sha256})
        (tmp_path / "run" / "checkpoint.safetensors").write_bytes(content)
        refused(store.load, Code.RUN_CHECKPOINT)
    refused(lambda: export_adapter(tmp_path / "run", tmp_path / "out"), Code.RUN_CHECKPOINT)


@pytest.mark.parametrize("whole", [False, True], ids=["an adapter alone", "beside its base"])
def test_an_adapter_s_folder_is_no_base(written: tuple[PeftModel, Path], small_model: Path, whole: bool) -> None:
    """Transformers would load it over its base in silence, tensors missing or not."""
    _, folder = written
    if whole:
        shutil.copytree(small_model, folder, dirs_exist_ok=True)
    model = small_config(small_model).model.model_copy(update={"base": str(folder)})
    assert str(folder) in refused(lambda: load_base(model)).found


def test_a_base_that_brings_an_adapter_from_elsewhere_is_refused(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AutoModelForCausalLM.from_pretrained

    def with_adapter(*arguments: Any, **options: Any) -> Any:
        model, found = whole(*arguments, **options)
        model._hf_peft_config_loaded = True
        return model, found

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", with_adapter)
    refused(lambda: load_base(small_config(small_model).model))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_task_s_adapter_that_is_not_finite_is_refused_whoever_is_there_and_charges_nothing(
    small_model: Path, tmp_path: Path, bad: float, top_p: float
) -> None:
    config = private_config(small_model, grpo={"top_p": top_p}, federation={"sampling_rate": 1.0, "rounds": 2})
    folder = next(iter(prepare(config, synthetic.codebook(), tmp_path).values()))
    adapter = np.zeros(Engine(config, None, "cpu").layout.size, dtype=np.float32)
    adapter[-1] = bad
    for excluded in ("", "\n".join(synthetic_ids(folder))):
        (folder / "excluded.txt").write_text(excluded)
        reply = answer(folder, HANDLERS["train"], Task(config, 1, 0, adapter))
        assert reply == Refusal(folder.name, int(Code.MODEL_ADAPTER))
    assert Ledger.opened(folder).entries() == []


def synthetic_ids(folder: Path) -> list[str]:
    from client.training.workplace import Workplace

    return [patient.id for patient in Workplace(folder).patients]


@pytest.mark.parametrize(
    "adapter",
    [np.zeros(7), np.zeros((1, 7), np.float32), np.zeros(7, np.int64), np.zeros(7, np.float16)],
    ids=["float64", "a matrix", "integers", "float16"],
)
def test_a_task_whose_adapter_is_no_vector_of_float32_is_refused(small_model: Path, adapter: Any) -> None:
    config = small_config(small_model)
    frame = task_frame(Task(config, 1, 0, np.zeros(7, np.float32)))
    assert read_task_frame(frame).adapter is not None
    refused(lambda: read_task_frame(task_frame(Task(config, 1, 0, adapter))), Code.RUN_REPLY)


@pytest.mark.parametrize("key", ["rank", "alpha"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_run_states_no_adapter_without_effect(small_model: Path, key: str, value: int) -> None:
    with pytest.raises(ValueError, match=key):
        small_config(small_model, adapter={key: value})
