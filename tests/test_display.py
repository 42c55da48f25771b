from __future__ import annotations

import html
import re

import pytest

from helpers import display, language, models, profiles, prompts
from helpers.corpora import QUESTIONS
from helpers.files import UserError
from helpers.records import Record

BAD = "<img src=x onerror=\"alert(1)\"> & '$5'"
SAFE = html.escape(BAD)
FULL = {
    "english": "What is the highest mountain?",
    "reasoning": "Fuji is 3,776 m.",
    "answer": "Mount Fuji",
    "seconds": 1.25,
}


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
    for part in ("[##########----------]", "step 100/200", "loss 2.500", "262 トークン/秒 / tokens/s", "ETA", "peak 2.3 GB"):
        assert part in lines[5]
    assert "step 200/200" in lines[-1] and "done in" in lines[-1]
    for row in _rows(200, start=101):  # the next arm, from a shared checkpoint
        view(row)
    lines = capsys.readouterr().out.splitlines()
    assert "step 101/200" in lines[0] and "ETA" not in lines[0] and len(lines) == 6


def test_one_switch_changes_the_training_view(capsys):
    words = {"ja": "", "en": ""}
    try:
        for wanted in words:
            language.switch(wanted)
            views = display.training_view(4), display.prediction_view(), display.asking_view()
            for row in _rows(4):
                views[0](row)
            views[1]("base", 1, 2)
            views[2](1, 2, 30, 0.5, 9.0)
            words[wanted] = capsys.readouterr().out + display._curve([(1, 2.5, None), (2, 2.0, 2.1)], 4)
    finally:
        language.switch("both")
    for text in ("step", "loss", "peak", "tokens", "ETA", "done in", "training"):
        assert text in words["en"] and not re.search(rf"\b{text}\b", words["ja"]), text
    assert "損失" in words["ja"] and not re.search("[ぁ-んァ-ヶ一-龯]", words["en"])


def test_one_switch_changes_the_static_tables():
    words = {"ja": "", "en": ""}
    rows = [{"question": "?", "system": "base", "english": "1", "reasoning": "2", "answer": "3", "gold": "4", "right": right} for right in (True, False)]
    try:
        for wanted in words:
            language.switch(wanted)
            tables = [display.show_sides(rows[:1]), display.show_sides(rows[1:]), display.masked_example([("1", False), ("2", True)])]
            words[wanted] = "".join(table.data for table in tables)
    finally:
        language.switch("both")
    for japanese, english in (("質問", "Question"), ("正答", "Gold answer"), ("英語", "English"), ("推論", "Reasoning"), ("誤", "wrong"), ("学習対象", "supervised"), ("改行", "newline")):
        assert japanese in words["ja"] and japanese not in words["en"] and english in words["en"] and english not in words["ja"], english


def _ticks(*losses):
    picture = display._curve([(i, loss, None) for i, loss in enumerate(losses)], len(losses))
    return re.findall(r'<text x="0" y="\d+">([^<]+)</text>', picture), picture


def test_the_ticks_of_the_curve_differ_however_little_the_loss_moves():
    assert _ticks(9.0, 2.0)[0] == ["9.0", "2.0"]
    for losses in ((6.93, 6.91), (6.94, 6.86), (6.90001, 6.90002), (0.5, 0.4999)):
        (top, low), _ = _ticks(*losses)
        assert float(top) > float(low), losses
    ticks, picture = _ticks(2.5, 2.5, 2.5)
    assert ticks == ["2.500"] and "nan" not in picture
    assert "nan" not in display._curve([(1, 2.0, float("nan")), (2, 1.0, float("inf")), (3, float("nan"), 2.0), (4, 1.5, 1.6)], 4)


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
for step in (1, 2, 3):
    time.sleep(0.6)
    view({{"step": step, "loss": 1.5 / step, "dev_answer_loss": 2.0 if step == 2 else None}})
"""
    cell = nbformat.v4.new_code_cell(code.format(root=str(QUESTIONS.parents[1])))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    *ended, running = notebook.cells[0].outputs
    assert [list(o["data"]) for o in ended] == [["text/plain"]] * 2
    for output in ended:
        assert "step 8/8" in output["data"]["text/plain"] and "\n" not in output["data"]["text/plain"]
    shown = running["data"]["text/html"]
    assert "<progress" in shown and "step 3/8" in running["data"]["text/plain"]
    assert shown.count("<circle") == 1 and len(re.search(r'points="([^"]+)"', shown)[1].split()) == 3 and "0.500" in shown
    assert "widgets" not in notebook.metadata


def test_table_escapes_and_sets_numbers_to_the_right():
    import pandas as pd

    frame = pd.DataFrame({"文 <b>": ["<script>x</script>", "山\n川"], "n": [1234, 5], "v": [0.1234, float("nan")], "ok": [True, False], "mde": [float("inf"), 1.5]})
    shown = display.table(frame, precision=2).data
    assert "<script" not in shown and "&lt;script&gt;" in shown and "&lt;b&gt;" in shown
    assert ">1,234</div>" in shown and ">0.12</div>" in shown and ">–</div>" in shown and "True" in shown and ">inf<" in shown
