"""Arms compared over several training seeds: right on worked examples, and on thousands of studies whose truth is known."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from helpers import scoring, seeds
from helpers.files import ROOT

STUDIES = 2000


def arms(differences) -> tuple[list[list[bool]], list[list[bool]]]:
    """Two arms with these differences (seeds × items of -1, 0, 1)."""
    d = np.array(differences)
    return (d > 0).tolist(), (d < 0).tolist()


def draw(shares, several: int, n: int, seed: int = 0) -> np.ndarray:
    """Differences (seeds × items): -1 and 1 with these shares, 0 else."""
    lost, won = shares
    return np.random.default_rng(seed).choice([-1, 0, 1], (several, n), p=[lost, 1 - lost - won, won])


def test_one_seed_is_exactly_mcnemar():
    a, b = arms(draw((0.1, 0.2), 1, 120))
    found, paired = seeds.over_seeds(a, b), scoring.mcnemar(a[0], b[0])
    assert (found.value, found.low, found.high, found.p_value) == (paired.difference, paired.low, paired.high, paired.p_value)
    assert (found.only_a, found.only_b, found.n, found.seeds) == (paired.only_a, paired.only_b, 120, 1)
    assert found.by_seed == (paired.difference,) and found.by_seed_p == (paired.p_value,)
    assert found.mde == scoring.minimum_detectable_effect(120, (paired.only_a + paired.only_b) / 120)
    for p in (None, 0.5):
        assert seeds.verdict_over_seeds(found, p_value=p, names=("x", "y")) == scoring.verdict(paired, p_value=p, names=("x", "y"))


def test_copies_of_a_seed_are_no_new_evidence():
    a, b = arms(draw((0.1, 0.2), 1, 120))
    one, five = seeds.over_seeds(a, b), seeds.over_seeds(a * 5, b * 5)
    assert (five.value, five.low, five.high, five.p_value, five.mde) == (one.value, one.low, one.high, one.p_value, one.mde)
    assert (five.seeds, five.only_a, len(five.by_seed)) == (5, 5 * one.only_a, 5)
    assert seeds.rate_over_seeds(a * 5) == seeds.rate_over_seeds(a) == scoring.accuracy(a[0])


def test_a_worked_example():
    """Item means 1, 0.5, 0, -0.5 and the added ±0.7071: variance 7/15; seeds 2/6 and 0: variance 1/18; all by hand."""
    d = [[1, 1, 0, 0], [1, 0, 0, -1]]
    centre, from_items, from_seeds = seeds._spread(np.array(d), (2**-0.5, -(2**-0.5)))
    assert (centre, from_items, from_seeds) == pytest.approx((1 / 6, 7 / 15 / 6, 1 / 18 / 2))
    found = seeds.over_seeds(*arms(d))
    # t is 1 at 1 degree of freedom over the seeds (p = 0.5); of the eight ways to flip 2, 1 and -1 six reach 2 (p = 0.75).
    assert found.value == 25 and found.by_seed == (50, 0) and found.p_value == pytest.approx(0.75)
    assert (found.low, found.high, found.only_a, found.only_b) == (-100, 100, 3, 1) and found.mde == math.inf
    assert found.by_seed_p == (0.5, 1.0)


def test_the_parts_are_those_of_the_two_way_analysis_of_variance():
    from scipy import stats

    several, n = 4, 500
    d = draw((0.08, 0.14), several, n).astype(float)
    found = seeds.over_seeds(*arms(d))
    ms_items = several * sum((x - d.mean()) ** 2 for x in d.mean(0)) / (n - 1)
    ms_seeds = n * sum((x - d.mean()) ** 2 for x in d.mean(1)) / (several - 1)
    # Var(mean) = (MS_items + MS_seeds) / (n S), Clark's min F'; df as Satterthwaite's. The two added items are 2 of 502.
    error = ((ms_items + ms_seeds) / (n * several)) ** 0.5
    df = (ms_items + ms_seeds) ** 2 / (ms_items**2 / (n - 1) + ms_seeds**2 / (several - 1))
    half = max(stats.t.ppf(0.975, df) * error, stats.t.ppf(0.975, several - 1) * (ms_seeds / n / several) ** 0.5)
    assert found.value == pytest.approx(100 * d.mean())
    assert (found.high - found.low) / 2 == pytest.approx(100 * half, rel=0.02)
    assert (found.high + found.low) / 2 == pytest.approx(100 * d.mean(), rel=0.01)


def test_sign_flips_are_exact_and_those_of_one_seed_are_mcnemar():
    for sums in ([3, -1, 2, 1], [2, 2, 2], [-3, 1, 0, 1, 1], [1, 2, 3, -2, 0, 0, 1]):
        ways = [abs(sum(s * x for s, x in zip(signs, sums, strict=True))) for signs in itertools.product((1, -1), repeat=len(sums))]
        assert seeds._sign_flips(sums) == pytest.approx(sum(w >= abs(sum(sums)) for w in ways) / len(ways))
    assert seeds._sign_flips([1, -1, -1] * 3 + [0] * 5) == pytest.approx(scoring.mcnemar(*(x[0] for x in arms([[1, -1, -1] * 3]))).p_value)
    assert seeds._sign_flips([0, 0]) == 1


def test_order_does_not_matter_and_swapped_arms_change_the_sign():
    d = draw((0.1, 0.2), 3, 150)
    found = seeds.over_seeds(*arms(d))
    mixed = seeds.over_seeds(*arms(d[[2, 0, 1]][:, np.random.default_rng(1).permutation(150)]))
    assert sorted(mixed.by_seed) == sorted(found.by_seed)
    back = seeds.over_seeds(*reversed(arms(d)))
    assert (mixed.value, mixed.low, mixed.high, mixed.p_value, mixed.mde) == pytest.approx((found.value, found.low, found.high, found.p_value, found.mde))
    assert (back.value, back.low, back.high, back.p_value, back.mde) == pytest.approx((-found.value, -found.high, -found.low, found.p_value, found.mde))
    assert (back.only_a, back.only_b) == (found.only_b, found.only_a)


def test_without_any_variance_nothing_is_certain():
    for several in (1, 3):
        won = seeds.over_seeds([[True] * 10] * several, [[False] * 10] * several)
        assert won.p_value == pytest.approx(2 / 2**10) and won.value == 100 and won.low < 100
        same = seeds.over_seeds([[True] * 10] * several, [[True] * 10] * several)
        assert same.p_value == 1 and same.value == 0 and same.low < 0 < same.high
    # Both seeds win as much, on other items: the variance between them is zero, the items still have one.
    apart = seeds.over_seeds(*arms([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]))
    assert 2 / 2**6 <= apart.p_value < 0.05 and apart.low < 50 < apart.high
    # Five items cannot be significant, whatever the seeds say.
    few = seeds.over_seeds(*arms([[1] * 5, [1] * 5, [1, 1, 1, 1, 0]]))
    assert few.p_value >= 2 / 2**5 and few.mde == math.inf
    assert "too few to detect any effect" in seeds.verdict_over_seeds(few).text


@pytest.mark.parametrize(("a", "b", "message"), [
    ([], [], "a is empty"), ([[]], [[]], r"a\[0\] is empty"), ([[True], [True]], [[True]], "Unequal numbers of seeds: 2 a, 1 b"),
    ([[True, True]], [[True]], "Unequal lengths"), ([[True, True], [True]], [[True, True], [True]], "a has 2, 1 items"),
    ([[True], [0.5]], [[True], [True]], r"a\[1\] must hold True and False")])
def test_input_is_checked(a, b, message):
    with pytest.raises(ValueError, match=message):
        seeds.over_seeds(a, b)
    if "Unequal" not in message:
        with pytest.raises(ValueError, match=message):
            seeds.rate_over_seeds(a)


def test_verdict_over_seeds_has_the_three_outcomes():
    better = seeds.over_seeds(*arms(draw((0.03, 0.25), 4, 200)))
    worse = seeds.over_seeds(*arms(-draw((0.03, 0.25), 4, 200)))
    alike = seeds.over_seeds(*arms(draw((0.1, 0.1), 4, 200)))
    assert [seeds.verdict_over_seeds(f).outcome for f in (better, worse, alike)] == ["improves", "harms", "no detectable difference"]
    found = seeds.verdict_over_seeds(better, names=("reasoned-33", "plain"))
    by_seed = ", ".join(f"{d:+.1f}" for d in better.by_seed)
    assert found.mde == better.mde and str(found) == (
        f"reasoned-33 against plain: improves, {better.value:+.1f} points [{better.low:+.1f}, {better.high:+.1f}], the mean of 4 seeds "
        f"({by_seed}) (test over items and seeds {scoring._p(better.p_value)}; {better.only_a} right only with reasoned-33, "
        f"{better.only_b} only with plain in 4 × 200 answers, n=200; minimum detectable effect {better.mde:.1f} points in a single "
        "comparison at 5 %, 80 % power).")
    adjusted = seeds.verdict_over_seeds(better, p_value=0.06)
    assert adjusted.outcome == "no detectable difference" and "adjusted p=0.060" in adjusted.text
    assert seeds.verdict_over_seeds(better, p_value=0.06, alpha=0.1).outcome == "improves"
    assert str(better).endswith("n=200 seeds=4")


# Studies whose truth is known. An item's difficulty is one for both arms, so that their answers are correlated; each arm
# takes to an item in its own way with every seed, and each run is better or worse on all of them.

ALPHA, BETA = 0.4, 0.6
SPREAD = ALPHA * BETA / ((ALPHA + BETA) * (ALPHA + BETA + 1))  # mean of p (1 - p)


def runs(several: int, n: int, deviation: float, effect: float = 0.0, taste: float = 0.5, studies: int = STUDIES, seed: int = 0) -> np.ndarray:
    """Outcomes (2 arms, studies, seeds, items): arm A `effect` (a share) better, runs `deviation` (a share, s.d.) apart."""
    generator = np.random.default_rng(seed)
    p = generator.beta(ALPHA, BETA, (1, studies, 1, n))
    arm = np.array([0.5, -0.5]).reshape(2, 1, 1, 1) * effect + generator.normal(0, deviation, (2, studies, several, 1))
    return generator.random((2, studies, several, n)) < p + p * (1 - p) * (arm / SPREAD + generator.uniform(-taste, taste, (2, studies, 1, n)))


def all_tests(outcomes: np.ndarray):
    """P-values, centres, half intervals and detectable effects of all studies at once, as `over_seeds` has them one by one."""
    d = outcomes[0].astype(np.int8) - outcomes[1].astype(np.int8)
    several, n = d.shape[1:]
    centre, *spread = seeds._spread(d.astype(float), (several**-0.5, -(several**-0.5)))
    p_value, half, mde = seeds._crossed(centre, *spread, several, n + 2)
    for k in np.flatnonzero(p_value <= 0.05):  # the flips only ever raise it
        p_value[k] = max(p_value[k], seeds._sign_flips(d[k].sum(0, dtype=int).tolist()))
    return p_value, centre, half, mde, spread


def test_all_studies_at_once_are_the_studies_one_by_one():
    outcomes = runs(3, 300, 0.015, effect=0.1, studies=60)
    p_value, centre, half, mde, _ = all_tests(outcomes)
    one = [seeds.over_seeds(a.tolist(), b.tolist()) for a, b in zip(*outcomes, strict=True)]
    assert [f.p_value <= 0.05 for f in one] == (p_value <= 0.05).tolist() and 5 < sum(p_value <= 0.05) < 55
    assert [f.low for f in one] == pytest.approx((100 * (centre - half)).tolist(), abs=1e-3)
    assert [f.mde for f in one] == pytest.approx((100 * mde).tolist(), rel=1e-4)


@pytest.mark.parametrize(("several", "n", "deviation"), [
    (3, 300, 0.015), (3, 300, 0.0), (3, 144, 0.03), (3, 300, 0.06), (2, 300, 0.03), (5, 300, 0.015)])
def test_without_an_effect_at_most_one_study_in_twenty_finds_one(several, n, deviation):
    p_value, centre, half, _, _ = all_tests(runs(several, n, deviation))
    assert 0 < (p_value <= 0.05).mean() <= 0.05
    assert (np.abs(centre) <= half).mean() >= 0.94


def test_few_discordant_items_alike_over_the_seeds_find_no_effect_that_is_not_there():
    generator, wrong = np.random.default_rng(3), 0
    for _ in range(500):
        shared, own = (generator.choice([-1, 0, 1], size, p=[0.03, 0.94, 0.03]) for size in ((1, 144), (3, 144)))
        wrong += seeds.over_seeds(*arms(np.where(generator.random((3, 144)) < 0.8, shared, own))).p_value <= 0.05
    assert wrong / 500 <= 0.05


@pytest.mark.parametrize("several", [3, 5])
def test_the_detectable_effect_is_found_with_the_power_of_the_theory(several):
    n, deviation = 300, 0.015
    _, _, _, mde, _ = all_tests(runs(several, n, deviation))
    effect = float(np.median(mde))  # of a study with the usual errors
    p_value, centre, half, _, (from_items, from_seeds) = all_tests(runs(several, n, deviation, effect, seed=1))
    power = (p_value <= 0.05).mean()
    # The theory: normal data with those variances, the mean and each of its two variances drawn on their own.
    generator, draws = np.random.default_rng(2), 20_000
    normal = seeds._crossed(generator.normal(centre.mean(), centre.std(), draws), from_items.mean() * generator.chisquare(n + 1, draws) / (n + 1),
                            from_seeds.mean() * generator.chisquare(several - 1, draws) / (several - 1), several, n + 2)[0]
    assert power == pytest.approx((normal <= 0.05).mean(), abs=0.03)
    assert 0.75 <= power <= 0.83
    assert not ((p_value <= 0.05) & (centre < 0)).any()
    assert (np.abs(centre - effect * n / (n + 2)) <= half).mean() >= 0.94


@pytest.mark.parametrize(("several", "deviation"), [(3, 0.015), (5, 0.015), (2, 0.0)])
def test_the_interval_of_a_rate_covers(several, deviation):
    right = runs(several, 300, deviation, studies=1000)[0].astype(float)
    centre, *spread = seeds._spread(right, (1, 1, 0, 0))
    half = seeds._crossed(centre, *spread, several, 304)[1]
    assert (np.abs(centre - ALPHA / (ALPHA + BETA)) <= half).mean() >= 0.94
    found = seeds.rate_over_seeds(right[0].astype(bool).tolist())
    assert found.value == pytest.approx(100 * right[0].mean()) and found.n == 300
    assert (found.low, found.high) == pytest.approx((100 * (centre - half)[0], 100 * (centre + half)[0]), abs=1e-3)


def test_rates_stay_between_none_and_all():
    low, high = (seeds.rate_over_seeds([[x] * 30, [x] * 29 + [not x]]) for x in (False, True))
    assert low.low == 0 < low.high and high.low < 100 == high.high


def test_import_loads_nothing_heavy():
    code = "import sys, helpers.seeds; print([m for m in ('numpy', 'scipy', 'sacrebleu') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"
