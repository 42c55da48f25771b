"""The forms save each decision before the next record is shown, by click and by key, and a new kernel finds them again."""

from __future__ import annotations

import html
import re

import pytest

from helpers import gates, language, review
from helpers.edits import EditStore, apply
from helpers.files import UserError
from helpers.reasoning import reviewed
from helpers.records import Record

BAD = "<img src=x onerror=\"alert(1)\"> & '$5'"
SAFE = html.escape(BAD)


def _shown(widget):
    """The widgets that are on the screen."""
    if widget.layout.display != "none":
        yield widget
        for child in getattr(widget, "children", ()):
            yield from _shown(child)


def _named(widget, start):
    return [w for w in _shown(widget) if getattr(w, "description", "").startswith(start)]


def _one(widget, start):
    (found,) = _named(widget, start)
    return found


def _html(widget):
    return "\n".join(w.value for w in _shown(widget) if type(w).__name__ == "HTML")


@pytest.fixture
def store(tmp_path) -> EditStore:
    return EditStore(tmp_path / "edits.jsonl", say=pytest.fail)


def _records() -> list[Record]:
    kinds, splits = ("geo", "算数"), ("train", "dev", "test")
    rows = [
        Record(f"q{i}", "qa", f"質問{i}です", f"Question {i}", f"answer {i}", reasoning=f"Since {i}.", category=kinds[i % 2], split=splits[i % 3])
        for i in range(23)
    ]
    odd = Record("x", "qa", "ﾊﾝｶｸの富士山", BAD, "Mount FUJI", category="<b>")
    return [*rows, odd, Record("t", "translate", "犬", "A dog.")]


def _row(view, record_id):
    """The box with the text and the buttons of a record."""
    boxes = [w for w in _shown(view) if type(w).__name__ == "HBox" and type(w.children[0]).__name__ == "HTML"]
    (row,) = [w for w in boxes if f">{record_id} · " in w.children[0].value]
    return row


def test_the_table_pages_searches_and_filters(store):
    view = review.curation_table(_records(), store)
    back, forth = _one(view, "← 前"), _one(view, "次")
    assert len(_named(view, "採用")) == 10 and "1 / 3 (25 件 / records)" in _html(view) and back.disabled
    forth.click()
    forth.click()
    assert len(_named(view, "採用")) == 5 and forth.disabled and SAFE in _html(view) and "<img" not in _html(view)
    forth.click()
    assert "3 / 3" in _html(view)
    back.click()
    assert "質問10です" in _html(view) and "2 / 3" in _html(view)
    search = _one(view, "検索")
    for text in ("ハンカク", "mount fuji", "ＭＯＵＮＴ　ｆｕｊｉ", "富士山 ONERROR"):
        search.value = text
        assert len(_named(view, "採用")) == 1 and "Mount FUJI" in _html(view), text
    search.value = "since ２２"
    assert "質問22です" in _html(view) and "(1 件" in _html(view), "rationales are searched too"
    search.value = "no such thing"
    assert "該当なし / nothing found" in _html(view) and not _named(view, "採用")
    search.value, _one(view, "分類").value, _one(view, "分割").value = "", "算数", "dev"
    assert "(4 件" in _html(view) and "q1 · " in _html(view) and "q4 · " not in _html(view)


def test_decisions_of_the_table_are_saved_at_once_and_found_by_a_new_kernel(store):
    records = _records()
    view = review.curation_table(records, store)
    _one(_row(view, "q3"), "除外").click()
    assert apply(records, EditStore(store.path).decisions())[1] == [("q3", "rejected in review")]
    assert "saved: q3" in _html(view) and "除外 / rejected" in _row(view, "q3").children[0].value
    _one(_row(view, "q4"), "採用").click()
    _one(_row(view, "q5"), "編集").click()
    assert [_one(view, label).value for label in ("日本語", "英語", "推論", "答え")] == ["質問5です", "Question 5", "Since 5.", "answer 5"]
    _one(view, "英語").value = "Edited 5?"
    _one(view, "保存").click()
    assert not _named(view, "保存") and "Edited 5?" in _row(view, "q5").children[0].value
    again = review.curation_table(records, EditStore(store.path))
    for record_id, state in (("q3", "rejected"), ("q4", "accepted"), ("q5", "edited"), ("q6", "undecided")):
        assert f"/ {state}" in _row(again, record_id).children[0].value
    assert _one(_row(again, "q3"), "除外").button_style == "danger" and _one(_row(again, "q3"), "採用").button_style == ""
    states = _one(again, "状態")
    for state, count in (("accept", 1), ("edit", 1), ("reject", 1), ("", 22), ("changed", 0)):
        states.value = state
        assert f"({count} 件" in _html(again), state
    states.value = "edit"
    assert "Edited 5?" in _html(again)
    edited = records[5].replace(en="Edited 5?")
    assert edited in apply(records, EditStore(store.path).decisions())[0]


