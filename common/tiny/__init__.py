"""The embedded default model: a small causal language model made on this machine from public text, then kept.

Nothing is downloaded. What is kept is named by a hash of everything that made it, so a change of code or library makes
it anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import SYNTHETIC, TINY, RunConfig
from common.errors import Code, FedReasonError
from common.model.making import Progress, Report, read_progress, told

if TYPE_CHECKING:
    from common.codebook import Codebook
    from common.tiny.text import PublicText

_COMMON = Path(__file__).parents[1]
_QUESTIONS = tuple(f"questions/{name}.py" for name in ("censored", "choices", "ladder", "prompt", "question"))
_SOURCES = ("codebook.py", "tasks.py", "stream.py", *_QUESTIONS, "synthetic", "tiny")
"""What its text comes of; how an answer is read changes no model."""
_THREADS = 2
"""Threads of the warm-up, whatever the machine has: the sums, and so the bits, depend on their number."""
_LOOK_SECONDS = 1.0
WAITING = "waiting for another process that makes it"
_LIBRARIES = ("torch", "transformers", "tokenizers", "trl")


def tiny_model(cache: Path | None = None, report: Report | None = None) -> Path:
    """Return the folder of the model that is warmed up on public sepsis text, making it at the first call.

    Parameters
    ----------
    cache
        Where models are kept; by default `$FEDREASON_CACHE` or `~/.cache/fedreason`.
    report
        Is told the progress, every second and from a thread of its own.

    Returns
    -------
    Path
        A folder that `AutoModelForCausalLM` and `AutoTokenizer` load without a network.

    Raises
    ------
    FedReasonError
        MODEL_CACHE where the model cannot be kept.
    """
    return Embedded.of(cache=cache).made(report)


def tiny_model_for(
    codebook: Codebook, view: str = "full", cache: Path | None = None, report: Report | None = None
) -> Path:
    """Return the folder of a model that knows the form of a codebook's questions and nothing about its values.

    It answers in the format, copies and chooses; since its text holds random records, its accuracy is that of guessing.
    Parameters as for `tiny_model`.
    """
    return Embedded.of(codebook, view, cache).made(report)


@dataclass(frozen=True)
class _Recipe:
    """Steps of the warm-up's stages and texts in a step; see `Curriculum`."""

    drill: int
    mixed: int
    worked: int
    batch: int


@dataclass(frozen=True)
class Embedded:
    """An embedded model by its place, whether it has been made or not."""

    folder: Path
    recipe: _Recipe
    codebook: Codebook | None
    view: str

    @classmethod
    def of(cls, codebook: Codebook | None = None, view: str = "core", cache: Path | None = None) -> Embedded:
        """Return the model for a codebook, or without one that of public sepsis text."""
        known = codebook is None
        recipe = _Recipe(drill=40, mixed=275, worked=310, batch=24) if known else _Recipe(120, 0, 180, 12)
        root = cache or Path(os.environ.get("FEDREASON_CACHE") or Path.home() / ".cache" / "fedreason")
        return cls(root / f"tiny-{_fingerprint(recipe, codebook, view)}", recipe, codebook, view)

    @classmethod
    def of_run(cls, config: RunConfig, codebook: Codebook) -> Embedded | None:
        """Return the model that a run trains, None where its base is another one."""
        if config.model.base != TINY:
            return None
        return cls.of() if config.questions.codebook == SYNTHETIC else cls.of(codebook, config.questions.view)

    @property
    def there(self) -> bool:
        """Whether it has been made."""
        return self.folder.is_dir()

    @property
    def progress(self) -> Progress | None:
        """How far somebody on this machine is with making it, None where nobody is."""
        return None if self.there else read_progress(self._beside("progress"))

    def made(self, report: Report | None = None) -> Path:
        """Return its folder, making it where nobody has; whoever comes second waits for the first."""
        if self.there:
            return self.folder
        with self._alone(report):
            if not self.there:
                with told(self._beside("progress"), report) as tell:
                    self._make_aside(tell)
        return self.folder

    def _make_aside(self, tell: Report) -> None:
        """Make it beside its place, after clearing away what a maker that was killed left there."""
        for left in self.folder.parent.glob(f".{self.folder.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
        try:
            _make(scratch, tell, self.recipe, self.codebook, self.view)
            scratch.chmod(0o755)
            scratch.rename(self.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self, report: Report | None) -> Iterator[None]:
        """Be the only maker; while another is at it, tell how far that one is."""
        from filelock import FileLock, Timeout

        lock = FileLock(self._beside("lock"))
        while True:
            try:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=_LOOK_SECONDS)
                break
            except Timeout:
                pass
            except OSError as error:
                raise FedReasonError(
                    Code.MODEL_CACHE,
                    f"A model cannot be kept in {self.folder.parent} ({error.strerror}).",
                    "Let this user write there, or name another folder by FEDREASON_CACHE.",
                ) from None
            if report is not None:
                theirs = self.progress or Progress("starting")
                report(Progress(f"{WAITING}: {theirs.doing}", theirs.step, theirs.steps))
        try:
            yield
        finally:
            lock.release()

    def _beside(self, kind: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{kind}")


def _fingerprint(recipe: _Recipe, codebook: Codebook | None, view: str) -> str:
    """Hash of the source text, library versions, settings and, where it matters, the codebook."""
    digest = hashlib.sha256()
    paths = [path for source in _SOURCES for path in sorted((_COMMON / source).rglob("*.py")) or [_COMMON / source]]
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    made_with = [f"{library} {version(library)}" for library in _LIBRARIES]
    digest.update(repr((made_with, astuple(recipe), codebook.sha256 if codebook else None, view)).encode())
    return digest.hexdigest()[:16]


def _make(folder: Path, report: Report, recipe: _Recipe, codebook: Codebook | None, view: str) -> None:
    report(Progress("loading the libraries"))
    import torch
    from transformers.utils import logging

    from common.tiny.network import make_network, make_tokenizer
    from common.tiny.text import CodebookText, CoreText
    from common.tiny.training import Curriculum, warm_up

    def text(seed: int) -> PublicText:
        return CodebookText(codebook, view, seed) if codebook else CoreText(seed)

    curriculum = Curriculum(**asdict(recipe))
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        report(Progress("making the tokenizer"))
        letters = make_tokenizer([], 0)
        source = text(0)
        tokenizer = make_tokenizer(source.corpus(curriculum.corpus, letters), source.vocabulary)
        network = make_network(tokenizer, curriculum.seed)
        warm_up(network, tokenizer, text(curriculum.seed), curriculum, report)
    finally:
        torch.set_num_threads(threads)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()
