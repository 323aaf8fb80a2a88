"""An exported adapter at work: plain peft, the merged model and `generate` answer as the run's own model does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from common.config import RunConfig
from common.decoding.evaluate import Answered, answer
from common.errors import Code
from common.model.adapter import write_adapter
from common.model.base import add_lora, load_base
from common.questions.prompt import prompt_tokens, question_text
from common.questions.question import Question
from server.reports.adapter import generate_answer
from server.reports.export import export_adapter, last_adapter
from tests.federations import command, refused
from tests.paths import ROOT
from tests.server.reports.exported import exported_run
from tests.tuned import asked

TOKENS = 8


@pytest.fixture(scope="module")
def run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    folder = tmp_path_factory.mktemp("exported")
    return folder, exported_run(folder / "run", small_model)


@pytest.fixture(scope="module")
def out(run: tuple[Path, RunConfig]) -> Path:
    return export_adapter(run[0] / "run", run[0] / "out", merge=True)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [question for questions in asked(90) for question in questions][:200]


@pytest.fixture(scope="module")
def answers(run: tuple[Path, RunConfig], questions: list[Question]) -> list[Answered]:
    """Answers of the run's own model."""
    folder, config = run
    base, tokenizer = load_base(config.model)
    model = add_lora(base, config.adapter, config.seed)
    write_adapter(model, last_adapter(folder / "run")[1])
    return answer(model, tokenizer, questions, config.grpo)


@pytest.fixture(scope="module")
def told(answers: list[Answered]) -> list[str]:
    """Completions of the first of them."""
    return [each.completion for each in answers[:50]]


def plainly(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[Question]) -> list[str]:
    """Completions as somebody gets them who has never heard of us."""
    found = []
    for question in questions:
        ids = torch.tensor([prompt_tokens(question, tokenizer)])
        mask = torch.ones_like(ids)
        with torch.no_grad():
            made = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS)  # type: ignore[operator]
        found.append(str(tokenizer.decode(made[0, ids.size(1) :], skip_special_tokens=True)))
    return found


def test_plain_peft_loads_the_adapter_and_completes_50_questions_alike(
    out: Path, small_model: Path, questions: list[Question], told: list[str]
) -> None:
    assert len(told) == 50 and len(set(told)) > 5
    model = AutoPeftModelForCausalLM.from_pretrained(str(out)).eval()
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    assert plainly(model, tokenizer, questions[:50]) == told
    with model.disable_adapter():
        assert plainly(model, tokenizer, questions[:20]) != told[:20], "an adapter that changes nothing shows nothing"


def test_the_merged_model_completes_alike_and_gives_the_same_letters_to_200_questions(
    run: tuple[Path, RunConfig], out: Path, questions: list[Question], answers: list[Answered], told: list[str]
) -> None:
    merged, grpo = out / "merged", run[1].grpo
    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged).eval(), AutoTokenizer.from_pretrained(merged)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert plainly(model, tokenizer, questions[:50]) == told

    def letters(given: list[Answered]) -> list[tuple[int | None, int]]:
        return [(each.chosen, each.forced) for each in given]

    assert len(questions) == len(answers) == 200 and len(set(letters(answers))) > 4
    assert letters(answer(model, tokenizer, questions, grpo)) == letters(answers)
    before, tokenizer = load_base(run[1].model)
    assert letters(answer(before, tokenizer, questions, grpo)) != letters(answers), "else it would show nothing"
    with safe_open(merged / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"


def test_an_adapter_is_merged_in_float32_and_rounded_to_the_bases_dtype_once(small_model: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(small_model).to(torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(small_model).save_pretrained(half)
    exported_run(tmp_path / "run", half, dtype="bfloat16")
    out = export_adapter(tmp_path / "run", tmp_path / "out", merge=True)
    model = AutoPeftModelForCausalLM.from_pretrained(str(out), dtype=torch.float32)
    expected = {name: value.to(torch.bfloat16) for name, value in model.merge_and_unload().state_dict().items()}
    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    assert merged.dtype == torch.bfloat16
    assert all(value.equal(expected[name]) for name, value in merged.state_dict().items())
    assert json.loads((out / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_generate_answers_a_question_from_the_command_line_as_the_run_would(
    out: Path, questions: list[Question], told: list[str]
) -> None:
    assert [generate_answer(out, question_text(question)) for question in questions[:8]] == told[:8]
    words = [sys.executable, "-m", "server", "generate", "--adapter", str(out)]
    by_argument = command("server", "generate", "--adapter", out, question_text(questions[0]))
    by_input = subprocess.run(words, cwd=ROOT, input=question_text(questions[1]) + "\n", capture_output=True, text=True)
    assert (by_argument.returncode, by_argument.stdout) == (0, told[0] + "\n"), by_argument.stderr
    assert (by_input.returncode, by_input.stdout) == (0, told[1] + "\n"), by_input.stderr


@pytest.mark.parametrize("question", ["", " \n\n", "Lactate 4.1\n" * 2000])
def test_what_is_no_question_is_refused_and_not_repeated(out: Path, question: str) -> None:
    assert "Lactate" not in str(refused(Code.QUESTION_UNFIT, lambda: generate_answer(out, question)))


def test_input_that_is_no_text_is_refused_and_not_repeated(out: Path) -> None:
    words = [sys.executable, "-m", "server", "generate", "--adapter", str(out)]
    done = subprocess.run(words, cwd=ROOT, input=b"Lactate \xff\xfe", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr[:4]) == (1, b"", b"E890")
    assert b"Lactate" not in done.stderr and b"xff" not in done.stderr


@pytest.mark.parametrize("name", ["fedreason.json", "adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b'{"base_model_name_or_path": 3}'])
def test_a_folder_that_is_no_whole_export_is_refused(
    run: tuple[Path, RunConfig], tmp_path: Path, name: str, content: bytes | None
) -> None:
    out = export_adapter(run[0] / "run", tmp_path / "out")
    (out / name).unlink()
    if content is not None:
        (out / name).write_bytes(content)
    assert str(out) in refused(Code.MODEL_ADAPTER, lambda: generate_answer(out, "Which?")).found


def test_an_adapter_that_is_not_the_described_one_is_refused(run: tuple[Path, RunConfig], tmp_path: Path) -> None:
    out = export_adapter(run[0] / "run", tmp_path / "out")
    described = json.loads((out / "fedreason.json").read_text())
    (out / "fedreason.json").write_text(json.dumps(described | {"adapter_sha256": "0" * 64}))
    refused(Code.MODEL_ADAPTER, lambda: generate_answer(out, "Which?"))


def test_a_base_that_is_not_here_is_refused_by_generate_and_by_merging_and_leaves_nothing(
    run: tuple[Path, RunConfig], out: Path, small_model: Path, tmp_path: Path
) -> None:
    refused(Code.MODEL_MISSING, lambda: generate_answer(out, "Which?", str(tmp_path / "none")))
    only_shape = tmp_path / "shape"
    only_shape.mkdir()
    (only_shape / "config.json").write_bytes((small_model / "config.json").read_bytes())
    broken = tmp_path / "broken"
    refused(Code.MODEL_MISSING, lambda: export_adapter(run[0] / "run", broken, str(only_shape), merge=True))
    assert not broken.exists()
    assert export_adapter(run[0] / "run", broken, str(only_shape)) == broken
