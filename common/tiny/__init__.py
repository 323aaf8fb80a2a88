"""The embedded default model: a small causal language model made on this machine from public text, then kept.

Nothing is downloaded. What is kept is named by a hash of everything that made it, so a change of code or library makes
it anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.codebook import Codebook
    from common.tiny.text import PublicText

_COMMON = Path(__file__).parents[1]
_SOURCES = ("codebook.py", "stream.py", "questions", "synthetic", "tiny")
_THREADS = 2
"""Threads of the warm-up, whatever the machine has: the sums, and so the bits, depend on their number."""
_LIBRARIES = ("torch", "transformers", "tokenizers", "trl")
Report = Callable[[str], None]


def tiny_model(cache: Path | None = None, report: Report | None = None) -> Path:
    """Return the folder of the model that is warmed up on public sepsis text, making it at the first call.

    Parameters
    ----------
    cache
        Where models are kept; by default `$FEDREASON_CACHE` or `~/.cache/fedreason`.
    report
        Is told the progress in short lines.

    Returns
    -------
    Path
        A folder that `AutoModelForCausalLM` and `AutoTokenizer` load without a network.
    """
    return _kept(cache, report, _Recipe(drill=40, mixed=275, worked=310, batch=24))


def tiny_model_for(
    codebook: Codebook, view: str = "full", cache: Path | None = None, report: Report | None = None
) -> Path:
    """Return the folder of a model that knows the form of a codebook's questions and nothing about its values.

    It answers in the format, copies and chooses; since its text holds random records, its accuracy is that of guessing.
    Parameters as for `tiny_model`.
    """
    return _kept(cache, report, _Recipe(drill=120, mixed=0, worked=180, batch=12), codebook, view)


@dataclass(frozen=True)
class _Recipe:
    """Steps of the warm-up's stages and texts in a step; see `Curriculum`."""

    drill: int
    mixed: int
    worked: int
    batch: int


def _kept(
    cache: Path | None, report: Report | None, recipe: _Recipe, codebook: Codebook | None = None, view: str = "core"
) -> Path:
    root = cache or Path(os.environ.get("FEDREASON_CACHE") or Path.home() / ".cache" / "fedreason")
    name = f"tiny-{_fingerprint(recipe, codebook, view)}"
    folder = root / name
    if folder.is_dir():
        return folder

    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        if not folder.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
            try:
                _make(scratch, report or (lambda _: None), recipe, codebook, view)
                scratch.chmod(0o755)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


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
        report("making the tokenizer")
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
