"""A rank of a site other than the first: it computes the patients it is given, and has neither registry nor disk.

It ends with the first rank, whatever it is doing, and is started again by it.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from client.site.config import SiteConfig, load_site
from client.site.devices import pick_device
from common.errors import Code, FedReasonError
from common.logs import place_of, quiet_libraries
from common.processes import loading, outlive_parent_by

with loading():
    import torch
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    from client.grpo.log import StepWatch
    from client.training.engine import Engine, resident_engine
    from client.training.gradients import summed
    from client.training.group import FIRST, Gone, Group
    from client.training.launch import launched
    from client.training.share import Answer, Kind, Part, Prepare, Share

HERE = "rank {} is here"
"""Key of the store that a rank sets once it is ready to join."""


class _Lines(logging.Handler):
    """Keeps lines for the first rank, whose log they belong into."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.kept.append(record.getMessage())

    def taken(self) -> tuple[str, ...]:
        """Return the lines, and forget them."""
        lines, self.kept = tuple(self.kept), []
        return lines


class Rank:
    """What answers the first rank, on one device."""

    def __init__(self, rank: int, config: SiteConfig, device: str) -> None:
        self._rank, self._site, self._device = rank, config, pick_device(device)
        self._engine: Engine | None = None

    def answer(self, message: object) -> Kind | Part:
        """Do what the first rank says."""
        if isinstance(message, Prepare):
            site = self._site
            self._engine = None
            self._engine = resident_engine(message.config, message.codebook, self._device, site.rollouts, site.models)
            return Kind.of(self._engine, message.config)
        assert isinstance(message, Share) and self._engine is not None
        engine = self._engine
        engine.set_adapter(message.adapter)
        watch = StepWatch(next(engine.model.parameters()).device, texts=message.texts)
        total, counted = summed(engine, message.maker, message.patients, message.config, message.mechanism, watch)
        watch.close()
        return Part(total, counted, watch)

    def refused(self, error: Exception) -> FedReasonError:
        """Return an error as the first rank raises it: it holds no content of a record."""
        if isinstance(error, FedReasonError):
            return error
        return FedReasonError(
            Code.RANK_LOST,
            f"Rank {self._rank} failed over its patients or its model: unexpected {place_of(error)}.",
            "Nothing was sent. Look whether its device works and its memory suffices; the next task starts it again.",
        )


def serve(group: Group, rank: Rank) -> None:
    """Answer the first rank until it is gone."""
    lines = _Lines()
    log = logging.getLogger("fedreason")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(lines)
    group.end_with_first()
    while True:
        message = group.receive(FIRST)
        result, refused = None, None
        try:
            result = rank.answer(message)
        except Exception as error:
            refused = rank.refused(error)
        group.send(FIRST, Answer(result, refused, lines.taken()))


def begun(number: int, config: SiteConfig, device: str) -> Rank:
    """Take the device."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    return Rank(number, config, device)


def of_this_machine(folder: Path, number: int, size: int, store: Path, secret: bytes) -> None:
    """Join the first rank, which started this process, and answer it."""
    config = load_site(folder)
    rank = begun(number, config, config.own_devices[number])
    meeting = FileStore(str(store), size)
    meeting.set(HERE.format(number), "")
    serve(Group(meeting, number, size, secret, host="127.0.0.1"), rank)


def of_torchrun(folder: Path, call: int) -> None:
    """Join the first rank, which called, and answer it."""
    config, launch = load_site(folder), launched()
    assert launch is not None
    rank = begun(launch.rank, config, launch.device(config))
    serve(launch.group(folder, call), rank)


def main(words: list[str]) -> None:
    """Answer the first rank until it is gone, or this process's parent is; what hinders it is told to the terminal."""
    outlive_parent_by(0.0, int(words[1]))
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all: the first rank decides
        signal.signal(number, signal.SIG_IGN)
    quiet_libraries()
    folder, numbers = Path(words[0]), words[2:]
    try:
        if len(numbers) == 1:
            of_torchrun(folder, int(numbers[0]))
        else:
            of_this_machine(folder, int(numbers[0]), int(numbers[1]), Path(numbers[2]), sys.stdin.buffer.read())
    except Gone:
        return
    except Exception as error:
        told = error if isinstance(error, FedReasonError) else f"unexpected {place_of(error)}"
        print(f"a rank ends: {told}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
