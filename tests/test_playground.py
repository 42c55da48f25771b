"""The playground: what is asked of whom, streamed, stopped, rated, kept; real models behind it; one switch of language."""

from __future__ import annotations

import csv
import html
import json
import subprocess
import sys
import threading

import pytest

from helpers import (
    answering,
    files,
    history,
    inference,
    language,
    models,
    own_evaluation,
    pipeline,
    playground,
    profiles,
    runtime,
)
from helpers.answering import Answerer, Request
from helpers.display import PARTS
from helpers.files import UserError
from helpers.records import Record

BAD = "<img src=x onerror=\"alert(1)\"> & '$5'"
SAFE = html.escape(BAD)
FULL = {"english": "What is the highest mountain?", "reasoning": "Fuji is 3,776 m.", "answer": "Mount Fuji", "tokens": 21}


class Fake:
    """What the form needs of an `Answerer`."""

    def __init__(self, *systems, say=lambda system, request, seen, stop: FULL):
        self.systems, self.say, self.asked = list(systems), say, []

    def __call__(self, system, request, seen=None, stop=None):
        self.asked.append((system, request))
        return self.say(system, request, seen, stop)


def all_of(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from all_of(child)


def shown(widget):
    """All HTML that is not hidden."""
    if widget.layout.display == "none":
        return ""
    own = widget.value if type(widget).__name__ == "HTML" else ""
    return "\n".join([own, *(shown(child) for child in getattr(widget, "children", ()))])


def ask(form, text, mode="multistep"):
    form.mode.value = mode
    form.question.value = text
    form.start.click()
    wait(form)


def wait(form):
    """Until what is running has ended."""
    if thread := form._thread:
        thread.join(30)
        assert not thread.is_alive()


def form(*systems, folder=None, say=lambda *_: FULL, **options):
    return playground.Playground(Fake(*systems, say=say), folder, **options)


def test_import_is_light():
    code = "import sys, helpers.playground; print(sorted({'torch', 'ipywidgets', 'IPython', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=files.ROOT)
    assert done.stdout.strip() == "[]"


def test_decoding_is_greedy_by_default_and_stays_in_a_sensible_range():
    one = form("base", "plain", say=lambda *_: FULL)
    controls = {"temperature": one.temperature, "top_k": one.top_k, "tokens": one.tokens, "seed": one.seed}
    assert {name: c.value for name, c in controls.items()} == {"temperature": 0.0, "top_k": 40, "tokens": 0, "seed": 0}
    for extreme, expected in ((-1, (0.0, 1, 0, 0)), (10**9, (1.5, 100, 400, 10**9))):
        for control, value in zip(controls.values(), expected, strict=True):
            control.value = extreme
            assert control.value == value


@pytest.mark.parametrize("background", [True, False])
def test_base_and_a_tuned_arm_are_asked_side_by_side(background):
    one = form("base", "plain", "reasoned-33", say=lambda system, *_: FULL if system != "base" else {"answer": "Everest"}, background=background)
    assert one.system.options == ("plain", "reasoned-33") and one.system.value == "reasoned-33" and one.beside.value == "base"
    one.asked.value, one.temperature.value, one.top_k.value, one.tokens.value, one.seed.value = True, 0.7, 9, 64, 3
    ask(one, "  日本で一番高い山はどこですか？\n", "two-calls")
    request = Request("two-calls", "日本で一番高い山はどこですか？", True, 0.7, 9, 64, 3)
    assert one.answer.asked == [("base", request), ("reasoned-33", request)]
    base, tuned = (c.widget for c in one.columns)
    for title, text in zip(PARTS.values(), ("What is the highest", "Fuji is 3,776 m.", "Mount Fuji"), strict=True):
        assert f"<b>{title}</b><br>{text}" in shown(tuned)
    assert "Everest" in shown(base) and "Reasoning" not in shown(base) and "21 トークン / tokens" in shown(tuned)
    assert not one.start.disabled and one.halt.disabled and playground.EXAMPLES[0][0] in one.table.value
    one.system.value, one.beside.value = "plain", ""
    ask(one, "富士山")
    assert [system for system, _ in one.answer.asked[2:]] == ["plain"] and one.columns[1].widget.layout.display == "none"
    assert "Everest" not in shown(one.columns[0].widget), "a later run leaves nothing of an earlier one"
    for beside, wanted in (("reasoned-33", ["reasoned-33", "plain"]), ("plain", ["plain"])):
        one.answer.asked.clear()
        one.beside.value = beside
        ask(one, "富士山")
        assert [system for system, _ in one.answer.asked] == wanted
    assert [value for _, value in one.beside.options] == ["", "base", "plain", "reasoned-33"]


def test_the_text_is_shown_as_it_grows_and_stopped_where_the_reader_says():
    drawn, gate, stopped = [], threading.Event(), threading.Event()

    def slowly(system, request, seen, stop):
        seen({"english": "What is"})
        drawn.append(shown(one.widget))
        gate.set()
        assert stopped.wait(20)
        return {"english": "What is", "stopped": stop()}

    one = form("base", "tuned", say=slowly, background=True)
    one.question.value = "富士山はどこ？"
    one.start.click()
    assert gate.wait(20) and one.start.disabled and not one.halt.disabled
    one.start.click()
    one.halt.click()
    stopped.set()
    wait(one)
    assert "What is" in drawn[0] and "計算中 / running" in drawn[0]
    assert [system for system, _ in one.answer.asked] == ["base"], "the second system is not begun, the second click did nothing"
    assert "停止 / stopped" in shown(one.columns[0].widget) and "停止 / stopped" in shown(one.columns[1].widget)
    assert [(r["system"], r["stopped"]) for r in one.history.rows] == [("base", True)] and not one.start.disabled


def test_an_interrupted_kernel_stops_it_where_there_is_no_thread():
    def broken(system, request, seen, stop):
        seen({"english": "What"})
        raise KeyboardInterrupt

    one = form("base", "tuned", say=broken, background=False)
    ask(one, "富士山")
    assert [(r["english"], r["stopped"]) for r in one.history.rows] == [("What", True)] and not one.start.disabled


def test_examples_go_from_easy_to_hard_and_follow_the_mode():
    one = form("base")
    assert one.chips[0][0].description == "日本で一番高い山はどこですか？" and len(one.chips) >= 4
    one.chips[2][0].click()
    assert one.question.value == playground.EXAMPLES[2][0]
    assert {key for _, key in one.mode.options} == {"translate", "answer", "multistep", "two-calls", "direct"}
    one.mode.value = "answer"
    one.chips[2][0].click()
    assert one.question.value == playground.EXAMPLES[2][1] == one.chips[2][0].tooltip and "英語 / English" in one.question.description


def test_empty_and_long_questions_are_refused_and_odd_ones_are_not():
    one = form("base", say=lambda *_: pytest.fail("asked"))
    ask(one, " 　\n")
    assert "type a question" in shown(one.widget)
    ask(one, "あ" * 10_000)
    assert "10,000" in one.status.value and "1,000" in one.status.value
    assert "履歴はまだ" in one.table.value and not one.answer.asked
    one = form("base")
    for text in ("あ" * 1000, "🗻🌸👨‍👩‍👧", "\ud83d 山", "<script>alert(1)</script>", "{ja} $x$ \\n"):
        ask(one, text)
        assert one.answer.asked[-1][1].text == text and "エラー" not in shown(one.widget)
    assert "<script" not in shown(one.widget)
    ask(one, "Where is Mount Fuji?")
    assert "there is no Japanese" in one.status.value and len(one.answer.asked) == 6
    ask(one, "Where is Mount Fuji?", "answer")
    assert "there is no Japanese" not in one.status.value


def test_an_error_is_one_escaped_line_and_the_other_system_goes_on():
    def answer(system, *_):
        if system == "base":
            raise RuntimeError(f"CUDA out of memory\n  {BAD}")
        return ["no dictionary"]

    one = form("base", "odd", say=answer)
    ask(one, "富士山")
    assert f"エラー / error: RuntimeError: CUDA out of memory {SAFE}" in shown(one.widget) and "AttributeError" in shown(one.widget)
    assert "Traceback" not in shown(one.widget) and not one.start.disabled
    assert all(c.rating.layout.display == "none" for c in one.columns), "there is nothing to rate"


def test_questions_systems_and_outputs_are_escaped():
    one = form(BAD, say=lambda *_: {"english": BAD, "reasoning": BAD, "answer": BAD})
    ask(one, BAD)
    one.right.value = BAD
    assert "<img" not in shown(one.widget) and shown(one.widget).count(SAFE) >= 8


def test_history_and_ratings_are_on_disk_found_again_and_an_evaluation_file(tmp_path):
    folder = tmp_path / "new"
    one = form("base", "plain", folder=folder, say=lambda system, *_: {**FULL, "answer": "=1+1" if system == "base" else "Mount Fuji"})
    one.save.click()
    assert "no history" in one.status.value and not folder.exists()
    ask(one, "山は？")
    one.columns[0].ratings["down"].click()
    one.columns[1].ratings["up"].click()
    assert one.columns[1].ratings["up"].button_style == "success" and "👍" in one.table.value and "👎" in one.table.value
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["system"], r["rating"]) for r in rows] == [("base", "down"), ("plain", "up")]
    ask(one, "海は？", "translate")
    one.columns[0].ratings["up"].click()
    one.columns[0].ratings["up"].click()  # taken back
    ask(one, "駅は？", "direct")
    one.right.value = "The  station"
    ask(one, "Where?", "answer")
    one.columns[0].ratings["up"].click()
    again = form("base", "plain", folder=folder)
    assert again.history.rows == one.history.rows and again.table.value == one.table.value
    records = own_evaluation.read(again.history.evaluation_path)
    assert [(r.ja, r.en, r.answer) for r in records] == [("山は？", FULL["english"], "Mount Fuji"), ("駅は？", "", "The station")]

    again.save.click()
    assert "保存しました / saved" in again.status.value
    for name in ("history.csv", "history.jsonl", "rated.jsonl"):
        assert name in again.status.value
    with (folder / "history.csv").open(encoding="utf-8-sig", newline="") as f:
        found = list(csv.DictReader(f))
    assert len(found) == 8 and found[0]["question"] == "Where?" and found[6]["answer"] == "'=1+1" and found[-1]["answer"] == "Mount Fuji"
    assert (folder / "history.csv").read_bytes().startswith(b"\xef\xbb\xbf")


