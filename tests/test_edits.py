"""Decisions survive the kernel, a torn line, two writers; none is applied to a text it was not made on, none is lost in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import edits
from helpers.corpora import QUESTIONS
from helpers.edits import ABSENT, CHANGED, REJECTED, EditStore, apply, current, digest
from helpers.files import UserError
from helpers.records import Record, RecordError

A = Record("a", "qa", "一番高い山は？", "What is the highest mountain?", "Mount Fuji", ("Fuji",), category="geography")
B = Record("b", "translate", "犬がいる。", "There is a dog.", split="train")
C = Record("c", "qa", "2足す3は？", "What is 2 + 3?", "5")


@pytest.fixture
def store(tmp_path) -> EditStore:
    return EditStore(tmp_path / "new" / "edits.jsonl", say=pytest.fail)


def test_decisions_are_applied_and_what_is_left_out_is_named(store):
    assert apply([A, B, C], store.decisions()) == ([A, B, C], [])
    store.decide(A, "edit", {"en": "Which mountain is highest?", "answer": "Mt. Fuji"})
    store.decide(B, "reject")
    store.decide(C, "accept")
    edited = A.replace(en="Which mountain is highest?", answer="Mt. Fuji")
    for again in (store, EditStore(store.path)):
        assert apply([A, B, C], again.decisions()) == ([edited, C], [("b", REJECTED)])
    assert apply([edited, C], store.decisions()) == ([edited, C], [("b", ABSENT)]), "applying twice changes nothing more"


def test_the_file_holds_one_decision_a_line_and_the_last_wins(store):
    for verdict in ("reject", "accept"):
        store.decide(B, verdict)
    lines = [json.loads(line) for line in store.path.read_text(encoding="utf-8").splitlines()]
    assert [(v["id"], v["verdict"], v["was"], v["changes"]) for v in lines] == [("b", "reject", digest(B), {}), ("b", "accept", digest(B), {})]
    assert lines[0]["time"] <= lines[1]["time"] and lines[0]["time"].endswith("+00:00")
    assert apply([B], store.decisions()) == ([B], [])


@pytest.mark.parametrize("change", [{"en": "x"}, {"ja": "山"}, {"answer": "y"}, {"aliases": ()}, {"reasoning": "z"}])
def test_a_decision_on_another_text_is_not_used_but_named(store, change):
    store.decide(A, "reject")
    assert apply([A.replace(**change)], store.decisions()) == ([A.replace(**change)], [("a", CHANGED)])
    assert apply([A.replace(split="train", category="x", source="s")], store.decisions())[0] == []


def test_an_edit_that_makes_a_record_invalid_is_refused(store):
    for record, changes, message in ((A, {"answer": " "}, "'answer'"), (B, {"en": ""}, "'en'"), (B, {"ja": "\ud800"}, "surrogate")):
        with pytest.raises(RecordError, match=message):
            store.decide(record, "edit", changes)
    for verdict, changes, message in (("maybe", {}, "Known: accept"), ("edit", {"id": "x"}, "'id' cannot be edited")):
        with pytest.raises(UserError, match=message):
            store.decide(A, verdict, changes)
    assert store.decisions() == {}


def test_an_edit_by_hand_that_is_invalid_is_not_used_but_named(store):
    store.decide(A, "edit", {"answer": "x"})
    store.path.write_text(store.path.read_text().replace('"answer": "x"', '"answer": ""'))
    kept, dropped = apply([A], store.decisions())
    assert kept == [A] and dropped[0][0] == "a" and "'answer', expected a non-empty string" in dropped[0][1]


def test_an_edit_of_an_edit_counts_from_the_first_text(store):
    store.decide(A, "edit", {"en": "Once?", "reasoning": "r"})
    once, _ = current(A, store.decisions()["a"])
    store.decide(once, "edit", {"en": "Twice?"})
    twice = A.replace(en="Twice?", reasoning="r")
    assert apply([A], store.decisions()) == ([twice], []) == apply([twice], store.decisions())
    store.decide(twice, "accept")
    assert apply([A], store.decisions()) == ([twice], []), "accepting an edited record keeps the edit"
    store.decide(twice, "reject")
    assert apply([A], store.decisions()) == ([], [("a", REJECTED)])


def test_undo_goes_back_step_by_step_also_after_a_restart(store):
    store.decide(A, "edit", {"en": "Once?"})
    store.decide(B, "reject")
    store.decide(A.replace(en="Once?"), "reject")
    again = EditStore(store.path)
    assert again.undo() == "a" and apply([A, B], again.decisions()) == ([A.replace(en="Once?")], [("b", REJECTED)])
    assert again.undo(among={"a"}) == "a" and apply([A, B], again.decisions()) == ([A], [("b", REJECTED)])
    assert again.undo(among={"a"}) == "" and again.undo() == "b" and again.undo() == "" and again.decisions() == {}
    again.decide(B, "accept")
    assert list(again.decisions()) == ["b"]


def test_a_line_cut_off_at_any_byte_is_told_and_the_next_decision_is_whole(store):
    store.decide(A, "reject")
    first = store.path.read_bytes()
    store.decide(B, "edit", {"ja": "猫がいる。"})
    data = store.path.read_bytes()
    for cut in range(len(first) + 1, len(data) - 1):
        store.path.write_bytes(data[:cut])
        told = []
        torn = EditStore(store.path, say=told.append)
        assert list(torn.decisions()) == list(torn.decisions()) == ["a"], cut
        assert len(told) == 1 and "line 2: cut off" in told[0] and str(store.path) in told[0]
        torn.decide(C, "accept")
        assert list(store.decisions()) == ["a", "c"] and store.path.read_bytes().startswith(first)
    store.path.write_bytes(data[:-1])
    assert list(store.decisions()) == ["a", "b"], "a line that lacks nothing but its end is whole"
    store.decide(C, "accept")
    assert list(store.decisions()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "damage",
    [
        "{\n", "[]\n", "\n", "null\n", '{"id": "a"}\n', '{"id": "a", "verdict": "undo"}\n', '{"verdict": "undo"}\n', "\xff\n",
        '{"id": "a", "was": "0", "becomes": "0", "verdict": "maybe", "changes": {}, "time": ""}\n',
        '{"id": 1, "was": "0", "becomes": "0", "verdict": "accept", "changes": {}, "time": ""}\n',
        '{"id": "a", "was": "0", "becomes": "0", "verdict": "edit", "changes": {"id": "b"}, "time": ""}\n',
        '{"id": "a", "was": "0", "becomes": "0", "verdict": "edit", "changes": {"en": 1}, "time": ""}\n',
        '{"id": "a", "was": "0", "becomes": "0", "verdict": "edit", "changes": [], "time": ""}\n',
        '{"id": "a", "was": "0", "becomes": "0", "verdict": "edit", "changes": {}, "time": "", "more": 1}\n',
    ],
)  # fmt: skip
def test_other_damage_is_an_error_that_names_file_and_line(store, damage):
    store.decide(B, "reject")
    whole = store.path.read_bytes()
    store.path.write_bytes(whole + damage.encode("latin-1") + whole)
    for action in (store.decisions, store.undo, lambda: store.decide(A, "accept")):
        with pytest.raises(UserError, match=r"edits.jsonl, line 2: not a decision .* Repair or remove this line"):
            action()
    assert store.path.read_bytes() == whole + damage.encode("latin-1") + whole, "nothing is written into a damaged file"


def test_a_decision_is_on_disk_when_the_call_returns(store, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(edits.os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd)))
    for n, record in enumerate((A, B, C), 1):
        store.decide(record, "accept")
        assert len(synced) == n and synced[-1] == store.path.stat().st_size


def test_many_threads_and_two_kernels_lose_nothing(store):
    code = """
