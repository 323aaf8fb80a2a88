"""The first rank's hold on the others: it starts them, gives each its patients, and adds up their integers.

A step's patients are dealt like cards. Each is computed from randomness of its own, and sums of integers do not depend
on their order: the sum has the same bits with any number of ranks. What goes wrong ends all of them; the next task
starts them again.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed import FileStore  # type: ignore[attr-defined]

from client.grpo.counts import RolloutCounts
from client.grpo.log import UNWATCHED, Watch
from client.privacy.mechanism import Mechanism
from client.site.config import SiteConfig
from client.site.devices import require_devices
from client.training.engine import Engine
from client.training.gradients import summed
from client.training.group import FIRST, Gone, Group
from client.training.launch import Launch, rank_command
from client.training.rank import HERE
from client.training.share import Answer, Kind, Part, Prepare, Share
from common.arrays import Integers
from common.codebook import Codebook
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.lattice import add
from common.logs import logger
from common.model.adapter import read_adapter
from common.questions.question import Patient, QuestionMaker

_START_SECONDS, _LOOK_SECONDS = 600.0, 0.05
_LOAD = timedelta(hours=2)
_LEAST_PATIENCE, _PATIENCE = 600.0, 10.0
"""Others get so many times as long as the first rank took for its patients, and so many seconds at least."""
_STARTS = 2
_log = logger("site")


class Team:
    """The ranks of a site of several devices.

    Parameters
    ----------
    folder, config
        The site's.
    launch
        What torchrun told this process, where it started the others too; None where they are started here.
    """

    def __init__(self, folder: Path, config: SiteConfig, launch: Launch | None = None) -> None:
        self.folder, self.devices, self._launch = folder, config.own_devices, launch
        self.size = len(self.devices) if launch is None else launch.size
        self._processes: list[subprocess.Popen[bytes]] = []
        self._group: Group | None = None

    @property
    def pids(self) -> list[int]:
        """Numbers of the other ranks' processes."""
        return [process.pid for process in self._processes]

    def prepare(self, engine: Engine, config: RunConfig, codebook: Codebook) -> None:
        """Have every rank hold the model of a run: nothing is charged before they are there and of one kind.

        Raises
        ------
        FedReasonError
            RANKS_MISSING, RANKS_UNLIKE, or what a rank refused.
        """
        for left in reversed(range(_STARTS)):
            try:
                kinds = self._asked([Prepare(config, codebook)] * (self.size - 1), _LOAD)
                break
            except FedReasonError as error:
                if error.code is not Code.RANK_LOST or not left:
                    raise
                _log.warning("a rank had ended; the ranks are started again")
        own = Kind.of(engine, config)
        for rank, kind in enumerate(kinds, start=1):
            if unlike := own.unlike(kind):
                self.stop()
                raise FedReasonError(
                    Code.RANKS_UNLIKE,
                    f"Rank {rank} is not as rank 0, and would compute other bits. What differs: {', '.join(unlike)}.",
                    "Give all ranks devices of one kind, the same packages and model files, and the same threads.",
                )

    def summed(
        self,
        engine: Engine,
        maker: QuestionMaker,
        patients: Sequence[Patient],
        config: RunConfig,
        mechanism: Mechanism,
        watch: Watch = UNWATCHED,
    ) -> tuple[Integers, RolloutCounts]:
        """Sum the patients' integers at the engine's adapter, as `client.training.gradients.summed` alone would.

        Raises
        ------
        FedReasonError
            RANK_LOST where a rank ended, failed or took too long, and what else a rank refused.
        """
        adapter = read_adapter(engine.model)
        hands = [patients[rank :: self.size] for rank in range(self.size)]
        with self._ended_by_errors():
            for rank, hand in enumerate(hands[1:], start=1):
                self._tell(rank, Share.of(config, adapter, mechanism, maker, hand, texts=watch.texts))
            started = time.monotonic()
            total, counted = summed(engine, maker, hands[0], config, mechanism, watch)
            patience = max(_LEAST_PATIENCE, _PATIENCE * (time.monotonic() - started))
            for part in self._heard(timedelta(seconds=patience)):
                assert isinstance(part, Part)
                total, counted = add(total, part.total), counted + part.counted
                watch.joined(part.watch)
        return total, counted

    def stop(self) -> None:
        """End the other ranks at once."""
        if self._group is not None:
            self._group.close()
            self._group = None
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes = []

    def _asked(self, messages: Sequence[object], wait: timedelta) -> list[Any]:
        """Say something to each rank, and return what they answer."""
        with self._ended_by_errors(), TemporaryDirectory(prefix="fedreason-") as meeting:
            if self._group is None:
                try:
                    self._group = self._called() if self._launch else self._started(Path(meeting) / "ranks")
                except Gone:
                    raise self._missing("Not all ranks came, or one ended while they were being connected.") from None
            for rank, message in enumerate(messages, start=1):
                self._tell(rank, message)
            return self._heard(wait)

    @contextlib.contextmanager
    def _ended_by_errors(self) -> Any:
        """Surround what is said to the ranks and heard of them: where it fails nobody is half through it."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _tell(self, rank: int, message: object) -> None:
        assert self._group is not None
        try:
            self._group.send(rank, message)
        except Gone:
            raise self._lost(rank) from None

    def _heard(self, wait: timedelta) -> list[Any]:
        """Return the answers of all ranks, once they are there; their lines go into this log."""
        assert self._group is not None
        answers: list[Answer] = []
        for rank in range(1, self.size):
            try:
                answers.append(self._group.receive(rank, wait))
            except Gone:
                raise self._lost(rank) from None
            for line in answers[-1].lines:
                _log.info("rank %d: %s", rank, line)
        for answer in answers:
            if answer.refused is not None:
                raise answer.refused
        return [answer.result for answer in answers]

    def _lost(self, rank: int) -> FedReasonError:
        return FedReasonError(
            Code.RANK_LOST,
            f"Rank {rank} of this site ended, or did not answer in time.",
            "Nothing was sent. Look whether it was killed, or memory did not suffice; the next task starts it again.",
        )

    def _called(self) -> Group:
        """Call the ranks that torchrun started, and connect with them."""
        assert self._launch is not None
        return self._launch.group(self.folder, self._launch.call())

    def _started(self, path: Path) -> Group:
        """Start a process for each further device of this machine, and connect with them."""
        require_devices(self.devices)
        secret = secrets.token_bytes(32)
        for rank in range(1, self.size):
            process = subprocess.Popen(rank_command(self.folder, rank, self.size, path), stdin=subprocess.PIPE)
            self._processes.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(secret)
        store = FileStore(str(path), self.size)
        self._wait(store)
        return Group(store, FIRST, self.size, secret, host="127.0.0.1")

    def _wait(self, store: FileStore) -> None:
        """Wait until all ranks can join."""
        until = time.monotonic() + _START_SECONDS
        keys = [HERE.format(rank) for rank in range(1, self.size)]
        while not store.check(keys):
            for rank, process in enumerate(self._processes, start=1):
                if process.poll() is not None:
                    raise self._missing(f"Rank {rank} ended as it started (status {process.returncode}).")
            if time.monotonic() > until:
                raise self._missing(f"Not all ranks were there within {_START_SECONDS:.0f} s.")
            time.sleep(_LOOK_SECONDS)

    def _missing(self, found: str) -> FedReasonError:
        return FedReasonError(Code.RANKS_MISSING, found, "Nothing was computed or charged. See the lines above.")
