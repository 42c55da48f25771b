"""The benchmark of generation: real processes on the same prompts, the same texts where the sums are the same, and a table that says by how much."""

from __future__ import annotations

import dataclasses
import json
import platform

import pytest

from helpers import export, files, generation_speed, models, pipeline, profiles, prompts, runtime, studies
from helpers.records import Record
from tests import killing
from tests.conftest import PAIRS
from tests.test_export import make_adapter


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    monkeypatch.setattr("helpers.corpora.tatoeba", killing.corpus)
    return runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8, questions=12, test_questions=4)


@pytest.mark.slow
def test_each_way_is_measured_on_the_same_prompts(run, tmp_path):
    pipeline.train_arm(run, pipeline.ensure(run, say=lambda text: None), "plain", say=lambda text: None)
    variants = [name for name in generation_speed.VARIANTS if not name.startswith("llama")]
    result = generation_speed.measure(run, "plain", 0, 4, variants, tmp_path / "bench", say=lambda text: None)
    rows = {r["name"]: r for r in result["rows"]}
    assert list(rows) == [variants[-1], *variants[:-1]] and all(r["prompts"] == 8 and r["tokens"] > 8 and r["peak_gb"] > 0.1 for r in rows.values())
    assert rows["ours"]["same"] == 100 and (result["sentences"], result["questions"]) == (4, 4)
    # A random model goes on to the budget, which is one for both instructions in transformers and each its own here.
    assert rows["single-merged"]["tokens"] >= rows["ours"]["tokens"]
    page = (tmp_path / "bench" / "generation.md").read_text(encoding="utf-8")
    assert page == generation_speed.table(result) and page.count(" × |") == 3
    assert not platform.node() or platform.node() not in page + (tmp_path / "bench" / "generation.json").read_text(encoding="utf-8")


def test_each_process_measures_with_the_run_s_own_recipe_and_model(tmp_path, monkeypatch):
    """A run of a model that no profile has, with budgets of its own; all in this process."""
    folder = models.local_folder(profiles.choose("tiny"))
    profile = profiles.choose("tiny", model_id=str(folder)).replace(translation_budget=2, multistep_budget=3)
    base = runtime.Run(tmp_path / "run", profile, studies.load("quick"))
    make_adapter(profile, base.path("arms", "plain", "seed0", "adapter"))
    asked = [("translate", Record("a", "translate", PAIRS[0][0], "?")), ("multistep", Record("b", "qa", PAIRS[1][0], "?", "three"))]
    monkeypatch.setattr(generation_speed, "_data", lambda run, count: asked)
    monkeypatch.setattr(generation_speed.scale, "apart", lambda module, *words: generation_speed._task(*map(str, words)))
    result = generation_speed.measure(base, "plain", 0, variants=["ours"], say=lambda text: None)
    assert 2 <= result["rows"][0]["tokens"] <= 5
    assert profiles.parse(json.loads(json.dumps(dataclasses.asdict(profile)))) == profile


def test_an_arm_that_is_not_trained_is_named(run):
    with pytest.raises(files.UserError, match="reasoned-33.*No arm is trained there yet"):
        generation_speed.measure(run, "reasoned-33", 0)


@pytest.mark.slow
def test_llama_cpp_says_the_same_one_by_one_and_together(tmp_path):
    """Eight prompts of different lengths in four slots, so that slots are used again; the base model without an adapter's training."""
    pytest.importorskip("llama_cpp", reason="llama_cpp is not installed: python -m pip install -r tests/requirements-llama.txt")
    base = runtime.Run(tmp_path / "run", profiles.choose("gemma3-270m"), studies.load("quick"))
    make_adapter(base.profile, base.path("arms", "plain", "seed0", "adapter"), std=0.002)
    folder = export.save(export.find(base, "plain"), tmp_path / "out", "float32", gguf=True, say=lambda text: None)
    (file,) = folder.glob("*.gguf")
    tokenizer = models.load_tokenizer(base.profile)
    ends = [tokenizer.eos_token_id]
    rows = [prompts.encode_prompt(tokenizer, prompts.prompt(base.profile.model.prompt_style, "translate", ja=ja * (1 + i))) for i, (ja, _) in enumerate(PAIRS)]
    alone, together = (generation_speed._Llama(file, slots, False).generate(rows, ends, 12) for slots in (1, 4))
    assert all(1 <= len(ids) <= 12 and (len(ids) == 12 or ids[-1] in ends) for ids in alone)
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= len(rows) - 1
