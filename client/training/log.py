"""How training goes at this site, one line a step in `state/training/<run>.jsonl`; on request completions, TensorBoard.

These are plain statistics of the site's own patients, without the noise that a private run adds to what leaves. They
stay here like the registry: nothing of them is sent, told in an error or in another log.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.grpo.entry import Entry
from client.site.config import LogConfig
from common.collapse import collapse
from common.config import RunConfig
from common.identity.keys import private_folder, write_private
from common.identity.lines import private_opener
from common.logs import logger

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SUFFIX = ".jsonl"
_COMPLETIONS, _TENSORBOARD = "completions", "tensorboard"
_log = logger("site")


class TrainingLog:
    """The log of one run at a site, for the one process that trains.

    Parameters
    ----------
    folder
        Folder of the site.
    options
        What is wanted beside the lines. Where completions are not, those that are left of this run are removed.
    config
        The run.
    """

    def __init__(self, folder: Path, options: LogConfig, config: RunConfig) -> None:
        self.config, self.completions = config, options.completions
        self._folder = log_folder(folder)
        private_folder(self._folder)
        self._path = self._folder / f"{config.name}{_SUFFIX}"
        self._texts = self._folder / _COMPLETIONS / f"{config.name}{_SUFFIX}"
        if not self.completions:
            self._texts.unlink(missing_ok=True)
        self._events = _Events(self._folder / _TENSORBOARD, config) if options.tensorboard else None
        self._failed = False
        self._steps = [step.counted for step in read_log(folder, config.name) if step.config == config.sha256]

    def write(self, entry: Entry, groups: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write a step down, and the completions of its questions where they are wanted.

        Where it cannot be written training goes on, and the site's other log says so: in a private run the step has
        been paid for already.
        """
        self._steps = [*self._steps, entry.counted]
        entry = replace(
            entry, collapse="; ".join(collapse(self._steps)), time=datetime.now(UTC).isoformat(timespec="seconds")
        )
        try:
            private_folder(self._folder)
            _append(self._path, asdict(entry))
            if self.completions:
                self._keep(entry, groups)
            if self._events:
                self._events.add(entry)
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.warning("%s cannot be written (%s)", self._folder, type(error).__name__)
            self._failed = True

    def close(self) -> None:
        """Close what is open."""
        if self._events:
            self._events.close()

    def _keep(self, entry: Entry, groups: Sequence[Mapping[str, Any]]) -> None:
        """Add completions to those of the latest rounds, and let go of those before."""
        private_folder(self._texts.parent)
        where = {"config": entry.config, "round": entry.round, "step": entry.step, "attempt": entry.attempt}
        lines = [line for line in _lines(self._texts) if line.get("config") == entry.config]
        lines += [where | dict(group) for group in groups]
        latest = list(dict.fromkeys([entry.round, *(line["round"] for line in reversed(lines))]))[: self.completions]
        write_private(self._texts, b"".join(_line(line) for line in lines if line["round"] in latest))


class _Events:
    """The same numbers for TensorBoard, over the steps of the run."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        private_folder(folder)
        self._open = partial(SummaryWriter, folder / f"{config.name}.{config.sha256[:8]}")
        self._writer: SummaryWriter | None = None
        self._steps = config.federation.local_steps

    def add(self, entry: Entry) -> None:
        """Add a step; what another process wrote of it and of later ones is not shown any more."""
        place = (entry.round - 1) * self._steps + entry.step + 1
        if self._writer is None:
            self._writer = self._open(purge_step=place)
        for name, value in asdict(entry).items():
            if isinstance(value, int | float) and name not in ("round", "step", "attempt"):
                self._writer.add_scalar(name, value, place)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def log_folder(site: Path) -> Path:
    """Folder of the training logs of a site."""
    return site / "state" / "training"


def runs(site: Path) -> list[str]:
    """Names of the runs that a site has a log of, the latest last."""
    found = (path for path in log_folder(site).glob(f"*{_SUFFIX}") if path.exists())
    paths = sorted(found, key=lambda path: path.stat().st_mtime)
    return [path.name.removesuffix(_SUFFIX) for path in paths]


def read_log(site: Path, run: str) -> list[Entry]:
    """Return the steps of a run in the order in which they ended; what a crash cut short is left out."""
    entries = []
    for line in _lines(log_folder(site) / f"{run}{_SUFFIX}"):
        try:
            entries.append(Entry(**line))
        except TypeError:
            continue
    return entries


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that are whole."""
    content = path.read_bytes() if path.exists() else b""
    for line in content.splitlines():
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if isinstance(read, dict):
            yield read


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """Append a line; one that a crash left torn is ended first."""
    with open(path, "a+b", opener=private_opener) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read() != b"\n"
        else:
            torn = False
        file.write(b"\n" * torn + _line(record))


def _line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of JSON, which has no number that is not finite."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, separators=(",", ":"), allow_nan=False).encode() + b"\n"
