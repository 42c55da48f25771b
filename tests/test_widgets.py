from __future__ import annotations

import csv
import html
import subprocess
import sys

import pytest

from helpers import display, inference, models, profiles, prompts, widgets
from helpers.corpora import QUESTIONS
from helpers.files import UserError
from helpers.records import Record, read

BAD = "<img src=x onerror=\"alert(1)\"> & '$5'"
SAFE = html.escape(BAD)
FULL = {
    "english": "What is the highest mountain?",
    "reasoning": "Fuji is 3,776 m.",
    "answer": "Mount Fuji",
    "seconds": 1.25,
}


def _all(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _all(child)


def _named(widget, start):
    """The one widget whose description starts so."""
    (found,) = [w for w in _all(widget) if getattr(w, "description", "").startswith(start)]
    return found


def _html(widget):
    """All HTML that is not hidden."""
    return "\n".join(w.value for w in _all(widget) if type(w).__name__ == "HTML" and w.layout.display != "none")


def _tables(widget):
    (found,) = [
        w for w in _all(widget) if type(w).__name__ == "HTML" and ("<table" in w.value or "履歴はまだ" in w.value)
    ]
    return found.value


def _ask(form, text, mode="multistep"):
    _named(form, "日本語").value = text
    _named(form, "方式").value = mode
    _named(form, "実行").click()


def test_import_is_light():
    code = "import sys, helpers.widgets; print(sorted({'torch', 'ipywidgets', 'IPython', 'pandas'} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=QUESTIONS.parents[1])
    assert done.stdout.strip() == "[]"


def test_playground_asks_every_system_side_by_side():
    asked = []

    def answer(system, mode, text):
        button = next(w for w in _all(form) if getattr(w, "button_style", "") == "primary")
        asked.append((system, mode, text, button.disabled, button.description))
        return FULL if system == "tuned" else {"answer": "Everest"}

    form = widgets.playground(answer, ["base", "tuned"])
    _ask(form, "  日本で一番高い山はどこですか？\n", "two-calls")
    assert asked == [
        (s, "two-calls", "日本で一番高い山はどこですか？", True, "計算中 / running") for s in ("base", "tuned")
    ]
    button = _named(form, "実行 / Run")
    assert not button.disabled
    base, tuned = [w for w in _all(form) if type(w).__name__ == "VBox" and w is not form]
    assert [len([b for b in c.children if b.layout.display == "none"]) for c in (base, tuned)] == [2, 0]
    for label, text in zip(display.PARTS.values(), ("What is the highest", "3,776 m", "Mount Fuji"), strict=True):
        assert any(label in b.value and text in b.value for b in tuned.children)
    assert "1.2 秒 / s" in _html(tuned) and "秒 / s" in _html(base) and "Reasoning" not in _html(base)
    assert widgets.EXAMPLES[0] in _tables(form)


def test_a_later_run_leaves_nothing_of_an_earlier_one():
    given = [FULL, {"answer": ""}]
    form = widgets.playground(lambda *_: given.pop(0), ["base"])
    _ask(form, "一")
    _ask(form, "二")
    (column,) = [w for w in _all(form) if type(w).__name__ == "VBox" and w is not form]
    assert "Mount Fuji" not in _html(column) and "出力なし / no output" in _html(column)


def test_playground_examples_go_from_easy_to_hard():
    form = widgets.playground(lambda *_: FULL, ["base"])
    chips = [w for w in _all(form) if type(w).__name__ == "Button" and w.description in widgets.EXAMPLES]
    assert chips[0].description == "日本で一番高い山はどこですか？" and len(chips) == len(widgets.EXAMPLES) >= 4
    chips[2].click()
    assert _named(form, "日本語").value == widgets.EXAMPLES[2]
    assert {v for _, v in _named(form, "方式").options} == {"translate", "multistep", "two-calls", "direct"}


def test_playground_refuses_empty_and_long_questions_without_asking():
    form = widgets.playground(lambda *_: pytest.fail("asked"), ["base"])
    _ask(form, " 　\n")
    assert "type a question" in _html(form)
    _ask(form, "あ" * 1001)
    assert "1,001" in _html(form) and "1,000" in _html(form)
    assert "履歴はまだ" in _tables(form)
    form = widgets.playground(lambda *_: FULL, ["base"])
    _ask(form, "あ" * 1000)
    assert "Mount Fuji" in _tables(form)


def test_playground_shows_an_error_as_one_escaped_line_and_goes_on():
    def answer(system, mode, text):
        if system == "base":
            raise RuntimeError(f"CUDA out of memory\n  {BAD}")
        return FULL if system == "tuned" else ["no dictionary"]

    form = widgets.playground(answer, ["base", "tuned", "odd"])
    _ask(form, "富士山")
    shown = _html(form)
    assert f"エラー / error: RuntimeError: CUDA out of memory {SAFE}" in shown and "Traceback" not in shown
    assert "Mount Fuji" in shown and "AttributeError" in shown
    assert not _named(form, "実行").disabled
    assert "RuntimeError" in _tables(form)


def test_playground_survives_an_interrupt():
    def answer(system, mode, text):
        if system == "tuned":
            raise KeyboardInterrupt
        return FULL

    form = widgets.playground(answer, ["base", "tuned"])
    _ask(form, "富士山")
    assert "中断しました / interrupted" in _html(form) and "計算中" not in _html(form)
    assert not _named(form, "実行").disabled and "履歴はまだ" in _tables(form)


def test_playground_escapes_questions_systems_and_outputs():
    form = widgets.playground(lambda *_: {"english": BAD, "reasoning": BAD, "answer": BAD}, [BAD])
    _ask(form, BAD)
    assert "<img" not in _html(form) and _html(form).count(SAFE) >= 7


def test_history_is_newest_first_and_bounded_and_saved(tmp_path):
    path = tmp_path / "new" / "history.csv"
    form = widgets.playground(lambda s, m, t: {**FULL, "answer": f'{t},"{s}"\nx'}, ["base", "tuned"], history_file=path)
    export = _named(form, "CSV 保存 / export CSV")
    export.click()
    assert not path.exists() and "no history" in _html(form)
    for i in range(53):
        _ask(form, f"質問{i}。", "direct" if i % 2 else "translate")
    table = _tables(form)
    assert table.count("<tr>") == 51
    assert table.index("質問52。") < table.index("質問51。") < table.index("質問3。") and "質問2。" not in table
    export.click()
    assert "保存しました / saved" in _html(form) and str(path) in _html(form)
    with path.open(encoding="utf-8-sig", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 100 and path.read_bytes().startswith(b"\xef\xbb\xbf")
    first = {k: rows[1][k] for k in ("mode", "question", "system", "answer", "english", "seconds", "error")}
    assert first == {
        "mode": "translate", "question": "質問52。", "system": "tuned", "answer": '質問52。,"tuned"\nx',
        "english": FULL["english"], "seconds": "1.25", "error": "",
    }  # fmt: skip


def test_export_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    form = widgets.playground(lambda *_: FULL, ["base"], history_file=tmp_path / "file" / "history.csv")
    _ask(form, "富士山")
    _named(form, "CSV").click()
    assert "エラー / error" in _html(form) and "Traceback" not in _html(form)


def test_playground_without_history_file_or_systems():
    form = widgets.playground(lambda *_: FULL, ["base"])
    assert not [w for w in _all(form) if "CSV" in getattr(w, "description", "")]
    with pytest.raises(UserError, match="no system"):
        widgets.playground(lambda *_: FULL, [])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    if not QUESTIONS.exists():
        pytest.skip("data/questions.jsonl is not there: the tiny model's tokenizer is trained on it")
    pytest.importorskip("bitsandbytes")
    profile = profiles.choose("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONSAI_CACHE", str(tmp_path_factory.mktemp("cache")))
        tokenizer = models.load_tokenizer(profile, say=lambda text: None)
        return profile, models.load_for_inference(profile, say=lambda text: None), tokenizer


def test_answerer_runs_the_stages_of_a_real_model(tiny):
    profile, model, tokenizer = tiny
    shots = [r for r in read(QUESTIONS) if r.split == "train"][:1]
    answer = widgets.answerer({"base": (model, tokenizer), "tuned": (model, tokenizer)}, profile, shots)
    record = Record("x", "qa", widgets.EXAMPLES[0], "unused")
    for system, given in (("base", shots), ("tuned", [])):

        def stage(name, given=given, **more):
            return inference.stage(model, tokenizer, profile, name, [record], shots=given, **more)[0]

        translated = stage("S1").english
        second = stage("S3", english=[translated])
        for mode, expected in (
            ("translate", (translated, "", "")),
            ("multistep", (stage("S4").english, stage("S4").reasoning, stage("S4").answer)),
            ("two-calls", (translated, second.reasoning, second.answer)),
            ("direct", ("", stage("S5").reasoning, stage("S5").answer)),
        ):
            found = answer(system, mode, record.ja)
            assert (found["english"], found["reasoning"], found["answer"]) == expected, (system, mode)
            assert 0 < found["seconds"] < 60
    assert answer("base", "translate", record.ja)["english"] != answer("tuned", "translate", record.ja)["english"]
    for system, mode in (("other", "direct"), ("base", "dance")):
        with pytest.raises(UserError, match="Known: "):
            answer(system, mode, record.ja)


def test_playground_with_a_real_model_and_a_question_longer_than_its_context(tiny):
    profile, model, tokenizer = tiny
    form = widgets.playground(widgets.answerer({"tuned": (model, tokenizer)}, profile), ["tuned"])
    _ask(form, widgets.EXAMPLES[-1], "direct")
    assert "秒 / s" in _html(form) and "エラー" not in _html(form)
    _ask(form, "鬱" * 1000, "direct")  # three bytes each, a context of 1,024 tokens
    assert "質問が長すぎます" in _html(form)


def test_show_sides():
    rows = [
        {"question": "山？", "system": "base", "english": BAD, "reasoning": float("nan"), "answer": "Everest",
         "gold": "Mount Fuji", "right": False},
        {"question": "川？", "system": "base", "answer": "Shinano", "gold": "Shinano River", "right": True},
        {"question": "山？", "system": "tuned", **FULL, "gold": "Mount Fuji", "right": True},
    ]  # fmt: skip
    shown = display.show_sides(rows).data
    assert SAFE in shown and "<img" not in shown and ">nan" not in shown
    head, mountain, river = shown.split("<tr>")[1:]
    assert head.index("base") < head.index("tuned")
    places = [mountain.index(t) for t in ("Everest", "誤 / wrong", "Fuji is 3,776 m.", "正 / right")]
    assert places == sorted(places)
    assert mountain.count("英語 / English") == 2 and mountain.count("推論 / Reasoning") == 1
    assert "Shinano River" in river and "–" in river and "wrong" not in river
    assert "right" not in display.show_sides([{"question": "山？", "system": "base", "answer": "x"}]).data
    with pytest.raises(UserError, match="Row 2 .* 'system'"):
        display.show_sides([rows[0], {"question": "山？"}])


def test_show_sides_takes_rows_of_a_data_frame():
    pd = pytest.importorskip("pandas")
    tuned = {"question": "山？", "system": "tuned", "answer": "a\nb"}
    frame = pd.DataFrame([{"question": "山？", "system": "base", "right": True}, tuned])
    shown = display.show_sides(frame.to_dict("records")).data
    assert "正 / right" in shown and "wrong" not in shown and "a<br>b" in shown and ">nan" not in shown.lower()


def test_masked_example_marks_what_is_supervised():
    shown = display.masked_example([(f"Q: {BAD}\n", False), (" a\n<eos>", True)]).data
    assert SAFE in shown and "<img" not in shown and "<eos>" not in shown
    body = shown[shown.index("<pre") :]
    assert body.count("<mark") == 1 and body.count("<span") == 1
    assert "↵\n</span>" in body and "> a↵\n&lt;eos&gt;</mark>" in body
    assert "マスク" in shown and "supervised" in shown


def test_masked_example_of_a_real_tokenizer(tiny):
    _, _, tokenizer = tiny
    record = Record("r", "qa", "一番高い山は？", "The highest?", "Mount Fuji", reasoning="It is.")
    pieces = prompts.show_masked(tokenizer, prompts.encode_example(tokenizer, "text", "multistep", record))
    supervised = display.masked_example(pieces).data.split("<pre")[1].split("<mark")[1]
    assert "Reasoning: It is.↵\nAnswer: Mount Fuji" in supervised and "一番高い" not in supervised


def _rows(total, start=0):
    for step in range(start, total + 1):
        row = {"step": step, "phase": "pairs", "tokens_seen": step * 90, "peak_memory_gb": 2.345}
        yield row | ({"loss": 3 - step / total, "tokens_per_second": 262.4} if step else {"dev_answer_loss": 2.5})


def test_training_view_prints_about_ten_lines_without_a_notebook(capsys):
    view = display.training_view(200)
    for row in _rows(200):
        view(row)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert "step 0/200" in lines[0] and "dev answer loss 2.500" in lines[0] and "ETA" not in lines[0]
    for part in ("[##########----------]", "step 100/200", "loss 2.500", "262 tokens/s", "ETA", "peak 2.3 GB"):
        assert part in lines[5]
    assert "step 200/200" in lines[-1] and "done in" in lines[-1]
    for row in _rows(200, start=101):  # the next arm, from a shared checkpoint
        view(row)
    lines = capsys.readouterr().out.splitlines()
    assert "step 101/200" in lines[0] and "ETA" not in lines[0] and len(lines) == 6


def test_training_view_leaves_one_line_in_a_headless_notebook():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    code = """
import sys, time
sys.path.insert(0, {root!r})
from helpers import display
view = display.training_view(8)
for arm in range(2):
    for step in range(9):
        view({{"step": step, "loss": 1.5, "tokens_per_second": 9.0, "peak_memory_gb": 1.0}})
view({{"step": 3, "loss": 1.5}})
"""
    cell = nbformat.v4.new_code_cell(code.format(root=str(QUESTIONS.parents[1])))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    *ended, running = notebook.cells[0].outputs
    assert [list(o["data"]) for o in ended] == [["text/plain"]] * 2
    for output in ended:
        assert "step 8/8" in output["data"]["text/plain"] and "\n" not in output["data"]["text/plain"]
    assert "<progress" in running["data"]["text/html"] and "step 3/8" in running["data"]["text/plain"]
    assert "widgets" not in notebook.metadata


def test_table_escapes_and_sets_numbers_to_the_right():
    import pandas as pd

    frame = pd.DataFrame({"文 <b>": ["<script>x</script>", "山\n川"], "n": [1234, 5], "v": [0.1234, float("nan")], "ok": [True, False], "mde": [float("inf"), 1.5]})
    shown = display.table(frame, precision=2).data
    assert "<script" not in shown and "&lt;script&gt;" in shown and "&lt;b&gt;" in shown
    assert ">1,234</div>" in shown and ">0.12</div>" in shown and ">–</div>" in shown and "True" in shown and ">inf<" in shown
