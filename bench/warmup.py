"""What binding takes: `python -m bench.warmup`, best on a GPU.

Each setting is a warm-up as `--course` states it but for its learning rate, whether a completion is worked or the box
alone, and whether the letter or the choice's text is boxed; all run at once, each in a process of its own, for a share
of the seconds, and the probe is followed. With `--questions FILE` (`--write FILE` makes it of SUPPORT2, once) the same
weights are then taught the true answers of a registry's training questions for the rest of the time: what they then
answer to held-out ones is the ceiling of what reward could teach; `stock` does so without a warm-up, but for the form.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Annotated, Any

import typer

from bench.result import print_result
from common.processes import die_with_parent
from common.questions.question import Question
from common.stream import Stream

_AHEAD = 24
"""Steps whose questions are written ahead."""
_REGISTRY = Path("configs/smollm2.toml")
_HELD_OUT = 0.3
"""Of the registry's patients, for the ceiling: more than a run holds out, so that it can be told."""
_practice: Any = None


def main(
    course: Annotated[Path, typer.Option(help="A warm-up's configuration.")] = Path("configs/warmup/smollm2.toml"),
    base: Annotated[Path | None, typer.Option(help="Folder of another model than the configuration's.")] = None,
    settings: Annotated[
        str, typer.Option(help="rate:completion:answer, `stock-` before it without a warm-up; commas between.")
    ] = "3e-4:worked:text,3e-4:worked:letter,3e-4:box:text,1e-3:worked:text",
    seconds: Annotated[float, typer.Option(help="For all of it, reading the model included.")] = 200.0,
    share: Annotated[float, typer.Option(help="Of the time for the warm-up, where questions follow.")] = 0.6,
    questions: Annotated[Path | None, typer.Option(help="Questions of a registry, for the ceiling.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write these questions of SUPPORT2, and end.")] = None,
    steps: Annotated[int, typer.Option(help="At most, of each.")] = 100_000,
    batch: Annotated[int | None, typer.Option(help="Questions a step, if not the configuration's.")] = None,
    every: Annotated[int, typer.Option(help="Steps between looks.")] = 50,
    asked: Annotated[int, typer.Option(help="Questions of a look.")] = 250,
    writers: Annotated[int, typer.Option(help="Processes that write questions, for each setting.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
) -> None:
    """Follow the probe under several settings."""
    if write is not None:
        write.write_text(json.dumps(_registry_questions(_REGISTRY)))
        return
    started = time.time()
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    shared = {
        name: value for name, value in locals().items() if name not in ("context", "results", "write", "settings")
    }
    names = settings.split(",")
    arms = [context.Process(target=_arm, args=(name, shared, results)) for name in names]
    for arm in arms:
        arm.start()
    found: dict[str, Any] = {}
    while len(found) < len(names) and any(arm.is_alive() for arm in arms):
        try:
            name, figures = results.get(timeout=5)
        except Empty:  # another look at who is alive
            continue
        found[name] = figures
    for arm in arms:
        arm.join(10)
    print_result(_rounded({"device": device, "seconds": time.time() - started, "arms": found}))


def _rounded(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {key: _rounded(value) for key, value in figures.items()}
    if isinstance(figures, list):
        return [_rounded(value) for value in figures]
    return round(figures, 4) if isinstance(figures, float) else figures


def _arm(name: str, shared: dict[str, Any], results: Any) -> None:
    die_with_parent()
    figures: dict[str, Any] = {}
    try:
        _follow(name, figures, **shared)
    except Exception as error:
        figures["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        print(f"{name}: {figures['failed']}", file=sys.stderr, flush=True)
    results.put((name, figures))


def _follow(
    name: str,
    figures: dict[str, Any],
    *,
    course: Path,
    base: Path | None,
    seconds: float,
    share: float,
    questions: Path | None,
    steps: int,
    batch: int | None,
    every: int,
    asked: int,
    writers: int,
    device: str,
    started: float,
) -> None:
    import torch

    from common.model.base import load_base
    from server.models.course import load_course
    from server.models.practice import Practice
    from server.models.teaching import Teaching

    stock, (rate, completion, answer) = name.startswith("stock-"), name.removeprefix("stock-").split(":")
    if device == "cpu":
        torch.set_num_threads(1)
    stated, books = load_course(course)
    changes = {"learning_rate": float(rate), "completion": completion, "prompt": _prompt(stated.prompt, answer)}
    changes |= {"steps": steps, "probe_every": every, "probe_questions": asked, "batch": batch or stated.batch}
    model_config = stated.model.model_copy(update={"dtype": "float32"} | _base(base))
    stated = stated.model_copy(update=changes)
    model, tokenizer = load_base(model_config, model_config.place(course.parent), device)
    practice = Practice(stated, books, tokenizer)
    teaching = Teaching(practice, model)
    ends = started + seconds * (share if questions else 1.0)
    figures |= {"rate": stated.learning_rate, "completion": completion, "answer": answer, "looks": []}
    begun = time.time()
    with _written(stated, books, tokenizer, writers) as rows:
        while True:
            if teaching.step % every == 0 or time.time() >= ends or teaching.step >= steps:
                found = teaching.look()
                figures["looks"].append(
                    {"step": found.step, "seconds": round(time.time() - started, 1), "loss": teaching.loss}
                    | {"boxed": found.boxed, "right": found.right, "kinds": found.kinds}
                )
                print(
                    f"[{time.time() - started:5.0f} s] {name}: step {found.step}, loss {teaching.loss:.3f}, {found}",
                    file=sys.stderr,
                    flush=True,
                )
                if time.time() >= ends or teaching.step >= steps or (stock and teaching.step):
                    break
            teaching.learn(rows(teaching.step, teaching.known))
            if stock and teaching.step >= stated.form:
                ends = 0.0
    figures["seconds_a_step"] = (time.time() - begun) / max(1, teaching.step)
    if questions is not None:
        figures["ceiling"] = _ceiling(
            name, teaching, json.loads(questions.read_text()), started + seconds, started, every
        )
    if device == "cuda":
        figures["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9


def _prompt(stated: Any, answer: str) -> Any:
    """Return the words of a course whose answer is as asked; else the like for the other."""
    said = {"letter": "Give the letter of your choice alone inside", "text": "Copy the text of your choice into"}
    system = f"You answer multiple-choice questions about a patient's record. {said[answer]} \\boxed{{}}."
    return stated if stated.answer == answer else stated.model_copy(update={"answer": answer, "system": system})


def _base(folder: Path | None) -> dict[str, Any]:
    return {} if folder is None else {"base": str(folder.absolute()), "manifest_sha256": None}


@contextmanager
def _written(course: Any, books: Any, tokenizer: Any, writers: int) -> Iterator[Any]:
    """Give the rows of a step by what is known, written ahead by other processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        writers, mp_context=context, initializer=_begin, initargs=(course, books, tokenizer)
    ) as pool:
        ahead: dict[int, Future[Any]] = {}

        latest: Any = None

        def rows(step: int, known: Any) -> Any:
            nonlocal latest
            if known != latest:
                ahead.clear()
                latest = known
            for number in range(step, step + _AHEAD):
                if number not in ahead:
                    ahead[number] = pool.submit(_rows, number, known)
            return ahead.pop(step).result()

        yield rows
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(course: Any, books: Any, tokenizer: Any) -> None:
    from server.models.practice import Practice

    die_with_parent()
    global _practice
    _practice = Practice(course, books, tokenizer)


def _rows(step: int, known: Any) -> Any:
    return _practice.rows(step, known)


def _ceiling(
    name: str, teaching: Any, asked: dict[str, Any], ends: float, started: float, every: int
) -> list[dict[str, Any]]:
    """Teach the true answers of training questions; follow what is answered to held-out ones."""
    from common.decoding.evaluate import answer
    from server.models.lessons import Lesson
    from server.models.teaching import Teaching, precision

    teaching = Teaching(teaching.practice, teaching.average)

    held = [_question(table) for table in asked["held"]]
    train = [_question(table) for table in asked["train"]]
    rows = [teaching.practice.row(Lesson("form", question, question.truth)) for question in train]
    batch, found, seen, step = teaching.course.batch, [], 0, 0
    order: list[int] = []
    while True:
        if step % every == 0 or time.time() >= ends:
            with precision(teaching.device):
                given = answer(teaching.average, teaching.practice.tokenizer, held, teaching.course.grpo, forced=False)
            right = [each.chosen == question.answer for each, question in zip(given, held, strict=True)]
            items: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            for ok, question in zip(right, held, strict=True):
                items[question.item][0] += ok
                items[question.item][1] += 1
            told: dict[str, Any] = {
                "step": step,
                "questions": seen,
                "loss": teaching.loss,
                "right": sum(right) / len(right),
                "boxed": sum(each.chosen is not None for each in given) / len(given),
            }
            found.append(told | {"right_of_item": dict(items)})
            print(
                f"[{time.time() - started:5.0f} s] {name} on the registry: {_rounded(told)}, {asked['without']}",
                file=sys.stderr,
                flush=True,
            )
            if time.time() >= ends:
                return found
        if len(order) < batch:
            order = Stream.named("ceiling", seen).shuffled(range(len(rows)))
        taken, order = order[:batch], order[batch:]
        teaching.learn([rows[place] for place in taken])
        step, seen = step + 1, seen + batch


def _question(table: dict[str, Any]) -> Question:
    return Question(
        patient="", **{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    )


def _registry_questions(path: Path) -> dict[str, Any]:
    """Return questions of a real registry, of training and of held-out patients, and what is right without training."""
    import tempfile

    from common.config import load_config
    from simulation.baselines import commonest, training_values
    from simulation.driver import prepare_once
    from simulation.folders import open_sites
    from simulation.study.references import Boosted

    config, codebook = load_config(path)
    config = config.model_copy(update={"questions": config.questions.model_copy(update={"held_out": _HELD_OUT})})
    with tempfile.TemporaryDirectory() as folder:
        prepare_once(config, codebook, Path(folder), path.parent)
        sites = open_sites(Path(folder))
        maker, values = sites[0].maker(config), training_values(sites, config)
        parts: dict[str, list[Question]] = {"train": [], "held": []}
        for site in sites:
            for part, patients, count in (("train", site.training(config), 12), ("held", site.held_out(config), 2)):
                for patient in patients:
                    parts[part] += maker.draw(patient, count, Stream.named("ceiling", part, patient.id))
    held = Stream.named("held").shuffled(parts["held"])[:800]
    right: dict[str, dict[str, int]] = {"majority": {}, "boosting": {}}
    for item in sorted({question.item for question in held}):
        feature = maker.feature_of(item)
        asked, known = ([each for each in parts_of if each.item == item] for parts_of in (held, parts["train"]))
        common = [commonest(feature, question.choices, values[feature.name]) for question in asked]
        given = [each.chosen for each in Boosted(maker, item, known).answers(asked)]
        for name, answers in (("majority", common), ("boosting", given)):
            right[name][item] = sum(one == each.answer for one, each in zip(answers, asked, strict=True))
    without = {
        "chance": sum(1 / len(question.choices) for question in held) / len(held),
        **{name: sum(items.values()) / len(held) for name, items in right.items()},
        "right_of_item": right,
    }
    keys = ("item", "kind", "record", "text", "choices", "answer")
    return {"without": without} | {
        part: [{key: getattr(question, key) for key in keys} for question in asked]
        for part, asked in (("train", parts["train"]), ("held", held))
    }


if __name__ == "__main__":
    typer.run(main)
