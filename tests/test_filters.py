"""Each row filter takes what it is for and nothing else, in any order, in a list and in a stream."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import filters
from helpers.curation import Funnel, curate_pairs
from helpers.filters import FILTERS, clean, judged, normalise, row_filter, token_counter, token_lengths, words
from helpers.records import Record

PROPERTY = settings(max_examples=200, derandomize=True, deadline=None)
# Halves of surrogate pairs too: a stream can hold what the reader of records refuses.
ANY = st.text(alphabet=st.characters(exclude_categories=()), max_size=60)
JA, EN = "駅前の本屋は九時に開きます。", "The bookshop by the station opens at nine."


def pair(ja: str = JA, en: str = EN) -> Record:
    return Record("a", "translate", ja, en)


@PROPERTY
@given(ANY, ANY)
def test_no_text_stops_a_filter(ja, en):
    for text in (ja, en):
        assert normalise(normalise(text)) == normalise(text) and clean(clean(text)) == clean(text)
        assert words(" ".join(words(text))) == words(text)
    row = judged({"id": 1, "ja": ja, "en": en})
    assert row["reason"] == row_filter(row) == row_filter({"ja": ja, "en": en}), "judged again, a row gets the same reason"
    if not row["reason"]:
        assert "\ufffd" not in ja + en and row["ja"] and row["en"]


def test_the_key_is_composed_once_more_without_punctuation():
    assert normalise("\u1100-\u1161") == normalise(normalise("\u1100-\u1161")) == "\uac00"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("はい,そうです.", "はい、そうです。"),
        ("「はい.」と言った.", "「はい。」と言った。"),
        ("約1,000人が3.5km走った...", "約1,000人が3.5km走った..."),
        ("サイトはexample.comです", "サイトはexample.comです"),
        ("ゼロ\u200b幅\ufeffの\u00ad文字", "ゼロ幅の文字"),
        ("Zero\u200b width, here.", "Zero width, here."),
    ],
)
def test_clean_puts_japanese_punctuation_after_japanese_only(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize("text", ["don't stop", "DON’T  stop!", "ｄｏｎ＇ｔ　ｓｔｏｐ", "Dont-stop."])
def test_words_of_the_same_text_in_another_guise(text):
    assert words(text) == ["dont", "stop"]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (pair(), ""),
        (pair(ja="。。。"), "ja is empty"),
        (pair(en=" \u3000…"), "en is empty"),
        (pair(ja="駅前の\ufffd屋は開きます。"), "ja is unreadable"),
        (pair(ja="é§…å‰\u008dã\u0081®æœ¬å±‹"), "ja is unreadable"),
        (pair(ja=JA.encode().decode("cp932", "ignore")), "ja is unreadable"),
        (pair(ja=clean(JA.encode().decode("cp932", "ignore"))), "ja is unreadable"),
        (pair(ja=JA.encode().decode("cp1252", "ignore")), "ja is unreadable"),
        (pair(ja=JA.encode().decode("latin-1")), "ja is unreadable"),
        (pair(en="The cafÃ© opens at nine."), "en is unreadable"),
        (pair(en="Itâ€™s open."), "en is unreadable"),
        (pair(en="It is\x00 open."), "en is unreadable"),
        (pair(ja="話は縺れに縺れた。"), ""),
        (pair(en="The café opens at 20°C – “naïve”, isn’t it…"), ""),
        (pair(en="Voilà… “Él” is Spanish for ‘he’."), ""),
    ],
)
def test_unreadable(record, why):
    assert filters.unreadable(record) == why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("See https://example.org/a for it.", "web or mail address"),
        ("Write to me@example.co.jp soon.", "web or mail address"),
        ("I read it on example.com yesterday.", "web or mail address"),
        ("Call 03-1234-5678 now.", "telephone number"),
        ("Call +81 3 1234 5678 now.", "telephone number"),
        ("Our number is 1234-5678.", "telephone number"),
        ("Dial 1—800—555—0100 for help.", "telephone number"),
        ("It is <b>open</b> now.", "markup or code"),
        ("Fish &amp; chips are here.", "markup or code"),
        ("var shop = open(9);", "markup or code"),
        ("Copyright © 2020 The Shop", "boilerplate"),
        ("Please click here for more.", "boilerplate"),
        ("Nooooooooo, it is closed.", "repeats itself"),
        ("open open open open open open", "repeats itself"),
        ("NASA was led by him (1925-2018).", ""),
        ("The range covers 1500-2000 square kilometres.", ""),
        ("It happened on 2011-03-11 at 14:46.", ""),
        ("The score was 10-8, and a return costs $100000.", ""),
        ("He said: \"A; B, and C: 50% & more...\"", ""),
        ("I ate cookies. I <3 them, no?!", ""),
        ("Very, very, very, very good....", ""),
        ("The node.js of my U.S. friend, Mr. Smith.", ""),
    ],
)  # fmt: skip
def test_unsafe(text, why):
    assert filters.unsafe(pair(en=text)) == why
    assert filters.unsafe(pair(ja=f"そこには「{text}」とある。")) == why, "on either side"


@pytest.mark.parametrize("ja", ["詳しくは電話１２３４−５６７８まで。", "無断転載を禁じます。", "ははははははは、面白い。"])
def test_unsafe_japanese(ja):
    assert filters.unsafe(pair(ja=clean(ja)))


FOREIGN = [
    "Je ne sais pas ce que tu veux.", "Il fait très beau aujourd'hui.", "Wir gehen morgen ins Kino.", "Ich habe keine Zeit dafür.",
    "No quiero comer más pescado.", "Mi hermano vive en una casa grande.", "Oggi non ho voglia di lavorare.",
    "Eu gosto muito de ler livros.", "Hij heeft een nieuwe fiets gekocht.", "Jag vill inte gå till skolan.",
    "Saya tidak mau makan nasi.", "Bugün hava çok güzel.",
]  # fmt: skip
ROMAJI = [
    "Watashi wa gakusei desu.", "Kyou wa ame ga futte imasu.", "Eki wa doko desu ka?", "Kono hon wo yonde kudasai.",
    "Ashita Kyouto ni ikimasu.", "Sumimasen, wakarimasen deshita.",
]  # fmt: skip
ENGLISH = [
    "He sang.", "Be quiet!", "No pain, no gain.", "Tom came to Naomi's home.", "I live in Yokohama.", "She adores cats.",
    "I like café au lait and El Niño.", "Do me a favor, Mariko.", "We flew from Tokyo to Osaka.", "Bern is the capital of Switzerland.",
    "Ann ate a banana on a sofa.", "I hate karaoke.",
]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "why"),
    [(FOREIGN, "en is in another language"), (ROMAJI, "en is Japanese in Latin letters"), (ENGLISH, "")],
    ids=["foreign", "romaji", "english"],
)
def test_language_of_the_english_side(texts, why):
    assert {en: filters.wrong_language(pair(en=en)) for en in texts} == dict.fromkeys(texts, why)


@pytest.mark.parametrize(
    ("ja", "why"),
    [
        ("Facebookやってる？", ""),
        ("喧嘩両成敗。", ""),
        ("一、二、三、四、五、六、七、八、九、十、十一、十二。", ""),
        ("未就学児入場無料", ""),
        ("This is a very good pen です", "ja is mostly in another script"),
        ("오늘은 날씨가 좋습니다 日", "ja is mostly in another script"),
        ("我们今天去学校吃饭。", "ja is Chinese by its characters"),
        ("今天天氣非常好我想去公園散步", "ja is Chinese by its characters"),
        ("Сегодня хорошая погода", "ja has no Japanese script"),
    ],
)
def test_language_of_the_japanese_side(ja, why):
    assert filters.wrong_language(pair(ja=ja)) == why


def test_the_english_side_in_another_script():
    assert filters.wrong_language(pair(en="Сегодня OK")) == "en is partly in another script"
    assert filters.wrong_language(pair(en="The remainder of 2²⁰¹³ by π is not asked for.")) == ""


def test_the_authored_questions_pass_all_but_the_length_of_a_sentence(questions):
    for _, reason in FILTERS[:-1]:
        assert {r.id: why for r in questions if (why := reason(r))} == {}


FAULTY = [
    pair(en="Je ne sais pas: www.example.fr"), pair(ja="雨", en="It rains, it rains\ufffd"), pair(ja="雨" * 90, en="rain"), pair(),
    pair(ja="", en="https://example.com"), pair(ja="It rains.", en="雨が降る。"), pair(en="hahahahahahahahahaha"), pair(en="x"),
]  # fmt: skip
FAULTY = [r.replace(id=str(i)) for i, r in enumerate(FAULTY)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(FILTERS)))))
def test_the_order_of_the_filters_changes_reasons_and_not_what_is_dropped(order):
    funnel, left = Funnel(), FAULTY
    for place in order:
        left = funnel.apply(*[FILTERS[place][0], left, FILTERS[place][1]])
    assert [r.id for r in left] == ["3"]
    assert sorted(i for i, _, _ in funnel.dropped) == [r.id for r in FAULTY if r.id != "3"]


@pytest.mark.parametrize(
    "text", ["a" * 20_000, "あ" * 20_000, "a-" * 10_000, "na" * 10_000 + "x wa", "<a" * 10_000, "1-2 " * 5_000, "@." * 10_000, "縺" * 9_999]
)  # fmt: skip
def test_no_text_makes_a_filter_slow(text):
    begun = time.perf_counter()
    for _, reason in FILTERS:
        reason(pair(ja=f"雨{text}", en=text))
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_the_filters_run_in_a_stream(tmp_path, kind):
    from datasets import load_dataset

    rows = [{"id": r.id, "ja": r.ja, "en": r.en} for r in FAULTY] + [{"id": "none", "ja": None, "en": EN}]
    path = tmp_path / f"rows.{kind}"
    if kind == "json":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    stream = load_dataset(kind, data_files=str(path), split="train", streaming=True).map(judged)
    assert [r["id"] for r in stream.filter(lambda r: not r["reason"])] == ["3"]
    assert {r["id"]: r["reason"] for r in stream if r["reason"]} == {r["id"]: row_filter(r) for r in rows if row_filter(r)}
    assert row_filter(rows[-1]) == row_filter({"en": EN}) == "ja is empty"


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[BOS]": 1}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[BOS] $A", special_tokens=[("[BOS]", 1)])
    return tokenizer


@pytest.mark.parametrize("wrapped", [False, True])
def test_tokens_are_counted_in_batches_and_without_special_ones(wrapped):
    from transformers import PreTrainedTokenizerFast

    tokenizer = word_tokenizer()
    count = token_counter(PreTrainedTokenizerFast(tokenizer_object=tokenizer) if wrapped else tokenizer)
    assert count(["one two three", "one", ""]) == [3, 1, 0]
    rows = [pair(ja="雨", en=" ".join(["rain"] * n)) for n in range(1, 8)]
    assert [bool(why) for why in token_lengths(rows, count, 4, batch=3)] == [False] * 4 + [True] * 3


def test_the_token_limit_is_a_step_of_the_funnel(pairs):
    sizes = {"train": None, "dev": 1, "test": 1}
    splits, funnel = curate_pairs(pairs, [], sizes, count_tokens=token_counter(word_tokenizer()), max_tokens=10)
    # The tokenizer of the test splits at spaces and around punctuation ("Let's" is three).
    long = ["pair-1", "pair-3", "pair-5", "pair-6"]
    assert [(i, label) for i, _, label in funnel.dropped] == [(i, "at most 10 tokens") for i in long]
    assert sum(map(len, splits.values())) == len(pairs) - len(long), "None takes all that are left"
