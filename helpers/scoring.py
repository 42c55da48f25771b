"""How good, how sure, is the difference real? Metrics with intervals, paired tests, a verdict.

Every rate is in percent and every difference in points (0-100), chrF++ and BLEU included; intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over `n` items; `unit` is "percent" (rates) or "points" (chrF++), both 0-100."""

    value: float
    low: float
    high: float
    n: int
    unit: str = "percent"

    def __str__(self) -> str:
        sign = " %" if self.unit == "percent" else ""
        return f"{self.value:.1f}{sign} [{self.low:.1f}, {self.high:.1f}] n={self.n}"


@dataclass(frozen=True)
class Difference:
    """A minus B in points, with its 95 % interval and two-sided p-value, over `n` paired items."""

    value: float
    low: float
    high: float
    p_value: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:+.1f} points [{self.low:+.1f}, {self.high:+.1f}] {_p(self.p_value)} n={self.n}"


@dataclass(frozen=True)
class PairedAccuracy:
    """Accuracy of A minus accuracy of B in points, with its 95 % interval and exact McNemar p-value, over `n` pairs;
    `only_a` and `only_b` count the discordant pairs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    only_a: int
    only_b: int
    n: int

    def __str__(self) -> str:
        return (f"{self.difference:+.1f} points [{self.low:+.1f}, {self.high:+.1f}] {_p(self.p_value)} "
                f"({self.only_a} only A, {self.only_b} only B) n={self.n}")


@dataclass(frozen=True)
class Verdict:
    """`outcome` is "improves", "harms" or "no detectable difference"; `text` one sentence.

    `mde` is the minimum detectable effect in points of one comparison alone; of several, corrected, more is needed.
    """

    outcome: str
    text: str
    mde: float

    def __str__(self) -> str:
        return self.text


def _p(p: float) -> str:
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


def _booleans(outcomes: Sequence[bool], name: str) -> list[bool]:
    found = list(outcomes)
    if not found:
        raise ValueError(f"{name} is empty; at least one outcome is needed.")
    if any(isinstance(o, str) or o not in (0, 1) for o in found):
        raise ValueError(f"{name} must hold True and False only.")
    return [bool(o) for o in found]


def accuracy(outcomes: Sequence[bool]) -> Estimate:
    """Share of right answers in percent with the Wilson score interval. Raises `ValueError` on empty input."""
    from scipy.stats import binomtest

    right = _booleans(outcomes, "outcomes")
    interval = binomtest(sum(right), len(right)).proportion_ci(0.95, method="wilson")
    return Estimate(100 * sum(right) / len(right), 100 * float(interval.low), 100 * float(interval.high), len(right))


def _texts(least: int = 1, **columns: Sequence[str]) -> list[list[str]]:
    if any(isinstance(c, str) for c in columns.values()):
        raise ValueError("A sequence of sentences is needed, not one string.")
    lists = {name: list(c) for name, c in columns.items()}
    sizes = {name: len(c) for name, c in lists.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"Unequal lengths: {', '.join(f'{n} {k}' for k, n in sizes.items())}.")
    if min(sizes.values()) < least:
        raise ValueError(f"{', '.join(sizes)}: {min(sizes.values())} sentences, at least {least} needed.")
    if not all(isinstance(t, str) for c in lists.values() for t in c):
        raise ValueError(f"{', '.join(sizes)}: every sentence must be a string.")
    return list(lists.values())


def corpus_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float | int | str]:
    """Corpus chrF++ and BLEU (0-100, one reference a sentence) with the sacrebleu signatures to report.

    Keys: `chrf`, `bleu`, `chrf_signature`, `bleu_signature`, `n`. Raises `ValueError` on empty or unequal input.
    """
    from sacrebleu.metrics import BLEU, CHRF

    hypotheses, references = _texts(hypotheses=hypotheses, references=references)
    chrf, bleu = CHRF(word_order=2), BLEU()
    scores = {"chrf": chrf.corpus_score(hypotheses, [references]).score,
              "bleu": bleu.corpus_score(hypotheses, [references]).score}
    return scores | {"chrf_signature": str(chrf.get_signature()), "bleu_signature": str(bleu.get_signature()),
                     "n": len(hypotheses)}


def _bootstrap_chrf(systems: Sequence[list[str]], references: list[str], samples: int, seed: int):
    """Corpus chrF++ of each system, and an array (systems, samples) of it on resampled sentences, the same for all."""
    import numpy as np
    from sacrebleu.metrics import CHRF

    if samples < 1:
        raise ValueError(f"samples={samples}: at least one bootstrap sample is needed.")
    # sacrebleu offers no public way to the per-sentence counts; its own significance tests take this one.
    metric = CHRF(word_order=2, references=[references])
    counts = np.array([metric._extract_corpus_statistics(s, None) for s in systems], dtype=np.float64)

    def score(total) -> float:
        return metric._compute_score_from_stats(total.tolist()).score

    n, generator = len(references), np.random.default_rng(seed)
    scores = np.empty((len(systems), samples))
    for k in range(samples):
        weights = np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)
        scores[:, k] = [score(total) for total in weights @ counts]
    return [score(c.sum(axis=0)) for c in counts], scores


def chrf_interval(hypotheses: Sequence[str], references: Sequence[str], samples: int = 2000, seed: int = 0) -> Estimate:
    """Corpus chrF++ with its percentile bootstrap interval over sentences (Koehn 2004).

    Raises `ValueError` on unequal lengths or fewer than 2 sentences.
    """
    import numpy as np

    hypotheses, references = _texts(2, hypotheses=hypotheses, references=references)
    (value,), scores = _bootstrap_chrf([hypotheses], references, samples, seed)
    low, high = np.percentile(scores[0], (2.5, 97.5))
    return Estimate(value, float(low), float(high), len(references), "points")


def paired_bootstrap(hyp_a: Sequence[str], hyp_b: Sequence[str], references: Sequence[str], samples: int = 2000,
                     seed: int = 0) -> Difference:
    """Corpus chrF++ of A minus that of B: paired bootstrap over sentences (Koehn 2004) with the percentile interval.

    The p-value is twice the smaller share of resampled differences on either side of zero (Efron and Tibshirani 1993,
    ch. 15), so it agrees with the interval; it is never below 2/(samples + 1) nor below 2^(1-n), the least that a
    sign test on `n` pairs can give. Raises `ValueError` on unequal lengths or fewer than 2 sentences.
    """
    a, b, references = _texts(2, hyp_a=hyp_a, hyp_b=hyp_b, references=references)
    return chrf_gain([a], b, references, samples, seed)


def chrf_over_seeds(hypotheses: Sequence[Sequence[str]], references: Sequence[str], samples: int = 2000, seed: int = 0) -> Estimate:
    """Mean corpus chrF++ of several systems (one a training seed) with its percentile bootstrap interval over sentences.

    Raises `ValueError` on unequal lengths or fewer than 2 sentences.
    """
    import numpy as np

    found = [_texts(2, hypotheses=h, references=references) for h in hypotheses]
    values, scores = _bootstrap_chrf([h for h, _ in found], found[0][1], samples, seed)
    low, high = np.percentile(scores.mean(axis=0), (2.5, 97.5))
    return Estimate(sum(values) / len(values), float(low), float(high), len(references), "points")


def chrf_gain(hypotheses: Sequence[Sequence[str]], other: Sequence[str], references: Sequence[str], samples: int = 2000,
              seed: int = 0) -> Difference:
    """Mean corpus chrF++ of several systems (one a training seed) minus that of `other`: `paired_bootstrap` of the mean."""
    return chrf_difference(hypotheses, [other], references, samples, seed)


def chrf_difference(a: Sequence[Sequence[str]], b: Sequence[Sequence[str]], references: Sequence[str], samples: int = 2000,
                    seed: int = 0) -> Difference:
    """Mean corpus chrF++ of the systems `a` minus that of the systems `b` (one a training seed): `paired_bootstrap` of the means.

    The sentences are resampled, the seeds are not: the interval does not cover their choice. Raises `ValueError` on unequal
    lengths, no system or fewer than 2 sentences.
    """
    import numpy as np

    if not a or not b:
        raise ValueError(f"{len(a)} a, {len(b)} b: at least one system of each is needed.")
    found = [_texts(2, hypotheses=h, references=references) for h in (*a, *b)]
    values, scores = _bootstrap_chrf([h for h, _ in found], found[0][1], samples, seed)
    value, differences = (s[: len(a)].mean(axis=0) - s[len(a) :].mean(axis=0) for s in (np.array(values), scores))
    low, high = np.percentile(differences, (2.5, 97.5))
    tail = 1 + min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, max(2 * tail / (samples + 1), 2.0 ** (1 - len(found[0][1]))))
    return Difference(float(value), float(low), float(high), p_value, len(found[0][1]))


def comet(sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], model: str = "Unbabel/wmt22-comet-da") -> float:
    """Mean COMET score (about 0-1, higher is better; Rei et al. 2022) where the package `unbabel-comet` and its model are at hand.

    They are large and not installed by default. Raises `UserError` that says how to get them, `ValueError` on unequal lengths.
    """
    from .files import UserError

    sources, hypotheses, references = _texts(sources=sources, hypotheses=hypotheses, references=references)
    try:
        from comet import download_model, load_from_checkpoint
    except ImportError as error:
        raise UserError("COMET is not installed: pip install unbabel-comet (about 2 GB with its model), then run this again.") from error
    rows = [{"src": s, "mt": h, "ref": r} for s, h, r in zip(sources, hypotheses, references, strict=True)]
    return float(load_from_checkpoint(download_model(model)).predict(rows, batch_size=16, gpus=0, progress_bar=False).system_score)


def mean_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Mean of the paired differences A minus B, in the unit given, with the t interval and test. Raises `ValueError` below 2 pairs."""
    from scipy import stats

    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"{len(a)} a, {len(b)} b: at least 2 pairs are needed.")
    found = stats.ttest_rel(a, b)
    interval = found.confidence_interval(0.95)
    value = sum(x - y for x, y in zip(a, b, strict=True)) / len(a)
    if value != value or found.pvalue != found.pvalue:  # all differences are the same
        return Difference(value, value, value, 1.0 if value == 0 else 2.0 ** (1 - len(a)), len(a))
    return Difference(value, float(interval.low), float(interval.high), float(found.pvalue), len(a))


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> PairedAccuracy:
    """Exact McNemar test of A against B on the same questions, and the accuracy difference A minus B.

    The interval is the adjusted Wald interval of Bonett and Price (2012, J. Educ. Behav. Stat. 37:479-488), which adds
    one to both discordant counts and two to n; Fagerland, Lydersen and Laake (2014, Stat. Med. 33:2850-2875) recommend
    it. The exact test is the more cautious of the two: near the limit the interval may leave out 0 while p > 0.05.
    Raises `ValueError` on empty or unequal input.
    """
    from scipy.stats import binomtest

    right_a, right_b = _booleans(a, "a"), _booleans(b, "b")
    n = len(right_a)
    if n != len(right_b):
        raise ValueError(f"Unequal lengths: {n} a, {len(right_b)} b; the same questions are needed, in one order.")
    only_a = sum(x and not y for x, y in zip(right_a, right_b, strict=True))
    only_b = sum(y and not x for x, y in zip(right_a, right_b, strict=True))
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = share_a - share_b
    half = NormalDist().inv_cdf(0.975) * ((share_a + share_b - centre**2) / (n + 2)) ** 0.5
    return PairedAccuracy(100 * (only_a - only_b) / n, 100 * max(-1.0, centre - half), 100 * min(1.0, centre + half),
                          p_value, only_a, only_b, n)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (1979, Scand. J. Stat. 6:65-70), in the order given. Raises `ValueError`."""
    if not p_values:
        raise ValueError("p_values is empty; at least one p-value is needed.")
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p_values[{name!r}] must lie between 0 and 1, found {p}.")
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def minimum_detectable_effect(n: int, discordant: float = 0.2, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest accuracy difference, in points, that McNemar's test on `n` pairs finds with the given power.

    `discordant` is the share of pairs (0-1) on which the arms differ; an effect larger than it raises it. Normal
    approximation of Connor (1987, Biometrics 43:207-211); the exact test has slightly less power (0.775 for 0.8 at
    n = 250). `inf` where no outcome of `n` pairs could be significant. Raises `ValueError` on values out of range.
    """
    from scipy.optimize import brentq

    if n < 1 or not 0 <= discordant <= 1 or not 0 < alpha < 1 or not alpha < power < 1:
        raise ValueError(f"n={n}, discordant={discordant}, power={power}, alpha={alpha}: needs n >= 1, "
                         "0 <= discordant <= 1 and 0 < alpha < power < 1.")
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)

    def surplus(effect: float) -> float:
        share = max(discordant, effect)
        return effect * n**0.5 - z_alpha * share**0.5 - z_power * (share - effect**2) ** 0.5

    if 2 * 0.5**n > alpha or surplus(1.0) <= 0:
        return float("inf")
    return 100 * float(brentq(surplus, 1e-12, 1.0))