def test_the_table_shows_data_that_a_run_has_already_edited(store):
    record = _records()[0]
    store.decide(record, "edit", {"en": "Once?"})
    once = record.replace(en="Once?")
    view = review.curation_table([once], store)
    assert "/ edited" in _html(view)
    _one(view, "編集").click()
    _one(view, "英語").value = "Twice?"
    _one(view, "保存").click()
    assert apply([record], store.decisions()) == ([record.replace(en="Twice?")], [])


def test_a_row_stays_under_the_mouse_when_its_state_leaves_the_filter(store):
    view = review.curation_table(_records(), store)
    _one(view, "状態").value = ""
    button = _one(_row(view, "q0"), "除外")
    button.click()
    button.click()
    assert list(store.decisions()) == ["q0"] and "q0 · " in _html(view)


def test_the_open_form_stands_below_its_record_and_keeps_what_was_typed(store):
    view = review.curation_table(_records(), store)
    _one(_row(view, "q7"), "編集").click()
    form = next(box for box in view.children if _named(box, "保存"))
    rows = [box for box in view.children if _named(box, "採用")]
    assert int(rows[7].layout.order) < int(form.layout.order) < int(rows[8].layout.order)
    _one(view, "英語").value = "typed"
    _one(_row(view, "q2"), "除外").click()
    assert "save or cancel it first: q7" in _html(rows[2]) and store.decisions() == {}
    _one(view, "次").click()
    assert int(form.layout.order) < int(rows[0].layout.order) and "first" not in _html(view)
    _one(view, "検索").value = "質問7です"
    assert int(rows[0].layout.order) < int(form.layout.order) < int(rows[1].layout.order) and _one(view, "英語").value == "typed"
    _one(view, "保存").click()
    assert store.decisions()["q7"].changes == {"en": "typed"}


def test_an_edit_that_is_refused_says_why_and_keeps_what_was_typed(store):
    view = review.curation_table(_records(), store)
    _one(_row(view, "q0"), "編集").click()
    _one(view, "保存").click()
    assert "nothing has been changed" in _html(view)
    _one(view, "答え").value = "  "
    _one(view, "保存").click()
    assert "エラー / error" in _html(view) and "&#x27;answer&#x27;" in _html(view) and _one(view, "答え").value == "  "
    _one(_row(view, "q1"), "除外").click()
    _one(_row(view, "q1"), "編集").click()
    assert "save or cancel it first" in _html(view) and _one(view, "日本語").value == "質問0です" and store.decisions() == {}
    _one(view, "中止").click()
    assert not _named(view, "保存")
    _one(_row(view, "q1"), "除外").click()
    assert list(store.decisions()) == ["q1"]


def _marked(view):
    """The record that the keys of the table are for, and whether the command box stands between its row and the next."""
    rows = [box for box in view.children if _named(box, "採用")]
    (row,) = [box for box in rows if "aria-current" in _html(box)]
    bar = next(box for box in view.children if _named(box, "コマンド"))
    below = [box for box in rows if int(box.layout.order) > int(row.layout.order)]
    assert int(row.layout.order) < int(bar.layout.order) < min((int(box.layout.order) for box in below), default=10**6)
    return _html(row).split(" · ")[0].split(">")[-1]


