"""A warm-up from a base model's folder to a new one: it can be interrupted, and ends by the probe.

While it is under way its state stands beside the new folder, in NAME.part; what an interruption costs is the steps of
a minute or two. The new folder is an ordinary model with a card, README.md, and is there whole or not at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import Code, FedReasonError
from common.fresh import fresh_folder, require_new
from common.model.making import Progress, Report
from common.processes import loading
from server.models.convert import Converted
from server.models.course import Course, load_course

if TYPE_CHECKING:
    from common.codebook import Codebook
    from server.models.teaching import Look, Teaching

_SAVE_SECONDS = 90.0
_STATE, _IDENTITY, _LOCK = "state.pt", "identity", "lock"
_BYTES = 16
"""Of each weight while it is taught: itself, its average and the optimizer's two moments."""


def warm_up(
    path: Path,
    out: Path,
    *,
    device: str | None = None,
    report: Report = lambda progress: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Converted:
    """Warm a base model up as a configuration states it, or go on with it, and write the new folder.

    Parameters
    ----------
    device
        Where it is taught; by default on a GPU where there is one.
    report
        Is told the progress after every step.
    tell
        Is told a line for each look of the probe.

    Raises
    ------
    FedReasonError
        WARMUP_SHORT where the probe is still too low after all steps; what was learnt is kept, and more steps go on
        from there. WARMUP_OTHER where what is kept is of another warm-up. Others where a file cannot be had.
    """
    out = out.expanduser().resolve()
    require_new(out)
    course, books = load_course(path)
    place = course.model.place(path.parent)
    report(Progress("loading the model"))
    from filelock import FileLock, Timeout

    with loading():
        import torch

        from common.model.base import load_base, manifest

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise FedReasonError(Code.CONFIG_VALUE, f"There is no device {device} here.", "Say cpu, or leave it out.")
    model, tokenizer = load_base(course.model.model_copy(update={"dtype": "float32"}), place, device)
    base = manifest(Path(place)) if Path(place).is_dir() else f"{course.model.base}@{course.model.revision}"
    part = out.with_name(f"{out.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    lock = FileLock(part / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FedReasonError(
            Code.RUN_LOCKED, f"{part} is in use by another warm-up.", "Wait for it, or name another folder."
        ) from None
    try:
        from server.models.practice import Practice
        from server.models.teaching import Teaching

        _require_own(part, course.identity(base, books))
        _require_room(part, model.num_parameters())
        teaching = Teaching(Practice(course, books, tokenizer), model)
        if (part / _STATE).exists():
            teaching.restore(part / _STATE)
            tell(f"going on after step {teaching.step}")
        _teach(teaching, part / _STATE, report, tell)
        report(Progress("writing the model"))
        made = _write(teaching, out, base, books, tell)
        shutil.rmtree(part, ignore_errors=True)
        return made
    finally:
        lock.release()


def _teach(teaching: Teaching, state: Path, report: Report, tell: Callable[[str], None]) -> None:
    """Teach until the probe is content and other questions say the same, saving now and then."""
    course = teaching.course
    first, saved = teaching.step, time.monotonic()
    while True:
        if not teaching.looks or (
            teaching.looks[-1].step < teaching.step
            and (teaching.step % course.probe_every == 0 or teaching.step >= course.steps)
        ):
            tell(f"step {teaching.step}: {teaching.look()}")
        latest = teaching.looks[-1]
        right = latest.right
        if right >= course.until and latest.step == teaching.step:
            again = teaching.ask(f"step {teaching.step}")  # the best of many looks may be luck
            tell(f"step {teaching.step}, other questions: {again}")
            right = min(right, again.right)
            if right >= course.until:
                return
        if teaching.step >= course.steps:
            teaching.save(state)
            raise FedReasonError(
                Code.WARMUP_SHORT,
                f"After {teaching.step} steps the probe is at {right:.3f}, and {course.until:g} was asked for.",
                "What was learnt is kept: raise steps, and the same command goes on from there.",
            )
        if teaching.step == first:
            started = time.monotonic()
        if time.monotonic() - saved > _SAVE_SECONDS:
            teaching.save(state)
            saved = time.monotonic()
        teaching.teach()
        seconds = (time.monotonic() - started) / (teaching.step - first)
        left = seconds * (course.steps - teaching.step) / 60
        doing = (
            f"loss {teaching.loss:.3f}, probe {latest.right:.0%}, {seconds:.1f} s a step, at most {left:.0f} min left"
        )
        report(Progress(doing, teaching.step, course.steps))


def _require_own(part: Path, identity: str) -> None:
    """Refuse to go on with another warm-up's state."""
    known = part / _IDENTITY
    if known.exists() and known.read_text() != identity:
        raise FedReasonError(
            Code.WARMUP_OTHER,
            f"{part} holds a warm-up by another configuration, base model or codebook.",
            "Remove that folder to begin anew, or name another --out.",
        )
    known.write_text(identity)


def _require_room(part: Path, parameters: int) -> None:
    """Refuse to begin where the disk cannot hold two states, the old and the new one, and the model."""
    needed = (2 * _BYTES + 4) * parameters
    if (part / _STATE).exists():
        needed -= _BYTES * parameters
    if shutil.disk_usage(part).free < needed:
        raise FedReasonError(
            Code.DISK_FULL,
            f"{part} needs {needed / 1e9:.1f} GB.",
            "Free some space; nothing is lost, then start again.",
        )


def _write(
    teaching: Teaching, out: Path, base: str, books: Sequence[Codebook], tell: Callable[[str], None]
) -> Converted:
    """Write the folder with its card, which tells what the model, as it is written, answers to questions of its own."""
    import torch

    from common.model.base import manifest, write_model
    from server.models.teaching import look

    model, tokenizer, course = teaching.average, teaching.practice.tokenizer, teaching.course
    model.to(getattr(torch, course.model.dtype))
    exam = look(model, tokenizer, teaching.practice.exam("exam"), course, teaching.step)
    tell(f"the model as it is written, on questions that were never asked: {exam}")
    with fresh_folder(out, private=False) as made:
        write_model(model, tokenizer, made)
        (made / "README.md").write_text(card(course, base, books, teaching.looks, exam), encoding="utf-8")
    return Converted(out, manifest(out), model.num_parameters())


def card(course: Course, base: str, books: Sequence[Codebook], looks: Sequence[Look], exam: Look) -> str:
    """Return what stands with the model: what it was made of, how, and what it can do; the same each time."""
    import tomli_w

    stated = course.model_dump(mode="json", exclude_none=True, exclude={"model": {"base"}})
    sources = [
        f"- {book.title}, view {source.view}, SHA-256 {book.sha256}, {len(book.knowledge)} lines of knowledge: "
        f"{share:.1%} right"
        for book, source, share in zip(books, course.sources, exam.sources, strict=True)
    ]
    kinds = [f"| {kind} | {share:.1%} |" for kind, share in exam.kinds.items()]
    curve = [f"| {found.step} | {found.boxed:.1%} | {found.right:.1%} |" for found in looks]
    lines = [
        "# A base model that reads and answers multiple-choice questions",
        "",
        f"Made by `python -m server warmup` in {exam.step} steps of {course.batch} questions from the base model",
        f"`{base}`, whose licence holds for it. All weights were taught, in float32.",
        "",
        "Every question was made of public things alone: random records, each value drawn within the bounds that a",
        "codebook states. No record of a patient was used. What was taught about patients is what the lines of",
        "knowledge in a codebook say, from textbooks. The codebooks:",
        "",
        *sources,
        "",
        f"To new questions of five choices it boxes an answer in {exam.boxed:.1%} and is right in {exam.right:.1%};",
        "who guesses is right in 20 %.",
        "",
        "| kind | right |",
        "|---|---|",
        *kinds,
        "",
        "The probe meanwhile:",
        "",
        "| step | boxed | right |",
        "|---|---|---|",
        *curve,
        "",
        "What it was taught by:",
        "",
        "```toml",
        tomli_w.dumps(stated).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)
