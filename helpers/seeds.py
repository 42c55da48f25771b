"""Is the difference real on other questions *and* with other training seeds? Accuracy over several seeds on the same items.

Items and seeds are both drawn from larger populations and crossed: every seed answers every item. Rates are in percent,
differences in points (0-100), intervals 95 %. Miller (2024, arXiv 2411.00640) gives the error bars over items alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .scoring import (
    Estimate,
    PairedAccuracy,
    Verdict,
    _booleans,
    _p,
    accuracy,
    mcnemar,
    minimum_detectable_effect,
    verdict,
)


@dataclass(frozen=True)
class SeedDifference:
    """Accuracy of A minus that of B in points, the mean over `seeds` training seeds on the same `n` items, with its 95 %
    interval and two-sided p-value.

    `by_seed` holds each seed's difference in points, `by_seed_p` its exact McNemar p-value; `only_a` and `only_b` count
    the discordant pairs of all seeds together. `mde` is the effect in points that a study with such errors finds with
    80 % power in a single comparison at 5 %; `inf` where none can be found.
    """

    value: float
    low: float
    high: float
    p_value: float
    n: int
    seeds: int
    by_seed: tuple[float, ...]
    by_seed_p: tuple[float, ...]
    only_a: int
    only_b: int
    mde: float

    def __str__(self) -> str:
        return (f"{self.value:+.1f} points [{self.low:+.1f}, {self.high:+.1f}] {_p(self.p_value)} "
                f"n={self.n} seeds={self.seeds}")


def _table(outcomes: Sequence[Sequence[bool]], name: str) -> list[list[bool]]:
    rows = [_booleans(row, f"{name}[{seed}]") for seed, row in enumerate(outcomes)]
    if not rows:
        raise ValueError(f"{name} is empty; at least one seed is needed.")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"Unequal lengths: {name} has {', '.join(str(len(r)) for r in rows)} items by seed; "
                         "the same questions are needed, in one order.")
    return rows


def _spread(table, added: Sequence[float]):
    """Centre, variance of it from the items, and from the seeds, of an array (..., seeds, items) with items `added`.

    The added ones count as items, alike with every seed, so that neither a variance of zero nor an edge is taken at its word.
    """
    import numpy as np

    seeds, n = table.shape[-2], table.shape[-1] + len(added)
    items = np.concatenate([table.mean(-2), np.broadcast_to(added, (*table.shape[:-2], len(added)))], -1)
    by_seed = (table.sum(-1) + sum(added)) / n
    return items.mean(-1), items.var(-1, ddof=1) / n, by_seed.var(-1, ddof=1) / seeds


def _crossed(centre, from_items, from_seeds, seeds: int, n: int):
    """Two-sided p-value, half of the 95 % interval and detectable effect of a mean over crossed items and seeds.

    The arrays have one number a study. The standard error over few seeds is mostly too small (its median at 2 degrees of
    freedom is 0.83 of the true one); the detectable effect takes it at its median, so that it is right in half of the studies.
    """
    import numpy as np
    from scipy import stats

    variance, df_seeds = from_items + from_seeds, seeds - 1
    df = variance**2 / (from_items**2 / (n - 1) + from_seeds**2 / df_seeds)
    error, error_seeds = np.sqrt(variance), np.sqrt(np.maximum(from_seeds, 1e-300))
    size = np.abs(centre)
    p_value = np.maximum(2 * stats.t.sf(size / error, df), 2 * stats.t.sf(size / error_seeds, df_seeds))
    limit = stats.t.ppf(0.975, df)
    half = np.maximum(limit * error, stats.t.ppf(0.975, df_seeds) * error_seeds)
    usual = (stats.chi2.ppf(0.5, df_seeds) / df_seeds) ** 0.5
    mde = np.maximum((limit + stats.t.ppf(0.8, df)) * error, _shift(df_seeds) * error_seeds / usual)
    return p_value, half, mde


@cache
def _shift(df: int) -> float:
    """The true mean, in standard errors, that the two-sided t test at 5 % finds with 80 % power (noncentral t)."""
    from scipy import optimize, stats

    limit = stats.t.ppf(0.975, df)
    return float(optimize.brentq(lambda shift: stats.nct.sf(limit, df, shift) - 0.8, 1.0, 30.0))


def _sign_flips(sums: Sequence[int]) -> float:
    """Exact p-value of the sum under random signs of its terms; terms of -1, 0 and 1 make it the exact McNemar test."""
    import numpy as np
    from scipy.stats import binom

    sizes = [abs(s) for s in sums if s]
    shares = np.ones(1)  # of the sums -k, -k + 2, ..., k
    for size in set(sizes):
        count = sizes.count(size)
        steps = np.zeros(count * size + 1)
        steps[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        shares = np.convolve(shares, steps)
    reach = len(shares) - 1
    tail = shares[np.abs(2 * np.arange(reach + 1) - reach) >= abs(sum(sums))].sum()
    return min(1.0, float(tail))


def over_seeds(a: Sequence[Sequence[bool]], b: Sequence[Sequence[bool]]) -> SeedDifference:
    """Arm A against arm B: `a[s][i]` and `b[s][i]` say whether the run with seed `s` got item `i` right.

    One seed, or seeds whose differences are all alike: exactly `mcnemar`. Several: the variance of the mean difference is
    the variance of the item means over n plus that of the seed means over the number of seeds, with Satterthwaite's
    degrees of freedom (1946, Biometrics Bulletin 2:110-114). This is min F' of Clark (1973, J. Verbal Learn. Verbal
    Behav. 12:335-359); his quasi-F' takes the error mean square off again, which with 3 seeds is at times below zero.
    Two more tests bind, and the p-value is the largest of the three: t over the seeds alone, as min F' finds too much with
    few seeds that differ a lot (7 % of null studies with 3 seeds, 13 % with 2), and exact sign flips over the items, as
    t is rough on few discordant items. The interval is the wider of the two t intervals; it has two more items, one won
    and one lost by the mean of `S` seeds by 1/sqrt(S), as that of Bonett and Price in `mcnemar` has. Three seeds leave 2
    degrees of freedom: five find far more. Raises `ValueError` on empty or unequal input.
    """
    import numpy as np

    right_a, right_b = _table(a, "a"), _table(b, "b")
    if len(right_a) != len(right_b):
        raise ValueError(f"Unequal numbers of seeds: {len(right_a)} a, {len(right_b)} b; the same seeds are needed.")
    each = [mcnemar(x, y) for x, y in zip(right_a, right_b, strict=True)]
    seeds, n = len(each), each[0].n
    by_seed, by_seed_p = tuple(m.difference for m in each), tuple(m.p_value for m in each)
    only_a, only_b = sum(m.only_a for m in each), sum(m.only_b for m in each)
    differences = np.array(right_a, dtype=int) - np.array(right_b, dtype=int)
    if (differences == differences[0]).all():
        low, high, p_value = each[0].low, each[0].high, each[0].p_value
        mde = minimum_detectable_effect(n, (each[0].only_a + each[0].only_b) / n)
    else:
        centre, *spread = _spread(differences, (seeds**-0.5, -(seeds**-0.5)))
        p_value, half, mde = (float(x) for x in _crossed(centre, *spread, seeds, n + 2))
        p_value = max(p_value, _sign_flips(differences.sum(0).tolist()))
        low, high, mde = 100 * max(-1.0, centre - half), 100 * min(1.0, centre + half), 100 * mde
        mde = float("inf") if mde > 100 or 2 * 0.5**n > 0.05 else mde
    return SeedDifference(100 * (only_a - only_b) / (n * seeds), float(low), float(high), p_value, n, seeds, by_seed,
                          by_seed_p, only_a, only_b, mde)


def rate_over_seeds(a: Sequence[Sequence[bool]]) -> Estimate:
    """Share of right answers of one arm in percent, the mean over its seeds; `a[s][i]` as in `over_seeds`.

    One seed, or seeds that are all alike: `accuracy`. Several: the interval of `over_seeds` with four more items, two right
    and two wrong (Agresti and Coull 1998, Am. Stat. 52:119-126). Raises `ValueError` on empty or unequal input.
    """
    import numpy as np

    right = np.array(_table(a, "a"), dtype=int)
    seeds, n = right.shape
    if (right == right[0]).all():
        return accuracy(right[0].tolist())
    centre, *spread = _spread(right, (1, 1, 0, 0))
    _, half, _ = _crossed(centre, *spread, seeds, n + 4)
    return Estimate(100 * float(right.mean()), 100 * max(0.0, float(centre - half)), 100 * min(1.0, float(centre + half)), n)


def verdict_over_seeds(found: SeedDifference, *, p_value: float | None = None, alpha: float = 0.05,
                       names: tuple[str, str] = ("A", "B")) -> Verdict:
    """What the test over seeds says of A against B, in the three outcomes of `verdict`; of one seed it says the same.

    `p_value` takes the place of the test's own (give Holm's adjusted one when several arms are compared).
    """
    if found.seeds == 1:
        paired = PairedAccuracy(found.value, found.low, found.high, found.p_value, found.only_a, found.only_b, found.n)
        return verdict(paired, p_value=p_value, alpha=alpha, names=names)
    p = found.p_value if p_value is None else p_value
    outcome = "no detectable difference"
    if p <= alpha and found.value:
        outcome = "improves" if found.value > 0 else "harms"
    limit = "too few to detect any effect" if found.mde == float("inf") else (
        f"minimum detectable effect {found.mde:.1f} points in a single comparison at 5 %, 80 % power")
    test = "test over items and seeds" + ("" if p_value is None else ", adjusted")
    text = (f"{names[0]} against {names[1]}: {outcome}, {found.value:+.1f} points [{found.low:+.1f}, {found.high:+.1f}], "
            f"the mean of {found.seeds} seeds ({', '.join(f'{d:+.1f}' for d in found.by_seed)}) ({test} {_p(p)}; "
            f"{found.only_a} right only with {names[0]}, {found.only_b} only with {names[1]} in {found.seeds} × {found.n} "
            f"answers, n={found.n}; {limit}).")
    return Verdict(outcome, text, found.mde)
