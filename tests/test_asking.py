"""Asking for many records: nothing is paid for twice, nothing that came is lost, and the budget, Ctrl-C and a kill end it cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fault_server import serving
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import bootstrap, endpoint
from helpers.asking import Budget, collect
from helpers.asking_cache import content_key
from helpers.files import ROOT, UserError
from helpers.gates import gate
from helpers.records import Record
from helpers.teachers import Candidate, Teacher, Unavailable

RECORDS = [Record(f"own-{i}", "qa", f"{i}たす1は？", f"What is {i} plus 1, number {i}?", answer=str(i + 1)) for i in range(12)]


class Toy:
    """A teacher that notes what it is asked; `right_from` says from which sample on its answers are right."""

    def __init__(self, right_from: int = 0, batch: int = 1, workers: int = 1, act=lambda ids, sample, stop: None, tokens: int = 10):
        self.asked: list[tuple[str, int]] = []
        self.right_from, self.act, self.tokens = right_from, act, tokens
        self.teacher = Teacher("toy", "toy-1", "v1", batch, self.ask, workers)

    def ask(self, records, sample, stop) -> list[Candidate]:
        self.act([r.id for r in records], sample, stop)
        self.asked += [(r.id, sample) for r in records]
        return [Candidate(r.id, r.answer if sample >= self.right_from else "wrong", self.tokens, self.tokens) for r in records]


def right(record: Record, text: str) -> str:
    return "" if text == record.answer else "not the answer"


def toy(server, **more) -> Teacher:
    return endpoint.endpoint("toy", server.url, **({"timeout": 0.3, "tries": 3, "backoff": 0.01, "key_name": ""} | more))


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "reasoning" / "asked.jsonl"


# Never twice


def test_a_second_call_asks_nothing_and_comes_to_the_same(cache):
    mine = Toy()
    first = collect(mine.teacher, RECORDS, cache, accept=right)
    assert first.accepted == {r.id: r.answer for r in RECORDS} and first.asked == len(mine.asked) == 12
    again = collect(mine.teacher, RECORDS, cache, accept=right)
    assert (again.asked, len(mine.asked)) == (0, 12)
    assert (again.accepted, again.tokens_in, again.outcomes, again.left) == (first.accepted, 120, {"accepted": 12}, 0)


def test_every_fault_of_a_server_ends_as_it_should_and_nothing_is_asked_twice(cache, questions):
    mine = [r for r in questions if r.split == "train"][:9]
    faults = ["429", "500", "hang", "cut", "malformed", "empty", "japanese"]
    with serving(*faults) as server:
        found = collect(toy(server, workers=3), mine, cache, samples=2, accept=gate)
        assert set(found.accepted) == {r.id for r in mine} and found.left == 0
        assert found.outcomes["malformed answer"] == found.outcomes["empty"] == found.outcomes["not-english"] == 1
        assert sum(found.outcomes.values()) == len(mine) + 3
        assert max(Counter(server.answered).values()) == 1  # once answered well, never asked again
        assert len(server.asked) == found.asked + 4  # the four faults that pass were tried again
        before = len(server.asked)
        assert collect(toy(server), mine, cache, samples=2, accept=gate).accepted == found.accepted
        assert len(server.asked) == before


def test_another_model_prompt_or_question_is_asked_and_another_id_split_or_alias_is_not(cache):
    collect(Toy().teacher, RECORDS[:3], cache)
    renamed = [r.replace(id=f"new-{r.id}", split="train", aliases=("so",), reasoning="x") for r in RECORDS[:3]]
    mine = Toy()
    assert collect(mine.teacher, renamed, cache).accepted.keys() == {r.id for r in renamed} and mine.asked == []
    collect(mine.teacher, [RECORDS[0].replace(en="What is one more than 0?")], cache)
    assert len(mine.asked) == 1
    for changed in ({"model": "toy-2"}, {"prompt_version": "v2"}, {"name": "other"}):
        other = Toy()
        assert collect(replace(other.teacher, **changed), RECORDS[:3], cache).tokens_in == 30
        assert len(other.asked) == 3


def test_two_records_with_the_same_content_are_asked_once(cache):
    mine = Toy()
    found = collect(mine.teacher, [RECORDS[0], RECORDS[0].replace(id="twin")], cache)
    assert len(mine.asked) == 1 and found.accepted == {"own-0": "1", "twin": "1"}


# Rejection sampling


def test_only_refused_records_are_asked_again(cache):
    mine = Toy(right_from=2, batch=4)
    found = collect(mine.teacher, RECORDS[:5], cache, samples=3, accept=right)
    assert Counter(k for _, k in mine.asked) == {0: 5, 1: 5, 2: 5}
    assert found.outcomes == {"not the answer": 10, "accepted": 5} and len(found.accepted) == 5
    assert Counter(i for i, _, _ in found.refused) == {r.id: 2 for r in RECORDS[:5]}

    fewer = Toy(right_from=9)
    found = collect(fewer.teacher, RECORDS[5:8], cache, samples=2, accept=right)
    assert (found.accepted, found.left, found.stopped) == ({}, 0, "") and len(fewer.asked) == 6
    # More samples later go on from there.
    collect(fewer.teacher, RECORDS[5:8], cache, samples=3, accept=right)
    assert [k for _, k in fewer.asked[6:]] == [2, 2, 2]


def test_the_gates_are_asked_anew_of_what_is_kept(cache):
    collect(Toy().teacher, RECORDS[:3], cache)
    strict = collect(Toy().teacher, RECORDS[:3], cache, accept=lambda r, t: "no" if r.id == "own-1" else "")
    assert set(strict.accepted) == {"own-0", "own-2"} and strict.refused == (("own-1", "no", "2"),)


def test_a_teacher_that_never_varies_is_asked_for_one_sample(cache, questions):
    from helpers import teachers

    mine = [r for r in questions if r.split == "train"]
    found = collect(teachers.by_program(), mine, cache, samples=4, accept=gate)
    assert found.asked == len(mine) and found.left == 0 and 30 < len(found.accepted) < len(mine)
    assert found.outcomes["accepted"] == len(found.accepted)


# The budget


@pytest.mark.parametrize("workers, batch", [(1, 1), (4, 1), (1, 5)])
@pytest.mark.parametrize("limit", [{"tokens": 100}, {"dollars": 100e-6}, {"requests": 5}])
def test_a_budget_stops_before_it_is_passed_and_the_next_call_goes_on(cache, limit, workers, batch):
    mine = Toy(workers=workers, batch=batch)
    price = (1.0, 1.0)
    found = collect(mine.teacher, RECORDS, cache, budget=Budget(**limit), price=price)
    assert (found.asked, found.left) == (5, 7)
    assert "budget" in found.stopped and next(iter(limit)) in found.stopped
    assert found.tokens_in + found.tokens_out == 100 and found.cost == pytest.approx(100e-6)
    # The same budget is used up: of this teacher's answers, those of earlier runs count.
    assert collect(mine.teacher, RECORDS, cache, budget=Budget(**limit), price=price).asked == 0
    assert collect(mine.teacher, RECORDS, cache, price=price).left == 0
    assert len(mine.asked) == len(set(mine.asked)) == 12


def test_a_budget_of_seconds_stops_while_answers_are_slow(cache):
    mine = Toy(act=lambda *_: time.sleep(0.2))
    found = collect(mine.teacher, RECORDS, cache, budget=Budget(seconds=0.5))
    assert 1 <= found.asked <= 4 and found.left == 12 - found.asked and "seconds" in found.stopped


def test_a_budget_of_nothing_asks_nothing(cache):
    for limit in ({"tokens": 0}, {"requests": 0}, {"seconds": 0}):
        mine = Toy()
        assert collect(mine.teacher, RECORDS, cache, budget=Budget(**limit)).left == 12 and mine.asked == []


@pytest.mark.parametrize(
    "options, words",
    [
        ({"samples": 0}, "at least 1"),
        ({"budget": Budget(dollars=1)}, "needs the price"),
    ],
)
def test_settings_that_cannot_work_are_refused(cache, options, words):
    with pytest.raises(UserError, match=words):
        collect(Toy().teacher, RECORDS, cache, **options)
    with pytest.raises(UserError, match="0 or more"):
        Budget(tokens=-1)
    with pytest.raises(UserError, match="0 or more"):
        Budget(dollars=float("nan"))


def test_progress_counts_up_to_the_end_and_foresees_it(cache):
    rows = []
    mine = Toy(right_from=1, act=lambda *_: time.sleep(0.02))
    collect(mine.teacher, RECORDS, cache, samples=2, accept=right, price=(1, 2), progress=lambda *row: rows.append(row))
    assert rows[0] == (0, 12, 0, 0.0, 0.0) and rows[-1][:3] == (12, 12, 480) and rows[-1][4] == 0.0
    assert rows[-1][3] == pytest.approx((240 * 1 + 240 * 2) / 1e6)
    assert [r[0] for r in rows] == sorted(r[0] for r in rows)
    assert 0.2 < rows[1][4] < 3.0  # after one of 24 answers of 0.02 s


# Interruptions


def test_ctrl_c_keeps_what_came_and_what_is_under_way(cache):
    said = []

    def act(ids, sample, stop):
        time.sleep(0.3 if ids == ["own-3"] else 0.0)

    pressed = []

    def progress(done, *_):
        if done == 3 and not pressed:
            pressed.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    mine = Toy(act=act)
    found = collect(mine.teacher, RECORDS, cache, progress=progress, say=said.append)
    assert found.stopped == "interrupted" and found.asked == len(mine.asked) and found.left == 12 - found.asked
    assert 3 <= found.asked <= 4
    assert collect(mine.teacher, RECORDS, cache).left == 0 and len(mine.asked) == len(set(mine.asked)) == 12


def test_an_error_stops_the_others_and_what_came_is_kept(cache):
    slow_in = threading.Event()

    def act(ids, sample, stop):
        if ids == ["own-2"]:
            slow_in.wait(5)
            raise UserError("no such model")
        if ids == ["own-3"]:
            slow_in.set()
            time.sleep(0.2)

    mine = Toy(workers=2, act=act)
    with pytest.raises(UserError, match="no such model"):
        collect(mine.teacher, RECORDS, cache)
    assert ("own-3", 0) in mine.asked  # it was under way, and is kept
    kept = {json.loads(line)["id"] for line in cache.read_text().splitlines()}
    assert kept == {i for i, _ in mine.asked} and "own-2" not in kept and len(kept) < 12


def test_a_record_that_gets_no_answer_is_left_and_three_in_a_row_stop_the_run(cache):
    def act(ids, sample, stop):
        if ids[0] in ("own-1", "own-4", "own-5"):
            raise Unavailable("busy")

    found = collect(Toy(act=act).teacher, RECORDS[:6], cache)
    assert (found.left, found.stopped, found.asked) == (3, "busy", 3)
    mine = Toy(act=lambda *_: (_ for _ in ()).throw(Unavailable("down")))
    with pytest.raises(Unavailable, match="down"):
        collect(mine.teacher, RECORDS[6:], cache)
    assert collect(Toy().teacher, RECORDS, cache).asked == 9


SCRIPT = """
import sys
from pathlib import Path
from helpers.asking import collect
from helpers.endpoint import endpoint
sys.path.insert(0, {tests!r})
from test_asking import RECORDS
found = collect(endpoint("toy", {url!r}, workers=2, key_name="", timeout=5, backoff=0.01), RECORDS, Path({cache!r}))
print("left", found.left, found.stopped)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_interrupted_run_goes_on_where_it_was(cache, how):
    with serving(delay=0.15) as server:
        code = SCRIPT.format(tests=str(Path(__file__).parent), url=server.url, cache=str(cache))
        run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.answered) < 4 and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(how)
        out, err = run.communicate(timeout=30)
        kept = {json.loads(line)["id"] for line in cache.read_text(encoding="utf-8").splitlines()}
        assert 2 <= len(kept) < 12, err
        before = len(server.asked)
        if how == signal.SIGINT:
            # Both requests that were under way were waited for: nothing that was answered is lost.
            assert run.returncode == 0 and f"left {12 - before} interrupted" in out and len(kept) == before, err
        found = collect(toy(server, timeout=5, workers=2, max_tokens=300), RECORDS, cache)
        assert found.left == 0 and set(found.accepted) == {r.id for r in RECORDS}
        assert found.asked == len(server.asked) - before == 12 - len(kept)


