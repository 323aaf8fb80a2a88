"""Accounting: known vectors, numerical integration, the laws of composition, and noise from a budget."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from scipy import integrate

from bench import accounting as bench
from common.accounting import ORDERS, Mechanism, between_orders, epsilon, noise_for, prv_epsilon, rdp
from tests.checked import mutated, passing
from tests.examples import examples
from tests.privacy_checks.accounting import CHECKS

MUTATIONS = mutated(CHECKS)
DELTA = 1e-5
WHOLE = tuple(order for order in ORDERS if order.is_integer())
"""Orders at which much noise is not rounded up to a chord."""

mechanisms = st.builds(
    Mechanism,
    noise_multiplier=st.sampled_from([0.5, 0.8, 1.0, 1.5, 4.0, 12.0, 50.0, 1000.0]),
    sampling_rate=st.sampled_from([1e-4, 0.01, 0.1, 0.2, 0.9, 1.0]),
    steps=st.integers(1, 1000),
    reuse=st.sampled_from([1, 2, 4]),
)


def cost(mechanism: Mechanism, **options: tuple[float, ...]) -> np.ndarray:
    return rdp(**mechanism._asdict(), **options)


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_fails_on_a_broken_account(mutation: Callable[[], bool]) -> None:
    assert not mutation()


def test_the_bench_prints_what_it_measured_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main()
    figures = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert len(figures["vectors"]) == 6
    assert set(figures["vectors"][0]) == {"sigma", "q", "steps", "rdp", "prv", "rdp_expected", "prv_expected"}
    assert abs(figures["mu_epsilon"] - 12.58) < 0.01


def test_the_bench_ends_with_status_1_and_names_what_is_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "VECTORS", (bench.VECTORS[4]._replace(rdp=6.7), bench.VECTORS[5]))
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "sigma 4.0, q 1.0: rdp 6.8133, not 6.7000\n"


def by_integration(sigma: float, q: float, order: float) -> float:
    """RDP of one sampled Gaussian in both directions by quadrature of its definition (arXiv 1908.10530, section 3)."""

    def log_mixture(x: float) -> float:
        """Log density of the mixture over that of the centred Gaussian."""
        return float(np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * sigma**2)))

    def moment(power: float) -> float:
        def integrand(x: float) -> float:
            return math.exp(power * log_mixture(x) - x**2 / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

        centre = max(power, 0)
        return sum(
            integrate.quad(integrand, low, high, limit=500, epsabs=0, epsrel=1e-12)[0]
            for low, high in ((-14 * sigma, 0), (0, centre + 1), (centre + 1, centre + 14 * sigma))
        )

    return max(math.log(moment(order)), math.log(moment(1 - order))) / (order - 1)


@pytest.mark.parametrize("sigma, q", [(0.8, 0.05), (1.0, 0.5), (1.2, 0.1), (2.0, 0.2), (4.0, 0.9), (25.0, 0.5)])
def test_rdp_is_what_numerical_integration_of_its_definition_gives(sigma: float, q: float) -> None:
    orders = tuple(order for order in ORDERS if order <= 9)
    found = rdp(noise_multiplier=sigma, sampling_rate=q, steps=1, orders=orders)
    assert np.allclose(found, [by_integration(sigma, q, order) for order in orders], rtol=1e-6, atol=1e-12)


def test_without_sampling_rdp_is_that_of_the_gaussian() -> None:
    found = rdp(noise_multiplier=3.0, sampling_rate=1.0, steps=7)
    assert np.allclose(found, 7 * np.array(ORDERS) / 18)


@given(mechanisms, st.integers(1, 500))
def test_rdp_of_steps_is_the_sum_of_the_steps(mechanism: Mechanism, more: int) -> None:
    together = cost(mechanism._replace(steps=mechanism.steps + more))
    assert np.allclose(cost(mechanism) + cost(mechanism._replace(steps=more)), together)


@pytest.mark.long
@given(mechanisms)
def test_releases_on_one_sample_are_one_release_at_less_noise(mechanism: Mechanism) -> None:
    joint = mechanism._replace(reuse=1, noise_multiplier=mechanism.noise_multiplier / math.sqrt(mechanism.reuse))
    assert np.array_equal(cost(mechanism), cost(joint))
    fresh = mechanism._replace(steps=mechanism.steps * mechanism.reuse, reuse=1)
    assert (cost(mechanism, orders=WHOLE) >= cost(fresh, orders=WHOLE) * (1 - 1e-6) - 1e-12).all()


@given(mechanisms)
def test_sampling_noise_and_few_steps_only_help_and_rdp_rises_with_the_order(mechanism: Mechanism) -> None:
    assert (cost(mechanism) <= cost(mechanism._replace(sampling_rate=1.0)) * (1 + 1e-9)).all()
    found = cost(mechanism, orders=WHOLE)
    assert (found > 0).all()
    quieter = mechanism._replace(noise_multiplier=2 * mechanism.noise_multiplier)
    assert (found >= cost(quieter, orders=WHOLE) * (1 - 1e-6)).all()
    assert (np.diff(found) >= -1e-6 * found[:-1]).all()


def test_much_noise_costs_little_and_is_counted_at_once() -> None:
    for sigma in (31.0, 1e3, 1e6):
        found = rdp(noise_multiplier=sigma, sampling_rate=0.5, steps=1)
        whole = np.isin(ORDERS, range(2, 100))
        assert np.allclose(found[whole], np.array(ORDERS)[whole] / (8 * sigma**2), rtol=0.1, atol=1e-15)
        assert (found[~whole] <= np.array(ORDERS)[~whole] / (2 * sigma**2)).all()


def test_no_noise_is_no_privacy_and_no_step_costs_nothing() -> None:
    assert epsilon(rdp(noise_multiplier=0.0, sampling_rate=0.1, steps=1), DELTA) == math.inf
    assert epsilon(rdp(noise_multiplier=1.0, sampling_rate=0.1, steps=0), DELTA) == 0.0
    assert prv_epsilon([], DELTA) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"steps": -1},
        {"reuse": 0},
    ],
)
def test_a_mechanism_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no such mechanism"):
        rdp(**{"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 1, **wrong})


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        epsilon(np.ones(len(ORDERS)), delta)


def test_the_orders_are_ours_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that was written at them must mean the same for ever; a change is a decision, not an upgrade."""
    assert len(ORDERS) == 52
    assert (ORDERS[0], ORDERS[-1]) == (1.1, 512.0)
    assert sum(ORDERS) == pytest.approx(2035.75)
    before = epsilon(rdp(noise_multiplier=1.2, sampling_rate=0.1, steps=200), DELTA)
    monkeypatch.setattr(RDPAccountant, "DEFAULT_ALPHAS", [2.0, 3.0])
    assert epsilon(rdp(noise_multiplier=1.2, sampling_rate=0.1, steps=200), DELTA) == before


