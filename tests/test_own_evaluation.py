"""A user's own evaluation file: what is read and refused, what is asked of the model, and numbers that add up by hand."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter

import pytest

from helpers import __main__ as cli
from helpers import (
    bootstrap,
    corpora,
    evaluation,
    files,
    inference,
    models,
    own_evaluation,
    pipeline,
    prompts,
    records,
    runtime,
    similarity,
)
from helpers.records import Record, RecordError
from tests.conftest import PAIRS

FUJI = {"id": "fuji", "ja": "日本で一番高い山はどこですか？", "en": "What is the highest mountain in Japan?", "answers": ["Mount Fuji", "Fuji"]}
WALK = {"id": "walk", "ja": "雨がやんだら散歩に行こう。", "en": "Let's go for a walk when the rain stops."}
WEEK = {"id": "week", "ja": "一週間は何日ですか？", "answer": "seven"}
MOON = {"id": "moon", "ja": "人類がはじめて月に立った年はいつですか？", "en": "In what year did people first stand on the Moon?", "answer": "1969"}


def write(folder, *rows, name="exam.jsonl"):
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows), encoding="utf-8")
    return path


def silent(*_):
    pass


# --- reading ---


def test_rows_become_records_and_nothing_is_dropped_in_silence(tmp_path):
    numbered = {"id": 7, "ja": "空", "en": None, "answer": "sky", "aliases": ["the heavens", "sky"]}
    path = write(tmp_path, FUJI | {"note": "x", "level": {"of": 2}}, "", WALK, WEEK, numbered)
    said = []
    assert own_evaluation.read(path, said.append) == [
        Record("fuji", "qa", FUJI["ja"], FUJI["en"], "Mount Fuji", ("Fuji",)),
        Record("walk", "translate", WALK["ja"], WALK["en"]),
        Record("week", "qa", WEEK["ja"], "", "seven"),
        Record("7", "qa", "空", "", "sky", ("the heavens",)),
    ]
    assert said == [f"{path}: fields not used: note, level.of."]
    assert [r.ja for r in similarity.evaluation_rows(path)] == [FUJI["ja"], WALK["ja"], WEEK["ja"], "空"], "notebook 01 can keep them out of training"


def test_records_of_this_program_are_read_as_they_are(tmp_path, questions, pairs):
    said = []
    found = own_evaluation.read(records.write(tmp_path / "mine.jsonl", [*questions[:3], *pairs[:2]]), said.append)
    assert said[0].endswith("fields not used: reasoning, category, hops, source, license, split, entities, check.")
    assert [(r.id, r.task, r.ja, r.en, r.answer) for r in found] == [(r.id, r.task, r.ja, r.en, r.answer) for r in (*questions[:3], *pairs[:2])]
    assert set(found[0].aliases) == set(questions[0].aliases)


def test_a_table_is_read_too(tmp_path):
    path = tmp_path / "表.csv"
    path.write_bytes("番号,日本語,英語,answers,備考\n1,空は何色ですか？,,blue|azure,\n2,猫がいる。,There is a cat.,,x\n".encode("cp932"))
    said = []
    assert own_evaluation.read(path, said.append) == [
        Record("1", "qa", "空は何色ですか？", "", "blue", ("azure",)),
        Record("2", "translate", "猫がいる。", "There is a cat."),
    ]
    assert "CP932" in said[0] and "ja is the column '日本語'" in said[1] and said[2].endswith("fields not used: 備考.")
    path.write_text("id,ja,ja,en\n1,a,b,c\n", encoding="utf-8")
    with pytest.raises(RecordError, match="column 'ja' is there twice"):
        own_evaluation.read(path, silent)
    path.write_text("id,ja,en,answer\n1,a,b\n", encoding="utf-8")
    with pytest.raises(RecordError, match="line 2, expected 4 cells"):
        own_evaluation.read(path, silent)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"id": "a", "ja": ', "line 3, not valid JSON"),
        ('{"id": "a", "id": "b", "ja": "x", "en": "y"}', "line 3, not valid JSON (field 'id' is there twice)"),
        ([1], "line 3, expected a JSON object, found list"),
        ({"ja": "空", "en": "sky"}, "line 3, field 'id': expected a value"),
        ({"id": "", "ja": "空", "en": "sky"}, "line 3, field 'id': expected a text that is not empty"),
        ({"id": True, "ja": "空", "en": "sky"}, "line 3, field 'id': expected a text, found bool"),
        (WALK, "line 3, field 'id': expected a unique id, 'walk' is there before (line 1)"),
        ({"id": "a", "en": "sky"}, "line 3, field 'ja': expected a value, this field is required"),
        ({"id": "a", "ja": " ", "en": "sky"}, "line 3, field 'ja': expected a text that is not empty"),
        ({"id": "a", "ja": 3, "en": "sky"}, "line 3, field 'ja': expected a text, found int"),
        ({"id": "a", "ja": "空" * 2001, "en": "sky"}, "line 3, field 'ja': expected at most 2,000 characters, found 2,001"),
        ({"id": "a", "ja": "空", "en": ""}, "line 3, field 'en': expected a text that is not empty"),
        ({"id": "a", "ja": "空", "en": ["sky"]}, "line 3, field 'en': expected a text, found list"),
        ('{"id": "a", "ja": "空", "en": "\\ud800"}', "line 3, field 'en': expected text that UTF-8 can hold"),
        ({"id": "a", "ja": "空"}, "line 3, field 'en': expected English in 'en', accepted answers in 'answers' or 'answer', or both, found neither"),
        ({"id": "a", "ja": "空", "answers": []}, "line 3, field 'answers': expected a list of texts with at least one"),
        ({"id": "a", "ja": "空", "en": "sky", "answers": []}, "line 3, field 'answers': expected a list of texts"),
        ({"id": "a", "ja": "空", "answers": "sky"}, "line 3, field 'answers': expected a list of texts"),
        ({"id": "a", "ja": "空", "answers": ["sky", 3]}, "line 3, field 'answers': expected a text, found int"),
        ({"id": "a", "ja": "空", "answers": ["sky", ""]}, "line 3, field 'answers': expected a text that is not empty"),
        ({"id": "a", "ja": "空", "en": "sky", "answer": ""}, "line 3, field 'answer': expected a text that is not empty"),
        ({"id": "a", "ja": "空", "answer": 42}, "line 3, field 'answer': expected a text, found int"),
        ({"id": "a", "ja": "空", "answer": "?!"}, "line 3, field 'answer': expected a text with a letter or digit in it, found '?!'"),
        ({"id": "a", "ja": "空", "answer": "x", "answers": ["x"]}, "line 3, field 'answers': expected either 'answer' or 'answers', found both"),
        ({"id": "a", "ja": "空", "en": "sky", "aliases": ["x"]}, "line 3, field 'aliases': expected an 'answer'"),
        ({"id": "a", "ja": "空", "en": "sky", "anwser": "x"}, "line 3, field 'anwser': expected one of id, ja, en, answer, answers, aliases; it looks like 'answer'"),
        ({"id": "a", "ja": "空", "en": "sky", "Answers": ["x"]}, "it looks like 'answers'"),
        ({"id": "a", "ja": "空", "answer": "x", "EN": "sky"}, "it looks like 'en'"),
        ({"id": "a", "ja": "空", "answer": "x", "english": "sky"}, "it looks like 'en'"),
        ({"id": "a", "ja": "空", "answer": "x", "alises": ["y"]}, "it looks like 'aliases'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_file_line_field_and_expectation(tmp_path, row, words):
    path = write(tmp_path, WALK, WEEK, row)
    with pytest.raises(RecordError) as caught:
        own_evaluation.read(path, silent)
    text = str(caught.value)
    assert text.startswith(f"{path}, line 3, ") and words in text and "\n" not in text and "more row" not in text


def test_fields_that_mean_something_else_are_no_misspellings(tmp_path):
    extra = {"idx": 1, "question": "q", "answer_ja": "空", "english": "e", "end": 2, "category": "c"}
    said = []
    own_evaluation.read(write(tmp_path, FUJI | extra), said.append)
    assert said[0].endswith("fields not used: idx, question, answer_ja, english, end, category.")


def test_other_bad_rows_are_counted(tmp_path):
    with pytest.raises(RecordError, match="line 1, field 'ja'.* 2 more rows have a problem[.]$"):
        own_evaluation.read(write(tmp_path, {"id": "a"}, WALK, {"id": "b"}, "{"), silent)


def test_files_that_are_not_there_empty_or_not_utf8(tmp_path):
    with pytest.raises(RecordError, match="none.jsonl: no such file"):
        own_evaluation.read(tmp_path / "none.jsonl", silent)
    with pytest.raises(RecordError, match="exam.jsonl: no rows"):
        own_evaluation.read(write(tmp_path, "", ""), silent)
    with pytest.raises(RecordError, match="expected a file of these kinds"):
        own_evaluation.read(write(tmp_path, WALK, name="exam.pdf"), silent)
    with pytest.raises(RecordError, match="cannot be read"):
        own_evaluation.read(tmp_path, silent)
    (tmp_path / "sjis.jsonl").write_bytes((json.dumps(WALK, ensure_ascii=False) + "\n").encode("cp932"))
    with pytest.raises(RecordError, match="sjis.jsonl, line 1: neither UTF-8"):
        own_evaluation.read(tmp_path / "sjis.jsonl", silent)


# --- numbers, from outputs whose truth is known ---


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """A run with two trained arms in name, and a model that answers as told: {(stage, asked, id): answer}, S1 in `english`."""
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path / "runs"))
    run = runtime.open_run("r", "tiny")
    for arm, seed in (("plain", 0), ("reasoned-33", 1), ("reasoned-33", 2)):
        files.write_text(run.path("arms", arm, f"seed{seed}", "adapter", "adapter_model.safetensors"), "")
    files.write_text(run.path("arms", "shared", "seed0", "log.jsonl"), "")
    script = {"english": {}, "answers": {}, "calls": []}

    def stage(model, tokenizer, profile, name, some, *, asked=False, english=None, shots=(), progress=silent):
        script["calls"].append((name, asked, [r.id for r in some], english, [s.id for s in shots]))
        progress(len(some))
        found = []
        for i, r in enumerate(some):
            answer = "" if name == "S1" else script["answers"].get((name, asked, r.id), "nothing")
            found.append(inference.Prediction(r.id, name, asked, "", answer, script["english"].get(r.id, ""), "", answer, i > 0, i == 0, 3))
        return found

    monkeypatch.setattr(own_evaluation, "_load", lambda *_: ("model", "tokenizer", run.profile))
    monkeypatch.setattr(inference, "stage", stage)
    return run, script


def predictions(found):
    return [json.loads(line) for line in (found["folder"] / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def recompute(rows):
    """The numbers of a summary from the rows of its predictions file, without the program's own scoring."""
    from sacrebleu.metrics import BLEU, CHRF

    def rate(some, field):
        return 100 * sum(bool(r[field]) for r in some) / len(some)

    def wilson(some, field):
        n, p, z = len(some), rate(some, field) / 100, 1.959963984540054
        centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return [100 * p, 100 * max(0, centre - half), 100 * min(1, centre + half)]

    first = [r for r in rows if r["stage"] == "S1" and r["en"]]
    outputs, gold = [r["english"] for r in first], [[r["en"] for r in first]]
    translation = [len(first), CHRF(word_order=2).corpus_score(outputs, gold).score, BLEU().corpus_score(outputs, gold).score,
                   rate(first, "well_formed"), rate(first, "truncated")] if first else None  # fmt: skip
    stages = {}
    for stage in ("S2", "S3", "S4", "S5"):
        for asked in (False, True):
            some = [r for r in rows if (r["stage"], r["asked"]) == (stage, asked)]
            if some:
                numbers = [len(some), *wilson(some, "exact"), *wilson(some, "lenient"), rate(some, "well_formed"), rate(some, "truncated")]
                stages[stage, "asked" if asked else "free"] = numbers
    broken = {}
    for how, asked in (("free", False), ("asked", True)):
        right = {s: {r["id"]: r["exact"] for r in rows if (r["stage"], r["asked"]) == (s, asked)} for s in ("S2", "S3", "S4")}
        steps = Counter("right" if right["S4"][i] else "knowledge/reasoning" if not right["S2"][i] else "translation" if not right["S3"][i] else "chaining"
                        for i in right["S2"])  # fmt: skip
        if steps:
            broken[how] = {s: steps[s] for s in own_evaluation.STEPS} | {"n": sum(steps.values())}
    return translation, stages, broken