def test_the_table_by_keys(store):
    view = review.curation_table(_records(), store, settle=0)
    assert "a 採用" in _html(view) and "r reject" in _html(view) and _marked(view) == "q0"
    _type(view, "r")
    assert _verdicts(store) == {"q0": "reject"} and _marked(view) == "q1" and "/ rejected" in _row(view, "q0").children[0].value
    _type(view, "n", "ん", "ｐ", "あ")
    assert _verdicts(store) == {"q0": "reject", "q2": "accept"} and _marked(view) == "q3" and _one(view, "コマンド").value == ""
    _type(view, "う")
    assert _verdicts(store) == {"q0": "reject"} and _marked(view) == "q2" and "undone: q2" in _html(view)
    _type(view, "e")
    assert _one(view, "英語").value == "Question 2"
    _type(view, "r", "n", "u")
    assert _verdicts(store) == {"q0": "reject"} and _marked(view) == "q2" and "save or cancel it first: q2" in _html(view)
    _one(view, "英語").value = "Edited 2?"
    _one(view, "保存").click()
    assert _verdicts(store) == {"q0": "reject", "q2": "edit"}
    _type(view, "ar", "x")
    assert "one key at a time" in _html(view) and len(_verdicts(store)) == 2
    _type(view, "p", "p", "p")
    assert _marked(view) == "q0"
    _type(view, *"n" * 10)
    assert _marked(view) == "q10" and "2 / 3" in _html(view), "on to the next page"
    _type(view, "p", "p")
    assert _marked(view) == "q8" and "1 / 3" in _html(view)
    _one(view, "検索").value = "Mount FUJI"
    _type(view, "a", "n")
    assert _verdicts(store)["x"] == "accept" and _marked(view) == "x"
    _one(view, "検索").value = "no such thing"
    assert not _named(view, "コマンド"), "no row, no keys"


def test_a_click_does_not_move_the_marked_row_and_undo_finds_the_page(store):
    view = review.curation_table(_records(), store, settle=0)
    _one(_row(view, "q7"), "除外").click()
    assert _marked(view) == "q0"
    _one(_row(view, "q5"), "編集").click()
    assert _marked(view) == "q5", "the form and the keys together"
    _one(view, "中止").click()
    _one(view, "次").click()
    _type(view, "u")
    assert _marked(view) == "q7" and _verdicts(store) == {}


def test_a_key_that_repeats_decides_on_one_row(store):
    view = review.curation_table(_records(), store, settle=60)
    _type(view, "a", "a")
    assert _verdicts(store) == {} and "too quick" in _html(view)
    _one(_row(view, "q0"), "採用").click()
    assert _verdicts(store) == {"q0": "accept"}, "a click is aimed"


def test_undo_in_the_table(store):
    view = review.curation_table(_records(), store)
    _one(_row(view, "q0"), "除外").click()
    _one(view, "取り消し").click()
    assert "undone: q0" in _html(view) and "undecided" in _row(view, "q0").children[0].value and store.decisions() == {}
    _one(view, "取り消し").click()
    assert "nothing to undo" in _html(view)


def test_a_record_that_changed_is_asked_about_again(store):
    record = _records()[0]
    store.decide(record, "reject")
    view = review.curation_table([record.replace(en="New?")], store)
    assert "changed since" in _html(view)
    _one(view, "採用").click()
    assert apply([record.replace(en="New?")], store.decisions()) == ([record.replace(en="New?")], [])


def test_a_store_that_fails_is_one_line_and_a_damaged_one_an_error(store):
    view = review.curation_table(_records(), store)
    store.path.write_text("damage\n")
    _one(_row(view, "q0"), "除外").click()
    assert "line 1: not a decision" in _html(view) and "Traceback" not in _html(view)
    with pytest.raises(UserError, match="line 1"):
        review.curation_table(_records(), store)
    with pytest.raises(UserError, match="at least 1"):
        review.curation_table(_records(), EditStore(store.path.with_name("other")), page_size=0)


def test_an_empty_table(store):
    assert "該当なし" in _html(review.curation_table([], store))


FUJI = Record("f", "qa", "一番高い山は？", "What is the highest mountain?", "Mount Fuji", category="geography")
PEAK = "The highest peak in Japan rises 3776 meters. That volcano is Mount Fuji."


def _pairs(n=5):
    return [(FUJI.replace(id=f"f{i}"), PEAK.replace("3776", f"377{i}"), "") for i in range(n)]


def _verdicts(store):
    return {i: d.verdict for i, d in EditStore(store.path).decisions().items()}


def _type(form, *keys):
    for key in keys:
        # As a front end does it: the text that the box holds, with what was typed behind it.
        box = _one(form, "コマンド")
        box.value = box.value + key


