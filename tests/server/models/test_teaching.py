"""A step of the warm-up is that of TRL's SFTTrainer, its loss is on the completion alone, its exam is never asked."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from common import synthetic
from common.config import ModelConfig, PromptConfig
from common.model.base import load_base
from common.questions.answer import parse_answer
from server.models.course import Course
from server.models.practice import Practice, Row
from server.models.teaching import Teaching, completion_loss, packed, packs

RATE = 1e-3


def taught(small_model: Path, **changes: Any) -> Teaching:
    table = {"model": {"base": str(small_model)}, "sources": [{"view": "core"}], "batch": 6, "learning_rate": RATE}
    course = Course.model_validate(table | {"max_completion_tokens": 40} | changes)
    model, tokenizer = load_base(course.model)
    return Teaching(Practice(course, [synthetic.codebook()], tokenizer), model)


def test_steps_are_those_of_trl(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps from the same weights on the same rows, in float32: weights differ by roundings alone."""
    monkeypatch.setattr("server.models.teaching.precision", lambda device: nullcontext())
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    ours, steps = taught(small_model), 3
    rows = [row for step in range(steps) for row in ours.practice.rows(step, {})]
    losses = []
    for _ in range(steps):
        ours.teach()
        losses.append(ours.loss)

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(dataset)

    theirs, tokenizer = load_base(ModelConfig(base=str(small_model)))
    theirs.requires_grad_(True)
    dataset = Dataset.from_list(
        [
            {
                "input_ids": row.prompt + row.completion,
                "labels": [-100] * len(row.prompt) + row.completion,
            }
            for row in rows
        ]
    )
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    settings = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=steps,
        per_device_train_batch_size=6,
        max_grad_norm=1.0,
        max_length=None,
        completion_only_loss=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    trained = InOrder(
        model=theirs, args=settings, train_dataset=dataset, processing_class=tokenizer, optimizers=(optimizer, ramp)
    ).train()
    assert trained.training_loss == pytest.approx(sum(losses) / steps, rel=1e-4)
    start = load_base(ModelConfig(base=str(small_model)))[0].state_dict()
    moved, apart = 0.0, 0.0
    for name, weight in ours.model.state_dict().items():
        moved = max(moved, float((weight - start[name]).abs().max()))
        apart = max(apart, float((weight - theirs.state_dict()[name]).abs().max()))
    assert moved > 1e-4
    assert apart < 0.002 * moved


def test_the_loss_is_on_completions_alone_and_no_row_moves_another_s(small_model: Path) -> None:
    """Rows that share a beginning give what each gives alone, and its gradient."""
    teaching = taught(small_model, form=0, batch=24)
    model, cpu = teaching.model, torch.device("cpu")
    rows = teaching.practice.rows(0, {})
    together = packs(rows, 1024)
    in_order = sorted(rows, key=lambda row: row.prompt)
    assert [row for some in together for row in some] == in_order and 1 < len(together) < len(rows)
    tokens = [len(packed(some, cpu).tokens) for some in together]
    assert max(tokens) <= 1024 and sum(tokens) < 0.8 * sum(map(len, rows)), "a record is there once"
    assert packs(rows, 0) == [[row] for row in in_order], "what does not fit stands alone"

    def gradients(parts: list[list[Row]]) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for some in parts:
            loss = completion_loss(model, packed(some, cpu))
            loss.backward()
            total += loss.item()
        return total, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    (loss, found), (alone, theirs) = gradients(together), gradients([[row] for row in rows])
    assert loss == pytest.approx(alone, rel=1e-5)
    for one, other in zip(found, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5 * float(other.abs().max()))
    row = rows[0]
    logits = model(input_ids=torch.tensor([row.prompt + row.completion])).logits[0].log_softmax(-1)
    places = range(len(row.prompt) - 1, len(row.prompt) + len(row.completion) - 1)
    by_hand = -sum(logits[at, token].item() for at, token in zip(places, row.completion, strict=True))
    assert completion_loss(model, packed([row], cpu)).item() == pytest.approx(by_hand, rel=1e-5)