def test_two_runs_do_not_write_to_one_cache(cache):
    cache.parent.mkdir()
    with bootstrap.lock(cache.with_name(cache.name + ".lock")), pytest.raises(UserError, match="another run"):
        collect(Toy().teacher, RECORDS, cache)


# The file


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_a_file_that_a_crash_cut_anywhere_loses_the_last_line_at_most(tmp_path_factory, data):
    cache = tmp_path_factory.mktemp("cut") / "asked.jsonl"
    collect(Toy(batch=3).teacher, [r.replace(ja="日本語") for r in RECORDS[:3]], cache)
    whole = cache.read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    cache.write_bytes(whole[:size])
    said, mine = [], Toy()
    found = collect(mine.teacher, [r.replace(ja="日本語") for r in RECORDS[:3]], cache, say=said.append)
    assert len(found.accepted) == 3
    lines, tail = whole[:size].count(b"\n"), whole[:size].rpartition(b"\n")[2]
    kept = lines + (tail + b"\n" in whole and tail.endswith(b"}") and bool(tail))
    assert len(mine.asked) == 3 - kept
    assert len(said) == (1 if tail and kept == lines else 0) and all("dropped" in text for text in said)
    assert Counter(cache.read_bytes().splitlines()) == Counter(whole.splitlines()) or len(mine.asked)
    assert collect(Toy().teacher, [r.replace(ja="日本語") for r in RECORDS[:3]], cache).asked == 0


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"key": "x"}', "field 'id'"),
        ("\xff", "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_a_damaged_line_is_named_and_the_file_left_alone(cache, line, words):
    collect(Toy().teacher, RECORDS[:3], cache)
    lines = cache.read_bytes().splitlines()
    cache.write_bytes(b"\n".join([lines[0], line.encode("latin-1"), *lines[1:], b""]))
    before, mine = cache.read_bytes(), Toy()
    with pytest.raises(UserError, match=f"asked.jsonl, line 2: {words}"):
        collect(mine.teacher, RECORDS, cache)
    assert mine.asked == [] and cache.read_bytes() == before


def test_a_count_that_is_no_number_is_named(cache):
    collect(Toy().teacher, RECORDS[:1], cache)
    cache.write_text(cache.read_text().replace('"tokens_in": 10', '"tokens_in": true'))
    with pytest.raises(UserError, match="line 1: field 'tokens_in'"):
        collect(Toy().teacher, RECORDS, cache)


def test_a_full_disk_stops_with_the_reason_and_leaves_whole_lines(cache, monkeypatch):
    real = os.write
    room = [700]

    def write(handle, data):
        if room[0] < len(data):
            if room[0] == 0:
                raise OSError(28, "No space left on device")
            data, room[0] = data[: room[0]], 0
        else:
            room[0] -= len(data)
        return real(handle, data)

    mine = Toy()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(UserError, match="No space left"):
            collect(mine.teacher, RECORDS, cache)
    kept = [json.loads(line) for line in cache.read_text().splitlines()]
    assert 0 < len(kept) < 12
    assert collect(mine.teacher, RECORDS, cache).asked == 12 - len(kept)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        collect(Toy().teacher, RECORDS, tmp_path / "file" / "asked.jsonl")


def test_the_key_of_a_record_is_its_content():
    assert content_key(RECORDS[0]) == content_key(RECORDS[0].replace(id="x"))
    changed = [RECORDS[0].replace(**{f: "9"}) for f in ("ja", "en", "answer", "check")]
    assert len({content_key(r) for r in (RECORDS[0], *changed)}) == 5