def test_before_and_after_stand_side_by_side(store):
    form = review.rationale_review([(FUJI.replace(ja=BAD, en=BAD, answer=BAD), BAD, "not-english")], store)
    (before,) = [w for w in _shown(form) if type(w).__name__ == "HTML" and "before" in w.value]
    (after,) = [w for w in _shown(form) if type(w).__name__ == "HTML" and "/ after" in w.value]
    assert "推論" not in before.value and "推論" in after.value and before.value.count(SAFE) == 1 and after.value.count(SAFE) == 2
    assert any(type(w).__name__ == "HBox" and w.children == (before, after) for w in _shown(form))
    assert "not-english" in after.value and html.escape(gates.REASONS["not-english"]) in after.value
    assert "<img" not in _html(form)


def test_every_key_does_its_work_and_each_decision_is_on_disk(store):
    form = review.rationale_review(_pairs(), store, settle=0)
    assert "1 / 5 · 判断済み / decided: 0" in _html(form)
    _type(form, "a")
    assert _verdicts(store) == {"f0": "accept"} and "2 / 5 · 判断済み / decided: 1" in _html(form) and _one(form, "コマンド").value == ""
    _type(form, "n")
    assert "3 / 5" in _html(form)
    _type(form, "r")
    assert _verdicts(store) == {"f0": "accept", "f2": "reject"} and "4 / 5" in _html(form)
    _type(form, "p", "p", "p", "p")
    assert "1 / 5" in _html(form) and "/ accepted" in _html(form)
    _type(form, "r")
    assert _verdicts(store)["f0"] == "reject" and "2 / 5" in _html(form)
    _type(form, "u")
    assert _verdicts(store) == {"f0": "accept", "f2": "reject"} and "1 / 5" in _html(form) and "undone: f0" in _html(form)
    _type(form, "n", "e")
    assert _one(form, "推論").value == PEAK.replace("3776", "3771")
    _one(form, "推論").value = PEAK.replace("3776", "3776.12")
    _one(form, "保存").click()
    assert _verdicts(store)["f1"] == "edit" and "4 / 5" in _html(form), "on to the next one without a decision"
    _type(form, "a", "a")
    assert "全件判断済み / all decided" in _html(form) and "5 / 5 · 判断済み / decided: 5" in _html(form)
    given = {r.id: text for r, text, _ in _pairs()}
    found, dropped = reviewed([r for r, *_ in _pairs()], given, EditStore(store.path).decisions())
    assert dropped == [("f2", "rejected in review")] and found.keys() == given.keys() - {"f2"}
    assert found | {"f1": given["f1"]} == {i: t for i, t in given.items() if i != "f2"} and "3776.12" in found["f1"]


@pytest.mark.parametrize("key", ["a", "A", "ａ", "Ａ", "あ", "ア", "ｱ", " a", "a\n"])
def test_accept_as_any_keyboard_writes_it(store, key):
    _type(review.rationale_review(_pairs(), store, settle=0), key)
    assert _verdicts(store) == {"f0": "accept"}


@pytest.mark.parametrize(("keys", "place"), [("ｎ", 2), ("ん", 2), ("ﾝ", 2), ("Ｎ", 2), ("ｎｎｐ", 2), ("ｐ", 1)])
def test_moves_as_any_keyboard_writes_them(store, keys, place):
    form = review.rationale_review(_pairs(), store, settle=0)
    _type(form, *keys)
    assert f"{place} / 5" in _html(form)


def test_edit_reject_and_undo_as_any_keyboard_writes_them(store):
    for key in "えエｴｅ":
        form = review.rationale_review(_pairs(), store, settle=0)
        _type(form, key)
        assert _named(form, "保存"), key
    for key in "うウｳｕ":
        form = review.rationale_review(_pairs(), store, settle=0)
        _type(form, "ｒ")
        assert _verdicts(store) == {"f0": "reject"}
        _type(form, key)
        assert _verdicts(store) == {}, key


@pytest.mark.parametrize("key", ["x", "1", "か", "亜", "ar", "あら", "<b>"])
def test_anything_else_decides_nothing(store, key):
    form = review.rationale_review(_pairs(), store, settle=0)
    _type(form, key)
    assert _verdicts(store) == {} and "one key at a time" in _html(form) and "<b>:" not in _html(form) and "1 / 5" in _html(form)


