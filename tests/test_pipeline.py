"""A run's stages: made when missing, found when there, made again when what they come from has changed."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter

import pytest

from helpers import checkpoints, corpora, edits, evaluation, files, models, pipeline, profiles, records, report, runtime
from helpers import results as scored
from helpers.records import Record


@pytest.fixture
def run(tmp_path, monkeypatch, pairs):
    """A tiny run on sentence pairs of the tests instead of the corpus."""
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    many = [p.replace(id=f"{p.id}-{n}", ja=f"{n}番目の話。{p.ja}", en=f"Story {n}. {p.en}") for n in range(6) for p in pairs]
    monkeypatch.setattr(corpora, "tatoeba", lambda say=print: many)
    return runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8)


def test_curated_data_is_made_once_and_split_cleanly(run):
    said = []
    data = pipeline.curate(run, said.append)
    again = pipeline.curate(run, said.append)
    assert "none for these settings" in said[0] and "found in" in said[-1] and data == again
    assert {s: len(data.pairs[s]) for s in pipeline.SPLITS} == {"train": 16, "dev": 2, "test": 4}
    assert all(r.split == s for s in pipeline.SPLITS for r in (*data.pairs[s], *data.questions[s]))
    assert not any(r.reasoning for r in data.questions["train"]), "rationales are put on by notebook 02"
    assert set(data.manifest["files"]) == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    assert Counter(d["reason"] for d in dropped(run)) == data.manifest["dropped"] and all(d["step"] and d["source"] for d in dropped(run))


def test_own_records_are_kept_by_later_stages_and_bad_ones_named(run, tmp_path):
    mine = Record("mine-1", "qa", "盆栽の鉢の底にある穴は何のためですか？", "What is the hole in a bonsai pot for?", "Drainage",
                  reasoning="Roots rot in standing water, so water must run out of the pot. The hole is for drainage.")  # fmt: skip
    path = records.write(tmp_path / "mine.jsonl", [mine])
    data = pipeline.curate(run, user_file=str(path))
    assert data.questions["train"][-1] == mine.replace(split="train", reasoning="", source="own")
    assert pipeline.curate(run) == data, "a later notebook does not name the file and still finds its records"
    pipeline.augment(run, data)
    assert json.loads(run.path("reasoning", "accepted.json").read_text())["mine-1"] == mine.reasoning

    copy = data.questions["test"][0].replace(id="sly", split="train")
    path = records.write(tmp_path / "copy.jsonl", [copy])
    data = pipeline.curate(run, user_file=str(path))
    assert all(r.id != "sly" for r in data.questions["train"])
    assert {"id": "sly", "source": "own", "step": "not in the held-out sets", "reason": "ja side is in a held-out set"} in dropped(run)

    path = records.write(tmp_path / "same.jsonl", [mine.replace(id=data.questions["test"][0].id)])
    with pytest.raises(records.RecordError, match="same.jsonl.*field 'id'"):
        pipeline.curate(run, user_file=str(path))


def dropped(run):
    return [json.loads(line) for line in run.path("data", "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


def test_an_evaluation_file_is_kept_out_of_training(run, tmp_path):
    question = pipeline.curate(run).questions["train"][0]
    path = tmp_path / "exam.jsonl"
    path.write_text(json.dumps({"id": "exam-1", "ja": question.ja.replace("？", "?"), "en": "Something else."}, ensure_ascii=False))
    data = pipeline.curate(run, evaluation_file=str(path))
    assert question.id not in {r.id for r in data.questions["train"]}
    assert [d["id"] for d in dropped(run) if d["source"] == "authored"] == [question.id]
    assert pipeline.curate(run) == data, "later notebooks keep it out too"


def test_a_table_and_facts_are_named_in_the_manifest(run):
    said = []
    data = pipeline.curate(run, said.append, user_file=str(files.ROOT / "data" / "example_table.csv"), facts=40)
    names = [s["name"] for s in data.manifest["sources"]]
    assert names == ["tatoeba", "data/questions.jsonl", "example_table.csv", "facts"]
    assert all(s["revision"] and s["license"] and s["attribution"] for s in data.manifest["sources"])
    asked = [r for s in pipeline.SPLITS for r in data.questions[s]]
    assert {f"example_table-{i}" for i in (1, 2, 3, 4)} <= {r.id for r in asked}
    assert sum(r.category == "facts" for r in asked) + sum(d["source"] == "own" for d in dropped(run)) == 40
    pipeline.augment(run, data)
    accepted = json.loads(run.path("reasoning", "accepted.json").read_text(encoding="utf-8"))
    assert accepted["example_table-3"].endswith("There are 42 seedlings in all.")


def test_what_a_reader_decides_is_applied_and_what_no_longer_fits_is_said(run):
    data = pipeline.curate(run)
    store = edits.EditStore(run.path("data", "edits.jsonl"))
    first, second = data.questions["train"][:2]
    store.decide(first, "reject")
    store.decide(second, "edit", {"en": second.en.replace("?", ", please?")})
    store.decide(Record("gone", "qa", "これは何ですか？", "What is this?", "A test"), "reject")
    said = []
    again = pipeline.curate(run, said.append)
    kept = {r.id: r for r in again.questions["train"]}
    assert first.id not in kept and kept[second.id].en.endswith(", please?")
    assert [d["id"] for d in dropped(run) if d["source"] == "reader"] == [first.id]
    assert any("gone" in s for s in said)


def test_another_teacher_s_rationales_are_kept_and_never_replaced_in_silence(run):
    data = pipeline.curate(run)
    manifest = pipeline.augment(run, data, teacher=pipeline.teacher(run, "worked"))
    assert manifest["teacher"] == "worked" and 0 < manifest["outcomes"]["accepted"] < len(data.questions["train"])
    said = []
    assert pipeline.augment(run, data, said.append) == manifest and "by worked" in said[-1]
    edits.EditStore(run.path("reasoning", "edits.jsonl")).decide(data.questions["train"][0], "reject")
    with pytest.raises(files.UserError, match="worked.*Run notebook 02 again"):
        pipeline.augment(run, data)
    with pytest.raises(files.UserError, match="Unknown teacher 'oracle'"):
        pipeline.teacher(run, "oracle")


def test_a_user_s_own_list_carries_the_rationales(run):
    data = pipeline.curate(run)
    mine = [r.id for r in data.questions["train"][:3]]
    pipeline.augment(run, data, chosen=mine)
    carried = [r.id for r in records.read(run.path("data", "train_reasoned.jsonl")) if r.reasoning]
    assert sorted(carried) == sorted(mine)
    assert [r.id for r in pipeline.arm_questions(run, data, "shuffled-19") if r.reasoning] == carried
    assert set(mine) < {r.id for r in pipeline.arm_questions(run, data, "reasoned-50") if r.reasoning}


def test_the_controls_ask_the_same(run):
    data = pipeline.curate(run)
    pipeline.augment(run, data)
    reasoned, shuffled, matched = (pipeline.arm_questions(run, data, a) for a in ("reasoned-33", "shuffled-33", "plain-token-matched"))
    assert [r.replace(reasoning="") for r in shuffled] == [r.replace(reasoning="") for r in reasoned] == data.questions["train"]
    assert {r.id for r in shuffled if r.reasoning} == {r.id for r in reasoned if r.reasoning}
    assert all(a.reasoning != b.reasoning for a, b in zip(shuffled, reasoned, strict=True) if a.reasoning)
    assert {r.ja for r in matched} == {r.ja for r in reasoned} and len(matched) > len(reasoned) and not any(r.reasoning for r in matched)
    tokens = {f["file"]: f["target_tokens"] for f in pipeline.arm_files(run)}
    assert tokens["train_plain-token-matched.jsonl"] == pytest.approx(tokens["train_reasoned-33.jsonl"], abs=60)


def test_a_third_of_the_questions_gets_reasoning_and_arms_share_everything_else(run):
    data = pipeline.curate(run)
    manifest = pipeline.augment(run, data)
    assert manifest["with_reasoning"] == round(0.33 * manifest["questions"])
    arms = {a: pipeline.arm_questions(run, data, a) for a in ("plain", "reasoned-33", "reasoned-67", "reasoned-100")}
    chosen = {a: {r.id for r in rs if r.reasoning} for a, rs in arms.items()}
    assert chosen["plain"] < chosen["reasoned-33"] < chosen["reasoned-67"] < chosen["reasoned-100"]
    bare = [[r.replace(reasoning="") for r in rs] for rs in arms.values()]
    assert all(b == bare[0] for b in bare)
    assert records.read(run.path("data", "train_reasoned.jsonl")) == arms["reasoned-33"]
    assert pipeline.arm_questions(run, data, "explained-33") == arms["reasoned-33"]
    assert pipeline.training_key(run, data, "explained-33") != pipeline.training_key(run, data, "reasoned-33")
    for name in ("reasoned-0", "explained-101", "../plain"):
        with pytest.raises(files.UserError, match="Unknown arm"):
            pipeline.arm_questions(run, data, name)


def test_what_stands_after_the_answer_is_trained_there(run, monkeypatch):
    from helpers import distributed, training

    data, seen = pipeline.curate(run), []
    pipeline.augment(run, data)
    monkeypatch.setattr(distributed, "train", lambda profile, order, *rest, **more: seen.append(order))
    monkeypatch.setattr(checkpoints, "begin_from", lambda *places: None)
    for arm in ("reasoned-33", "explained-33"):
        pipeline.train_arm(run, data, arm)
    before, after = seen[0], seen[-1]
    assert before.items == after.items and (before.reasoning_last, after.reasoning_last) == (False, True)
    tokenizer = models.load_tokenizer(run.profile)
    longer = [i for i, (_, r) in enumerate(after.items) if r.reasoning]
    ids = [[e["input_ids"] for e in training.encode(tokenizer, run.profile, order.items, order.reasoning_last)] for order in (before, after)]
    assert longer and [i for i, (a, b) in enumerate(zip(*ids, strict=True)) if a != b] == longer


def test_the_base_model_is_asked_for_reasoning_where_the_recipe_says_so(run):
    data, asked = pipeline.ensure(run), {}
    for ask in (True, False):
        run = dataclasses.replace(run, profile=run.profile.replace(ask_base=ask))
        base = evaluation.systems(run)[0]
        evaluation.predict(run, data, some=[base], say=lambda line: None)
        asked[ask] = {(r["stage"], r["asked"]) for r in evaluation.read(base.folder / "questions.jsonl")}
    assert asked[1] - asked[0] == {("S2", True), ("S4", True)} and asked[0] == {(s, False) for s in ("S1", "S2", "S3", "S4", "S5")}
    assert evaluation.asked_stages(run, evaluation.System("reasoned-33", 0, None, base.folder)) == ("S2", "S3", "S4")


@pytest.mark.slow
def test_train_predict_and_report_from_results_only(run):
    data = pipeline.ensure(run, train=True)
    said = []
    pipeline.ensure(run, train=True, say=said.append)
    assert sum("found trained" in s for s in said) == 2
    assert pipeline.export_log(run).read_text().splitlines()[0].startswith("step,")

    evaluation.predict(run, data, say=said.append)
    evaluation.predict(run, data, say=said.append)
    assert sum("Predictions of" in s and "found" in s for s in said) == 3
    results = scored.results(run, data)
    assert [t["system"] for t in results.translation] == ["base zero-shot", "base few-shot", "plain", "reasoned-33"]
    n = len(data.questions["test"])
    assert all(r["n"] == n for r in (*results.stages, *results.paired))
    for arm in ("base", "plain", "reasoned-33"):
        assert sum(b["n"] for b in results.broken if b["arm"] == arm) == n

    bad = results.examples[0] | {"question": "<script>alert(1)</script>|x", "answer": "<img onerror=1>"}
    results.examples[0].update(bad)
    folder = report.write(run, results, report.figures(run, results))
    page = (folder / "report.html").read_text(encoding="utf-8")
    kinds = [{p.stem for p in folder.glob(f"figures/*.{kind}")} for kind in ("png", "svg")]
    assert kinds[0] == kinds[1] and len(kinds[0]) >= 6
    assert "<script" not in page and "<img onerror" not in page and "&lt;script&gt;" in page
    short, long = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "details.md"))
    assert "\\|x" in short and "\\|x" in long and "(details.md)" in short
    # A page and a half: about 750 words beside four figures.
    assert len(re.sub(r"!?\[[^]]*\]\([^)]*\)|[|-]", " ", short).split()) < 750 and short.count("![") <= 4
    numbers = json.loads((folder / "headline.json").read_text(encoding="utf-8"))
    assert any(k.startswith("Does Reasoning help?") for k in numbers) and all("n=" in v for v in numbers.values())


@pytest.mark.slow
def test_an_arm_with_more_steps_has_a_learning_rate_of_its_own_from_the_first(run):
    """A cosine over its own steps: gone on from plain's shared part it would rise again where that ends."""
    data = pipeline.ensure(run)
    for arm in ("plain", "plain-token-matched"):
        pipeline.train_arm(run, data, arm)
    rates = {arm: [r["learning_rate"] for r in rows if "learning_rate" in r] for (arm, _), rows in pipeline.training_logs(run).items()}
    assert len(rates["plain-token-matched"]) > len(rates["plain"])
    for found in rates.values():
        falling = found[found.index(max(found)) :]
        assert all(a > b for a, b in zip(falling, falling[1:], strict=False))


