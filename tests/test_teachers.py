"""Teachers behind one interface: what they are asked, and what becomes of a server's faults. The endpoint meets real servers only."""

from __future__ import annotations

import gc
import logging
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from pathlib import Path

import pytest
from fault_server import JAPANESE, serving

from helpers import corpora, endpoint, teachers
from helpers.files import UserError
from helpers.gates import gate

KEY = "sk-sentinel-9f3b2c7d1e"


@pytest.fixture
def record(questions):
    return next(r for r in questions if r.id == "arithmetic-001")


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def toy(server, **more):
    return endpoint.endpoint("toy", server.url, **({"timeout": 0.3, "tries": 3, "backoff": 0.01} | more))


def whole_text(error: BaseException) -> str:
    """Everything that a traceback could print, chained exceptions included."""
    found, todo = [], [error]
    while todo:
        each = todo.pop()
        found += [repr(each), *traceback.format_exception(each)]
        todo += [e for e in (each.__cause__, each.__context__) if e is not None]
    return "\n".join(found)


# What is asked


def test_the_prompt_shows_two_training_examples_and_never_the_record_itself(questions):
    shown = teachers.examples(questions)
    assert {r.split for r in shown} == {"train"} and len(shown) == 3
    for record in (*shown, questions[0]):
        chat = teachers.messages(record, shown)
        assert [m["role"] for m in chat] == ["user", "assistant"] * 2 + ["user"]
        assert record.reasoning not in [m["content"] for m in chat if m["role"] == "assistant"]
        assert chat[-1]["content"].count(record.en) == 1 and record.ja in chat[-1]["content"]


def test_the_hint_is_the_gold_answer_and_can_be_left_out(questions, record):
    shown = teachers.examples(questions)
    assert "Answer: 98" in teachers.messages(record, shown)[-1]["content"]
    without = "\n".join(m["content"] for m in teachers.messages(record, shown, hint=False) if m["role"] == "user")
    assert "Answer:" not in without and "right answer" not in without and "98" not in without.replace("14 * 7 = 98", "")


def test_a_question_with_braces_stays_as_it_is(record, questions):
    odd = record.replace(en="What is {ja} in {0}?", ja="{hint}とは？")
    assert "Japanese: {hint}とは？\nEnglish: What is {ja} in {0}?" in teachers.messages(odd, teachers.examples(questions))[-1]["content"]


def test_the_prompt_version_changes_with_what_is_asked_and_only_then(questions, monkeypatch):
    shown = teachers.examples(questions)
    version = teachers.prompt_version(shown, True, max_tokens=9)
    assert version == teachers.prompt_version(list(shown), True, max_tokens=9)
    others = [teachers.prompt_version(shown[:2], True, max_tokens=9), teachers.prompt_version(shown, False, max_tokens=9)]
    others.append(teachers.prompt_version(shown, True, max_tokens=10))
    monkeypatch.setattr(teachers, "ASKED", teachers.ASKED + " Be brief.")
    others.append(teachers.prompt_version(shown, True, max_tokens=9))
    assert len({version, *others}) == 5


@pytest.mark.parametrize(
    "text, tidied",
    [
        ("<think>7 days\nin a week</think>\nA week has\n7 days.", "A week has 7 days."),
        ("<think>and it never ends", ""),
        ("**Reasoning:** 14 * 7 = 98.", "14 * 7 = 98."),
        ("```text\n14 * 7 = 98.\n```", "14 * 7 = 98."),
        ("The reasoning: it is so.", "The reasoning: it is so."),
    ],
)
def test_what_does_not_belong_to_a_rationale_is_taken_off(text, tidied):
    assert teachers.tidy(text) == tidied


def test_authored_and_worked_answer_every_record(questions):
    mine = [r for r in questions if r.category in ("arithmetic", "culture")]
    for teacher in (teachers.authored(questions), teachers.by_program()):
        found = teacher.ask(mine, 0, threading.Event())
        assert [c.record_id for c in found] == [r.id for r in mine]
        assert all(bool(c.text) != bool(c.error) for c in found)
        assert not teacher.samples_vary
    assert all(gate(r, c.text) == "" for r, c in zip(mine, found, strict=True) if c.text)
    assert teachers.authored(questions[:1]).prompt_version != teachers.authored(questions).prompt_version


