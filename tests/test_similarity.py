"""Near-duplicates go and near-misses stay, the first of a cluster is kept, copies of held-out texts are found, neighbours are near."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import curation, similarity
from helpers.records import Record, RecordError
from helpers.similarity import (
    Contamination,
    Neighbours,
    evaluation_rows,
    jaccard,
    near_duplicates,
    neighbours,
    shingles,
)

PROPERTY = settings(max_examples=60, derandomize=True, deadline=None)
FAR_JA = "庭の柿の木に鳥が三羽とまっている。"
FAR_EN = "Three birds are sitting in the persimmon tree."


def row(ja: str = "", en: str = "", name: str = "a") -> Record:
    return Record(name, "translate", ja, en)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("He is a teacher.", "She is a teacher."),
        ("I can go there by bus.", "I can't go there by bus."),
        ("Is that your new car?", "That is your new car."),
        ("I have no brothers at all.", "I have two brothers."),
        ("What is the capital of Japan?", "What is the capital of France?"),
        ("The shop sold 12 apples for 300 yen each, so how much money did it take on that day in all?",
         "The shop sold 15 apples for 400 yen each, so how much money did it take on that day in all?"),
    ],
)  # fmt: skip
def test_other_english_sentences_are_no_near_duplicates(one, other):
    assert near_duplicates([row("雨が降る。", one), row(FAR_JA, other)]) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("彼は先生です。", "彼女は先生です。"),
        ("10時に駅で会いましょう。", "11時に駅で会いましょう。"),
        ("この本は面白い。", "この本は面白くない。"),
        ("あなたは毎日図書館で英語の新聞を読んでいます。", "あなたは毎日図書館で英語の新聞を読んでいますか。"),
        (
            "妹は町の図書館でりんごの絵本を3冊借りて、あとから友達に1冊貸しました。",
            "妹は町の図書館でりんごの絵本を5冊借りて、あとから友達に1冊貸しました。",
        ),
    ],
)
def test_other_japanese_sentences_are_no_near_duplicates(one, other):
    assert near_duplicates([row(one, "It rains."), row(other, FAR_EN)]) == {}


LONG_EN = "When I was walking along the river with my dog early this morning I met the man who used to live next door to us."
LONG_JA = "今朝早くに犬を連れて川沿いを歩いていたとき、以前うちの隣に住んでいた男の人に会いました。"


@pytest.mark.parametrize(
    ("other", "side"),
    [
        (row(FAR_JA, LONG_EN.replace("early this", "this")), "en"),
        (row(FAR_JA, LONG_EN.upper().replace(".", "!!")), "en"),
        (row(LONG_JA.replace("、", "").replace("ました", "ましたよ"), FAR_EN), "ja"),
        (row(f"ねえ、{LONG_JA}", FAR_EN), "ja"),
    ],
)
def test_near_duplicates_on_either_side(other, side):
    found = near_duplicates([row("雨が降る。", "It rains."), row(LONG_JA, LONG_EN), other])
    assert list(found) == [2] and (found[2].side, found[2].of) == (side, 1) and found[2].similarity >= 0.8


def test_a_side_without_letters_resembles_nothing():
    assert near_duplicates([row("。", "!"), row("？", "?"), row("", ""), row("", "")]) == {} == near_duplicates([])


def family(rng: random.Random, size: int) -> list[str]:
    """Sentences of made-up words in families that differ by a few of them."""
    vocabulary = ["".join(rng.choices("abdegiklmnoprstu", k=5)) for _ in range(500)]
    found = []
    while len(found) < size:
        base = rng.choices(vocabulary, k=rng.randint(4, 30))
        for _ in range(rng.randint(1, 4)):
            found.append(" ".join(rng.choice(vocabulary) if rng.random() < 0.04 else w for w in base))
    rng.shuffle(found)
    return found[:size]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_goes_is_near_to_what_stays_and_nothing_near_stays(seed):
    """Against all pairs compared one by one: MinHash may miss a pair in 500 at the threshold, and never adds one."""
    rng = random.Random(seed)
    records = [row("", en, str(i)) for i, en in enumerate(family(rng, 1200))]
    found = near_duplicates(records, 0.8, seed)
    assert near_duplicates(records, 0.8, seed) == found, "the seed decides"
    sets = [shingles(r.en, "en") for r in records]
    kept: list[int] = []
    for i, own in enumerate(sets):
        if i in found:
            near = found[i]
            assert near.of in kept and near.of < i and near.similarity == jaccard(own, sets[near.of]) >= 0.8
        else:
            kept.append(i)
    missed = [(i, j) for a, i in enumerate(kept) for j in kept[:a] if jaccard(sets[i], sets[j]) >= 0.8]
    assert len(found) > 100 and len(missed) <= len(found) / 100


@PROPERTY
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=12), st.integers(0, 3))
def test_any_text_and_a_copy_of_it(sides, seed):
    records = [row(ja, en) for ja, en in sides]
    assert not near_duplicates(records, 0.8, seed).keys() & {0}
    again = near_duplicates([*records, *records], 0.8, seed)
    assert all(len(sides) + i in again or not (shingles(ja, "ja") or shingles(en, "en")) for i, (ja, en) in enumerate(sides))


HELD = row(
    "駅前の古い本屋で見つけた地図には何が描いてありましたか？",
    "What was drawn on the map that you found in the old bookshop?",
    "held-7",
)


@pytest.mark.parametrize(
    ("record", "side"),
    [
        (row(FAR_JA, "what was drawn on the map — that you found in the old bookshop"), "en"),
        (row(FAR_JA, "Ｗｈａｔ ｗａｓ ｄｒａｗｎ ｏｎ ｔｈｅ ｍａｐ ｔｈａｔ ｙｏｕ ｆｏｕｎｄ ｉｎ ｔｈｅ ｏｌｄ ｂｏｏｋｓｈｏｐ？"), "en"),
        (row("『駅前の古い本屋で見つけた地図には､何が描いてありましたか?』", FAR_EN), "ja"),
        (row(f"{FAR_JA}雨の日だった。それで思い出したのだが、{HELD.ja}そう聞かれて、しばらく黙っていた。誰も答えなかった。", FAR_EN), "ja"),
        (row(FAR_JA, f"It was raining on that day, and nobody answered when she asked: {HELD.en} I stayed silent for a while, as I had "
                     "forgotten all about it until then."), "en"),
    ],
)  # fmt: skip
def test_copies_are_found_whole_in_another_guise_or_inside_a_longer_text(record, side):
    copy = Contamination([row("雨が降る。", "It is raining.", "other"), HELD]).match(record)
    assert (copy.side, copy.id) == (side, "held-7") and copy.share >= 0.8


@pytest.mark.parametrize(
    "record",
    [
        row("本屋にあった古地図には、どんな絵がありましたか？", "The old map from the bookstore: what did it show?"),
        row("駅前の古い本屋は今日も開いている。", "The old bookshop by the station is open today."),
    ],
)
def test_paraphrases_are_kept(record):
    assert Contamination([HELD]).match(record) is None


def test_short_sentences_are_found_when_they_are_the_same():
    guard = Contamination([row("どうもね。", "Good morning, Tom.")])
    assert guard(row("", "good morning tom!")) == "en side is in a held-out set"
    assert guard(row("「どうもね」", "")) == "ja side is in a held-out set"
    for other in (row("どうもさ。", "Good morning."), row("どうもね、トム。", "Good morning, Tom and Mary."), row("", "")):
        assert guard(other) == ""


def test_parts_of_many_held_out_texts_are_no_copy_of_one():
    held = [row("", "We went to the old harbour.", "a"), row("", "They said that we would wait for you there.", "b")]
    assert (
        Contamination(held).match(row("", "We went to the old market, where they said that we would buy them bread.")) is None
    )


def test_a_question_with_another_name_is_kept():
    assert Contamination([row("", "What is the capital of Japan?")])(row("", "What is the capital of France?")) == ""


def test_looking_does_not_change_the_guard():
    guard = Contamination([HELD])
    before = {side: len(found) for side, found in guard.holders.items()}
    for n in range(50):
        guard(row(f"{n}番目の文はまだ誰も見たことがない。", f"Nobody has seen sentence number {n} so far."))
    assert {side: len(found) for side, found in guard.holders.items()} == before


def test_an_evaluation_file_keeps_its_rows_out_of_training(tmp_path, pairs):
    path = tmp_path / "benchmark.jsonl"
    rows = [
        {"en": pairs[0].en.upper(), "answer": 3},
        {"id": 7, "ja": pairs[1].ja.replace("。", ""), "en": None},
        {"ja": HELD.ja, "en": HELD.en},
    ]
    path.write_text("\ufeff" + "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n\n", encoding="utf-8")
    held = evaluation_rows(path)
    assert [r.id for r in held] == ["benchmark.jsonl:1", "7", "benchmark.jsonl:3"]
    splits, funnel = curation.curate_pairs(pairs, held, {"train": None, "dev": 1, "test": 1})
    label = "not in the held-out sets"
    assert funnel.dropped == [
        (pairs[0].id, "en side is in a held-out set", label),
        (pairs[1].id, "ja side is in a held-out set", label),
    ]
    assert sum(map(len, splits.values())) == len(pairs) - 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2, field 'record': expected a JSON object, found list"),
        ('{"ja": 3}', "line 2, field 'ja': expected a string, found int"),
        ('{"en": ["a"]}', "line 2, field 'en': expected a string, found list"),
        ('{"question": "What?"}', "line 2, field 'ja': expected text in 'ja', in 'en' or in both"),
        ('{"ja": "。", "en": " "}', "line 2, field 'ja': expected text"),
    ],
)  # fmt: skip
def test_a_bad_evaluation_file_is_named_with_its_line(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"en": "Fine."}\n' + line, encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        evaluation_rows(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_evaluation_file_that_is_not_there_or_not_utf8(tmp_path):
    with pytest.raises(RecordError, match="none.jsonl: cannot be read"):
        evaluation_rows(tmp_path / "none.jsonl")
    (tmp_path / "sjis.jsonl").write_bytes('{"ja": "雨"}'.encode("cp932"))
    with pytest.raises(RecordError, match="sjis.jsonl: cannot be read .it is not UTF-8"):
        evaluation_rows(tmp_path / "sjis.jsonl")


def test_neighbours_are_near_sorted_and_without_the_record_itself(pairs):
    near = [
        pairs[2].replace(
            id="close", ja="祖母は毎晩みそ汁を作ってくれた。", en="My grandmother made miso soup for me every evening."
        ),
        pairs[2].replace(id="half", ja=pairs[2].ja, en="Something that is said otherwise."),
    ]
    index = Neighbours([*pairs, *near])
    found = index.nearest(pairs[2], 3)
    assert [r.id for r, _ in found[:2]] == ["close", "half"] and pairs[2] not in [r for r, _ in found]
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True) and 0.5 < scores[0] < 1 and found == index.nearest(pairs[2], 3)
    assert index.nearest(pairs[2].replace(id="copy"), 1) == [(pairs[2], 1.0)]
    assert neighbours(pairs[2], [*pairs, *near], 2) == found[:2]


def test_neighbours_of_odd_records(pairs):
    assert neighbours(row("。", "!"), pairs) == []
    assert neighbours(row("Ω", "ζ"), pairs) == []
    assert len(neighbours(pairs[0], pairs, 100)) < len(pairs)
    assert neighbours(pairs[0], [row("", "", "empty"), pairs[0]]) == []


def test_a_record_finds_itself_among_many():
    rng = random.Random(5)
    records = [row("", text, str(i)) for i, text in enumerate(family(rng, 3000))]
    index = Neighbours(records)
    for record in rng.sample(records, 20):
        best = index.nearest(record.replace(id="new"), 1)[0]
        assert best[1] > 0.999 and similarity.words(best[0].en) == similarity.words(record.en)