def test_any_run_is_chosen_rated_corrected_and_taken_back_also_after_a_restart(tmp_path):
    one = form("base", "plain", folder=tmp_path, say=lambda system, request, *_: {"answer": f"{system}: {request.text}"})
    assert one.past.layout.display == "none"
    ask(one, "山は？")
    ask(one, "海は？")
    one.beside.value = ""
    ask(one, BAD)
    assert one.past.value == 3 and [value for _, value in one.past.options] == [0, 3, 2, 1]
    one = form("base", "plain", folder=tmp_path)
    assert one.past.layout.display is None and one.past.value == 0 and one.right.layout.display == "none"
    one.past.value = 1
    assert "base: 山は？" in shown(one.columns[0].widget) and "plain: 山は？" in shown(one.columns[1].widget)
    one.columns[1].ratings["up"].click()
    one.right.value = "The mountain"
    one.past.value = 2
    assert one.right.value == "" and one.columns[1].ratings["up"].button_style == "" and "山は" not in shown(one.columns[1].widget)
    one.columns[0].ratings["down"].click()
    assert one.past.value == 2 and "👎" in dict((v, k) for k, v in one.past.options)[2]
    one.past.value = 3
    assert one.columns[1].widget.layout.display == "none" and SAFE in shown(one.columns[0].widget)
    kept = [(r["run"], r["system"], r["rating"], r["right"]) for r in history.History(tmp_path).rows]
    assert kept == [(1, "base", "", "The mountain"), (1, "plain", "up", "The mountain"), (2, "base", "down", ""), (2, "plain", "", ""), (3, "plain", "", "")]
    again = form("base", "plain", folder=tmp_path)
    again.past.value = 1
    assert again.right.value == "The mountain" and again.columns[1].ratings["up"].button_style == "success"
    again.columns[1].ratings["up"].click()
    again.right.value = ""
    assert {(r["rating"], r["right"]) for r in history.History(tmp_path).rows if r["run"] == 1} == {("", "")}
    again.past.value = 0
    assert again.right.layout.display == "none" and all(c.widget.layout.display == "none" for c in again.columns)


