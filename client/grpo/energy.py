"""What a step's devices use, by counters of their own: NVML's of a GPU, RAPL's of the processor (Linux powercap).

A counter is of the whole device, whatever else works on it. What a step uses tells how many patients were drawn and how
long their completions were, so it goes into the site's own log of training and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

GPU, PROCESSOR = "gpu", "processor"
Read = dict[tuple[str, str], float | None]
"""Joules by kind and name of a device, the same name in every process; None where its counter cannot be read."""

POWERCAP = Path("/sys/class/powercap")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UNREADABLE = (OSError, ValueError)


@dataclass
class Counter:
    """A counter of one device.

    Attributes
    ----------
    read
        Its present state in joules; raises OSError or ValueError where it cannot be read.
    turn
        Joules after which it begins at 0 again; None where it does not within the life of a machine.
    """

    kind: str
    name: str
    read: Callable[[], float]
    turn: float | None = None


class Meter:
    """Adds up what devices use from now on; to be looked at more often than a counter turns over (some minutes)."""

    def __init__(self, counters: list[Counter]) -> None:
        self.used: Read = {}
        self._counters: list[Counter] = []
        self._last: dict[tuple[str, str], float] = {}
        for counter in counters:
            key = (counter.kind, counter.name)
            try:
                self._last[key] = counter.read()
            except _UNREADABLE:
                self.used[key] = None
                continue
            self.used[key] = 0.0
            self._counters.append(counter)

    def look(self) -> None:
        """Add what was used since the last look; a counter that fails on the way has no figure at all."""
        for counter in list(self._counters):
            key = (counter.kind, counter.name)
            try:
                now = counter.read()
                more = now - self._last[key]
                if more < 0:
                    if counter.turn is None:
                        raise ValueError
                    more += counter.turn
            except _UNREADABLE:
                self.used[key] = None
                self._counters.remove(counter)
                continue
            self._last[key] = now
            self.used[key] = (self.used[key] or 0.0) + more

    def close(self) -> None:
        """Look for the last time, and let go of the counters: what was used can then be told to another process."""
        self.look()
        self._counters = []


def meter(device: torch.device) -> Meter:
    """Return a meter of a device and of this machine's processor."""
    return Meter([*([gpu(device)] if device.type == "cuda" else []), *processor()])


def joined(one: Mapping[tuple[str, str], float | None], other: Mapping[tuple[str, str], float | None]) -> Read:
    """Put together what two processes saw: of a device that both saw the larger, of one that either could not none."""
    found = dict(one)
    for key, joules in other.items():
        mine = found.get(key, joules)
        found[key] = None if mine is None or joules is None else max(mine, joules)
    return found


def total(used: Mapping[tuple[str, str], float | None], kind: str) -> float | None:
    """Return the joules of all devices of a kind; None where there is none, or one could not be read."""
    devices = [joules for (of, _), joules in used.items() if of == kind]
    return sum(joules for joules in devices if joules is not None) if devices and None not in devices else None


def gpu(device: torch.device) -> Counter:
    """Return a GPU's counter of all it ever used, of NVML (nvmlDeviceGetTotalEnergyConsumption)."""
    name = str(getattr(torch.cuda.get_device_properties(device), "uuid", f"{_machine()} {device}"))
    try:
        import pynvml as nvml
    except ImportError:
        return Counter(GPU, name, _unreadable("NVML's package is not installed"))
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{name}")
    except nvml.NVMLError as error:  # no driver, or a part of a GPU
        return Counter(GPU, name, _unreadable(type(error).__name__))

    def read() -> float:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except nvml.NVMLError as error:
            raise OSError from error

    return Counter(GPU, name, read)


def processor() -> list[Counter]:
    """Return the counters of the processor's packages; one that cannot be read where the machine has none."""
    found = list(_packages())
    return found or [Counter(PROCESSOR, _machine(), _unreadable("no counter"))]


def _packages() -> Iterator[Counter]:
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package"):  # parts of one, or what holds it
                continue
            turn = _joules(zone / "max_energy_range_uj")
        except _UNREADABLE:
            continue
        yield Counter(PROCESSOR, f"{_machine()} {name}", partial(_joules, zone / "energy_uj"), turn)


def _joules(path: Path) -> float:
    return int(path.read_text()) / 1e6


def _machine() -> str:
    """Return what tells this machine from another of the same site."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return "this machine"


def _unreadable(why: str) -> Callable[[], float]:
    def read() -> float:
        raise OSError(why)

    return read
