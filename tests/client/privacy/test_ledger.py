"""The ledger: nothing leaves uncharged, nothing is forgotten, and whoever changes a byte of it is found out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import common.accounting
from client.privacy import chain
from client.privacy.chain import LEDGER, MARK, ledger_folder
from client.privacy.entry import GRADIENTS, cost
from client.privacy.ledger import Ledger
from client.training.releases import mechanism_of_gradients
from common.accounting import ORDERS
from common.config import PrivacyConfig, load_config
from common.errors import Code
from common.messages.heads import START, Head
from tests.checked import mutated, passing
from tests.paths import ROOT
from tests.privacy_checks.ledger import (
    CAP,
    CHECKS,
    filled,
    goes_on,
    in_a_child,
    new_site,
    path_of,
    refused,
    release,
    verified,
)
from tests.small_disk import needs_small_disk, on_small_disk

MUTATIONS = mutated(CHECKS)


@pytest.mark.federation
@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_fails_on_a_broken_ledger(mutation: Callable[[], bool]) -> None:
    assert not mutation()


def test_a_record_says_what_was_released_and_what_it_cost(amc: Path) -> None:
    ledger = Ledger.opened(amc)
    first = ledger.charge(release(1), cap=CAP)
    second = ledger.charge(release(2, q=0.1, mu=2, steps=3), cap=CAP)
    records = [json.loads(line) for line in path_of(amc).read_text().splitlines()]
    assert records[1]["previous"] == first.head.sha256
    assert (records[1]["sequence"], records[1]["round"], records[1]["q"], records[1]["mu"]) == (2, 2, 0.1, 2)
    assert (records[1]["sigma_units"], records[1]["sensitivity_units"]) == (44_000, 11_000)
    assert records[1]["orders"] == list(ORDERS)
    nats = common.accounting.rdp(noise_multiplier=4.0, sampling_rate=0.1, steps=3, reuse=2)
    for value, units in zip(nats, records[1]["rdp"], strict=True):
        assert 0 <= units - value / 1e-12 < 1.001
    assert records[1]["rdp_sum"] == [a + b for a, b in zip(first.rdp, second.rdp, strict=True)]
    assert records[1]["epsilon"] == ledger.epsilon == second.epsilon > first.epsilon > 0
    assert ledger.entries() == [first, second] == verified(amc)
    assert ledger.head == second.head == Head(2, second.head.sha256)


def test_thirty_rounds_cost_what_opacus_says(amc: Path) -> None:
    assert filled(amc, 30).epsilon == pytest.approx(6.8133, rel=1e-3)


def test_a_new_run_a_restart_and_another_mechanism_go_on_where_the_last_ended(amc: Path) -> None:
    costs = [filled(amc, 2, run=run, mechanism=mechanism).epsilon for run, mechanism in
             (("one", "fedsgd-local"), ("two", "fedsgd-local"), ("two", "metrics"), ("three", "fedavg"))]  # fmt: skip
    nats = common.accounting.rdp(noise_multiplier=4.0, sampling_rate=1.0, steps=8)
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(common.accounting.epsilon(nats, 1e-5), rel=1e-6)


def test_a_round_that_is_charged_again_is_a_retry_and_costs_as_much(amc: Path) -> None:
    first = filled(amc, 1)
    again = Ledger.opened(amc).charge(release(1, attempt=1), cap=CAP)
    other = Ledger.opened(amc).charge(release(1, mechanism="metrics"), cap=CAP)
    assert (again.retry, other.retry) == (True, False)
    assert again.rdp == first.entries()[0].rdp
    assert [entry.retry for entry in verified(amc)] == [False, True, False]


def test_attempts_at_a_round_are_counted_whatever_its_gradients_are_sent_as(amc: Path) -> None:
    """A run of the same name that states another protocol is asked for the same part once more, and no retry."""
    ledger = Ledger.opened(amc)
    for attempt in range(3):
        ledger.charge(release(1, attempt=attempt), cap=CAP)
    for mechanism in ("fedsgd-local", "fedsgd-shared", "fedavg"):
        assert ledger.charged(release(1, mechanism=mechanism))[0] == 3
    for other in ({"mechanism": "metrics"}, {"run": "other"}):
        assert ledger.charged(release(1, **other)) == (0, False)
    assert ledger.charged(release(2)) == (0, False)
    assert not ledger.charge(release(1, mechanism="fedavg"), cap=CAP).retry
    assert Ledger.opened(amc).charged(release(1))[0] == 4


@pytest.mark.parametrize("federation", [{"protocol": "fedsgd"}, {"protocol": "fedavg"}])
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_whatever_a_run_sends_of_gradients_is_one_part_of_a_round(federation: Any, noise: Any) -> None:
    config, _ = load_config(ROOT / "configs" / "demo.toml")
    privacy = PrivacyConfig(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5, noise=noise)
    changes = {"federation": config.federation.model_copy(update=federation), "privacy": privacy}
    assert mechanism_of_gradients(config.model_copy(update=changes)) in GRADIENTS


def test_what_would_pass_the_cap_is_projected_refused_and_not_charged(amc: Path) -> None:
    ledger = filled(amc, 3)
    before = path_of(amc).read_bytes()
    projected = ledger.require(release(4), cap=math.inf)
    refused(lambda: ledger.require(release(4), cap=projected * (1 - 1e-9)), Code.BUDGET_SPENT)
    told = refused(lambda: ledger.charge(release(4), cap=projected * (1 - 1e-9)), Code.BUDGET_SPENT)
    assert "Round 4 of run 'trial'" in told
    assert f"{projected:.4g}" in told
    assert path_of(amc).read_bytes() == before
    assert ledger.charge(release(4), cap=projected).epsilon == projected


@pytest.mark.parametrize("cap", [0.0, -1.0, math.nan])
def test_a_cap_that_is_none_lets_nothing_leave(amc: Path, cap: float) -> None:
    ledger = Ledger.opened(amc)
    refused(lambda: ledger.charge(release(1), cap=cap), Code.BUDGET_SPENT)
    assert ledger.head == START


def test_without_a_bound_nothing_leaves_whatever_the_cap(amc: Path) -> None:
    ledger = Ledger.opened(amc)
    refused(lambda: ledger.charge(release(1, total_variation=1e-5), cap=math.inf), Code.BUDGET_SPENT)
    assert not path_of(amc).exists()


def test_the_total_variation_of_all_releases_comes_off_delta(amc: Path) -> None:
    ledger = filled(amc, 2, total_variation=1e-7)
    last = ledger.entries()[-1]
    assert last.total_variation_sum == 2e-7
    nats = common.accounting.rdp(noise_multiplier=4.0, sampling_rate=1.0, steps=2)
    for_rdp = 1e-5 - (1 + math.exp(last.epsilon)) * 2e-7
    assert last.epsilon == pytest.approx(common.accounting.epsilon(nats, for_rdp), rel=1e-6)


def test_another_delta_restates_everything_spent_at_it(amc: Path) -> None:
    ledger = filled(amc, 3)
    looser = ledger.charge(release(4, delta=1e-3), cap=CAP)
    nats = common.accounting.rdp(noise_multiplier=4.0, sampling_rate=1.0, steps=4)
    assert looser.epsilon == pytest.approx(common.accounting.epsilon(nats, 1e-3), rel=1e-6)
    assert looser.epsilon < ledger.entries()[2].epsilon
    assert ledger.charge(release(5, delta=1e-6), cap=CAP).epsilon > looser.epsilon
    ledger.verify(costs=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma_units": 0},
        {"sigma_units": 44_000.0},
        {"sensitivity_units": 0},
        {"steps": 0},
        {"steps": True},
        {"mu": 0},
        {"q": 0.0},
        {"q": 1.5},
        {"q": math.nan},
        {"delta": 0.0},
        {"delta": 1.0},
        {"total_variation": -1e-9},
        {"total_variation": math.inf},
    ],
)
def test_a_release_with_a_number_out_of_range_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of its range"):
        release(**wrong)


def with_orders(monkeypatch: pytest.MonkeyPatch, orders: tuple[float, ...]) -> None:
    monkeypatch.setattr(common.accounting, "ORDERS", orders)


@pytest.mark.parametrize(
    "fresh", [ORDERS[::2], (*ORDERS[1:], 600.0), tuple(order + 0.05 for order in ORDERS), tuple(range(2, 65))]
)
def test_a_ledger_of_other_orders_is_read_verified_and_composed_from_above(
    amc: Path, monkeypatch: pytest.MonkeyPatch, fresh: tuple[float, ...]
) -> None:
    before = filled(amc, 5).epsilon
    with_orders(monkeypatch, tuple(float(order) for order in fresh))
    ledger = Ledger.opened(amc)
    assert ledger.epsilon == before
    entry = ledger.charge(release(6), cap=CAP)
    assert entry.orders == tuple(fresh)
    nats = common.accounting.rdp(noise_multiplier=4.0, sampling_rate=1.0, steps=6, orders=entry.orders)
    exact = common.accounting.epsilon(nats, 1e-5, orders=entry.orders)
    assert exact <= entry.epsilon <= exact * 1.03
    assert [value is None for value in entry.rdp_sum] == [order > 512 for order in fresh]
    ledger.charge(release(7), cap=CAP)
    with_orders(monkeypatch, ORDERS)
    Ledger.opened(amc).charge(release(8), cap=CAP)
    Ledger.opened(amc).verify(costs=True)
    assert len(verified(amc)) == 8


def test_orders_without_any_bound_on_the_past_spend_everything(amc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_orders(monkeypatch, (2.0, 3.0))
    filled(amc, 1)
    with_orders(monkeypatch, (4.0, 5.0))
    refused(lambda: Ledger.opened(amc).charge(release(2), cap=CAP), Code.BUDGET_SPENT)


def test_two_processes_charge_one_after_the_other(amc: Path) -> None:
    cost(release(1))

    def charge_ten(run: str, send: Callable[[bytes], object]) -> None:
        ledger = Ledger.opened(amc)
        for number in range(10):
            ledger.charge(release(number, run=run, sigma_units=440_000), cap=CAP)
            send(b"x")

    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os._exit(0 if in_a_child(partial(charge_ten, "theirs"))[0] == 0 else 1)
    os.close(writing)
    charge_ten("ours", lambda _: None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reading)
    runs = [entry.release.run for entry in verified(amc)]
    assert sorted(runs) == ["ours"] * 10 + ["theirs"] * 10


def test_two_ledgers_of_one_process_see_each_others_lines(amc: Path) -> None:
    one, two = Ledger.opened(amc), Ledger.opened(amc)
    for number in range(1, 7):
        (one, two)[number % 2].charge(release(number), cap=CAP)
    assert one.entries() == two.entries()
    two.seen_by_peers({"berlin": one.head})
    assert one.head == two.head


def test_a_process_that_does_not_let_go_is_told_of(amc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = filled(amc, 1)
    monkeypatch.setattr(ledger._lock, "timeout", 0.1)
    with FileLock(ledger_folder(amc) / "lock"):
        refused(lambda: ledger.charge(release(2), cap=CAP), Code.SITE_RUNNING)
    assert goes_on(ledger)


def test_everything_is_its_owners_alone(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        folder = new_site(tmp_path / "amc")
        filled(folder, 2)
    finally:
        os.umask(umask)
    for path in [ledger_folder(folder), *(ledger_folder(folder) / name for name in (LEDGER, MARK))]:
        assert path.stat().st_mode & 0o077 == 0


def test_a_charge_reads_no_line_again_and_a_start_reads_each_once(amc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    follows = chain._Check.follows
    monkeypatch.setattr(
        chain._Check, "follows", lambda self, entry, head: read.append(entry.sequence) or follows(self, entry, head)
    )
    ledger = Ledger.opened(amc)
    for number in range(60):
        ledger.charge(release(number, sigma_units=440_000), cap=CAP)
    assert read == []
    Ledger.opened(amc)
    assert read == list(range(1, 61))


FULL = """
    from pathlib import Path
    from client.privacy.chain import LEDGER, ledger_folder, site_keys, read_chain
    from client.privacy.ledger import Ledger
    from common.errors import Code, FedReasonError
    from tests.privacy_checks.ledger import new_site, release
    folder = new_site(Path("/mnt/amc"))
    ledger = Ledger.opened(folder)
    ledger.charge(release(1), cap=8)

    def refused(number):
        before = read_chain(ledger_folder(folder), site_keys(folder)).entries
        try:
            ledger.charge(release(number), cap=8)
        except FedReasonError as error:
            assert error.code is Code.DISK_FULL, error
        else:
            return False
        assert read_chain(ledger_folder(folder), site_keys(folder)).entries[:len(before)] == before
        return True

    ballast = fill()
    charged = 1
    while not refused(charged + 1):
        charged += 1
    assert refused(99)
    ballast.truncate(0)
    entry = ledger.charge(release(100), cap=8)
    assert charged < entry.sequence <= charged + 3
    Ledger.opened(folder).verify()
"""


@needs_small_disk
def test_on_a_full_disk_nothing_is_released_and_the_ledger_stays_whole() -> None:
    on_small_disk(FULL)


def test_reading_imports_nothing_heavy(amc: Path) -> None:
    filled(amc, 2)
    program = """if True:
        import sys
        from pathlib import Path
        from client.privacy.spending import ledger_json, ledger_lines
        ledger_lines(Path(sys.argv[1])), ledger_json(Path(sys.argv[1]))
        print({"opacus", "torch", "numpy", "scipy", "pandas", "flwr", "filelock"} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", program, amc], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
