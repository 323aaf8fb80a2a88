"""How training goes at this site, one line a step in `state/training/<run>.jsonl`; on request completions, TensorBoard.

These are plain statistics of the site's own patients, without the noise that a private run adds to what leaves. They
stay here like the registry: nothing of them is sent, told in an error or in another log.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.site import LogConfig
from common.config import RunConfig
from common.keys import private_folder, write_private
from common.logs import logger

if TYPE_CHECKING:
    from rich.table import Table
    from torch.utils.tensorboard import SummaryWriter

_log = logger("site")
_SUFFIX = ".jsonl"
COMPLETIONS = "completions"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Entry:
    """One step: a round of fedsgd, or a local step of fedavg. A share or a mean of nothing is None.

    Attributes
    ----------
    config
        SHA-256 of the run's configuration: another configuration of the same name is another run.
    round, step, attempt
        Which step it was. A round that was asked for again stands there again.
    patients, questions, too_long, rollouts
        Patients sampled, questions asked of them, questions left out for their length, completions.
    reward, zero_variance, unboxed, truncated
        Mean reward of the completions; share of the questions whose completions all got the same; share of the
        completions without a boxed answer, and without an end.
    prompt_tokens, prompt_longest, completion_tokens, completion_longest
        Mean and longest.
    kl
        Mean divergence from the frozen base by token (k3 estimator), where the run weighs it.
    clipped
        Share of the patients whose gradient was longer than the clip norm, in a private run.
    gradient_norm, gradient_norm_largest
        Median and largest norm of the patients' gradients that are not zero, before the clip.
    adapter_norm
        Norm of the adapter that the step started from.
    seconds, seconds_prefill, seconds_decode, seconds_train
        The whole step, and the stages in it.
    speed_prefill, speed_decode, speed_train
        Tokens per second: of prompts; of completions; of both, the prompt once, in the pass with gradient.
    device, peak_bytes
        Where it was computed, and the largest memory: of the GPU in this step, else of the process since its start.
    time
        When the step ended (UTC).
    """

    config: str
    round: int
    step: int
    attempt: int
    patients: int
    questions: int
    too_long: int
    rollouts: int
    reward: float | None = None
    zero_variance: float | None = None
    unboxed: float | None = None
    truncated: float | None = None
    prompt_tokens: float | None = None
    prompt_longest: int | None = None
    completion_tokens: float | None = None
    completion_longest: int | None = None
    kl: float | None = None
    clipped: float | None = None
    gradient_norm: float | None = None
    gradient_norm_largest: float | None = None
    adapter_norm: float | None = None
    seconds: float | None = None
    seconds_prefill: float | None = None
    seconds_decode: float | None = None
    seconds_train: float | None = None
    speed_prefill: float | None = None
    speed_decode: float | None = None
    speed_train: float | None = None
    device: str | None = None
    peak_bytes: int | None = None
    time: str | None = None


class TrainingLog:
    """The log of one run at a site.

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
        self._folder = _training_folder(folder)
        private_folder(self._folder)
        if not self.completions:
            _completions_path(folder, config.name).unlink(missing_ok=True)
        self._site = folder
        self._events = _Events(self._folder / TENSORBOARD, config) if options.tensorboard else None
        self._failed = False

    def write(self, entry: Entry, groups: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write a step down, with the completions of its questions; where that fails training goes on, and says so.

        Under differential privacy the step has been paid for already: it must not be lost for want of a log.
        """
        finite = {name: value for name, value in asdict(entry).items() if _known(value)}
        finite["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            private_folder(self._folder)
            _append(_log_path(self._site, self.config.name), finite)
            if self.completions:
                self._keep(entry, groups)
            if self._events:
                self._events.add(entry.round, entry.step, finite)
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.warning("%s cannot be written (%s)", self._folder, type(error).__name__)
            self._failed = True

    def close(self) -> None:
        """Let go of what is open."""
        if self._events:
            self._events.close()

    def _keep(self, entry: Entry, groups: Sequence[Mapping[str, Any]]) -> None:
        """Add completions to those of the latest rounds, and forget those of others."""
        path = _completions_path(self._site, self.config.name)
        private_folder(path.parent)
        where = {"config": entry.config, "round": entry.round, "step": entry.step, "attempt": entry.attempt}
        lines = [line for line in _lines(path) if line.get("config") == entry.config]
        lines += [where | dict(group) for group in groups]
        rounds = list(dict.fromkeys([entry.round, *(line["round"] for line in reversed(lines))]))[: self.completions]
        write_private(path, b"".join(_line(line) for line in lines if line["round"] in rounds))