import sys
from helpers.edits import EditStore
from helpers.records import Record
store = EditStore(sys.argv[1])
for i in range(40):
    store.decide(Record(f"{sys.argv[2]}{i}", "translate", "犬", "A dog."), "accept")
"""
    kernels = [
        subprocess.Popen([sys.executable, "-c", code, store.path, name], cwd=QUESTIONS.parents[1], stderr=subprocess.PIPE) for name in "pq"
    ]

    def write(name: str) -> None:
        for i in range(20):
            store.decide(B.replace(id=f"{name}{i}"), "accept")

    threads = [threading.Thread(target=write, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(k.communicate(timeout=60)[1], k.returncode) for k in kernels] == [(b"", 0)] * 2
    expected = {f"{n}{i}" for n in "pq" for i in range(40)} | {f"{n}{i}" for n in "xyz" for i in range(20)}
    assert store.decisions().keys() == expected and len(store.path.read_bytes().splitlines()) == len(expected)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        EditStore(tmp_path / "file" / "edits.jsonl").decide(A, "accept")


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: t.strip())
steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["accept", "edit", "reject", "undo"]), st.dictionaries(st.sampled_from(edits.EDITABLE), text, max_size=3)),
    max_size=12,
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(steps)
def test_any_history_comes_back_from_the_file(steps):
    records, history = [A, B, C], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "edits.jsonl")
        for i, verdict, changes in steps:
            store = EditStore(path, say=pytest.fail)
            if verdict == "undo":
                assert store.undo() == (history.pop()[0] if history else "")
            else:
                shown = current(records[i], store.decisions().get(records[i].id))[0]
                store.decide(shown, verdict, changes if verdict == "edit" else {})
                edited = shown.replace(**changes) if verdict == "edit" else shown
                history.append((records[i].id, verdict, edited))
        last = {record_id: (verdict, edited) for record_id, verdict, edited in history}
        expected = [last.get(r.id, ("", r))[1] for r in records if last.get(r.id, ("",))[0] != "reject"]
        kept, dropped = apply(records, EditStore(path, say=pytest.fail).decisions())
        assert kept == expected and sorted(dropped) == sorted((i, REJECTED) for i, (v, _) in last.items() if v == "reject")
