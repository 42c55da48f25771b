"""Answers are judged as a careful reader would, and the statistics agree with their sources."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest

from helpers import answers, scoring
from helpers.files import ROOT


@pytest.mark.parametrize(("text", "expected"), [
    ("  The   Beatles. ", "beatles"), ("“Ｔｏｋｙｏ”", "tokyo"), ("**Tokyo**", "tokyo"), ("an apple", "apple"),
    ("a", "a"), ("A dog", "dog"), ("Vitamin A", "vitamin a"), ("Plan A is best", "plan a is best"),
    ("1,234,567", "1234567"), ("1,23", "1,23"), ("$1,000.", "1000"), ("50%", "50%"),
    ("zero", "0"), ("Twelve", "12"), ("twenty", "20"), ("twenty-one", "21"), ("someone", "someone"),
    ("one hundred and twenty", "one hundred and twenty"), ("-5", "-5"), ("\u22125", "-5"), (".5", ".5"), ("...", ""),
])
def test_normalise_answer(text, expected):
    assert answers.normalise_answer(text) == expected


def test_exact_match_needs_the_whole_answer():
    assert answers.exact_match("The Yen.", "yen")
    assert answers.exact_match("JPY", "yen", ["jpy"])
    assert not answers.exact_match("the yen, I think", "yen")
    assert not answers.exact_match("5", "-5")
    assert not answers.exact_match("", "yen")


RAMBLE = "The capital could well be Tokyo, and many people would say so. But most say that it is Osaka."


@pytest.mark.parametrize(("prediction", "answer", "expected"), [
    # Names: whole words, asserted.
    ("The capital is Tokyo.", "Tokyo", True), ("Iranian", "Iran", False), ("It lies in Iran.", "Iran", True),
    ("Guinea-Bissau", "Guinea", False), ("Canberra, not Sydney", "Sydney", False),
    ("Canberra, not Sydney", "Canberra", True), ("Tokyo or Osaka", "Tokyo", False), ("Tokyo or Osaka", "Osaka", False),
    ("Group A is right", "Group A", True), ("a dog", "A", False), ("", "Tokyo", False),
    # Long predictions: the last sentence alone.
    (RAMBLE, "Tokyo", False), (RAMBLE, "Osaka", True),
    ("Of all the mountains that there are in Japan, the very tallest one is Mt. Fuji", "Mt. Fuji", True),
    ("Everybody who has ever been to Asia knows this very well, so I say:\nTokyo\n\n", "Tokyo", True),
    # Numbers: the last one, equal in value.
    ("120", "12", False), ("112", "12", False), ("3.12", "12", False), ("-12", "12", False), ("3 x 4 = 12", "12", True),
    ("12 of 15", "12", False), ("1,200 yen", "1200", True), ("12.0", "12", True), ("12km", "12", True),
    ("twelve apples", "12", True), ("twenty-one", "1", False), ("one hundred", "1", False),
    ("3 million people", "3,000,000", True), ("3 million people", "3", False), ("1/2", "2", False),
    ("1/2", "0.5", True), ("1/0", "1", False), ("10-12", "12", False), ("2020-01-12", "12", False),
    ("12:00", "12", False),
    ("COVID-12", "12", False), ("5 or 6", "6", False), ("6, not 5", "6", True),
    # Weekdays and months: the last one; words that are also names need a capital.
    ("Three days after Monday is Thursday.", "Thursday", True), ("Monday, Tuesday, Friday", "Monday", False),
    ("It is Thu.", "Thursday", True), ("Monday or Thursday", "Thursday", False),
    ("Tuesday, not Monday", "Tuesday", True), ("I sat there", "Saturday", False), ("it may be so", "May", False),
    ("It is May.", "May", True),
    ("In Sept. I think", "September", True), ("Mondays", "Monday", False),
    # Clock times: equal moments.
    ("at 3:30 p.m.", "15:30", True), ("15:30", "3:30 PM", True), ("3:30", "15:30", False), ("13:30", "3:30", False),
    ("three o'clock", "3:00", True), ("noon", "12:00", True), ("12 am", "midnight", True),
    ("10:00-12:00", "10:00", False),
    # Yes and no: the first word.
    ("Yes, it is.", "yes", True), ("No.", "No", True), ("It is, yes", "yes", False), ("Yesterday", "yes", False),
    ("Nothing", "no", False), ("No, " + "because it is so " * 5, "no", True),
])
def test_lenient_match(prediction, answer, expected):
    assert answers.lenient_match(prediction, answer) is expected


def test_lenient_match_takes_aliases_and_every_exact_match():
    assert answers.lenient_match("It is the Ivory Coast", "Côte d'Ivoire", ["Ivory Coast"])
    assert not answers.lenient_match("anything", "Tokyo", ["", "..."])
    long_answer = "one two three four. " * 5
    assert answers.lenient_match(long_answer, long_answer)


def test_an_empty_answer_is_refused():
    for match in (answers.exact_match, answers.lenient_match):
        with pytest.raises(ValueError, match="empty"):
            match("anything", " ...")
        with pytest.raises(ValueError, match="sequence"):
            match("anything", "Tokyo", "alias")


@pytest.mark.parametrize(("outcomes", "expected"), [
    ((True, True, True), ""), ((False, False, True), ""), ((False, True, False), "knowledge/reasoning"),
    ((False, False, False), "knowledge/reasoning"), ((True, False, False), "translation"),
    ((True, True, False), "chaining")])
def test_first_broken_step(outcomes, expected):
    assert answers.first_broken_step(*outcomes) == expected


def test_accuracy_is_wilson_in_percent():
    found = scoring.accuracy([True] * 55 + [False] * 75)
    z, p, n = 1.959963984540054, 55 / 130, 130
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + (z / n) ** 2 / 4)
    assert (found.low, found.high) == pytest.approx((100 * (centre - half), 100 * (centre + half)))
    assert str(found) == "42.3 % [34.2, 50.9] n=130"
    assert scoring.accuracy(np.array([True, True])).high == pytest.approx(100)
    assert str(scoring.Estimate(30.61, 28.05, 33.0, 120, "points")) == "30.6 [28.1, 33.0] n=120"


@pytest.mark.parametrize("bad", [[], [True, float("nan")], [True, None], ["False"]])
def test_outcomes_must_be_true_or_false(bad):
    with pytest.raises(ValueError):
        scoring.accuracy(bad)
    with pytest.raises(ValueError):
        scoring.mcnemar(bad, bad)


WORDS = [a + b for a in ("ka", "shi", "ru", "to", "men") for b in ("na", "ri", "so", "ve", "lum", "do")]


def corpus(n: int, seed: int, quality_a: float = 0.75, quality_b: float = 0.6) -> tuple[list[str], ...]:
    """Two systems that garble words, and the references; difficulty belongs to the sentence, so the pairs correlate."""
    rng = random.Random(seed)
    a, b, references = [], [], []
    for _ in range(n):
        words, ease = rng.choices(WORDS, k=rng.randint(3, 9)), rng.uniform(0.2, 1.3)
        references.append(" ".join(words) + ".")
        for system, quality in ((a, quality_a), (b, quality_b)):
            system.append(" ".join(w if rng.random() < quality * ease else rng.choice(WORDS) for w in words) + ".")
    return a, b, references


def test_aggregated_scores_equal_sacrebleu():
    from sacrebleu.metrics import BLEU, CHRF

    a, b, references = corpus(80, 1)
    a[0], b[1] = "", "短い"
    full = [CHRF(word_order=2).corpus_score(h, [references]).score for h in (a, b)]
    assert scoring.chrf_interval(a, references, samples=5).value == pytest.approx(full[0], abs=1e-6)
    assert scoring.paired_bootstrap(a, b, references, samples=5).value == pytest.approx(full[0] - full[1], abs=1e-6)
    scores = scoring.corpus_scores(a, references)
    assert scores["chrf"] == pytest.approx(full[0], abs=1e-6)
    assert scores["bleu"] == pytest.approx(BLEU().corpus_score(a, [references]).score, abs=1e-6)
    assert "nw:2" in scores["chrf_signature"] and "tok:13a" in scores["bleu_signature"] and scores["n"] == 80


def test_each_resample_scores_the_same_sentences_for_both_systems():
    from sacrebleu.metrics import CHRF

    a, b, references = corpus(25, 2)
    _, scores = scoring._bootstrap_chrf([a, b], references, samples=3, seed=7)
    generator = np.random.default_rng(7)
    for k in range(3):
        index = generator.integers(25, size=25)
        for row, system in enumerate((a, b)):
            again = CHRF(word_order=2).corpus_score([system[i] for i in index], [[references[i] for i in index]]).score
            assert scores[row, k] == pytest.approx(again, abs=1e-6)


def test_paired_interval_covers_at_about_the_nominal_rate():
    """About 95 % of 200 experiments; intervals that ignored the pairing would nearly all cover."""
    a, b, references = corpus(1500, 3)
    truth = scoring.paired_bootstrap(a, b, references, samples=1).value
    rng, covered = random.Random(4), 0
    for trial in range(200):
        index = rng.choices(range(1500), k=30)
        found = scoring.paired_bootstrap(*([c[i] for i in index] for c in (a, b, references)), samples=200, seed=trial)
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / 200 <= 0.985


def test_paired_bootstrap_sees_a_difference_and_its_sign():
    a, b, references = corpus(150, 5)
    found, back = (scoring.paired_bootstrap(x, y, references, samples=400) for x, y in ((a, b), (b, a)))
    assert found.low > 0 and found.p_value < 0.01 and found.n == 150
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert scoring.paired_bootstrap(a, b, references, samples=400) == found
    same = scoring.paired_bootstrap(a, a, references, samples=50)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_three_sentences_cannot_be_significant():
    a, b, references = corpus(3, 6, quality_a=5, quality_b=0)
    assert scoring.paired_bootstrap(a, b, references).p_value >= 0.25


def test_sentence_input_is_checked():
    for call in (scoring.corpus_scores, scoring.chrf_interval):
        with pytest.raises(ValueError, match="at least"):
            call([], [])
        with pytest.raises(ValueError, match="Unequal lengths: 1 hypotheses, 2 references"):
            call(["x"], ["x", "y"])
        with pytest.raises(ValueError, match="one string"):
            call("xy", ["x", "y"])
        with pytest.raises(ValueError, match="string"):
            call(["x", None], ["x", "y"])
    with pytest.raises(ValueError, match="at least 2"):
        scoring.paired_bootstrap(["x"], ["y"], ["x"])
    with pytest.raises(ValueError, match="Unequal"):
        scoring.paired_bootstrap(["x", "y"], ["x"], ["x", "y"])
    with pytest.raises(ValueError, match="samples=0"):
        scoring.chrf_interval(["x", "y"], ["x", "y"], samples=0)


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    return ([True] * (both + only_a) + [False] * (only_b + neither),
            [True] * both + [False] * only_a + [True] * only_b + [False] * neither)


def test_mcnemar_on_a_worked_example():
    """Discordant pairs 1 and 7 of 21: p = 2 (1 + 8) / 2^8; the interval worked out by hand from the formula."""
    found = scoring.mcnemar(*pairs(1, 1, 7, 12))
    assert found.p_value == pytest.approx(2 * (1 + 8) / 2**8)
    assert (found.low, found.high) == pytest.approx((-50.84, -1.34), abs=0.01)
    assert (found.only_a, found.only_b, found.n) == (1, 7, 21) and found.difference == pytest.approx(-100 * 6 / 21)
    back = scoring.mcnemar(*reversed(pairs(1, 1, 7, 12)))
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_mcnemar_edges():
    same = scoring.mcnemar([True, False], [True, False])
    assert same.p_value == 1 and same.difference == 0 and same.low == -same.high and same.high > 0
    assert scoring.mcnemar([True] * 2, [False] * 2).high <= 100
    with pytest.raises(ValueError, match="Unequal"):
        scoring.mcnemar([True], [True, False])


@pytest.mark.parametrize(("p_a", "p_b", "n"), [(0.2, 0.05, 60), (0.1, 0.1, 60), (0.3, 0.02, 30)])
def test_mcnemar_interval_covers(p_a, p_b, n):
    draws = np.random.default_rng(0).multinomial(n, [p_a, p_b, 1 - p_a - p_b], size=600)
    found = {}
    for only_a, only_b, _ in draws.tolist():
        if (only_a, only_b) not in found:
            paired = scoring.mcnemar(*pairs(0, only_a, only_b, n - only_a - only_b))
            found[only_a, only_b] = paired.low <= 100 * (p_a - p_b) <= paired.high
    assert 0.93 <= np.mean([found[x, y] for x, y, _ in draws.tolist()]) <= 0.985


def test_holm_known_values():
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives 0.03 0.06 0.06 0.02."""
    found = scoring.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert list(found.values()) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert scoring.holm({"a": 0.9, "b": 0.6}) == {"a": 1.0, "b": 1.0}
    for bad in ({}, {"a": 1.2}, {"a": float("nan")}):
        with pytest.raises(ValueError):
            scoring.holm(bad)