def verdict(paired: PairedAccuracy, discordant: float | None = None, *, p_value: float | None = None,
            alpha: float = 0.05, power: float = 0.8, names: tuple[str, str] = ("A", "B")) -> Verdict:
    """What the paired test says of A against B, in one of exactly three outcomes.

    `p_value` takes the place of the test's own (give Holm's adjusted one when several arms are compared), `discordant`
    (0-1) that of the observed share of discordant pairs, from which the minimum detectable effect is computed.
    """
    p = paired.p_value if p_value is None else p_value
    share = (paired.only_a + paired.only_b) / paired.n if discordant is None else discordant
    mde = minimum_detectable_effect(paired.n, share, power, alpha)
    outcome = "no detectable difference"
    if p <= alpha and paired.difference:
        outcome = "improves" if paired.difference > 0 else "harms"
    limit = "too few pairs to detect any effect" if mde == float("inf") else (
        f"minimum detectable effect {mde:.1f} points in a single comparison at {100 * alpha:g} %, {100 * power:.0f} % power")
    test = "exact McNemar" if p_value is None else "exact McNemar, adjusted"
    interval = f"{paired.difference:+.1f} points [{paired.low:+.1f}, {paired.high:+.1f}]"
    text = (f"{names[0]} against {names[1]}: {outcome}, {interval} ({test} {_p(p)}; {paired.only_a} right only with "
            f"{names[0]}, {paired.only_b} only with {names[1]}, n={paired.n}; {limit}).")
    return Verdict(outcome, text, mde)