def test_no_run_is_chosen_while_one_is_written():
    seen = []

    def slowly(system, request, *_):
        one.past.value = 1
        seen.append((one.past.disabled, shown(one.columns[0].widget)))
        return {"answer": "second"}

    one = form("base", background=False)
    ask(one, "山は？")
    one.answer.say = slowly
    ask(one, "海は？")
    assert seen[0][0] and "Mount Fuji" not in seen[0][1] and not one.past.disabled
    assert one.past.value == 2 and "second" in shown(one.columns[0].widget)
    one.past.value = 1
    assert "Mount Fuji" in shown(one.columns[0].widget)


def test_the_table_is_bounded_and_what_cannot_be_written_is_a_line(tmp_path):
    one = form("base")
    one.history.rows = [row | {"run": i} for i in range(1, 54) for row in [dict.fromkeys(history.FIELDS, "") | {"system": "base", "question": f"質問{i}。", "seconds": 1}]]
    one._redraw()
    assert one.table.value.count("<tr>") == 51 and "質問53。" in one.table.value and "質問3。" not in one.table.value
    (tmp_path / "file").write_text("")
    one = form("base", folder=tmp_path / "file" / "x")
    ask(one, "富士山")
    assert "エラー / error" in one.status.value and "Traceback" not in shown(one.widget) and "Mount Fuji" in shown(one.columns[0].widget)
    assert form("base").save.layout.display == "none", "nothing to save to"
    with pytest.raises(UserError, match="no system"):
        form()


