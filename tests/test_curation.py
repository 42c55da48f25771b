"""Cleaning changes width and nothing else, no copy crosses a split, and every record dropped keeps its reason."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import corpora, curation, pipeline, runtime
from helpers.curation import Contamination, Funnel, clean, curate_pairs, deduplicate, normalise, split_by_entity
from helpers.files import UserError
from helpers.records import Record

PROPERTY = settings(max_examples=300, derandomize=True, deadline=None)
WORDS = st.text(alphabet="あがぱカヴー々漢字山川XYZabc0189", max_size=30)
MARKS = st.text(alphabet="、。！？!?「」『』（）()・…,.;:'\" \u3000-_〜~\n", max_size=3)
WIDE = {i: i + 0xFEE0 for i in range(0x21, 0x7F)}
SIZES = {"train": 250, "dev": 40, "test": 60}


def wide(text: str) -> str:
    return text.translate(WIDE)


@PROPERTY
@given(st.text())
def test_normalise_and_clean_are_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)
    assert clean(clean(text)) == clean(text)


@PROPERTY
@given(st.lists(st.tuples(WORDS, MARKS), max_size=5))
def test_the_key_ignores_width_case_spaces_and_punctuation(parts):
    bare = "".join(word for word, _ in parts)
    marked = "".join(word + mark for word, mark in parts)
    assert normalise(bare) == normalise(marked) == normalise(wide(marked)) == normalise(marked.upper())
    assert normalise(clean(marked)) == normalise(bare), "cleaning never changes what a text is compared by"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ｶﾞｯｺｳへ１０時に行く。", "ガッコウへ10時に行く"),
        ("か\u3099っこう", "がっこう"),
        ("Ｗｈａｔ’ｓ　ｕｐ？", "whats up"),
        ("Straße", "STRASSE"),
    ],
)
def test_the_same_text_in_another_guise(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"), [("10時", "11時"), ("はし", "はじ"), ("ビル", "ビール"), ("人", "入"), ("bat", "bad")]
)
def test_other_words_have_other_keys(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("１０時に　ＡＢＣで\n会おう!", "10時に ABCで 会おう！"),
        ("本当?（いいえ）ｶﾞﾗｽは５０％～", "本当？（いいえ）ガラスは50%〜"),
        ("型(2001年)は｢肉｣を半㌔", "型（2001年）は「肉」を半キロ"),
        ("面積は10²㎞です…", "面積は10²kmです…"),
        ("Ｒｅａｌｌｙ？　（Ｙｅｓ！）", "Really? (Yes!)"),
        ("It’s 5 °C – not\u00a010²…", "It’s 5 °C – not 10²…"),
        (" \u3000\n", ""),
    ],
)
def test_clean_changes_width_and_nothing_else(text, expected):
    assert clean(text) == expected


def test_clean_leaves_the_authored_questions_alone(questions):
    changed = [r.id for r in questions for text in (r.ja, r.en, r.reasoning) if clean(text) != text]
    assert not changed, "the questions are written the way the pairs are cleaned"


@pytest.mark.parametrize(
    ("ja", "en", "why"),
    [
        ("雨だ。", "It is raining.", ""),
        ("カタカナ", "Katakana", ""),
        ("It is raining.", "雨だ。", "ja has no Japanese script"),
        ("Rain?", "It is raining.", "ja has no Japanese script"),
        ("雨だ。", "It is あめ.", "en has Japanese script"),
        ("雨だ。", "1, 2, 3 …", "en has no Latin letter"),
    ],
)
def test_languages_by_script(ja, en, why):
    assert curation.wrong_language(Record("a", "translate", ja, en)) == why


@pytest.mark.parametrize(
    ("ja", "en", "why"),
    [
        (4, 8, ""), (80, 200, ""), (10, 60, ""), (10, 8, ""),
        (3, 8, "length out of bounds"), (81, 90, "length out of bounds"),
        (4, 7, "length out of bounds"), (80, 201, "length out of bounds"),
        (10, 61, "unlikely length ratio"), (20, 13, "unlikely length ratio"),
    ],
)  # fmt: skip
def test_lengths(ja, en, why):
    assert curation.odd_length(Record("a", "translate", "あ" * ja, "a" * en)) == why


def test_no_side_is_kept_twice(pairs):
    a, b, c = pairs[:3]
    copies = [
        a.replace(id="same ja", ja=wide(a.ja.replace("。", "!!")), en="Something else altogether."),
        b.replace(id="same en", ja="まったく別の文です。", en=b.en.upper().replace(".", " ")),
        c.replace(id="both"),
    ]
    funnel = Funnel()
    assert deduplicate([*pairs, *copies], funnel) == pairs
    assert funnel.dropped == [(r.id, "repeats a side", "no side repeated") for r in copies]
    assert funnel.steps == [("no side repeated", len(pairs))]


def test_planted_copies_of_held_out_questions_are_found(questions):
    held = [r for r in questions if r.split != "train"]
    guard = Contamination(held)
    for r in held:
        other = {"ja": "庭の柿の木に鳥が三羽とまっている。", "en": "Three birds are sitting in the persimmon tree."}
        for side in ("ja", "en"):
            text = getattr(r, side)
            for copy in (
                text,
                wide(text),
                text.replace("、", "").replace("？", "?").lower(),
                f"「{text}」！！",
                f"  {text[:-1]}\n",
            ):
                record = Record("copy", "translate", **(other | {side: copy}))
                assert guard(record) == f"{side} side is in a held-out set", (r.id, copy)


def test_a_question_with_one_word_changed_is_found():
    held = Record("a", "qa", "長野県では千曲川と呼ばれ、新潟県で日本海に注ぐ、日本で一番長い川は何ですか？", "?", "a")
    assert (
        Contamination([held])(held.replace(ja=held.ja.replace("何ですか", "どれですか"), en="x"))
        == "ja side is in a held-out set"
    )


def test_a_paraphrase_is_kept():
    held = Record("a", "qa", "日本で一番高い山はどこですか？", "What is the highest mountain in Japan?", "Mount Fuji")
    guard = Contamination([held])
    for ja, en in [
        ("国内の最高峰の名前を教えてください。", "Tell me the name of the country's tallest peak."),
        ("日本で二番目に高い山は北岳だ。", "The second highest mountain in the country is Kita-dake."),
        ("日本で一番長い川はどれですか？", "Which river is the longest one in Japan?"),
    ]:
        assert guard(Record("b", "qa", ja, en, "x")) == ""


def test_training_questions_do_not_resemble_held_out_ones(questions):
    guard = Contamination([r for r in questions if r.split != "train"])
    assert [r.id for r in questions if r.split == "train" and guard(r)] == []


def raw_pairs(questions) -> tuple[list[Record], dict[str, str]]:
    """Sentence pairs with planted faults, and the reason that each planted one is to be dropped for."""
    good = [Record(f"good-{r.id}", "translate", r.ja, r.en) for r in questions]
    first = [r for r in good if not curation.odd_length(r)][:4]
    planted = {
        Record("swapped", "translate", "It is raining.", "雨が降っている。"): "ja has no Japanese script",
        Record("half", "translate", "雨が降っている。", "It is 雨."): "en has Japanese script",
        Record("digits", "translate", "一、二、三、四。", "1, 2, 3, 4, 5."): "en has no Latin letter",
        first[3].replace(id="long", ja=first[3].ja * 4, en=first[3].en * 4): "length out of bounds",
        Record("advert", "translate", "詳しくは当社のサイトへ。", "See www.example.com for more."): "web or mail address",
        Record("mojibake", "translate", "æ\x97¥æ\x9c¬は雨。", "It rains in Japan."): "ja is unreadable",
        Record("french", "translate", "雨が降っている。", "Il pleut depuis ce matin."): "en is in another language",
        first[2].replace(id="near en", ja="別の日本語の文を書いた。" * 2, en=f"{first[2].en[:-1]} here?"): "nearly repeats en",
        first[1].replace(id="near ja", ja=f"{first[1].ja[:-1]}、先生？", en=f"Quite another sentence. {'It is long. ' * 2}"): "nearly repeats ja",
        Record("ratio", "translate", "雨だよね", "It rains and rains and rains."): "unlikely length ratio",
        first[0].replace(id="ja again", ja=wide(first[0].ja), en="An entirely different sentence."): "repeats a side",
        first[1].replace(id="en again", ja="まったく違う文だ。" * 4, en=first[1].en.upper()): "repeats a side",
        Record("held ja", "translate", f"！{HELD.ja[:-1]}", "It is an unrelated sentence."): "ja side is in a held-out set",
        Record("held en", "translate", "これは無関係な文です。", HELD.en.lower()): "en side is in a held-out set",
    }  # fmt: skip
    every = [*good, *planted]
    # The originals stay ahead of their copies.
    head, tail = first, [r for r in every if r not in first]
    random.Random(1).shuffle(tail)
    return [*head, *tail], {r.id: why for r, why in planted.items()}


HELD = Record(
    "held",
    "qa",
    "さっき駅前で買った、あの丸い緑色の果物は何という名前ですか？",
    "What is the name of the round green fruit you bought?",
    "melon",
)


def test_curated_splits(questions):
    raw, planted = raw_pairs(questions)
    splits, funnel = curate_pairs(raw, [HELD], SIZES, seed=3)
    assert {name: len(rows) for name, rows in splits.items()} == SIZES
    assert all(r.split == name for name, rows in splits.items() for r in rows)
    for side in ("ja", "en"):
        keys = [normalise(getattr(r, side)) for rows in splits.values() for r in rows]
        assert len(set(keys)) == len(keys), "no side is in two splits, nor twice in one"
    assert all(clean(r.ja) == r.ja and clean(r.en) == r.en for rows in splits.values() for r in rows)
    assert planted.items() <= {i: why for i, why, _ in funnel.dropped}.items(), "each planted fault is dropped for its own reason"
    assert not Counter(map(Contamination(splits["test"] + splits["dev"]), splits["train"])).keys() - {""}


def test_the_funnel_adds_up(questions):
    raw, _ = raw_pairs(questions)
    splits, funnel = curate_pairs(raw, [HELD], SIZES, seed=3)
    drawn = {r.id for rows in splits.values() for r in rows}
    refused = [i for i, _, _ in funnel.dropped]
    assert len(set(refused)) == len(refused) and not drawn & set(refused)
    assert drawn | set(refused) <= {r.id for r in raw} and all(why for _, why, _ in funnel.dropped)
    counts = [n for _, n in funnel.steps]
    assert counts[0] == len(raw) and counts[-1] == len(drawn) == sum(SIZES.values())
    labels = [
        "pairs in the corpus", "readable text on both sides", "Japanese and English", "no addresses, markup, boilerplate",
        "plausible lengths", "no side repeated", "no near-duplicate", "not in the held-out sets", "drawn for this run",
    ]  # fmt: skip
    assert [label for label, _ in funnel.steps] == labels
    taken = Counter(label for _, _, label in funnel.dropped)
    for (_, before), (label, after) in zip(funnel.steps, funnel.steps[1:-1], strict=False):
        assert taken[label] == before - after > 0, "each filter took what its step lost, and none is idle here"
    assert taken["drawn for this run"] <= counts[-2] - counts[-1], "the rest was not drawn"
    assert all("held-out" in why for _, why, label in funnel.dropped if label in labels[-2:])


def test_near_copies_of_the_drawn_test_pairs_stay_out_of_training(questions):
    good = [Record(r.id, "translate", r.ja, r.en) for r in questions if not curation.odd_length(r)]
    near = [r.replace(id=f"near-{r.id}", ja=f"ねえ、{r.ja}", en=f"Well, {r.en[:-1]}, I wonder?") for r in good]
    # At a threshold of 1 the near-duplicates stay, so that it is the guard that has to find them.
    splits, funnel = curate_pairs([*good, *near], [], {"train": 400, "dev": 50, "test": 50}, threshold=1.0)
    held = {r.id.removeprefix("near-") for r in splits["dev"] + splits["test"]}
    assert not held & {r.id.removeprefix("near-") for r in splits["train"]}
    assert sum("held-out" in why for _, why, _ in funnel.dropped) > 10


def test_the_draw_depends_on_the_seed_alone(questions):
    raw, _ = raw_pairs(questions)
    draws = [curate_pairs(raw, [HELD], SIZES, seed)[0] for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_of_a_large_corpus_a_pool_is_looked_at(questions):
    raw, _ = raw_pairs(questions)
    few = {"train": 60, "dev": 20, "test": 20}
    draws = [curate_pairs(raw, [HELD], few, seed, pool=300) for seed in (3, 3, 4)]
    (splits, funnel), again, other = draws
    assert splits == again[0] != other[0]
    assert funnel.steps[0] == (f"drawn from the corpus ({len(raw):,} pairs)", 300) and funnel.steps[-1][1] == 100
    looked = [r for rows in splits.values() for r in rows]
    assert len({r.id for r in looked} | {i for i, _, _ in funnel.dropped}) <= 300
    everything = curate_pairs(raw, [HELD], few, 3)[0]
    for pool in (0, len(raw), 10 * len(raw)):
        assert curate_pairs(raw, [HELD], few, 3, pool=pool)[0] == everything != splits
    with pytest.raises(UserError, match="pool_pairs"):
        curate_pairs(raw, [HELD], few, 3, pool=80)


@pytest.mark.parametrize(
    "sizes", [SIZES | {"train": 10_000}, SIZES | {"train": 0, "test": 10_000}, SIZES | {"dev": 540}]
)
def test_too_few_pairs(questions, sizes):
    with pytest.raises(UserError) as caught:
        curate_pairs(raw_pairs(questions)[0], [], sizes)
    message = str(caught.value)
    assert "pairs are left, too few for train " in message and "Give more pairs or ask for smaller splits" in message
    assert "\n" not in message


def test_too_few_pairs_reach_the_user_as_one_line(tmp_path, monkeypatch, pairs):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    monkeypatch.setattr(corpora, "tatoeba", lambda say=print: pairs)
    run = runtime.open_run("few", "tiny")
    with pytest.raises(UserError, match="8 pairs are left, too few for train 48, dev 8, test 8"):
        pipeline.curate(run, say=lambda text: None)
    assert not run.path("data", "manifest.json").exists()


SHARES = {"train": 0.5, "dev": 0.12, "test": 0.38}


def entities_apart(records: list[Record]) -> bool:
    splits = defaultdict(set)
    for r in records:
        for entity in r.entities:
            splits[entity].add(r.split)
    return all(len(found) == 1 for found in splits.values())


def test_entities_stay_in_one_split_and_categories_near_their_shares(questions):
    bare = [r.replace(split="") for r in questions]
    found = split_by_entity(bare, SHARES, seed=0)
    assert [r.replace(split="") for r in found] == bare, "only the split is assigned"
    assert entities_apart(found)
    totals = Counter(r.category for r in found)
    for (category, split), n in Counter((r.category, r.split) for r in found).items():
        assert abs(n - SHARES[split] * totals[category]) <= 2, (category, split, n)
    assert split_by_entity(bare, SHARES, seed=0) == found
    assert split_by_entity(bare, SHARES, seed=1) != found


def test_records_linked_over_others_move_together():
    links = [("a", "b"), ("c",), ("d", "e"), ("b", "c"), ("e",), ("x",), ("y",), ("z",)]
    records = [Record(str(i), "qa", "あ", "a", "a", entities=e) for i, e in enumerate(links)]
    found = split_by_entity(records, {"train": 0.5, "test": 0.5})
    assert len({found[i].split for i in (0, 1, 3)}) == len({found[i].split for i in (2, 4)}) == 1
    assert {r.split for r in found} == {"train", "test"}


@PROPERTY
@given(st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=2), max_size=20), st.integers(0, 5))
def test_any_graph_of_entities(links, seed):
    records = [
        Record(str(i), "qa", "あ", "a", "a", entities=tuple(e), category="x" * (i % 2)) for i, e in enumerate(links)
    ]
    found = split_by_entity(records, SHARES, seed)
    assert entities_apart(found) and len(found) == len(records) and all(r.split in SHARES for r in found)


def test_a_split_with_no_share_stays_empty(questions):
    found = split_by_entity(questions, {"train": 0.7, "dev": 0, "test": 0.3})
    assert {r.split for r in found} == {"train", "test"}