def test_a_second_key_before_the_box_is_emptied_counts_once(store):
    form = review.rationale_review(_pairs(), store, settle=0)
    box = _one(form, "コマンド")
    for text in ("a", "an", "anr"):  # the front end has not yet heard that the box is empty
        box.value = text
    assert _verdicts(store) == {"f0": "accept", "f2": "reject"}
    _type(form, "a", "a")
    assert _verdicts(store) == {"f0": "accept", "f2": "reject", "f3": "accept", "f4": "accept"}


def test_what_nobody_can_have_read_is_not_decided_on(store):
    form = review.rationale_review(_pairs(), store, settle=60)
    _type(form, "a")
    _one(form, "除外").click()
    assert _verdicts(store) == {} and "too quick" in _html(form)
    _type(form, "n")
    assert "2 / 5" in _html(form), "moving is never too quick"


def test_buttons_do_what_keys_do(store):
    form = review.rationale_review(_pairs(), store, settle=0)
    assert _one(form, "前").disabled and not _one(form, "次").disabled
    _one(form, "採用").click()
    _one(form, "除外").click()
    _one(form, "次").click()
    _one(form, "前").click()
    assert _verdicts(store) == {"f0": "accept", "f1": "reject"} and "3 / 5" in _html(form)
    _one(form, "取り消し").click()
    assert _verdicts(store) == {"f0": "accept"} and "2 / 5" in _html(form)
    _one(form, "編集").click()
    _one(form, "次").click()
    _type(form, "r", "u", "n")
    assert "2 / 5" in _html(form) and _verdicts(store) == {"f0": "accept"} and "save or cancel it first" in _html(form)
    _one(form, "中止").click()
    _one(form, "次").click()
    assert "3 / 5" in _html(form)


def test_the_buttons_show_what_was_decided(store):
    form = review.rationale_review(_pairs(), store, settle=0)
    styles = lambda: [_one(form, label).button_style for label in ("採用", "編集", "除外")]  # noqa: E731
    assert styles() == ["", "", ""]
    _type(form, "r", "p")
    assert styles() == ["", "", "danger"]
    _type(form, "a", "p")
    assert styles() == ["success", "", ""]


def test_a_new_kernel_goes_on_where_the_last_one_stopped(store):
    form = review.rationale_review(_pairs(), store, settle=0)
    _type(form, "a", "r")
    again = review.rationale_review(_pairs(), EditStore(store.path), settle=0)
    assert "3 / 5 · 判断済み / decided: 2" in _html(again)
    _type(again, "u")
    assert "2 / 5 · 判断済み / decided: 1" in _html(again) and _verdicts(store) == {"f0": "accept"}


def test_a_refused_rationale_is_edited_until_the_gate_lets_it_pass(store):
    wrong = "The highest peak in Japan rises 3776 meters. That volcano is Mount Kita."
    form = review.rationale_review([(FUJI, wrong, "wrong-conclusion"), *_pairs(1)], store, settle=0)
    assert "wrong-conclusion" in _html(form)
    _type(form, "a")
    assert _verdicts(store) == {} and "edit it, or reject it" in _html(form)
    _type(form, "e")
    _one(form, "推論").value = wrong.replace("Kita", "Yari")
    _one(form, "保存").click()
    assert "error: wrong-conclusion" in _html(form) and _verdicts(store) == {} and "Yari" in _one(form, "推論").value
    _one(form, "推論").value = PEAK
    _one(form, "保存").click()
    assert _verdicts(store) == {"f": "edit"} and "2 / 2" in _html(form)
    _type(form, "p", "a")
    assert _verdicts(store) == {"f": "accept"}, "the edited text passes"
    assert reviewed([FUJI], {"f": wrong}, store.decisions()) == ({"f": PEAK}, [])


def test_a_missing_rationale_can_be_written(store):
    form = review.rationale_review([(FUJI, "", "missing")], store, settle=0)
    _type(form, "e")
    _one(form, "推論").value = PEAK
    _one(form, "保存").click()
    assert reviewed([FUJI], {}, store.decisions()) == ({"f": PEAK}, [])