# A server that misbehaves


@pytest.mark.parametrize("fault", ["429", "500", "503", "hang", "cut"])
def test_what_passes_is_tried_again(fault, record):
    with serving(fault) as server:
        (found,) = toy(server).ask([record], 0)
        assert found.error == "" and found.text.endswith("98.") and (found.tokens_in, found.tokens_out) == (100, 20)
        assert len(server.asked) == 2
        assert gate(record, found.text) == ""


def test_retry_after_holds_up_every_worker(record):
    with serving("429") as server:
        teacher = toy(server)
        first = threading.Thread(target=teacher.ask, args=([record], 0))
        first.start()
        while not server.asked:
            time.sleep(0.01)
        time.sleep(0.1)
        teacher.ask([record], 1)
        first.join()
        assert len(server.times) == 3 and min(server.times[1:]) - server.times[0] >= 0.4


@pytest.mark.parametrize(
    "fault, error",
    [
        ("malformed", "malformed answer"),
        ("html", "malformed answer"),
        ("list", "malformed answer"),
        ("no choices", "malformed answer"),
        ("odd types", "malformed answer"),
        ("parts", "malformed answer"),
        ("empty", "empty"),
        ("null", "empty"),
        ("only thinking", "empty"),
        ("cut off", "cut off"),
        ("filtered", endpoint.FILTERED),
    ],
)
def test_an_unusable_answer_is_a_candidate_with_an_error(fault, error, record):
    with serving(fault) as server:
        (found,) = toy(server).ask([record], 0)
        assert (found.error, found.record_id) == (error, record.id)
        assert len(server.asked) == 1


def test_an_answer_in_japanese_comes_through_and_the_gate_refuses_it(record):
    with serving("japanese") as server:
        (found,) = toy(server).ask([record], 0)
        assert (found.text, found.error) == (JAPANESE, "")
        assert gate(record, found.text) == "not-english"


def test_tokens_that_a_server_does_not_count_are_estimated(record):
    with serving("no usage") as server:
        (found,) = toy(server).ask([record], 0)
        assert found.tokens_out == 11 and 200 < found.tokens_in < 1000


def test_half_of_a_surrogate_pair_is_replaced(record):
    with serving("surrogate") as server:
        (found,) = toy(server).ask([record], 0)
        assert found.text.encode("utf-8").decode() == "half ? a pair"


