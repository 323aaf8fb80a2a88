"""A site killed (-9) anywhere between sampling its patients and sending: what left was charged, and the site goes on.

The whole of it as a hospital has it, but for the network: one warm process, forked for each round, contributes, keeps
the answer, writes it into the outbox and sends it. `python -m tests.privacy_checks.killed 200` prints what was seen.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch

import client.node.handlers
from bench.waiting import PATIENCE
from client.node.handlers import HANDLERS, answer
from client.node.inbox import Inbox
from client.node.outbox import Outbox
from client.privacy.entry import Release
from client.privacy.ledger import Ledger
from client.training.requests import contribute
from client.training.states import Attempts, Silent
from client.training.workplace import Workplace
from common import synthetic
from common.messages.frames import reply_frame
from common.messages.kinds import Contribution, Task
from simulation.prepare import prepare
from tests.paths import ROOT
from tests.privacy_checks import Check
from tests.privacy_checks.ledger import in_a_child
from tests.small import make_small_model, small_config

_WRONG = ("undercharged", "overcharged", "computed_twice")


def seen(model: Path, times: int, seed: int) -> dict[str, int]:
    """Kill a site in `times` rounds at random moments, and count what was seen, to the first round that is wrong.

    Returns
    -------
    dict[str, int]
        `sent` answers, rounds `charged`, `undercharged` rounds (sent, and not charged), `overcharged` ones (charged
        more than once) and `computed_twice` (a charged attempt that was asked for again and was not met by silence);
        the ledger was verified after each. `goes_on` says whether the round after them was whole.
    """
    draws = random.Random(seed)
    with TemporaryDirectory() as name:
        site, task = _warm(model, Path(name))
        started = time.monotonic()
        in_a_child(partial(_round, site, task(2)))
        span = time.monotonic() - started
        counted = dict.fromkeys(("sent", "charged", *_WRONG, "goes_on"), 0)
        for number in range(3, times + 3):
            before = _lines(site.folder)
            moment = draws.uniform(0, span) if number % 2 else draws.uniform(0.8 * span, 1.1 * span)
            _, sent = in_a_child(partial(_round, site, task(number)), after=moment)
            charged = _lines(site.folder) - before
            if charged:
                counted["computed_twice"] += in_a_child(partial(_again, site, task(number)))[1] != b"silent"
            Attempts(site.folder).go_on()  # a person looks after each
            counted["sent"] += bool(sent)
            span *= 0.9 if sent else 1.1  # a machine that has become slower or faster meanwhile is met on the whole way
            counted["charged"] += charged
            counted["undercharged"] += charged < bool(sent)
            counted["overcharged"] += charged > 1
            if _wrong(counted):
                return counted
        before = _lines(site.folder)
        _, sent = in_a_child(partial(_round, site, task(times + 3)))
        counted["goes_on"] = sent == b"sent" and _lines(site.folder) == before + 1
    return counted


def _wrong(counted: dict[str, int]) -> bool:
    return any(counted[each] for each in _WRONG)


def _warm(model: Path, folder: Path) -> tuple[Workplace, Callable[[int], Task]]:
    """Return a site whose model is loaded, and its task of each round."""
    config = small_config(
        model,
        federation={"population": 30, "sampling_rate": 0.15, "rounds": 10_000},
        privacy={"clip_norm": 0.5, "clip_units": 1000, "noise_multiplier": 60.0, "delta": 1e-5},
    )
    site = Workplace(next(iter(prepare(config, synthetic.codebook(), folder / "sites").values())))
    size = site.engine(config).layout.size

    def task(number: int) -> Task:
        return Task(config, number, 0, np.zeros(size, dtype=np.float32))

    contribute(site, task(1))
    return site, task


def _round(site: Workplace, task: Task, send: Callable[[bytes], object]) -> None:
    """Do what the two processes of a site do with a message, in their order."""
    for each in ("ledger", "attempts"):  # each process opens its own
        vars(site).pop(each, None)
    client.node.handlers._sites[site.folder] = site
    reply = answer(site.folder, HANDLERS["train"], task)
    assert isinstance(reply, Contribution)
    state = site.folder / "state"
    Inbox(state / "inbox").remember("train", task, reply)
    entry = Outbox(state / "outbox", 0).record("contribution", "run", task.round, reply_frame(reply), None)
    send(b"sent")
    Outbox(state / "outbox", 0).sent(entry)


def _again(site: Workplace, task: Task, send: Callable[[bytes], object]) -> None:
    """Ask for an attempt that was charged."""
    for each in ("ledger", "attempts"):
        vars(site).pop(each, None)
    try:
        contribute(site, task)
    except Silent:
        send(b"silent")


def _lines(folder: Path) -> int:
    """Count the lines of a ledger, every one of which must be right: it is read, once, and checked as it is opened."""
    return Ledger.opened(folder).head.sequence


def check_killed(times: int, mutation: str = "", among: tuple[str, ...] = ("",)) -> bool:
    """No answer left uncharged, none was charged twice, some left, some did not, and the last round was whole."""
    counted = _counted(times, among)[mutation]
    return not _wrong(counted) and bool(counted["goes_on"]) and 0 < counted["sent"] < times


@cache
def _counted(times: int, mutations: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Return what was seen of each, "" being the code as it is, in one process of their own, warm once for all."""
    words = [sys.executable, "-m", __name__, str(times), *mutations]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True)
    return dict(zip(mutations, map(json.loads, done.stdout.splitlines()), strict=True))


def _uncharged(ledger: Ledger, release: Release, *, cap: float) -> None:
    ledger.require(release, cap=cap)


def _twice(ledger: Ledger, release: Release, *, cap: float) -> None:
    for _ in range(2):
        _charge(ledger, release, cap=cap)


_charge = Ledger.charge
_MUTATIONS = {"no charge": _uncharged, "charged twice": _twice}
_ALL = ("", *_MUTATIONS)
_FEW = 24

CHECKS = [
    Check(
        "ledger: kill -9 of a site",
        partial(check_killed, _FEW, among=_ALL),
        {name: partial(check_killed, _FEW, name, among=_ALL) for name in _MUTATIONS},
    )
]

if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        model = make_small_model(Path(name))
        for mutation in sys.argv[2:] or [""]:
            with patch.object(Ledger, "charge", _MUTATIONS.get(mutation, _charge)):
                print(json.dumps(seen(model, int(sys.argv[1]), seed=1)), flush=True)