@given(mechanisms, st.lists(st.sampled_from(ORDERS), min_size=2, unique=True).map(sorted))
def test_between_known_orders_the_chord_is_a_bound_and_above_them_there_is_none(
    mechanism: Mechanism, known: list[float]
) -> None:
    if mechanism.noise_multiplier / math.sqrt(mechanism.reuse) > 30:
        return
    values = [Fraction(value) for value in cost(mechanism, orders=tuple(known)).tolist()]
    found = between_orders(values, known, ORDERS)
    for order, bound, value in zip(ORDERS, found, cost(mechanism), strict=True):
        assert (bound is None) == (order > known[-1])
        if bound is not None:
            assert float(bound) >= value * (1 - 1e-6)
        if order in known:
            assert bound == values[known.index(order)]


def test_an_order_without_a_bound_is_left_out_of_the_chords() -> None:
    assert between_orders([1, None, 3], [2.0, 3.0, 4.0], [1.5, 3.0, 4.0, 5.0]) == [1, Fraction(5, 2), 3, None]
    assert between_orders([1, None], [2.0, 3.0], [2.0, 2.5]) == [1, None]
    assert between_orders([], [], [2.0]) == [None]


@given(mechanisms, st.floats(0, 1e-6))
@example(Mechanism(1.0, 0.1, 100), 1e-9)
@example(Mechanism(0.5, 0.9, 75, 4), 5e-324)
def test_delta_pays_for_rdp_and_for_total_variation(mechanism: Mechanism, variation: float) -> None:
    total = cost(mechanism)
    found = epsilon(total, DELTA, total_variation=variation)
    assert found >= epsilon(total, DELTA)
    if variation and math.isfinite(found):
        for_rdp = DELTA - (1 + math.exp(found)) * variation
        assert for_rdp > 0
        assert epsilon(total, for_rdp) <= found * (1 + 1e-9)


