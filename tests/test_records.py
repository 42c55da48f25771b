"""A record keeps the contract, or the reader says where it does not: file, line, field and what was expected."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import corpora, records
from helpers.answers import normalise_answer
from helpers.files import UserError
from helpers.records import Record, RecordError

GOOD = {"id": "q-1", "task": "qa", "ja": "水は何色ですか？", "en": "What color is water?", "answer": "clear"}
PAIR = {"id": "p-1", "task": "translate", "ja": "雨だ。", "en": "It is raining."}


def line(**changes) -> bytes:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}, ensure_ascii=True).encode()


def read(tmp_path, content: bytes) -> list[Record]:
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    return records.read(path)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        *(({name: ...}, name, "required") for name in ("id", "task", "ja", "en")),
        *(
            ({name: 7}, name, "a string, found int")
            for name in ("id", "task", "ja", "en", "answer", "reasoning", "check", "split")
        ),
        *(({name: None}, name, "a string, found NoneType") for name in ("id", "answer", "category")),
        *(
            ({name: value}, name, "list of strings")
            for name in ("aliases", "entities")
            for value in ("one", 1, None, {}, [1], [[]])
        ),
        *(({name: blank}, name, "non-empty") for name in ("id", "ja", "en") for blank in ("", " \u3000\n")),
        ({"answer": ...}, "answer", "non-empty string for task qa"),
        ({"answer": "。！"}, "answer", "a letter or digit"),
        ({"answer": " "}, "answer", "non-empty string for task qa"),
        ({"task": "translation"}, "task", "one of translate, qa, found 'translation'"),
        ({"difficulty": 1}, "difficulty", "one of the fields id, task, ja, en, answer"),
        ({"": 1}, "", "one of the fields"),
        *(
            ({"hops": value}, "hops", "whole number of at least 1")
            for value in (True, False, 0, -1, 1.0, "2", None, [], float("nan"))
        ),
        ({"split": "validation"}, "split", "one of train, dev, test or empty, found 'validation'"),
        ({"ja": "水\ud83c"}, "ja", "surrogate"),
        ({"aliases": ["ok", "\udf33"]}, "aliases", "surrogate"),
    ],
)
def test_a_broken_field_is_named(tmp_path, changes, field, expected):
    with pytest.raises(RecordError) as caught:
        read(tmp_path, line(id="first") + b"\n\n" + line(**changes))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'own.jsonl'}, line 3, field {field!r}: expected "), message
    assert expected in message and "\n" not in message, message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "not valid JSON"),
        (b'{"id": "a",}', "not valid JSON"),
        (b"{'id': 'a'}", "not valid JSON"),
        (line() + b" x", "not valid JSON"),
        (line() + line(id="b"), "not valid JSON"),
        (line()[:-5] + b'\x00"}', "not valid JSON"),
        (b"\x00", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"ja":' * 200_000, "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
        (line()[:-1] + b', "en": "twice"}', "field 'en' is there twice"),
        (b"[]", "field 'record': expected a JSON object, found list"),
        (b"null", "field 'record': expected a JSON object, found NoneType"),
        (b'"id"', "field 'record': expected a JSON object, found str"),
        (b"\xef\xbb\xbf" + line(id="b"), "not valid JSON"),
        (line(id="b")[:-2] + b"\xe6\xb0\xff", "not UTF-8 (byte "),
        (line(id="b").decode().encode("utf-16"), "not UTF-8 (byte "),
        (line(id="b", ja="水").decode().encode("utf-8").replace(b"\\u6c34", "水".encode("cp932")), "not UTF-8 (byte "),
    ],
)
def test_a_broken_line_is_named(tmp_path, content, expected):
    with pytest.raises(RecordError) as caught:
        read(tmp_path, line(id="first") + b"\n" + content + b"\n")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'own.jsonl'}, line 2") and expected in message and "\n" not in message, (
        message
    )


def test_the_same_id_twice_names_both_lines(tmp_path):
    with pytest.raises(
        RecordError, match=r"own.jsonl, line 4, field 'id': expected a unique id, 'q-1' is on line 1 too"
    ):
        read(tmp_path, b"\n".join([line(), line(id="b"), b"", line()]))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(RecordError, match=r"none.jsonl: no such file. Run notebook 01"):
        records.read(tmp_path / "none.jsonl")
    with pytest.raises(RecordError, match="cannot be read"):
        records.read(tmp_path)
    assert issubclass(RecordError, UserError)


def test_what_editors_do_to_a_file_is_accepted(tmp_path):
    text = b"\xef\xbb\xbf" + line() + b"\r\n\r\n  \t\n" + json.dumps(PAIR).encode()
    assert [r.id for r in read(tmp_path, text)] == ["q-1", "p-1"]
    assert read(tmp_path, b"") == read(tmp_path, b"\xef\xbb\xbf\n") == []


def test_defaults_and_tuples(tmp_path):
    (record,) = read(tmp_path, line(aliases=["a", "b"], hops=3))
    assert record.aliases == ("a", "b") and record.hops == 3 and record.entities == () and record.split == ""
    assert hash(record) == hash(record.replace())
    assert records.problem(record.to_dict()) is None
    assert list(record.to_dict()) == list(corpora.questions()[0].to_dict())


TEXT = st.one_of(
    st.text(), st.sampled_from(["木🌳👨‍👩‍👧", "a\u2028b\u2029c\u0085d", '"\\"', "\ufeffa", "\x00", "\r\n", "が が"])
)
FULL = st.lists(
    st.builds(
        Record,
        id=TEXT.filter(str.strip),
        task=st.sampled_from(records.TASKS),
        ja=TEXT.filter(str.strip),
        en=TEXT.filter(str.strip),
        answer=TEXT.filter(normalise_answer),
        aliases=st.lists(TEXT, max_size=3).map(tuple),
        reasoning=TEXT,
        category=TEXT,
        hops=st.integers(1, 10**30),
        source=TEXT,
        license=TEXT,
        split=st.sampled_from(records.SPLITS),
        entities=st.lists(TEXT, max_size=3).map(tuple),
        check=TEXT,
    ),
    max_size=4,
    unique_by=lambda r: r.id,
)


@settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(FULL)
def test_written_records_read_back_the_same(tmp_path, many):
    path = records.write(tmp_path / "out.jsonl", many)
    assert records.read(path) == many
    assert path.read_bytes().count(b"\n") == len(many), "one record a line"


def test_the_authored_set_reads_back_byte_for_byte(tmp_path):
    path = records.write(tmp_path / "out.jsonl", corpora.questions())
    assert path.read_bytes() == corpora.QUESTIONS.read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, pairs):
    path = records.write(tmp_path / "out.jsonl", pairs)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        records.write(path, (r for r in [pairs[0], 1 / 0]))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def mutated(text: bytes, generator: random.Random) -> bytes:
    """One to three edits of bytes, or one of the JSON value."""
    if generator.random() < 0.4:
        value = json.loads(text)
        name = generator.choice(list(value))
        odd = [None, True, 0, -1, 1.5, 10**30, "", " ", "qa", "dev", "x\ud800", "🌳", "\x00", "a\nb"]
        odd += [[], ["a"], [1], {}, [[]]]
        action = generator.choice(["drop", "set", "set", "rename", "wrap"])
        if action == "set":
            value[name] = generator.choice(odd)
        else:
            kept = value.pop(name)
            if action == "rename":
                value[name + generator.choice(" _é")] = kept
            elif action == "wrap":
                value[name] = [kept]
        return json.dumps(value, ensure_ascii=generator.random() < 0.9).encode("utf-8", "surrogatepass")
    found = bytearray(text)
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(found))
        match generator.randrange(5):
            case 0:
                found[at] = generator.randrange(256)
            case 1:
                del found[at : at + generator.randint(1, 20)]
            case 2:
                found[at:at] = generator.choice(
                    [b'"', b"\\", b"{", b"}", b"[", b",", b":", b"\x00", b"\n", b"\xe3", b"\xf0\x9f\x8c\xb3"]
                )
            case 3:
                found[at:at] = found[generator.randrange(len(found)) :][:30]
            case 4:
                found[at] ^= 1 << generator.randrange(8)
        if not found:
            break
    return bytes(found)


def test_two_thousand_mutated_lines_load_or_are_refused_by_name(tmp_path):
    generator = random.Random(20)
    sources = corpora.QUESTIONS.read_bytes().splitlines()
    outcomes = {"loads": 0, "refused": 0}
    for number in range(2000):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(mutated(generator.choice(sources), generator) + b"\n")
        try:
            found = records.read(path)
        except RecordError as error:
            assert str(error).startswith(f"{path}, line ") and "\n" not in str(error), str(error)
            outcomes["refused"] += 1
        else:
            assert all(records.problem(r.to_dict()) is None for r in found)
            assert all(json.dumps(r.to_dict(), ensure_ascii=False).encode("utf-8") for r in found), (
                "what loads can be written"
            )
            outcomes["loads"] += 1
    assert min(outcomes.values()) > 200, f"the fuzz must reach both ends: {outcomes}"
