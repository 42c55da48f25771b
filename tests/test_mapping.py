"""The form guesses the columns, shows what is in the file without running it, and hands over records or shows one line."""

from __future__ import annotations

import html
import re
import subprocess
import sys

import pytest

from helpers import language, mapping
from helpers.corpora import QUESTIONS
from helpers.records import RecordError
from helpers.tables import NAMES

BAD = "<img src=x onerror=\"alert(1)\"> & '$5'"
CSV = f"質問,Question,答え,備考\n水は何色ですか？,What color is water?,Clear,{BAD.replace(',', '')}\n雪は何色ですか？,What color is snow?,White,\n"


def write(tmp_path, text=CSV, name="own.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def _all(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _all(child)


def _named(widget, start):
    """The one widget whose description starts so."""
    (found,) = [w for w in _all(widget) if getattr(w, "description", "").startswith(start)]
    return found


def _html(widget):
    return "\n".join(w.value for w in _all(widget) if type(w).__name__ == "HTML")


def test_import_is_light():
    code = "import sys, helpers.mapping; print(sorted({'torch', 'ipywidgets', 'IPython', 'pandas', 'openpyxl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=QUESTIONS.parents[1])
    assert done.stdout.strip() == "[]"


def test_guessed_columns_are_chosen_and_load(tmp_path):
    got = []
    form = mapping.mapping_widget(write(tmp_path), got.append, license="CC0")
    assert {label: _named(form, label).label for label in mapping.LABELS.values() if _named(form, label).value >= 0} == {
        mapping.LABELS["ja"]: "質問", mapping.LABELS["en"]: "Question", mapping.LABELS["answer"]: "答え",
    }  # fmt: skip
    _named(form, "読み込む").click()
    (records,) = got
    assert [(r.ja, r.en, r.answer, r.license) for r in records] == [
        ("水は何色ですか？", "What color is water?", "Clear", "CC0"), ("雪は何色ですか？", "What color is snow?", "White", "CC0"),
    ]  # fmt: skip
    shown = _html(form)
    assert "2 件を読み込みました / 2 records loaded" in shown and "columns not used: 備考" in shown


def test_every_field_is_a_field_of_a_record():
    assert set(mapping.LABELS) <= set(NAMES)
    assert all(" / " in label for label in mapping.LABELS.values())


def test_another_choice(tmp_path):
    got = []
    form = mapping.mapping_widget(write(tmp_path), got.append)
    _named(form, mapping.LABELS["answer"]).value = -1
    _named(form, mapping.LABELS["en"]).value = 2
    _named(form, "読み込む").click()
    assert [(r.task, r.en) for r in got[0]] == [("translate", "Clear"), ("translate", "White")]


def test_errors_are_shown_and_the_button_works_again(tmp_path):
    got = []
    form = mapping.mapping_widget(write(tmp_path), got.append)
    _named(form, mapping.LABELS["id"]).value = 3
    button = _named(form, "読み込む")
    button.click()
    assert "エラー / error" in _html(form) and "own.csv, line 3, field &#x27;id&#x27;" in _html(form) and not got and not button.disabled
    _named(form, mapping.LABELS["ja"]).value = -1
    button.click()
    assert "no column for &#x27;ja&#x27;" in _html(form)
    _named(form, mapping.LABELS["ja"]).value, _named(form, mapping.LABELS["id"]).value = 0, -1
    button.click()
    assert len(got) == 1 and "エラー" not in _html(form)


def test_any_error_is_a_line(tmp_path):
    def refuse(found):
        raise OSError(f"No space left\n{BAD}")

    form = mapping.mapping_widget(write(tmp_path), refuse)
    button = _named(form, "読み込む")
    button.click()
    assert f"エラー / error: OSError: No space left {html.escape(BAD)}" in _html(form) and not button.disabled


def test_one_switch_changes_every_label(tmp_path):
    try:
        for wanted, odd in (("ja", "[A-Za-z]{2}"), ("en", "[ぁ-んァ-ヶ一-龯]")):
            language.switch(wanted)
            form = mapping.mapping_widget(write(tmp_path, "ja,en\nx,y\n"), lambda found: None)
            words = " ".join(w.description for w in _all(form) if getattr(w, "description", ""))
            text = re.sub(r"<[^>]+>|\b(ja|en)\b", " ", _html(form))
            assert not re.search(odd, f"{words} {text}")
            _named(form, "読み込む" if wanted == "ja" else "load").click()
            assert ("読み込みました" if wanted == "ja" else "records loaded") in _html(form) and " / " not in _html(form)
    finally:
        language.switch("both")


def test_what_comes_from_the_file_is_escaped(tmp_path):
    form = mapping.mapping_widget(write(tmp_path, CSV.replace("備考", "<b>備考</b>")), lambda found: None)
    _named(form, "読み込む").click()
    shown = _html(form)
    assert BAD not in shown and html.escape(BAD) in shown and "&lt;b&gt;備考&lt;/b&gt;" in shown and "<b>備考" not in shown


def test_long_cells_are_cut_and_odd_headers_can_be_chosen(tmp_path):
    got = []
    form = mapping.mapping_widget(write(tmp_path, f"ja,ja,,en\n一,二,三,{'x' * 15_000}\n"), got.append)
    assert len(_html(form)) < 5000
    assert [text for text, _ in _named(form, mapping.LABELS["ja"]).options] == ["(なし / none)", "ja", "ja", "(column 3)", "en"]
    _named(form, mapping.LABELS["ja"]).value = 2
    _named(form, "読み込む").click()
    assert got[0][0].ja == "三"


def test_a_file_that_is_no_table_is_an_error_at_once(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        mapping.mapping_widget(tmp_path / "none.csv", print)
    with pytest.raises(RecordError, match="empty"):
        mapping.mapping_widget(write(tmp_path, ""), print)


def test_only_traits_that_ipywidgets_7_and_8_share(tmp_path):
    form = mapping.mapping_widget(write(tmp_path), print)
    assert {type(w).__name__ for w in _all(form)} == {"VBox", "Dropdown", "Button", "HTML"}