@pytest.mark.slow
def test_an_arm_is_trained_again_when_its_data_changes(run):
    data = pipeline.ensure(run)
    folder = pipeline.train_arm(run, data, "plain")
    before = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    changed = pipeline.Data(data.pairs, data.questions | {"train": data.questions["train"][:-2]}, data.manifest | {"files": {"train.jsonl": "other"}})
    pipeline.train_arm(run, changed, "plain")
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() != before


def test_on_a_gpu_as_much_of_a_step_at_once_as_there_is_room_for(pairs, monkeypatch):
    """The same step; said, and without a GPU nothing is changed."""
    from helpers import training

    phi2, said = dataclasses.replace(profiles.choose("tiny-phi"), name="phi-2").replace(batch_size=2, accumulation=8, gradient_checkpointing=True), []
    order = training.plan(phi2.recipe, [*pairs, *pairs], [])
    assert pipeline.fitted(phi2, order, said.append) == phi2 and not said
    monkeypatch.setattr(pipeline.runtime, "gpu_gib", lambda: 80.0)
    found = pipeline.fitted(phi2, order, said.append).recipe
    assert (found.batch_size, found.accumulation, found.gradient_checkpointing) == (16, 1, False)
    assert said == ["16 examples at once, every activation kept: predicted to fit 80.0 GiB."]