def test_a_model_whose_rows_see_one_another_or_has_other_layers_is_taught_row_by_row(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passes() -> int:
        teaching, seen = taught(small_model, form=0, batch=24), list[int]()
        teaching.teach()  # it has tried the model now
        teaching.model.register_forward_hook(lambda *_: seen.append(1))
        teaching.teach()
        return len(seen)

    def without_mask(*_: Any) -> None:
        return None

    def unknown(*_: Any) -> None:
        raise KeyError("conv")

    assert passes() < 12
    for wrong in (without_mask, unknown):
        monkeypatch.setattr("server.models.teaching.by_layer", wrong)
        assert passes() == 24


def test_the_average_is_that_of_the_latest_weights(small_model: Path) -> None:
    """Of 1, 2, ..., t it is (9 t + 1) / 10."""
    teaching = taught(small_model)
    weight, steps = next(teaching.model.parameters()), 60
    for step in range(1, steps + 1):
        torch.nn.init.constant_(weight, float(step))
        teaching._averaged.update_parameters(teaching.model)
    average = next(teaching.average.parameters())
    assert torch.allclose(average, torch.full_like(average, (9 * steps + 1) / 10), rtol=1e-5)


def test_what_is_looked_at_is_the_average_and_not_the_latest_weights(small_model: Path) -> None:
    teaching = taught(small_model)
    found, other = teaching.look(), teaching.ask("other")
    assert found.boxed > 0 and other != found and teaching.looks == [found]
    torch.nn.init.zeros_(next(teaching.model.parameters()))
    assert teaching.look() == found
    torch.nn.init.zeros_(next(teaching.average.parameters()))
    assert teaching.look().boxed == 0


def test_no_step_asks_what_an_exam_asks(small_model: Path) -> None:
    practice = taught(small_model, form=0, lengthen=1).practice
    exams = {name: {lesson for part in practice.exam(name) for lesson in part} for name in ("probe", "exam")}
    asked = {tuple(row.prompt) for step in range(30) for row in practice.rows(step, {})}
    written = {name: {tuple(practice.row(lesson).prompt) for lesson in found} for name, found in exams.items()}
    assert not written["probe"] & written["exam"]
    assert not (written["probe"] | written["exam"]) & asked
    assert all(len(lesson.question.choices) == 5 for found in exams.values() for lesson in found)


@pytest.mark.parametrize("form", ["letter", "text"])
@pytest.mark.parametrize("completion", ["worked", "box"])
def test_what_is_taught_is_read_as_the_right_answer(small_model: Path, form: Any, completion: str) -> None:
    practice = taught(small_model, prompt={"answer": form}, completion=completion).practice
    for part in practice.exam("probe"):
        for lesson in part:
            row = practice.row(lesson)
            text = practice.tokenizer.decode(row.completion, skip_special_tokens=True)
            assert row.completion[-1] == practice.tokenizer.eos_token_id
            assert parse_answer(text, lesson.question.choices, "first", form).chosen == lesson.question.answer
            assert text.partition("\\boxed")[0].strip() == ("" if completion == "box" else lesson.said)


def test_a_completion_that_would_be_too_long_is_the_box_alone(small_model: Path) -> None:
    practice = taught(small_model, max_completion_tokens=4).practice
    (lesson, *_), *_ = practice.exam("probe")
    assert "\\boxed" in practice.tokenizer.decode(practice.row(lesson).completion).split(" ")[1]


def test_the_first_steps_teach_the_form_and_records_grow(small_model: Path) -> None:
    practice = taught(small_model, form=3, lengthen=20).practice

    def prompts(step: int) -> list[str]:
        return [practice.tokenizer.decode(row.prompt) for row in practice.rows(step, {})]

    asked = ["masked", *(task.question for task in synthetic.codebook().tasks)]
    assert all(any(words in text for words in asked) for step in range(3) for text in prompts(step))
    late = [text for step in range(25, 35) for text in prompts(step)]
    assert 0 < sum("masked" in text for text in late) < 0.5 * len(late)
    length = [sum(len(row) for row in practice.rows(step, {})) for step in range(45)]
    assert sum(length[30:45]) > sum(length[3:18])


def test_the_words_of_the_course_are_those_that_are_read(small_model: Path) -> None:
    teaching = taught(small_model, prompt=PromptConfig(system="Say a letter.", opening="Well,").model_dump())
    teaching.practice.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    for row in teaching.practice.rows(0, {}):
        text = teaching.practice.tokenizer.decode(row.prompt)
        assert text.startswith("<system>Say a letter.<user>") and text.endswith("<assistant>Well,")
    assert isinstance(row, Row)
