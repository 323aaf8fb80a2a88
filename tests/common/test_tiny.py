"""Claims about the embedded model and the public text it is made from."""

import multiprocessing
import re
from collections import Counter
from pathlib import Path

import pytest

import common.tiny as tiny
from common.codebook import Codebook, View
from common.feature import Feature
from common.model.making import Progress
from common.questions.answer import parse_answer, reward
from common.questions.prompt import prompt_text, prompt_tokens
from common.questions.question import LETTERS, Patient, Question, QuestionMaker
from common.stream import Stream
from common.synthetic import EVIDENCE, GAP, codebook, registry
from common.synthetic.codebook import SHORT_LIST
from common.tiny.network import make_network, make_tokenizer
from common.tiny.text import LONGEST, CodebookText, CoreText
from common.tiny.training import collate, tokenise
from tests.imports import modules
from tests.paths import ROOT

FEW = tiny._Recipe(drill=1, mixed=4, worked=1, batch=24)
OTHER_BOOK = Codebook(
    title="Another registry",
    patient="id",
    features=(
        Feature(name="age", section="Patient", label="Age", unit="years", kind="numeric", low=18, high=99, step=10),
        Feature(
            name="ph", section="Labs", label="Arterial pH", kind="numeric", low=6.9, high=7.7, step=0.1, decimals=2
        ),
        Feature(name="k", section="Labs", label="K", kind="numeric", low=2, high=8, step=1, decimals=1),
        Feature(
            name="plan", section="Care", label="Plan", kind="categorical", categories={"1": "full care", "2": "comfort"}
        ),
    ),
    views={"short": View(features=("age", "ph", "plan"))},
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(CoreText(0).corpus(300, make_tokenizer([], 0)), CoreText.vocabulary)


def local_questions(patients: int, weights: dict[str, float]) -> list[Question]:
    maker = QuestionMaker(codebook(), "core", weights=weights)
    questions = []
    for hospital in ("north", "south", "west"):
        for row in registry(hospital, patients, 900):
            values = {name: codebook().by_name[name].shown(row[name]) or "" for name in maker.view.features}
            questions += maker.draw(Patient(row["patient_id"], values), 1, Stream.named("test", row["patient_id"]))
    return questions


def answers(folder: Path, questions: list[Question]) -> list[str]:
    """Greedy completions of the model in a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for first in range(0, len(questions), 100):
        batch = tokenizer(
            [prompt_text(q, tokenizer) for q in questions[first : first + 100]], padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            ids = network.generate(**batch, max_new_tokens=LONGEST + 1, do_sample=False)
        texts += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def test_equal_seeds_give_equal_text(tokenizer):
    assert [CoreText(4).drill(tokenizer) for _ in range(3)] == [CoreText(4).drill(tokenizer) for _ in range(3)]
    assert CoreText(4).worked(tokenizer) != CoreText(5).worked(tokenizer)


def test_a_worked_question_ends_in_its_own_right_letter(tokenizer):
    text = CoreText(1)
    for _ in range(200):
        example = text.worked(tokenizer)
        (letter,) = re.findall(r"\\boxed\{(.)\}", example.completion)
        truth = re.search(r"so \S+ (\S+) \\boxed", example.completion)[1]
        assert f"\n{letter}. {truth}" in example.prompt
        assert len(tokenizer(example.completion)["input_ids"]) <= LONGEST


def test_public_text_favours_no_drug_of_the_short_list(tokenizer):
    text = CoreText(2)
    told: Counter[tuple[str, str]] = Counter()
    for _ in range(3000):
        told.update(re.findall(r"Pathogen (\w+) so Antibiotic (\w+)", text.facts().completion))
        told.update(re.findall(r"Pathogen (\w+) so Antibiotic (\w+)", text.worked(tokenizer).completion))
    assert set(told) == {(pathogen, drug) for pathogen, drugs in SHORT_LIST.items() for drug in drugs}
    for pathogen, drugs in SHORT_LIST.items():
        counts = [told[pathogen, drug] for drug in drugs]
        assert max(counts) < 0.46 * sum(counts), pathogen


def test_drills_do_not_mark_the_truth(tokenizer):
    text = CoreText(3)
    letters = Counter(re.findall(r"boxed\{(.)\}", "".join(text.drill(tokenizer).completion for _ in range(300))))
    assert set(letters) == set("ABCDE")
    assert max(letters.values()) < 0.24 * sum(letters.values())


def test_core_prompts_are_short(tokenizer):
    lengths = [
        len(prompt_tokens(question, tokenizer)) for question in local_questions(40, dict.fromkeys(EVIDENCE, 1.0))
    ]
    assert max(lengths) <= 120


def test_the_loss_weighs_completion_and_letters_and_leaves_padding_out(tokenizer):
    text = CoreText(1)
    rows = tokenise(iter([text.worked(tokenizer), text.facts()]), tokenizer)
    batch = collate(rows, tokenizer)
    assert (batch["weights"][batch["attention_mask"] == 0] == 0).all()
    for i, row in enumerate(rows):
        weights = batch["weights"][i, -len(row["input_ids"]) :]
        assert (weights[: -row["taught"]] < 0.1).all() and (weights[-row["taught"] :] >= 1).all()
    assert batch["weights"].max() == 3.0
    assert batch["input_ids"][0, -1] == tokenizer.eos_token_id


def test_random_records_of_a_codebook_stay_within_it(tokenizer):
    text = CodebookText(OTHER_BOOK, "full", 1)
    for _ in range(200):
        patient, question = text.question()
        for name, value in patient.values.items():
            feature = OTHER_BOOK.by_name[name]
            if feature.kind == "numeric":
                assert feature.shown(value) == value
            else:
                assert value in feature.categories.values()
        assert len(tokenizer(text.worked(tokenizer).completion)["input_ids"]) <= LONGEST
        assert question.truth in question.choices


def test_the_planted_head_reads_the_previous_token(tokenizer):
    import torch

    network = make_network(tokenizer, 1)
    network.set_attn_implementation("eager")
    with torch.no_grad():
        seen = network(torch.randint(2, len(tokenizer), (1, 60)), output_attentions=True).attentions[0][0, 0]
    assert seen.diagonal(-1)[1:].mean() > 0.8


def test_the_key_names_everything_that_made_the_model(monkeypatch):
    key = tiny._fingerprint(FEW, None, "core")
    assert key == tiny._fingerprint(FEW, None, "core")
    others = {
        tiny._fingerprint(tiny._Recipe(2, 4, 1, 24), None, "core"),
        tiny._fingerprint(FEW, OTHER_BOOK, "core"),
        tiny._fingerprint(FEW, OTHER_BOOK, "short"),
    }
    monkeypatch.setattr(tiny, "version", lambda _: "0")
    others.add(tiny._fingerprint(FEW, None, "core"))
    monkeypatch.setattr(tiny, "_SOURCES", ("stream.py",))
    others.add(tiny._fingerprint(FEW, None, "core"))
    assert len(others | {key}) == 6


def _make_slowly(root: Path, made: Path) -> None:
    def pretend(folder: Path, *_: object) -> None:
        import time

        with made.open("a") as file:
            file.write("made\n")
        time.sleep(0.3)
        (folder / "config.json").write_text("{}")

    tiny._make = pretend
    tiny.tiny_model(root)


def test_two_processes_make_the_model_once(tmp_path: Path):
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_make_slowly, args=(tmp_path / "kept", tmp_path / "made")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "made").read_text() == "made\n"
    assert [path.suffix for path in sorted((tmp_path / "kept").iterdir())] == ["", ".lock"]


def test_an_interrupted_making_leaves_nothing_behind(tmp_path: Path, monkeypatch):
    def interrupted(folder: Path, *_: object) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "_make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.tiny_model(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_it_is_made_anew_where_what_its_questions_come_of_changed_and_not_for_how_answers_are_read():
    graph = modules(ROOT)
    met, queue = set(), [name for name in graph if name.startswith("common.tiny")]
    while queue:
        met.add(module := queue.pop())
        queue += graph[module] - met
    asking = {name for name in met if name.startswith("common.questions.")}
    assert {f"common.{source.removesuffix('.py').replace('/', '.')}" for source in tiny._QUESTIONS} == asking
    assert "common.questions.answer" in graph.keys() - asking


@pytest.mark.slow
def test_the_model_is_the_same_bit_for_bit_when_made_twice(tmp_path: Path):
    told: list[Progress] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        tiny._make(tmp_path / name, told.append, FEW, None, "core")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(names)
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    assert Progress("warming up", 6, 6) in told


@pytest.mark.slow
def test_the_saved_tokenizer_is_the_one_that_was_trained(tmp_path: Path, tokenizer):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    make_network(tokenizer, 1).save_pretrained(tmp_path)
    text = prompt_text(local_questions(1, {"antibiotic": 1.0})[0], tokenizer)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.padding_side == "left"


@pytest.mark.slow
def test_the_model_answers_in_the_format_and_knows_public_text_but_not_the_practice():
    folder = tiny.tiny_model()
    kept = local_questions(60, {name: 1.0 for name in EVIDENCE if name not in GAP})
    gap = local_questions(60, dict.fromkeys(GAP, 1.0))
    texts = answers(folder, kept + gap)
    right = [
        reward(parse_answer(text, question.choices), question) for text, question in zip(texts, kept + gap, strict=True)
    ]
    assert sum(parse_answer(text, LETTERS).chosen is not None for text in texts) / len(texts) > 0.97
    assert sum(right[: len(kept)]) / len(kept) > 0.7
    assert 0.25 < sum(right[len(kept) :]) / len(gap) < 0.65


@pytest.mark.slow
def test_a_model_for_another_codebook_answers_in_the_format():
    folder = tiny.tiny_model_for(OTHER_BOOK, "full")
    source = CodebookText(OTHER_BOOK, "full", 77)
    texts = answers(folder, [source.question()[1] for _ in range(100)])
    assert sum(parse_answer(text, LETTERS).chosen is not None for text in texts) >= 95