def check(found):
    """A summary says what its predictions file says, and is what the summary file says."""
    rows = predictions(found)
    translation, stages, broken = recompute(rows)
    one = found["translation"]
    assert (one and [one[k] for k in ("n", "chrf", "bleu", "well_formed", "truncated")]) == (translation and pytest.approx(translation))
    if one and one["n"] > 1:
        assert one["low"] <= one["chrf"] <= one["high"] and {"nw:2", "nrefs:1"} <= set(one["signatures"]["chrF++"].split("|"))
    keys = ("n", "exact", "exact_low", "exact_high", "lenient", "lenient_low", "lenient_high", "well_formed", "truncated")
    assert {(s["stage"], s["decoding"]): [s[k] for k in keys] for s in found["stages"]} == {k: pytest.approx(v, abs=1e-6) for k, v in stages.items()}
    assert {b["decoding"]: {k: v for k, v in b.items() if k != "decoding"} for b in found["broken"]} == broken
    assert found["tokens"] == sum(r["tokens"] for r in rows)
    saved = json.loads((found["folder"] / "summary.json").read_text(encoding="utf-8"))
    assert saved | {"folder": found["folder"]} == found and {p.name for p in found["folder"].iterdir()} == {"summary.json", "predictions.jsonl"}
    return {(r["stage"], r["asked"], r["id"]): r for r in rows}