def test_forms_of_one_folder_keep_each_other_s_rows(tmp_path):
    """An old form, after its cell was run again, beside the new one."""
    old, new = form("base", folder=tmp_path), form("base", folder=tmp_path)
    ask(old, "山は？")
    ask(new, "海は？")
    old.columns[0].ratings["up"].click()
    new.right.value = "The sea"
    old.right.value = "The mountain"
    kept = history.History(tmp_path).rows
    assert [(r["run"], r["question"], r["rating"], r["right"]) for r in kept] == [(1, "山は？", "up", "The mountain"), (2, "海は？", "", "The sea")]
    assert kept == old.history.rows and {r.ja for r in own_evaluation.read(old.history.evaluation_path)} == {"山は？", "海は？"}
    ask(new, "駅は？")
    old.save.click()
    assert "駅は？" in (tmp_path / "history.csv").read_text(encoding="utf-8")
    old.history.path.unlink()
    old.columns[0].ratings["down"].click()
    assert "no longer there" in old.status.value and not old.history.path.exists()


def test_forms_that_write_at_once_lose_nothing(tmp_path):
    forms = [history.History(tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=lambda h=h: [h.add([{"system": "base", "question": "山は？"}]) for _ in range(10)]) for h in forms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [row["run"] for row in history.History(tmp_path).rows] == list(range(1, 41))


def test_what_the_evaluation_would_refuse_is_kept_and_left_out_of_its_file(tmp_path):
    given = [{"answer": "?!"}, {"answer": "Mount Fuji"}, {"english": "x" * 2001, "answer": "A"}]
    one = form("base", folder=tmp_path, say=lambda *_: given.pop(0))
    for text, right in (("\ud83d 山は？", "\ud83d"), ("海は？", ""), ("駅は？", "…" * 3)):
        ask(one, text)
        one.columns[0].ratings["up"].click()
        one.right.value = right
        assert "エラー" not in shown(one.widget)
    assert [r["question"] for r in history.History(tmp_path).rows] == ["? 山は？", "海は？", "駅は？"]
    assert [(r.ja, r.en, r.answer, r.aliases) for r in own_evaluation.read(tmp_path / "rated.jsonl")] == [("海は？", "", "Mount Fuji", ()), ("駅は？", "", "A", ())]


@pytest.mark.parametrize("line", ["{", "[]", '{"run": true}', '{"run": 1, "time": 3}', "[" * 100_000])
def test_a_damaged_history_is_named(tmp_path, line):
    (tmp_path / "history.jsonl").write_text(line)
    with pytest.raises(UserError, match="history.jsonl, line 1"):
        form("base", folder=tmp_path)


def test_one_switch_changes_every_label():
    try:
        for wanted, has, lacks in (("ja", "実行", "Run"), ("en", "Run", "実行")):
            language.switch(wanted)
            one = form("base", "plain")
            words = " ".join([shown(one.widget), *(getattr(w, "description", "") + getattr(w, "placeholder", "") for w in all_of(one.widget))])
            words += str(one.mode.options) + str(one.beside.options)
            assert has in one.start.description and lacks not in words and " / " not in words
        with pytest.raises(UserError, match="LANGUAGE"):
            language.switch("fr")
    finally:
        language.switch("both")
    assert language.label("実行 / Run") == "実行 / Run" and language.label("base") == "base"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    profile = profiles.choose("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONSAI_CACHE", str(tmp_path_factory.mktemp("cache")))
        tokenizer = models.load_tokenizer(profile, say=lambda text: None)
        return profile, models.load_for_inference(profile, say=lambda text: None), tokenizer


def test_it_writes_what_the_stages_of_the_evaluation_write(tiny, questions):
    profile, model, tokenizer = tiny
    shots = [r for r in questions if r.split == "train" and r.reasoning][:1]
    answer = Answerer(profile, {"base": lambda: (model, tokenizer), "tuned": lambda: (model, tokenizer)}, shots)
    record = Record("x", "qa", playground.EXAMPLES[0][0], playground.EXAMPLES[0][1])
    for system in ("base", "tuned"):
        for asked in (False, True):
            given = [r if asked else r.replace(reasoning="") for r in shots] if system == "base" else []

            def stage(name, given=given, asked=asked, **more):
                bare = [r.replace(reasoning="") for r in given] if name == "S1" else given
                return inference.stage(model, tokenizer, profile, name, [record], shots=bare, asked=asked and name != "S1", **more)[0]

            translated = stage("S1").english
            for mode, name, more in (("translate", "S1", {}), ("answer", "S2", {}), ("multistep", "S4", {}), ("two-calls", "S3", {"english": [translated]}), ("direct", "S5", {})):
                wanted, grown = stage(name, **more), []
                text = record.en if mode == "answer" else record.ja
                found = answer(system, Request(mode, text, asked), lambda parts, grown=grown: grown.append(dict(parts)))
                english = translated if mode == "two-calls" else wanted.english
                assert (found["english"], found["reasoning"], found["answer"]) == (english, wanted.reasoning, wanted.answer), (system, mode, asked)
                assert grown and 0 < found["seconds"] < 60 and not found["stopped"]
                assert mode == "two-calls" or (found["tokens"], found["cut"]) == (wanted.tokens, wanted.truncated)
    for system, mode in (("other", "direct"), ("base", "dance")):
        with pytest.raises(UserError, match="Known: "):
            answer(system, Request(mode, record.ja))


def test_a_completion_is_stopped_after_the_token_limited_sampled_and_refused_when_too_long(tiny):
    profile, model, tokenizer = tiny
    answer, seen = Answerer(profile, {"tuned": lambda: (model, tokenizer)}), []
    found = answer("tuned", Request("multistep", "富士山はどこ？"), seen.append, lambda: len(seen) >= 3)
    assert found["stopped"] and found["tokens"] == 3 == len(seen) and found["answer"] == "" and found["english"] == seen[-1].get("english", "")
    assert answer("tuned", Request("multistep", "富士山はどこ？", tokens=5))["tokens"] <= 5
    drawn = {answer("tuned", Request("direct", "富士山", temperature=1.5, top_k=100, seed=s))["answer"] for s in (1, 1, 2, 3)}
    assert 1 < len(drawn) <= 3
    assert answer("tuned", Request("translate", "\ud83d 山"))["tokens"] > 0
    with pytest.raises(UserError, match="質問が長すぎます"):
        answer("tuned", Request("direct", "鬱" * 1000))  # three bytes each, a context of 1,024 tokens


def test_models_are_loaded_when_asked_and_the_oldest_is_let_go(tiny):
    profile, model, tokenizer = tiny
    loaded = []

    def loader(name):
        return lambda: loaded.append(name) or (model, tokenizer)

    answer = Answerer(profile, {n: loader(n) for n in "abc"}, keep=2)
    for name in "abac":
        answer(name, Request("translate", "山", tokens=1))
    assert loaded == ["a", "b", "c"] and [answer.is_loaded(n) for n in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    "mode, text, parts",
    [
        ("multistep", " What is", {"english": "What is"}),
        ("multistep", " A?\nReasoning: B.\nAns", {"english": "A?", "reasoning": "B.\nAns"}),
        ("multistep", " A?\nReasoning: B.\nAnswer: C", {"english": "A?", "reasoning": "B.", "answer": "C"}),
        ("answer", "Ans", {}),
        ("direct", "Answer: C", {"answer": "C"}),
    ],
)
def test_what_is_being_written_is_shown_by_its_labels(mode, text, parts):
    assert answering.parts_so_far(mode, text) == parts


@pytest.mark.slow
def test_the_arms_of_a_run_are_offered(tmp_path, monkeypatch, pairs):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    many = [p.replace(id=f"{p.id}-{n}", ja=f"{n}番目の話。{p.ja}", en=f"Story {n}. {p.en}") for n in range(6) for p in pairs]
    monkeypatch.setattr(pipeline.curate.__globals__["corpora"], "tatoeba", lambda say=print: many)
    run = runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8)
    data = pipeline.ensure(run, train=True)
    answer = answering.of_run(run, data, say=lambda text: None)
    assert answer.systems == ["base", "plain", "reasoned-33"] and all(r.reasoning for r in answer.shots)
    one = playground.Playground(answer, run.path("playground"), background=False)
    ask(one, playground.EXAMPLES[0][0])
    assert [r["error"] for r in one.history.rows] == ["", ""]
