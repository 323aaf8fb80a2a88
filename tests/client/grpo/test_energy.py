"""What a step's devices use is read off their own counters, all of it or nothing, and told in the site's log alone."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from client.grpo import energy
from client.grpo.energy import GPU, PROCESSOR, Counter, Meter, joined, processor, total
from client.grpo.entry import Entry, energy_text
from client.grpo.log import StepWatch
from client.training.cli import training
from client.training.log import read_log
from client.training.requests import contribute
from tests.client.training.tasks import opened, task_of
from tests.small import small_config

RANGE = 1000


class Machine:
    """A tree as Linux has it below /sys/class/powercap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for zone, name in {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",
            "intel-rapl:1": "package-1",
            "intel-rapl:2": "psys",
            "intel-rapl-mmio:0": "package-0",
        }.items():
            (folder / zone).mkdir()
            (folder / zone / "name").write_text(name + "\n")
            (folder / zone / "max_energy_range_uj").write_text(f"{RANGE * 10**6}\n")
            self.reads(zone, 100)

    def reads(self, zone: str, joules: float) -> None:
        (self.folder / zone / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    (tmp_path / "powercap").mkdir()
    return Machine(tmp_path / "powercap")


def test_the_packages_of_the_processor_are_added_up_and_nothing_is_counted_twice(machine: Machine) -> None:
    meter = Meter(processor())
    for zone in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        machine.reads(zone, 900)
    machine.reads("intel-rapl:0", 107.5)
    machine.reads("intel-rapl:1", 102)
    meter.look()
    meter.close()
    assert total(meter.used, PROCESSOR) == pytest.approx(9.5)
    assert total(meter.used, GPU) is None, "a machine without one"


def test_a_counter_that_begins_anew_is_followed_round(machine: Machine) -> None:
    meter = Meter(processor())
    for joules in (900, 50, 800, 20):
        machine.reads("intel-rapl:0", joules)
        meter.look()
    assert total(meter.used, PROCESSOR) == pytest.approx(2 * RANGE + 20 - 100)


@pytest.mark.parametrize("content", ["", "no number", None])
def test_where_one_counter_cannot_be_read_there_is_no_figure_at_all(machine: Machine, content: str | None) -> None:
    path = machine.folder / "intel-rapl:1" / "energy_uj"

    def spoilt() -> None:
        path.unlink()
        if content is not None:
            path.write_text(content)

    meter = Meter(processor())
    spoilt()
    meter.look()
    machine.reads("intel-rapl:1", 700)
    meter.look()
    assert total(meter.used, PROCESSOR) is None, "it failed on the way"
    spoilt()
    assert total(Meter(processor()).used, PROCESSOR) is None, "or from the beginning"


def test_a_machine_without_counters_has_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    meter = energy.meter(torch.device("cpu"))
    meter.look()
    assert total(meter.used, PROCESSOR) is None


def test_a_gpu_is_read_by_its_own_number_whatever_place_torch_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    state = {"GPU-b": 5000}

    def energy_of(handle: str) -> int:
        if state[handle] < 0:
            raise NVMLError
        return state[handle]

    def handle_of(name: str) -> str:
        if name not in state:
            raise NVMLError
        return name

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle_of,
        nvmlDeviceGetTotalEnergyConsumption=energy_of,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    names = {0: "b", 1: "unknown"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=names[device.index]))
    meter = Meter([energy.gpu(torch.device("cuda:0"))])
    state["GPU-b"] = 7500
    meter.look()
    assert total(meter.used, GPU) == 2.5
    both = joined(meter.used, Meter([energy.gpu(torch.device("cuda:1"))]).used)
    assert total(both, GPU) is None, "one of two is not the energy of both"
    state["GPU-b"] = -1
    meter.look()
    assert total(meter.used, GPU) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert total(Meter([energy.gpu(torch.device("cuda:0"))]).used, GPU) is None, "NVML's package is not installed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_where_there_is_no_driver_nvml_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a"))
    assert find_spec("pynvml"), "the package itself is asked"
    assert total(Meter([energy.gpu(torch.device("cuda:0"))]).used, GPU) is None


def test_of_a_device_that_two_processes_saw_what_was_used_counts_once() -> None:
    here, there = (PROCESSOR, "here package-0"), (PROCESSOR, "there package-0")
    assert total(joined({here: 5.0}, {here: 4.0, there: 2.0}), PROCESSOR) == 7.0
    assert total(joined({here: 5.0}, {here: None}), PROCESSOR) is None


def ticking() -> Iterator[Counter]:
    """A counter that rises by a joule whenever it is looked at."""
    ticks = count()
    yield Counter(PROCESSOR, "ticking", lambda: float(next(ticks)))


def test_a_step_tells_the_log_what_was_used_and_nobody_else(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("client.grpo.log.meter", lambda device: Meter(list(ticking())))
    config = small_config(small_model, federation={"sampling_rate": 0.7})
    site = opened(tmp_path, config)
    for number in (1, 2):
        reply = contribute(site, task_of(site, config, number=number))
        assert reply.counts is not None and not [name for name in reply.counts if "joule" in name]
    first, second = (line.joules_processor for line in read_log(site.folder, config.name))
    assert first is not None and second is not None and first > 5 and second > 5, "every stage is looked at"
    training(str(site.folder), last=1)
    told = f"Energy of 2 steps: processor {(first + second) / 3.6e6:.3g} kWh"
    assert told in capsys.readouterr().out, "of the whole run, not of the steps that are shown"


def test_what_another_rank_saw_can_be_sent_once_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.grpo.log.meter", lambda device: Meter(list(ticking())))
    here, there = StepWatch(torch.device("cpu")), StepWatch(torch.device("cpu"))
    there.close()
    here.joined(pickle.loads(pickle.dumps(there)))
    assert total(here._meter.used, PROCESSOR) == 1.0


def test_of_a_device_that_ranks_share_the_time_of_one_is_not_counted_with_that_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"joules": 0.0}
    monkeypatch.setattr(
        "client.grpo.log.meter", lambda device: Meter([Counter(PROCESSOR, "shared", lambda: state["joules"])])
    )
    here, there = StepWatch(torch.device("cpu")), StepWatch(torch.device("cpu"))
    state["joules"] = 4.0
    there.close()
    here.joined(there)
    here._meter.look()
    assert total(here._meter.used, PROCESSOR) == 4.0


def test_of_a_log_is_said_of_how_many_steps_the_energy_is_known() -> None:
    entry = Entry("hash", 1, 0, 0, 1, 1, 0, 4)
    measured = Entry("hash", 2, 0, 0, 1, 1, 0, 4, joules_gpu=7.2e6, joules_processor=3.6e5)
    assert energy_text([entry]) == "Energy of 1 step: not known, no counter of this machine can be read"
    assert energy_text([measured, measured]) == "Energy of 2 steps: GPU 4 kWh, processor 0.2 kWh"
    assert "of 3 steps: GPU 4 kWh in 2 of them, " in energy_text([entry, measured, measured])