def test_an_arm_with_reasoning_answers_twice_and_its_numbers_add_up(scripted, tmp_path):
    run, script = scripted
    script["english"] = {"fuji": "What is Japan's highest mountain?", "walk": "Let us walk when rain stops.", "week": "How many days is a week?", "moon": ""}
    script["answers"] = {
        ("S2", False, "fuji"): "Fuji", ("S3", False, "fuji"): "It is Mount Fuji.", ("S4", False, "fuji"): "Everest",
        ("S2", False, "moon"): "1969", ("S3", False, "moon"): "1969",
        ("S3", False, "week"): "7", ("S4", False, "week"): "8", ("S5", False, "fuji"): "mount fuji",
        ("S2", True, "fuji"): "Kita", ("S4", True, "fuji"): "Mount Fuji.", ("S4", True, "week"): "seven",
    }  # fmt: skip
    said, seen = [], []
    found = own_evaluation.evaluate(run, write(tmp_path, FUJI, WALK, WEEK, MOON), "reasoned-33", say=said.append, progress=lambda *a: seen.append(a))
    rows = check(found)
    assert found["folder"] == run.path("evaluations", "exam-reasoned-33") and (found["model"], found["seed"]) == ("reasoned-33", 1)
    assert found["rows"] == {"all": 4, "en": 3, "answers": 3, "both": 2, "like_training": None}
    stages = {(s["stage"], s["decoding"]): s for s in found["stages"]}
    assert list(stages) == [("S2", "free"), ("S2", "asked"), ("S3", "free"), ("S3", "asked"), ("S4", "free"), ("S4", "asked"), ("S5", "free")]
    assert stages["S3", "free"]["exact"] == pytest.approx(200 / 3) and stages["S3", "free"]["lenient"] == pytest.approx(100)
    assert stages["S2", "free"]["exact"] == 100 and stages["S4", "asked"]["exact"] == pytest.approx(200 / 3) and stages["S4", "free"]["exact"] == 0
    # Exactly: S3 of fuji is wrong (translation) and of moon right (chaining).
    assert found["broken"] == [
        {"decoding": "free", "n": 2, "right": 0, "chaining": 1, "translation": 1, "knowledge/reasoning": 0},
        {"decoding": "asked", "n": 2, "right": 1, "chaining": 0, "translation": 0, "knowledge/reasoning": 1},
    ]
    assert [i for s, _, i in rows if s == "S1"] == ["fuji", "walk", "week", "moon"] and rows["S1", False, "week"]["exact"] is None
    assert rows["S2", False, "fuji"]["answers"] == ["Mount Fuji", "Fuji"] and found["translation"]["n"] == 3
    # S3 is given the model's own English; the progress ends at its total.
    own = [english for name, _, ids, english, _ in script["calls"] if name == "S3"]
    assert own == [[script["english"][i] for i in ("fuji", "week", "moon")]] * 2
    assert seen[-1] == ("reasoned-33 seed 1", len(rows), len(rows)) and [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    text = "\n".join(said)
    assert all(max(map(len, line.split("\n"))) <= 100 for line in said if "Written" not in line)
    for words in ("4 rows, 3 with English, 3 with answers, 2 with both", "reasoned-33 seed 1", "S4 asked", "66.7 [20.8, 93.9]", "Written: ", "Not checked",
                  "First broken step of S4, asked (n=2): right 1, chaining 0, translation 0, knowledge/reasoning 1"):  # fmt: skip
        assert words in text, words


def test_only_what_a_row_has_is_scored(scripted, tmp_path):
    run, script = scripted
    script["english"] = {"walk": "Let's go for a walk when the rain stops.", "week": "How many days?"}
    found = own_evaluation.evaluate(run, write(tmp_path, WALK), "plain", say=silent, progress=silent)
    check(found)
    assert found["stages"] == found["broken"] == [] and found["translation"]["chrf"] == pytest.approx(100) and found["translation"]["low"] is None
    assert [c[:3] for c in script["calls"]] == [("S1", False, ["walk"])]
    script["calls"].clear()
    found = own_evaluation.evaluate(run, write(tmp_path, WEEK, name="week.jsonl"), "plain", say=silent, progress=silent)
    check(found)
    assert found["translation"] is None and found["broken"] == [] and [s["stage"] for s in found["stages"]] == ["S3", "S4", "S5"]
    assert [c[0] for c in script["calls"]] == ["S1", "S3", "S4", "S5"]
    assert "chrF" not in own_evaluation.table(found)


def test_models_that_are_not_there_are_named_with_those_that_are(scripted, tmp_path):
    run, script = scripted
    path = write(tmp_path, FUJI)
    for model, seed, words in (
        ("reasoned-99", None, r"runs/r: no trained adapter of 'reasoned-99'. Trained there: plain \(seed 0\); reasoned-33 \(seed 1, 2\); or give base"),
        ("../plain", None, "no trained adapter of '../plain'"),
        ("shared", None, "no trained adapter of 'shared'"),
        ("reasoned-33", 0, "runs/r: reasoned-33 is not trained with seed 0. Seeds there: 1, 2"),
        ("base", 0, "base model has no seed"),
    ):
        with pytest.raises(files.UserError, match=words):
            own_evaluation.evaluate(run, path, model, seed, silent)
    assert not script["calls"] and not run.path("evaluations").exists()
    found = own_evaluation.evaluate(run, path, "reasoned-33", 2, silent, silent)
    assert found["folder"].name == "exam-reasoned-33-seed2" and found["seed"] == 2


def test_a_folder_that_cannot_be_made_says_so_before_the_model_works(scripted, tmp_path):
    run, script = scripted
    files.write_text(run.path("evaluations"), "in the way")
    with pytest.raises(files.UserError, match="evaluations.*cannot be made"):
        own_evaluation.evaluate(run, write(tmp_path, FUJI), say=silent)
    assert not script["calls"]


def test_an_interruption_mixes_no_two_evaluations(scripted, tmp_path, monkeypatch):
    run, script = scripted
    path = write(tmp_path, FUJI)
    before = own_evaluation.evaluate(run, path, say=silent, progress=silent)
    script["answers"] = {("S4", False, "fuji"): "Fuji"}

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(own_evaluation, "_stages", stop)
        with pytest.raises(KeyboardInterrupt):
            own_evaluation.evaluate(run, path, say=silent, progress=silent)
    check(before)
    with monkeypatch.context() as patch:
        patch.setattr(own_evaluation, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            own_evaluation.evaluate(run, path, say=silent, progress=silent)
    assert [p.name for p in before["folder"].iterdir()] == ["predictions.jsonl"], "no old summary beside new predictions"
    after = own_evaluation.evaluate(run, path, say=silent, progress=silent)
    check(after)
    assert after["broken"][0]["right"] == 1 and before["broken"][0]["right"] == 0


# --- the run folder ---


def test_a_run_is_opened_as_it_was_begun_and_one_that_is_not_there_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    new = own_evaluation.open_run("new", "tiny")
    assert new.recipe.few_shot == 1 and new.folder == tmp_path / "new" and not new.folder.exists()
    begun = runtime.open_run("t", "tiny", study="full", few_shot=2)
    assert own_evaluation.open_run("t") == begun
    (tmp_path / "mine.toml").write_text('profile = "tiny"\n[seeds]\nplain = [0]\n[recipe]\nrank = 2\n')
    begun = runtime.open_run("m", study=str(tmp_path / "mine.toml"))
    with pytest.raises(files.UserError, match="mine.toml: no such study.*give the path of a .toml file"):
        own_evaluation.open_run("m")
    assert own_evaluation.open_run("m", study=str(tmp_path / "mine.toml")) == begun and begun.recipe.rank == 2
    for damaged in ("[]", '{"changes": 3}'):
        files.write_text(tmp_path / "d" / "run.json", damaged)
        with pytest.raises(files.UserError, match="run.json"):
            own_evaluation.open_run("d")


# --- the tiny model, end to end ---


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    """A tiny run with curated data and a random adapter as the arm reasoned-33, seed 1."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONSAI_RUNS", str(tmp_path_factory.mktemp("runs")))
        many = [Record(f"p{i}-{n}", "translate", f"{n}番目の話。{ja}", f"Story {n}. {en}") for n in range(6) for i, (ja, en) in enumerate(PAIRS)]
        patch.setattr(corpora, "tatoeba", lambda say=print: many)
        opened = runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8, control_train=40)
        pipeline.curate(opened, silent)
    model = models.add_adapter(models.load_base(tiny), tiny)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(opened.path("arms", "reasoned-33", "seed1", "adapter"))
    return opened


def test_base_without_a_run_folder_is_asked_zero_shot(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    run = own_evaluation.open_run("new", "tiny")
    found = own_evaluation.evaluate(run, write(tmp_path, FUJI, WALK, WEEK), say=silent, progress=silent)
    rows = check(found)
    assert found["prompt"].startswith("zero-shot") and found["shots"] == [] and found["seed"] is None
    assert Counter(stage for stage, _, _ in rows) == {"S1": 3, "S2": 1, "S3": 2, "S4": 2, "S5": 2}
    assert not (tmp_path / "new" / "run.json").exists(), "an evaluation settles nothing for a later run"


def test_base_gets_the_study_s_examples_from_the_run(run, tmp_path, fp32):
    data, said = pipeline.load(run), []
    seen = [r for r in data.questions["train"] if not r.category.startswith("control-")]
    assert len(data.questions["train"]) == len(seen) + 40
    found = own_evaluation.evaluate(run, write(tmp_path, FUJI, WALK, WEEK), say=said.append, progress=silent)
    rows = check(found)
    examples, sentences = evaluation.shots(run, seen), evaluation.shots(run, data.pairs["train"])
    assert found["shots"] == [r.id for r in examples + sentences]
    assert "few-shot with 1 training questions, 1 training sentences" in "\n".join(said)
    loaded = models.load_for_inference(run.profile), models.load_tokenizer(run.profile), run.profile
    records_ = own_evaluation.read(tmp_path / "exam.jsonl", silent)
    alone = inference.stage(*loaded, "S4", [records_[0], records_[2]], shots=examples)
    assert [rows["S4", False, p.id]["text"] for p in alone] == [p.text for p in alone]
    (translated,) = inference.translate(*loaded, [WALK["ja"]], shots=sentences)
    assert rows["S1", False, "walk"]["english"] == prompts.parse("translate", translated.text).english
    # Only what was accepted by notebook 02 serves as an example, as in the study.
    files.write_json(run.path("reasoning", "accepted.json"), {r.id: "Because." for r in seen if r.id not in found["shots"]})
    try:
        again = own_evaluation.evaluate(run, tmp_path / "exam.jsonl", say=silent, progress=silent)
    finally:
        run.path("reasoning", "accepted.json").unlink()
    assert again["shots"][0] != found["shots"][0] and again["shots"][1] == found["shots"][1]


def test_an_arm_s_adapter_answers_freely_and_asked(run, tmp_path, fp32):
    data = pipeline.load(run)
    trained_on = data.questions["train"][0]
    path = write(tmp_path, FUJI, MOON, {"id": "seen", "ja": trained_on.ja, "en": trained_on.en, "answer": trained_on.answer})
    said = []
    found = own_evaluation.evaluate(run, path, "reasoned-33", say=said.append, progress=silent)
    rows = check(found)
    adapter = run.path("arms", "reasoned-33", "seed1", "adapter")
    model, tokenizer = models.load_for_inference(run.profile, adapter), models.load_tokenizer(run.profile)
    expected, _ = inference.all_stages(model, tokenizer, run.profile, own_evaluation.read(path, silent), asked=inference.REASONED)
    assert {(p.stage, p.asked, p.id): p.text for p in expected} == {key: row["text"] for key, row in rows.items()}
    base = own_evaluation.evaluate(run, path, say=silent, progress=silent)
    assert {r["text"] for r in predictions(base)} != {r["text"] for r in rows.values()} and not any(r["asked"] for r in predictions(base))
    assert found["rows"]["like_training"] == 1 and "Careful: 1 of the rows are much like records that this arm was trained on." in "\n".join(said)


# --- the command ---


def test_the_command_scores_and_prints(run, tmp_path):
    environment = {**os.environ, "BONSAI_NO_VENV": "1", "BONSAI_RUNS": str(run.folder.parent), "CUDA_VISIBLE_DEVICES": ""}
    path = write(tmp_path, FUJI, WALK, name="shell.jsonl")

    def call(*options):
        command = [sys.executable, "-m", "helpers", "evaluate", str(path), "--run", "t", *options]
        return subprocess.run(command, cwd=files.ROOT, env=environment, capture_output=True, text=True)

    done = call("--model", "reasoned-33", "--seed", "1")
    assert done.returncode == 0, done.stderr
    folder = run.path("evaluations", "shell-reasoned-33-seed1")
    assert f"Written: {folder / 'predictions.jsonl'}, {folder / 'summary.json'}" in done.stdout and "S4 asked" in done.stdout
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["seed"] == 1
    write(tmp_path, FUJI, {"id": "a", "ja": "空"}, name="shell.jsonl")
    done = call()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {path}, line 2, field 'en': expected English in 'en'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "plain"], "error: .*runs/e: no trained adapter of 'plain'. No arm is trained there yet"),
        (["--seed", "3"], "error: The base model has no seed"),
        (["--run", "../x"], "error: run name '../x'"),
        (["--profile", "phi-9"], "error: Unknown profile 'phi-9'"),
        (["--study", "huge"], "error: .*huge.toml: no such study"),
    ],
)
def test_what_the_user_can_mend_is_one_line(tmp_path, monkeypatch, capsys, options, words):
    import re

    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(bootstrap, "enter", lambda needs, argv: None)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.reconfigure", lambda **_: None, raising=False)
    argv = ["evaluate", str(write(tmp_path, FUJI)), "--run", "e", "--profile", "tiny", *options]
    assert cli.main(argv) == 1
    err = capsys.readouterr().err
    assert re.match(words, err) and err.count("\n") == 1 and not (tmp_path / "runs" / "e").exists()
    with pytest.raises(SystemExit) as stop:
        cli.dispatch(["evaluate"])
    assert stop.value.code == 2


def test_the_example_file_is_one_and_is_in_no_split(questions):
    found = own_evaluation.read(files.ROOT / "data" / "example_evaluation.jsonl", say=pytest.fail)
    assert [bool(r.answer) for r in found] == [True] * 5 + [False] and all(r.en for r in found)
    assert not {r.ja for r in found} & {r.ja for r in questions}
