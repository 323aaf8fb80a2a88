"""A warm-up ends by its probe, goes on with the same bits after an interruption, and says by number why it does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from filelock import FileLock

from bench.waiting import PATIENCE
from common.config import ModelConfig
from common.errors import Code, FedReasonError
from common.model.base import load_base, manifest
from common.model.making import Progress
from server.models import warmup
from server.models.lessons import Lesson
from server.models.warmup import warm_up
from tests.paths import ROOT


@pytest.fixture
def course(small_model: Path, tmp_path: Path) -> Path:
    return stated(tmp_path, small_model)


def stated(folder: Path, base: Path, **changes: object) -> Path:
    """Write a warm-up of few small steps that the probe lets end after any five."""
    table = {
        "seed": 5,
        "steps": 10,
        "form": 2,
        "batch": 3,
        "lengthen": 4,
        "learning_rate": 3e-3,
        "probe_every": 5,
        "probe_questions": 10,
        "until": 1.0,
        "max_completion_tokens": 30,
        "model": {"base": str(base.absolute())},
        "sources": [{"view": "core"}],
    }
    path = folder / "course.toml"
    path.write_text(tomli_w.dumps(table | changes))
    return path


def refused(code: Code, path: Path, out: Path) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        warm_up(path, out, device="cpu")
    assert caught.value.code is code
    return caught.value


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the probe content at the tenth step, and not before."""
    from server.models import teaching

    real = teaching.look

    def looked(*arguments: object) -> teaching.Look:
        found = real(*arguments)  # type: ignore[arg-type]
        kinds = {kind: place * found.step % 7 / 7 for place, kind in enumerate(found.kinds, start=1)}
        return teaching.Look(found.step, found.boxed, float(found.step >= 10), kinds, found.sources)

    monkeypatch.setattr(teaching, "look", looked)


def test_it_ends_by_the_probe_and_is_an_ordinary_folder_with_its_card(
    course: Path, small_model: Path, tmp_path: Path, easy: None
) -> None:
    lines: list[str] = []
    made = warm_up(course, tmp_path / "deep" / "warm", device="cpu", tell=lines.append)
    told = [line.partition(":")[0] for line in lines[:4]]
    assert told == ["step 0", "step 5", "step 10", "step 10, other questions"]
    assert made.manifest_sha256 == manifest(made.folder) and len(made.lines()) == 5
    model, _ = load_base(ModelConfig(base=str(made.folder), manifest_sha256=made.manifest_sha256))
    before, _ = load_base(ModelConfig(base=str(small_model)))
    assert any((a != b).any() for a, b in zip(model.parameters(), before.parameters(), strict=True))
    card = (made.folder / "README.md").read_text()
    assert manifest(small_model) in card and "10 steps" in card and "learning_rate = 0.003" in card
    assert str(tmp_path) not in card and not re.search(r"\b20\d\d-", card)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["warm"]


