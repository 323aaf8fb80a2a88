"""Ranks that torchrun started, on one machine or several: where they meet, and who waits for the first one's calls.

The first is the site as always. Every other waits with empty hands until the first calls, which it does anew whenever
it begins or one was lost, and has a process compute for it that ends with the call: so does its hold on the device.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from client.site.config import SiteConfig
from client.site.devices import require_devices
from client.site.secret import SECRET, split_secret
from common.errors import Code, FedReasonError
from common.logs import logger

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

    from client.training.group import Group

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_VARIABLES = (*_NUMBERS, "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
_CALLS = "fedreason"
_MEET = timedelta(minutes=5)
_LOOK_SECONDS = 0.5
_log = logger("site")


@dataclass(frozen=True)
class Launch:
    """What torchrun told this process."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def device(self, config: SiteConfig) -> str:
        """Return this rank's device: torchrun starts one process for each that site.toml names.

        Raises
        ------
        FedReasonError
            RANKS_MISSING; CONFIG_VALUE for what samples on one device alone.
        """
        if config.rollouts == "vllm":
            raise FedReasonError(
                Code.CONFIG_VALUE,
                'site.toml says rollouts = "vllm", which samples on one device, and torchrun started several ranks.',
                'Say rollouts = "transformers", or start the site without torchrun.',
            )
        devices = config.own_devices
        if self.local_size != len(devices):
            raise FedReasonError(
                Code.RANKS_MISSING,
                f"torchrun started {self.local_size} processes on this machine, and its site.toml names {len(devices)} "
                "devices.",
                "Say --nproc-per-node as many, or name others in `devices`.",
            )
        if config.devices:
            require_devices(devices)
        return devices[self.local_rank]

    @cached_property
    def store(self) -> Store:
        """Torchrun's store, which lives as long as torchrun on the first machine.

        Raises
        ------
        FedReasonError
            RANKS_MISSING where it does not answer.
        """
        from torch.distributed.rendezvous import rendezvous

        try:
            store: Store = next(rendezvous("env://", self.rank, self.size, timeout=_MEET))[0]
            return store
        except (RuntimeError, ValueError):
            raise self.silent() from None

    def silent(self) -> FedReasonError:
        """Return what there is to say where torchrun's store does not answer."""
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        return FedReasonError(
            Code.RANKS_MISSING,
            f"Rank {self.rank} does not reach torchrun's store at {place}.",
            "Start torchrun on the first machine, and let this one through to it.",
        )

    def called(self) -> int:
        """How often the first rank has called."""
        try:
            return int(self.store.add(_CALLS, 0))
        except RuntimeError:
            raise self.silent() from None

    def call(self) -> int:
        """Call all ranks; returns the number of the call."""
        try:
            return int(self.store.add(_CALLS, 1))
        except RuntimeError:
            raise self.silent() from None

    def group(self, folder: Path, number: int) -> Group:
        """Join the ranks over a call; raises `Gone` where not all of them do."""
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        from client.training.group import Group

        store = PrefixStore(f"{_CALLS}/{number}", self.store)
        return Group(store, self.rank, self.size, _secret(folder, number))


def launched() -> Launch | None:
    """Return what torchrun told this process; None where it did not start it, or it alone."""
    if not all(os.environ.get(name) for name in _VARIABLES) or os.environ["WORLD_SIZE"] == "1":
        return None
    return Launch(*(int(os.environ[name]) for name in _NUMBERS))


def _secret(folder: Path, number: int) -> bytes:
    """Return what seals the words of one call: it comes of the site's own secret, which all its machines have."""
    if not (folder / "keys" / SECRET).exists():
        raise FedReasonError(
            Code.KEY_MISSING,
            f"{folder / 'keys' / SECRET} is not there, by which the ranks of a site know one another.",
            "Copy it from the site's folder on the first machine; only this user may read it.",
        )
    words = (_CALLS, str(split_secret(folder, None)), os.environ["TORCHELASTIC_RUN_ID"], str(number))
    return hashlib.sha256("\n".join(words).encode()).digest()


def rank_command(folder: Path, *words: object) -> list[str]:
    """Return the command of a further rank, which ends with this process."""
    return [sys.executable, "-m", "client.training.rank", str(folder), str(os.getpid()), *map(str, words)]


def wait_for_first(folder: Path, config: SiteConfig, launch: Launch) -> None:
    """Compute for the first rank whenever it calls, for ever.

    Raises
    ------
    FedReasonError
        RANKS_MISSING where the device is not there, or torchrun's store does not answer any more; KEY_MISSING.
    """
    launch.device(config)
    _secret(folder, 0)
    _log.info("rank %d of %d waits for the first", launch.rank, launch.size)
    seen, process = 0, None
    try:
        while True:
            if (called := launch.called()) != seen:
                if process is not None:
                    process.kill()
                    process.wait()
                seen = called
                process = subprocess.Popen(rank_command(folder, called), stdin=subprocess.DEVNULL)
            elif process is not None and process.poll() is not None:
                process = None
            time.sleep(_LOOK_SECONDS)
    finally:
        if process is not None:
            process.kill()
