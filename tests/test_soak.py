"""Two hundred requests of the playground in a row leave the memory as it was."""

from __future__ import annotations

import gc

import psutil
import pytest

from helpers import models, playground
from helpers.answering import MODES, Answerer

# oneDNN keeps what it has compiled for each length of a batch, up to 1,024 of them: until most lengths have come by, memory grows.
WARM, REQUESTS, GROWTH = 160, 200, 0.05
QUESTIONS = [*(japanese for japanese, _ in playground.EXAMPLES), "庭の柿の木に鳥が三羽とまっています。鳥は何羽いますか？" * 6]


def resident() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 1e6


@pytest.mark.slow
def test_two_hundred_requests_do_not_grow(tiny, tmp_path):
    # Larger budgets than those of the tiny profile: caches of a length that would show.
    profile = tiny.replace(translation_budget=32, answer_budget=32, multistep_budget=48)
    tokenizer, model = models.load_tokenizer(profile), models.load_for_inference(profile)
    form = playground.Playground(Answerer(profile, {"base": lambda: (model, tokenizer)}), tmp_path, background=False)

    def ask_some(numbers) -> None:
        for number in numbers:
            form.mode.value = list(MODES)[number % len(MODES)]
            form.question.value = f"{number}番目の質問です。{QUESTIONS[number % len(QUESTIONS)]}"
            form.start.click()
            assert not form.history.rows[-1]["error"]

    ask_some(range(WARM))
    before, objects = resident(), len(gc.get_objects())
    ask_some(range(WARM, WARM + REQUESTS))
    assert len(gc.get_objects()) < 1.05 * objects, "what Python itself holds: the history and no more"
    growth = resident() / before - 1
    print(f"resident {before:.0f} MB after {WARM} requests, {100 * growth:+.2f} % after {REQUESTS} more")
    assert growth < GROWTH