def test_more_total_variation_than_delta_can_pay_for_is_no_privacy() -> None:
    total = rdp(noise_multiplier=1.0, sampling_rate=0.1, steps=100)
    assert epsilon(total, DELTA) < 8 < epsilon(total, DELTA, total_variation=1e-9) < 8.1
    assert epsilon(total, DELTA, total_variation=1e-8) == math.inf
    assert epsilon(np.zeros(len(ORDERS)), DELTA, total_variation=1e-4) == math.inf


@pytest.mark.long
@pytest.mark.parametrize(
    "rate, steps, target, by_rdp, by_prv",
    [(0.1, 100, 1, 4.30, 3.98), (0.1, 100, 3, 1.80, 1.68), (0.1, 100, 8, 0.99, 0.94), (1.0, 30, 3, 8.18, 7.66)],
)
def test_noise_for_a_budget_is_that_of_the_literature(
    rate: float, steps: int, target: float, by_rdp: float, by_prv: float
) -> None:
    found = noise_for(epsilon=target, delta=DELTA, sampling_rate=rate, steps=steps)
    assert found == pytest.approx(by_rdp, rel=0.01)
    assert prv_epsilon([Mechanism(by_prv, rate, steps)], DELTA) == pytest.approx(target, rel=0.01)


@pytest.mark.long
@examples(8)
@given(
    target=st.floats(0.05, 50),
    rate=st.sampled_from([0.01, 0.1, 0.2, 1.0]),
    steps=st.integers(1, 500),
    reuse=st.integers(1, 4),
)
def test_noise_for_a_budget_keeps_it_and_hardly_less_does_not(
    target: float, rate: float, steps: int, reuse: int
) -> None:
    noise = noise_for(epsilon=target, delta=DELTA, sampling_rate=rate, steps=steps, reuse=reuse)
    kept, passed = (
        epsilon(rdp(noise_multiplier=noise * factor, sampling_rate=rate, steps=steps, reuse=reuse), DELTA)
        for factor in (1, 0.999)
    )
    assert kept <= target < passed


def test_a_budget_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="no noise"):
        noise_for(epsilon=0.005, delta=DELTA, sampling_rate=0.1, steps=10)


def test_prv_composes_over_runs_and_is_tighter_than_rdp() -> None:
    run = Mechanism(1.2, 0.1, 100)
    once = prv_epsilon([run._replace(steps=200)], DELTA)
    assert prv_epsilon([run, run], DELTA) == pytest.approx(once, abs=1e-6)
    other = Mechanism(4.0, 1.0, 5)
    both = prv_epsilon([run, other], DELTA)
    assert max(prv_epsilon([run], DELTA), prv_epsilon([other], DELTA)) < both < epsilon(cost(run) + cost(other), DELTA)


def test_prv_is_not_computed_for_what_protects_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opacus.accountants.PRVAccountant", lambda: pytest.fail("it is computed"))
    assert prv_epsilon([Mechanism(0.1, 1.0, 1000)], DELTA) == math.inf


def test_a_budget_is_counted_by_opacus_own_file_without_torch_and_its_import_without_scipy() -> None:
    program = (
        "import sys; from common.accounting import epsilon, rdp\n"
        "print({'opacus', 'torch', 'scipy'} & set(sys.modules))\n"
        "spent = epsilon(rdp(noise_multiplier=4.0, sampling_rate=0.1, steps=30), 1e-5)\n"
        "print({'opacus', 'torch'} & set(sys.modules)); print(spent)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    accountant = RDPAccountant()
    accountant.history = [(4.0, 0.1, 30)]
    first, second, spent = done.stdout.splitlines()
    assert (first, second) == ("set()", "set()")
    assert float(spent) == pytest.approx(accountant.get_epsilon(1e-5, alphas=list(ORDERS)), rel=1e-6)