@pytest.mark.parametrize(
    "fault, words",
    [
        ("401", "does not accept the key (HTTP 401): check OPENAI_API_KEY"),
        ("404", "has no model 'toy' (HTTP 404). The server lists: toy, toy-large."),
        ("400", "refuses the request for model 'toy' (HTTP 400"),
        ("quota", "quota"),
        ("429 tomorrow", "quota"),
    ],
)
def test_what_another_try_cannot_mend_stops_with_one_line(fault, words, record, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(fault) as server:
        with pytest.raises(UserError) as caught:
            toy(server).ask([record], 0)
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert not isinstance(caught.value, teachers.Unavailable)
        assert len(server.asked) == 1
        assert KEY not in whole_text(caught.value)


@pytest.mark.parametrize("fault", ["500", "hang", "cut", "429", "error inside"])
def test_a_server_that_stays_down_is_unavailable(fault, record, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(*[fault] * 9) as server:
        with pytest.raises(teachers.Unavailable) as caught:
            toy(server, tries=2).ask([record], 0)
        assert len(server.asked) == (1 if fault == "error inside" else 2)
        assert KEY not in whole_text(caught.value)


@pytest.mark.parametrize("fault", ["drip", "endless", "reset", "redirect loop", "bad gzip", "no http", "endless header", "wrong length"])
def test_what_is_no_answer_at_all_neither_hangs_nor_fills_the_memory(fault, record, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "SLOWEST", 2)
    begun = time.monotonic()
    with serving(*[fault] * 99) as server:
        with pytest.raises(teachers.Unavailable) as caught:
            toy(server, tries=2).ask([record], 0)
        assert time.monotonic() - begun < 30 and "\n" not in str(caught.value) and KEY not in whole_text(caught.value)


def test_a_redirect_to_another_host_does_not_take_the_key_along(record, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as other, serving(f"redirect to {other.url.replace('127.0.0.1', 'localhost')}") as server:
        (found,) = toy(server).ask([record], 0)
        assert found.error == "" and server.keys == [f"Bearer {KEY}"] and other.keys == [""]


def test_a_server_that_is_not_there_is_unavailable(record):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
    with pytest.raises(teachers.Unavailable, match="no connection, 2 times"):
        endpoint.endpoint("toy", address, tries=2, backoff=0.01).ask([record], 0)


def test_a_stop_ends_the_waiting_but_not_what_is_under_way(record):
    stop = threading.Event()
    with serving(*["500"] * 9) as server:
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        assert toy(server, backoff=60, tries=9).ask([record], 0, stop) == []
        assert time.monotonic() - began < 5
    stop = threading.Event()
    with serving(delay=0.3) as server:

        def asked():
            while not server.keys:
                time.sleep(0.01)
            stop.set()

        threading.Thread(target=asked, daemon=True).start()
        assert len(toy(server, timeout=5).ask([record], 0, stop)) == 1


def test_settings_that_a_model_does_not_take_are_renamed_or_left_out_by_all_workers(record):
    with serving("newer model", delay=0.02) as server:
        teacher = toy(server)
        found = []
        threads = [threading.Thread(target=lambda k=k: found.extend(teacher.ask([record], k))) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [c.error for c in found] == [""] * 4
        last = server.bodies[-1]
        assert last["max_completion_tokens"] == 300 and not {"max_tokens", "temperature"} & last.keys()


def test_the_first_sample_is_the_best_guess_and_later_ones_vary(record):
    with serving() as server:
        teacher = toy(server, temperature=0.7)
        for k in range(3):
            teacher.ask([record], k)
        assert [(b["temperature"], b.get("seed")) for b in server.bodies] == [(0.0, None), (0.7, 1), (0.7, 2)]


def test_requests_keep_to_the_limit_a_minute(record):
    with serving() as server:
        teacher = toy(server, per_minute=600)
        began = time.monotonic()
        for _ in range(4):
            teacher.ask([record], 0)
        assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("text, seconds", [("3", 3), ("0.5", 0.5), ("-1", 0), ("nan", 0), ("soon", 0), ("", 0), ("inf", float("inf"))])
def test_retry_after_is_read(text, seconds):
    error = types.SimpleNamespace(response=types.SimpleNamespace(headers={"retry-after": text}))
    assert endpoint.retry_after(error) == seconds


def test_retry_after_may_be_a_date():
    from email.utils import formatdate

    error = types.SimpleNamespace(response=types.SimpleNamespace(headers={"retry-after": formatdate(time.time() + 60, usegmt=True)}))
    assert 57 < endpoint.retry_after(error) <= 60


# The key


def test_the_key_goes_to_the_server_and_nowhere_else(record, monkeypatch, caplog, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    faults = ["429", "500", "cut", "malformed", "401", "400", "404", "error inside", "429 tomorrow", "echo"]
    seen = []
    with serving(*faults) as server:
        teacher = toy(server)
        for _ in faults:
            try:
                seen += [repr(c) for c in teacher.ask([record], 0)]
            except UserError as error:
                seen.append(whole_text(error))
        assert set(server.keys) == {f"Bearer {KEY}"}
    out = capfd.readouterr()
    assert len(caplog.records) > 20
    for text in (repr(teacher), caplog.text, out.out, out.err, *seen):
        assert KEY not in text and KEY[:12] not in text


def test_a_local_server_needs_no_key_and_a_hosted_one_does(record):
    with serving() as server:
        toy(server).ask([record], 0)
        assert server.keys == ["Bearer none"]
    with pytest.raises(UserError, match="No key: put OPENAI_API_KEY into Colab's secrets"):
        endpoint.endpoint("toy")


def test_a_key_is_not_sent_unencrypted_over_a_network(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match="unencrypted") as caught:
        endpoint.endpoint("toy", f"http://user:{KEY}@models.example:8000/v1?token={KEY}")
    assert KEY not in whole_text(caught.value)
    assert endpoint.endpoint("toy", "http://models.example:8000/v1", key_name="").model == "toy @ models.example"


@pytest.mark.parametrize("address", ["localhost:8000/v1", "ftp://localhost", "http://", "http://localhost:port/v1", "https://[::1"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(UserError, match="must look like"):
        endpoint.endpoint("toy", address)


@pytest.mark.parametrize("text", ["sk-two words", "sk-ｆｕｌｌ", "sk-a\nb"])
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(text, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", text)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds characters") as caught:
        endpoint.secret()
    assert text not in whole_text(caught.value)


def test_colabs_secrets_come_first_and_the_environment_next(monkeypatch):
    # The module exists on Colab alone: this stands in for its one function.
    userdata = types.ModuleType("google.colab.userdata")
    userdata.get = {"OPENAI_API_KEY": f" {KEY}\n"}.__getitem__
    colab = types.ModuleType("google.colab")
    colab.userdata = userdata
    for name, module in (("google", types.ModuleType("google")), ("google.colab", colab), ("google.colab.userdata", userdata)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    assert endpoint.secret() == KEY
    assert endpoint.secret("OTHER_KEY") == "sk-other"
    assert endpoint.secret("NONE_SUCH") == endpoint.secret("") == ""


# Real models


def test_a_model_without_a_chat_template_is_refused(tiny, record):
    from helpers import models

    with pytest.raises(UserError, match="has no chat template"):
        teachers.local(models.local_folder(tiny, say=lambda text: None)).ask([record], 0)
    with pytest.raises(UserError, match="cannot be loaded"):
        teachers.local("./no-such-folder").ask([record], 0)


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return teachers.smollm2_folder(say=lambda text: None)


@pytest.mark.slow
def test_the_local_teacher_is_greedy_first_and_then_varies_by_seed(smollm2, questions):
    import torch

    mine = [r for r in questions if r.split == "train"][:3]
    teacher = teachers.local(batch=3, max_tokens=24)
    before = torch.random.get_rng_state()
    first, again, other, other_again = ([c.text for c in teacher.ask(mine, k)] for k in (0, 0, 1, 1))
    assert first == again and other == other_again and first != other
    assert all(first) and torch.equal(before, torch.random.get_rng_state())
    (alone,) = teachers.local(max_tokens=24).ask(mine[:1], 0)
    assert 150 < alone.tokens_in < 600 and 0 < alone.tokens_out <= 24
    assert alone.error in ("", "cut off") and (alone.error == "cut off") == (alone.tokens_out == 24)
    gc.collect()


@pytest.mark.slow
def test_the_endpoint_asks_a_real_server_with_a_real_model(smollm2, questions, tmp_path, monkeypatch):
    """`transformers serve` with SmolLM2-135M-Instruct on loopback, through the official client, and not twice."""
    from helpers.asking import collect

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(smollm2)]
    log = (tmp_path / "serve.log").open("w")
    server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"], stdout=log, stderr=log)
    try:
        for _ in range(240):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (tmp_path / "serve.log").read_text()
            time.sleep(0.25)
        mine = [r for r in corpora.questions() if r.split == "train"][:3]
        teacher = endpoint.endpoint(str(smollm2), f"http://127.0.0.1:{port}/v1", workers=2, max_tokens=24, timeout=60)
        found = collect(teacher, mine, tmp_path / "asked.jsonl", accept=lambda r, text: "")
        assert found.asked == 3 and found.left == 0 and found.stopped == ""
        assert 3 * 150 < found.tokens_in < 3 * 600 and 0 < found.tokens_out <= 3 * 24
        assert len(found.accepted) + len(found.refused) == 3 and {why for _, why, _ in found.refused} <= {"cut off"}
        assert all(text for _, _, text in found.refused) and all(found.accepted.values())
        again = collect(teacher, mine, tmp_path / "asked.jsonl", accept=lambda r, text: "")
        assert again.asked == 0 and again.accepted == found.accepted and again.tokens_out == found.tokens_out
        with pytest.raises(UserError, match="no-such-model"):
            endpoint.endpoint("no-such-model", f"http://127.0.0.1:{port}/v1").ask(mine[:1], 0)
    finally:
        server.terminate()
        server.wait(30)
        log.close()