def test_a_probe_that_was_content_by_luck_ends_nothing(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is content; of other questions, which no other look asks, only those after the tenth step are."""
    from server.models import teaching

    real, asked = teaching.look, list[str]()

    def looked(model: object, tokenizer: object, exam: list[list[Lesson]], course: object, step: int) -> teaching.Look:
        found = real(model, tokenizer, exam, course, step)  # type: ignore[arg-type]
        asked.append(repr(exam))
        right = 0.25 if step < 10 and asked.index(asked[-1]) > 0 else 1.0
        return teaching.Look(step, found.boxed, right, found.kinds, found.sources)

    monkeypatch.setattr(teaching, "look", looked)
    short = refused(Code.WARMUP_SHORT, stated(tmp_path, small_model, steps=5), tmp_path / "warm")
    assert "After 5 steps the probe is at 0.250, and 1 was asked for" in short.found
    lines: list[str] = []
    warm_up(stated(tmp_path, small_model), tmp_path / "warm", device="cpu", tell=lines.append)
    others = [line.partition(":")[0] for line in lines if "other" in line]
    assert others == ["step 5, other questions", "step 10, other questions"]
    assert len(set(asked)) == 5  # the probe's, those of steps 0, 5 and 10, and the card's


def test_the_same_warm_up_has_the_same_bits_also_after_two_interruptions(
    course: Path, tmp_path: Path, easy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = warm_up(course, tmp_path / "whole", device="cpu")
    assert warm_up(course, tmp_path / "again", device="cpu").manifest_sha256 == whole.manifest_sha256
    monkeypatch.setattr(warmup, "_SAVE_SECONDS", 0.0)
    steps = []

    def interrupt(progress: Progress) -> None:
        if not progress.step:
            return
        steps.append(progress.step)
        if steps in ([1, 2, 3], [1, 2, 3, 3, 4, 5, 6]):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            warm_up(course, tmp_path / "torn", device="cpu", report=interrupt)
        assert not (tmp_path / "torn").exists()
    torn = warm_up(course, tmp_path / "torn", device="cpu", report=interrupt)
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10]
    assert torn.manifest_sha256 == whole.manifest_sha256


def test_a_warm_up_of_another_seed_has_other_bits(course: Path, small_model: Path, tmp_path: Path, easy: None) -> None:
    one = warm_up(course, tmp_path / "one", device="cpu")
    other = warm_up(stated(tmp_path, small_model, seed=6), tmp_path / "other", device="cpu")
    assert one.manifest_sha256 != other.manifest_sha256


def test_a_probe_that_stays_low_is_told_and_more_steps_go_on(small_model: Path, tmp_path: Path, easy: None) -> None:
    """What comes of it is what the longer warm-up would have been from the start."""
    short = refused(Code.WARMUP_SHORT, stated(tmp_path, small_model, steps=7), tmp_path / "warm")
    assert "After 7 steps the probe is at 0.000, and 1 was asked for" in short.found
    assert not (tmp_path / "warm").exists()
    longer = stated(tmp_path, small_model, steps=10)
    on = warm_up(longer, tmp_path / "warm", device="cpu")
    at_once = warm_up(longer, tmp_path / "at-once", device="cpu")
    weights = [load_base(ModelConfig(base=str(made.folder)))[0].state_dict() for made in (on, at_once)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


@pytest.mark.parametrize("changes", [{"seed": 9}, {"learning_rate": 1e-4}, {"sources": [{"view": "full"}]}])
def test_what_is_kept_of_another_warm_up_is_not_gone_on_with(
    small_model: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    refused(Code.WARMUP_SHORT, stated(tmp_path, small_model, steps=1), tmp_path / "warm")
    error = refused(Code.WARMUP_OTHER, stated(tmp_path, small_model, **changes), tmp_path / "warm")
    assert "warm.part" in error.found


def test_a_damaged_state_is_told(small_model: Path, tmp_path: Path) -> None:
    path = stated(tmp_path, small_model, steps=1)
    refused(Code.WARMUP_SHORT, path, tmp_path / "warm")
    state = tmp_path / "warm.part" / "state.pt"
    state.write_bytes(state.read_bytes()[:999])
    assert "state.pt" in refused(Code.WARMUP_OTHER, path, tmp_path / "warm").found


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_device_that_is_not_here_is_refused(device: str, course: Path, tmp_path: Path) -> None:
    import torch

    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(FedReasonError) as caught:
        warm_up(course, tmp_path / "warm", device=device)
    assert caught.value.code is Code.CONFIG_VALUE and device in caught.value.found


def test_two_do_not_work_at_one_folder(course: Path, tmp_path: Path) -> None:
    (tmp_path / "warm.part").mkdir()
    with FileLock(tmp_path / "warm.part" / "lock"):
        refused(Code.RUN_LOCKED, course, tmp_path / "warm")


def test_a_folder_that_holds_something_is_left_alone(course: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    refused(Code.KIT_EXISTS, course, tmp_path / "mine")


def test_a_codebook_drafted_from_records_is_refused(small_model: Path, tmp_path: Path) -> None:
    text = (ROOT / "configs" / "registries" / "support2.toml").read_text()
    (tmp_path / "drafted.toml").write_text(f"private = true\n{text}")
    path = stated(tmp_path, small_model, sources=[{"codebook": "drafted.toml", "view": "bedside"}])
    refused(Code.CODEBOOK_PRIVATE, path, tmp_path / "warm")


def test_lessons_that_are_all_too_long_are_refused(small_model: Path, tmp_path: Path) -> None:
    refused(Code.WARMUP_LESSONS, stated(tmp_path, small_model, max_prompt_tokens=5), tmp_path / "warm")


def test_a_loss_that_is_no_number_is_told(small_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_base(ModelConfig(base=str(small_model)))
    model.lm_head.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    refused(Code.WARMUP_DIVERGED, stated(tmp_path, tmp_path / "broken"), tmp_path / "warm")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"model": {"base": "tiny"}}, "model"),
        ({"model": {"base": "./x", "dtype": "bfloat16", "quantization": "nf4"}}, "model"),
        ({"sources": []}, "sources"),
        ({"until": 1.5}, "until"),
    ],
)
def test_what_cannot_be_taught_is_refused_where_it_is_stated(
    small_model: Path, tmp_path: Path, changes: dict[str, object], place: str
) -> None:
    assert place in refused(Code.CONFIG_VALUE, stated(tmp_path, small_model, **changes), tmp_path / "warm").found
    unknown = stated(tmp_path, small_model, rate=1.0)
    assert "rate" in refused(Code.CONFIG_UNKNOWN_KEY, unknown, tmp_path / "warm").found


def test_the_command_is_interrupted_by_ctrl_c_without_a_traceback_and_ends_with_a_section(
    small_model: Path, tmp_path: Path
) -> None:
    path = stated(tmp_path, small_model, steps=100_000, probe_every=1)
    command = [sys.executable, "-m", "server", "warmup", str(path), "--out", str(tmp_path / "warm"), "--device", "cpu"]
    environment = os.environ | {"NO_COLOR": "1"}
    begun = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert begun.stderr is not None
    while "loss" not in begun.stderr.readline():
        time.sleep(0)
    begun.send_signal(signal.SIGINT)
    told = begun.communicate(timeout=PATIENCE)[1]
    assert begun.returncode == 130 and "goes on" in told and "Traceback" not in told
    short = stated(tmp_path, small_model, steps=100_000, until=1e-9, probe_every=1)
    done = subprocess.run(
        [*command[:4], str(short), *command[5:]], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "manifest_sha256" in done.stdout and 'base = "./warm"' in done.stdout