def test_minimum_detectable_effect_of_the_design():
    assert scoring.minimum_detectable_effect(250) == pytest.approx(7.9, abs=0.05)
    assert scoring.minimum_detectable_effect(1000) == pytest.approx(4.0, abs=0.05)
    effects = [scoring.minimum_detectable_effect(n, discordant=0.0) for n in (6, 30, 250, 10_000)]
    assert effects == sorted(effects, reverse=True) and 0 < effects[-1] < effects[0] < 100
    assert scoring.minimum_detectable_effect(5) == math.inf
    for bad in ({"n": 0}, {"n": 10, "discordant": 20}, {"n": 10, "power": 0.01}):
        with pytest.raises(ValueError):
            scoring.minimum_detectable_effect(**bad)


def test_minimum_detectable_effect_has_the_power():
    """Share of simulated experiments with that effect that the exact test finds: 0.775 by enumeration."""
    n, discordant = 250, 0.2
    effect = scoring.minimum_detectable_effect(n, discordant) / 100
    draws = np.random.default_rng(1).multinomial(
        n, [(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant], size=500)
    found = np.mean([scoring.mcnemar(*pairs(0, x, y, n - x - y)).p_value <= 0.05 for x, y, _ in draws.tolist()])
    assert found == pytest.approx(0.775, abs=0.05)


def test_verdict_has_three_outcomes():
    better, worse, alike = (scoring.mcnemar(*pairs(40, x, y, 30)) for x, y in ((25, 5), (5, 25), (16, 14)))
    outcomes = [scoring.verdict(p).outcome for p in (better, worse, alike)]
    assert outcomes == ["improves", "harms", "no detectable difference"]
    found = scoring.verdict(better, names=("reasoned-33", "plain"))
    assert found.mde == scoring.minimum_detectable_effect(100, 0.3)
    assert str(found) == (
        "reasoned-33 against plain: improves, +20.0 points [+9.4, +29.8] (exact McNemar p<0.001; 25 right only with "
        "reasoned-33, 5 only with plain, n=100; minimum detectable effect 15.2 points in a single comparison "
        "at 5 %, 80 % power).")
    adjusted = scoring.verdict(better, p_value=0.06)
    assert adjusted.outcome == "no detectable difference" and "adjusted p=0.060" in adjusted.text
    assert scoring.verdict(better, discordant=0.2).mde == scoring.minimum_detectable_effect(100, 0.2)
    assert "too few pairs" in scoring.verdict(scoring.mcnemar([True], [False])).text


def test_import_loads_nothing_heavy():
    code = "import sys, helpers.scoring; print([m for m in ('numpy', 'scipy', 'sacrebleu') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_comet_says_how_to_get_it_and_scores_when_it_is_there(monkeypatch):
    import types

    from helpers.files import UserError

    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(UserError, match="pip install unbabel-comet"):
        scoring.comet(["水"], ["water"], ["water"])
    with pytest.raises(ValueError, match="Unequal lengths"):
        scoring.comet(["水"], ["water", "fire"], ["water"])
    # The package cannot be had here: its interface, as its own README shows it, is what is held to.
    seen = {}

    class Model:
        def predict(self, rows, **options):
            seen["rows"] = rows
            return types.SimpleNamespace(system_score=0.81)

    monkeypatch.setitem(sys.modules, "comet", types.SimpleNamespace(download_model=lambda name: name, load_from_checkpoint=lambda path: Model()))
    assert scoring.comet(["水"], ["water"], ["Water"]) == 0.81 and seen["rows"] == [{"src": "水", "mt": "water", "ref": "Water"}]


def test_mean_difference_is_the_paired_t_test():
    from scipy import stats

    a, b = [1.0, 2.0, 3.5, 4.0], [0.5, 1.0, 3.0, 4.5]
    found = scoring.mean_difference(a, b)
    expected = stats.ttest_1samp([x - y for x, y in zip(a, b, strict=True)], 0)
    assert found.value == pytest.approx(0.375) and found.p_value == pytest.approx(expected.pvalue) and found.low < 0 < found.high
    assert scoring.mean_difference([1, 2], [1, 2]).p_value == 1.0 and scoring.mean_difference([2, 3], [1, 2]).value == 1.0
    with pytest.raises(ValueError, match="at least 2"):
        scoring.mean_difference([1.0], [2.0])


def test_chrf_over_seeds_is_the_mean_and_pairs_with_the_other():
    references = [f"the cat number {i} sits on the mat" for i in range(30)]
    good, half = references, [r if i % 2 else "a dog" for i, r in enumerate(references)]
    one, two = scoring.chrf_interval(good, references), scoring.chrf_interval(half, references)
    both = scoring.chrf_over_seeds([good, half], references)
    assert both.value == pytest.approx((one.value + two.value) / 2) and both.low < both.value < both.high and both.n == 30
    gain = scoring.chrf_gain([good, half], half, references)
    assert gain.value == pytest.approx((one.value - two.value) / 2) and gain.low > 0
    assert scoring.chrf_gain([good], half, references) == scoring.paired_bootstrap(good, half, references)


def test_chrf_of_two_arms_over_seeds_is_the_difference_of_their_means():
    references = [f"the cat number {i} sits on the mat" for i in range(30)]
    good, half = references, [r if i % 2 else "a dog" for i, r in enumerate(references)]
    worse = [r if i % 4 == 0 else "a dog" for i, r in enumerate(references)]
    values = [scoring.corpus_scores(h, references)["chrf"] for h in (good, half, worse)]
    found = scoring.chrf_difference([good, half], [half, worse], references)
    assert found.value == pytest.approx((values[0] - values[2]) / 2) and 0 < found.low < found.value < found.high and found.n == 30
    back = scoring.chrf_difference([half, worse], [good, half], references)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low)), "the same sentences are drawn for both"
    same = scoring.chrf_difference([good, half], [half, good], references)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    for a, b in (([], [good]), ([good], [])):
        with pytest.raises(ValueError, match="at least one system"):
            scoring.chrf_difference(a, b, references)


@pytest.mark.parametrize(
    "text, loops",
    [
        ("He is in the monastery of the monastery of the monastery of the monastery of the mona", True),
        ("The sun is about 300000000000000000000", True),
        ("English: A question.\nReasoning: the base of the tree, the base of the tree, the base of the tree, the base of the tree, the\nAnswer: 10", True),
        ("10. 100. 100. 100. 100", True),
        ("It costs 10000 yen.", False),
        ("ha ha ha ha", False),
        ("33 - 14 = 19. 19 + 14 = 33. 33 + 20 = 53. 53 + 20 = 73.", False),
        ("the base of the tree, the base of the tree, the base of the tree", False),
        ("", False),
    ],
)
def test_a_loop_is_the_same_words_to_the_end_of_a_line(text, loops):
    assert answers.ends_in_a_loop(text) is loops
