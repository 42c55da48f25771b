"""The verdict's machinery on studies whose truth is known: how often it cries wolf, and how often it finds what is there."""

from __future__ import annotations

import numpy as np
import pytest

from helpers import scoring

STUDIES = 2000


def study(generator, n, effect, discordant):
    """Outcomes of two arms on the same `n` questions; A is right on `effect` (a share) more of them, they differ on `discordant`."""
    draw = generator.random(n)
    only_a, only_b = (discordant + effect) / 2, (discordant - effect) / 2
    both = draw >= discordant
    a = (draw < only_a) | (both & (generator.random(n) < 0.4))
    b = ((draw >= only_a) & (draw < only_a + only_b)) | (both & a)
    return a.tolist(), b.tolist()


def outcomes(n, effect, discordant, seed=0):
    generator = np.random.default_rng(seed)
    return [scoring.verdict(scoring.mcnemar(*study(generator, n, effect, discordant))).outcome for _ in range(STUDIES)]


@pytest.mark.parametrize(("n", "discordant"), [(144, 0.1), (250, 0.2), (1000, 0.3)])
def test_without_an_effect_at_most_one_study_in_twenty_finds_one(n, discordant):
    found = outcomes(n, 0.0, discordant)
    assert set(found) <= {"improves", "harms", "no detectable difference"}
    wrong = sum(o != "no detectable difference" for o in found) / STUDIES
    # 5 % and the error of counting 2,000 studies: three standard deviations are 1.5 points.
    assert 0 < wrong <= 0.05 + 3 * (0.05 * 0.95 / STUDIES) ** 0.5
    assert wrong <= 0.05, "the exact test is on the cautious side"


def exact_power(n, effect, discordant, alpha=0.05):
    """Power of the exact McNemar test, summed over every number of discordant pairs and every way that they can fall."""
    from scipy.stats import binom, binomtest

    share = (discordant + effect) / 2 / discordant
    total = 0.0
    for pairs in range(1, n + 1):
        weight = binom.pmf(pairs, n, discordant)
        if weight > 1e-7:
            # The least number of pairs on the better side that is significant.
            least = next((k for k in range(pairs // 2, pairs + 1) if binomtest(k, pairs).pvalue <= alpha and 2 * k > pairs), pairs + 1)
            total += weight * binom.sf(least - 1, pairs, share)
    return total


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("n", "discordant"), [(250, 0.2), (1000, 0.2)])
def test_the_share_of_studies_that_find_an_effect_is_the_power_of_the_test(n, discordant, sign):
    effect = scoring.minimum_detectable_effect(n, discordant) / 100
    found = outcomes(n, sign * effect, discordant, seed=1)
    right = sum(o == ("improves" if sign > 0 else "harms") for o in found) / STUDIES
    assert abs(right - exact_power(n, effect, discordant)) <= 0.03
    # The detectable effect is that of the normal approximation, as it is published; the exact test is a little more cautious.
    assert 0.75 <= right <= 0.83
    assert sum(o == ("harms" if sign > 0 else "improves") for o in found) == 0


def test_holm_over_five_arms_keeps_the_rate_for_all_of_them_together():
    generator, families = np.random.default_rng(2), 0
    for _ in range(400):
        found = {str(i): scoring.mcnemar(*study(generator, 250, 0.0, 0.2)) for i in range(5)}
        adjusted = scoring.holm({i: m.p_value for i, m in found.items()})
        families += any(scoring.verdict(found[i], p_value=p).outcome != "no detectable difference" for i, p in adjusted.items())
    assert families / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
