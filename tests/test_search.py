"""A search trains each recipe once, decodes each variant on dev alone, and goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from helpers import (
    assembly,
    attention,
    corpora,
    decoding,
    evaluation,
    files,
    fused,
    inference,
    models,
    packing,
    pipeline,
    profiles,
    prompts,
    records,
    runtime,
    search,
)

FILE = """about = "A tiny one."
arm = "reasoned-33"
[variants.as-it-is]
[variants.voted]
samples = 3
[variants.rank-4]
rank = 4
[variants.after]
arm = "explained-33"
"""


def write(folder, text):
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_searches_that_ship_begin_with_what_is_compared_with_and_repeat_nothing():
    found = search.load("quick")
    assert found.variants[0] == ("as-it-is", {}) and len(found.variants) >= 8
    base = search.load("base")
    assert base.arm == "base" and base.variants[0] == ("three-shot", {"shots": profiles.choose("gemma3-270m").recipe.few_shot})
    order = search.load("order")
    assert [settings.get("arm", order.arm) for _, settings in order.variants] == ["reasoned-33", "explained-33", "plain"]
    small = search.load("small")
    assert small.variants[0] == ("half-the-pairs", {}) and dict(small.recipe)["train_pairs"] == profiles.choose("gemma3-270m").recipe.train_pairs // 2
    for one in (found, base, order, small):
        assert len({name for name, _ in one.variants}) == len({json.dumps(s) for _, s in one.variants}) == len(one.variants)


def test_the_recipe_of_a_search_is_that_of_each_variant(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    found = search.load(write(tmp_path, "[recipe]\ntrain_pairs = 20\nreplay_pairs = 20\n[variants.a]\nrank = 3\n[variants.b]\nreplay_pairs = 9"))
    seen = []

    def ensured(run, *rest, **more):
        seen.append((run.recipe.train_pairs, run.recipe.replay_pairs, run.recipe.rank))
        raise files.UserError("seen enough")

    home = runtime.open_run("search-tiny", "tiny", study=found.study, **dict(found.recipe))
    for part in ("data", "reasoning"):
        home.path(part).mkdir()
    for settings in dict(found.variants).values():
        recipe = search._folder(home, found, settings).recipe
        seen.append((recipe.train_pairs, recipe.replay_pairs, recipe.rank))
    assert seen == [(20, 20, 3), (20, 9, 4)]
    monkeypatch.setattr(pipeline, "ensure", ensured)
    with pytest.raises(files.UserError, match="seen enough"):
        search.execute(found, profile="tiny", say=lambda text: None)
    assert seen[2] == (20, 20, 4), "the data are those of the search's recipe"


@pytest.mark.parametrize(
    "text, says",
    [
        ("[variants.a]\nrank = 'x'", r"\[variants.a\] rank: expected a field"),
        ("[variants.a]\nspeed = 1", r"\[variants.a\] speed: expected a field"),
        ("variants = 3", "expected a table for each variant"),
        ("arms = 'x'", "'arms': expected only"),
        ("[recipe]\nspeed = 1\n[variants.a]", r"\[recipe\] 'speed': expected a field of the recipe"),
        ("[variants.a", "not valid TOML"),
        ("study = 'gone'\n[variants.a]", "no such study"),
        ("[variants.a]\nseed = 1", "field of the recipe other than seed"),
        ("[variants.a]\nlearning_rate = -1.0", r"\[recipe\] learning_rate: expected a value that is not negative"),
        ("[variants.a]\nrank = 0", r"\[recipe\] rank: expected a value above zero"),
        ("[variants.a]\nsamples = 0", "samples: expected a number from 1"),
        ("[variants.a]\nshots = 3\nsamples = 4", "samples: expected no shots beside it"),
        ("[variants.a]\ntemperature = 0.9", "temperature: expected samples above 1 beside it"),
        ("[variants.a]\ndraw = 1", "draw: expected a number from 0, and shots above 0"),
        ("[variants.a]\ndraw = -1\nshots = 2", "draw: expected a number from 0"),
        ("arm = 'base'\n[variants.a]\nrank = 4", r"rank: expected of the base model, which is not trained, shots, draw, samples, temperature, with a value of its kind, found 4"),
        ("arm = 'nobody'\n[variants.a]", "arm: expected base, "),
        ("[variants.a]\narm = 'base'", r"\[variants.a\] arm: expected plain, reasoned-P or explained-P"),
        ("arm = 'base'\n[variants.a]\narm = 'plain'", "arm: expected of the base model"),
    ],
)
def test_a_bad_search_says_what_was_expected(tmp_path, text, says):
    with pytest.raises(files.UserError, match=says):
        search.load(write(tmp_path, text))
    with pytest.raises(files.UserError, match="no such search"):
        search.load("gone")


def test_the_answer_that_most_samples_agree_on_is_taken(monkeypatch, questions):
    asked = [q for q in questions if q.split == "dev"][:2]
    said = {0: ("7", "four"), 1: ("Nine", "4"), 2: ("nine", "5")}

    def stage(model, tokenizer, profile, name, records, *, asked, sampling):
        return [
            inference.Prediction(r.id, name, asked, "", t, "", "", t, not (t == "4"), False, 1) for r, t in zip(records, said[sampling.seed], strict=True)
        ]

    monkeypatch.setattr(inference, "stage", stage)
    run = type("R", (), {"profile": None})
    found = search._voted(None, None, run, asked, False, {"samples": 3, "temperature": 0.7})
    assert [p.answer for p in found if p.stage == "S4"] == ["Nine", "four"], "a tie goes to the first; what is not well-formed has no vote"


@pytest.fixture
def corpus(monkeypatch, tmp_path, pairs):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path / "runs"))
    many = [p.replace(id=f"{p.id}-{n}", ja=f"{n}番目の話。{p.ja}", en=f"Story {n}. {p.en}") for n in range(200) for p in pairs]
    monkeypatch.setattr(corpora, "tatoeba", lambda say=print: many)


@pytest.mark.slow
def test_a_search_over_the_prompts_of_the_base_model_trains_nothing(tmp_path, monkeypatch, corpus):
    text = "arm = 'base'\n[variants.none]\nshots = 0\n[variants.two]\nshots = 2\n[variants.two-others]\nshots = 2\ndraw = 1\n"
    monkeypatch.setattr(pipeline, "train_arm", lambda *a, **k: pytest.fail("nothing to train"))
    questions, sentences, stages = [], [], inference.all_stages

    def watched(*a, **k):
        questions.append([r.id for r in k["shots"]])
        sentences.append([r.id for r in k["translations"][-1][1]])
        return stages(*a, **k)

    monkeypatch.setattr(inference, "all_stages", watched)
    rows = search.execute(search.load(write(tmp_path, text)), profile="tiny", say=lambda line: None)
    assert [r["variant"] for r in rows] == ["none", "two", "two-others"] and {r["decoding"] for r in rows} == {"free"}
    assert [len(ids) for ids in questions] == [len(ids) for ids in sentences] == [0, 2, 2]
    assert questions[1] != questions[2] and sentences[1] != sentences[2]
    run = runtime.open_run("search-tiny", "tiny", study="quick")
    run = dataclasses.replace(run, profile=run.profile.replace(few_shot=2))
    evaluation.predict(run, pipeline.load(run), some=evaluation.systems(run)[:1], say=lambda line: None)
    assert questions[3] == questions[1] and sentences[-1] == sentences[1], "the first draw is the one that a run uses"
    assert all("dev_answer_loss" not in r and "chrf" in r for r in rows)
    assert (tmp_path / "runs" / "search-tiny" / "search.md").read_text(encoding="utf-8").count("\n| ") == 1 + 1 + 3
    known = json.loads((tmp_path / "runs" / "search-tiny" / "search.json").read_text(encoding="utf-8"))
    assert known["two"]["made_from"] == assembly.hashes(*(Path(m.__file__) for m in (attention, decoding, fused, inference, evaluation, models, packing, prompts)))
    with pytest.raises(files.UserError, match="999 shots: there are 16 training questions"):
        search.execute(search.load(write(tmp_path, "arm = 'base'\n[variants.many]\nshots = 999\n")), profile="tiny", say=lambda line: None)


@pytest.mark.slow
def test_a_search_trains_each_recipe_once_and_never_reads_the_test_set(tmp_path, monkeypatch, corpus):
    wanted, said = search.load(write(tmp_path, FILE)), []
    read = []
    monkeypatch.setattr(inference, "all_stages", lambda *a, _do=inference.all_stages, **k: read.extend(a[3]) or _do(*a, **k))
    kept = tmp_path / "kept" / "tiny.json"
    rows = search.execute(wanted, profile="tiny", say=said.append, kept=kept)
    assert sum("found trained" in s for s in said) == 1, "the voted variant takes the first one's adapter"
    assert [(r["variant"], r["decoding"]) for r in rows] == [(v, d) for v in ("as-it-is", "voted", "rank-4") for d in ("free", "asked")] + [("after", "free")]
    texts = {v: json.loads(kept.read_text(encoding="utf-8"))[v]["made_from"][0] for v in ("as-it-is", "after")}
    assert texts["as-it-is"] != texts["after"], "trained each"
    home = tmp_path / "runs" / "search-tiny"
    dev = {r.id for r in records.read(home / "data" / "dev.jsonl")}
    assert read and {r.id for r in read} <= dev
    assert "S3" in rows[0] and "S3" not in rows[2] and rows[0]["pairs"] == rows[4]["pairs"]
    assert (home / "search.md").read_text(encoding="utf-8").count("\n| ") == 1 + 1 + len(rows)

    monkeypatch.setattr(search, "_measure", lambda *a: pytest.fail("done already"))
    monkeypatch.setattr(pipeline, "curate", lambda run, say: pipeline.load(run))
    assert search.execute(wanted, profile="tiny", say=said.append) == rows
    old = json.loads(kept.read_text(encoding="utf-8"))
    old["rank-4"]["made_from"][0] = "older code"
    kept.write_text(json.dumps(old), encoding="utf-8")
    for folder in (tmp_path / "runs").glob("search-tiny*"):
        shutil.rmtree(folder / "arms")
        (folder / "search.json").unlink(missing_ok=True)
    assert search.execute(wanted, profile="tiny", say=said.append, kept=kept) == rows, "another machine goes on from what is kept"
    assert kept.with_suffix(".md").read_text(encoding="utf-8") == (home / "search.md").read_text(encoding="utf-8")
    write(tmp_path, FILE.replace("samples = 3", "samples = 5"))
    with pytest.raises(pytest.fail.Exception, match="done already"):
        search.execute(search.load(tmp_path / "tiny.toml"), profile="tiny", say=said.append, kept=kept)
    assert json.loads(kept.read_text(encoding="utf-8")).keys() == {"as-it-is", "voted", "rank-4", "after"}, "nothing that was kept is lost"