def test_a_review_of_nothing_and_a_store_that_fails(store):
    with pytest.raises(UserError, match="no rationale to review"):
        review.rationale_review([], store)
    form = review.rationale_review(_pairs(), store, settle=0)
    store.path.write_text("damage\n")
    _type(form, "a")
    assert "line 1: not a decision" in _html(form) and "1 / 5" in _html(form)


def test_the_review_shows_one_state_only(store):
    wrong = PEAK.replace("Mount Fuji", "Mount Kita")
    pairs = [(r, wrong if i in (1, 3) else text, "wrong-conclusion" if i in (1, 3) else "") for i, (r, text, _) in enumerate(_pairs())]
    form = review.rationale_review(pairs, store, settle=0)
    states = _one(form, "状態")
    _type(form, "a")
    states.value = "!"
    assert "1 / 2 · 判断済み / decided: 1 / 5 · f1" in _html(form) and _one(form, "前").disabled
    _type(form, "r")
    assert "2 / 2 · 判断済み / decided: 2 / 5 · f3" in _html(form) and _one(form, "次").disabled
    _type(form, "r", "p")
    assert _verdicts(store) == {"f0": "accept", "f1": "reject", "f3": "reject"} and "1 / 2" in _html(form) and "f1 · " in _html(form)
    _type(form, "u")
    assert "2 / 2" in _html(form) and "undone: f3" in _html(form)
    _type(form, "u", "u")
    assert _verdicts(store) == {} and states.value == "*" and "1 / 5 · 判断済み / decided: 0 / 5 · f0" in _html(form), "undone is what is not shown: all are"
    states.value = "reject"
    assert "nothing found" in _html(form) and states.value == "*" and "1 / 5" in _html(form)
    _type(form, "e")
    states.value = ""
    assert "save or cancel it first" in _html(form) and states.value == "*" and _named(form, "保存")
    _one(form, "中止").click()
    _type(form, "a", "n", "a", "n", "a")
    states.value = "accept"
    assert "1 / 3" in _html(form) and "f0 · " in _html(form)
    _type(form, "r")
    assert "2 / 3" in _html(form) and "f2 · " in _html(form), "it stays, and the next one comes"
    states.value = ""
    assert "1 / 2" in _html(form) and "f1 · " in _html(form)
    again = review.rationale_review(pairs, EditStore(store.path), settle=0)
    assert "2 / 5 · 判断済み / decided: 3 / 5 · f1" in _html(again)
    store.path.write_text("damage\n")
    _one(again, "状態").value = "accept"
    assert "line 1: not a decision" in _html(again) and _one(again, "状態").value == "*"


def test_one_switch_changes_every_label(store):
    """In one language nothing of the other is left, what comes from the data aside."""
    english = Record("1", "qa", "x", "x", "x", reasoning="x")
    try:
        for wanted, odd in (("ja", r"[A-Za-z]{2}"), ("en", "[ぁ-んァ-ヶ一-龯]")):
            language.switch(wanted)
            accept = {"ja": "採用", "en": "Accept"}[wanted]
            table = review.curation_table([english], store)
            form = review.rationale_review([(english, "x", code) for code in gates.REASONS], store, settle=0)
            words = []
            for view in (table, form):
                for act in (accept, {"ja": "編集", "en": "Edit"}[wanted], {"ja": "保存", "en": "Save"}[wanted], {"ja": "次", "en": "next"}[wanted]):
                    next(b for b in _shown(view) if getattr(b, "description", "").startswith(act)).click()
                    words += [_html(view), *(w.description + getattr(w, "placeholder", "") for w in _shown(view) if hasattr(w, "description"))]
            words += [review._reason(code) for code in gates.REASONS]
            words += [text for view in (table, form) for w in _shown(view) if hasattr(w, "options") for text, _ in w.options]
            for text in words:
                text = re.sub(r"<[^>]+>|Reasoning|Answer: …|dev|test|" + "|".join(gates.REASONS), " ", text)
                assert not re.search(odd, text), text
    finally:
        language.switch("both")


def test_the_command_box_answers_a_front_end(store):
    form = review.rationale_review(_pairs(), store, settle=0)
    box = _one(form, "コマンド")
    box.set_state({"value": "ａ"})  # the message of a front end, which must be told that the box is empty again
    assert _verdicts(store) == {"f0": "accept"} and box.value == ""
