"""Which records carry a rationale: nested, balanced, or listed; the controls; files that can be made again bit by bit."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import edits, models, profiles, prompts, reasoning, records
from helpers.files import UserError, read_json, sha256
from helpers.gates import concludes
from helpers.reasoning import mix, ranking, remake_arms, shuffled, target_tokens, token_matched, write_arms
from helpers.records import Record


def in_words(text: str) -> int:
    return len(text.split())


def by_words(record: Record) -> int:
    return target_tokens(record, in_words)


@pytest.fixture(scope="module")
def training(questions) -> list[Record]:
    return [r.replace(reasoning="") for r in questions if r.split == "train"]


@pytest.fixture(scope="module")
def rationales(questions) -> dict[str, str]:
    return {r.id: r.reasoning for r in questions if r.split == "train"}


def test_authored_rationales_come_from_the_library_by_id(training):
    first, second = training[:2]
    library = [first.replace(reasoning="Because."), second, first.replace(id="other", reasoning="x")]
    assert reasoning.authored([first, second], library) == {first.id: "Because."}


def test_gate_and_check_are_found_here_too(training, rationales):
    accepted, outcomes = reasoning.check(training[:3], {training[0].id: rationales[training[0].id]})
    assert list(outcomes.values()) == ["accepted", "missing", "missing"] and list(accepted) == [training[0].id]
    assert reasoning.gate(training[0], rationales[training[0].id]) == ""


def test_a_reader_edits_rejects_and_writes_rationales(tmp_path, training, rationales):
    store, (a, b, c, d) = edits.EditStore(tmp_path / "edits.jsonl"), training[:4]
    given_ = {r.id: rationales[r.id] for r in (a, b, c)}
    store.decide(a.replace(reasoning=given_[a.id]), "edit", {"reasoning": "Better."})
    store.decide(b.replace(reasoning=given_[b.id]), "reject")
    store.decide(c.replace(reasoning="Another one."), "reject")
    store.decide(d, "edit", {"reasoning": "New."})
    found, dropped = reasoning.reviewed(training, given_, store.decisions())
    assert found == {a.id: "Better.", c.id: given_[c.id], d.id: "New."}
    assert dropped == [(b.id, edits.REJECTED), (c.id, edits.CHANGED)]


def test_every_prefix_of_the_ranking_is_balanced(training):
    order = ranking(training)
    assert sorted(order) == sorted(r.id for r in training)
    stratum = {r.id: (r.category, r.difficulty) for r in training}
    for kind in (stratum, {i: s[0] for i, s in stratum.items()}, {i: s[1] for i, s in stratum.items()}):
        totals, seen = Counter(kind.values()), Counter()
        for n, record_id in enumerate(order, 1):
            seen[kind[record_id]] += 1
            assert all(abs(seen[s] - n / len(order) * total) <= 3 for s, total in totals.items()), n


made = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2), st.booleans()), min_size=1, max_size=60).map(
    lambda kinds: [
        Record(f"q{i}", "qa", "問", "Q?", str(i), category=c, hops=hops, check="1 + 1" if check else "")
        for i, (c, hops, check) in enumerate(kinds)
    ]
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(made, st.integers(0, 99), st.randoms(use_true_random=False))
def test_any_ranking_is_balanced_and_free_of_the_given_order(training, seed, random):
    order = ranking(training, seed)
    turned = random.sample(training, len(training))
    assert ranking(turned, seed) == order and sorted(order) == sorted(r.id for r in training)
    stratum = {r.id: (r.category, r.difficulty) for r in training}
    totals, seen = Counter(stratum.values()), Counter()
    for n, record_id in enumerate(order, 1):
        seen[stratum[record_id]] += 1
        # Each stratum is within one record of its share at every place of the order, and so their sum within one each.
        assert all(abs(seen[s] - n / len(order) * total) <= 1 + len(totals) * total / len(order) for s, total in totals.items())


@settings(max_examples=100, derandomize=True, deadline=None)
@given(made, st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(0, 99), st.sets(st.integers(0, 59)))
def test_any_fractions_are_nested(training, fractions, seed, bare):
    rationales = {r.id: f"{r.id}." for i, r in enumerate(training) if i not in bare}
    sets = [{r.id for r in mix(training, rationales, f, seed) if r.reasoning} for f in sorted(fractions)]
    assert all(a <= b for a, b in zip(sets, sets[1:], strict=False))
    assert [len(s) for s in sets] == [min(round(f * len(training)), len(rationales)) for f in sorted(fractions)]


def test_the_ranking_depends_on_the_seed(training):
    assert ranking(training) != ranking(training, seed=1)


def test_shares_of_rationales_are_nested(training, rationales):
    with_reasoning = [{r.id for r in mix(training, rationales, f / 100) if r.reasoning} for f in (0, 20, 33, 67, 100)]
    for smaller, larger in zip(with_reasoning, with_reasoning[1:], strict=False):
        assert smaller < larger
    assert [len(s) for s in with_reasoning] == [round(f * len(training)) for f in (0, 0.2, 0.33, 0.67, 1)]


@pytest.mark.parametrize("fraction", [0, 0.33, 1])
def test_the_mix_keeps_order_and_everything_else(training, rationales, fraction):
    mixed = mix([r.replace(reasoning="left over") for r in training], rationales, fraction)
    assert [r.replace(reasoning="") for r in mixed] == training
    assert all(r.reasoning in ("", rationales[r.id]) for r in mixed), "what was there before does not stay"


def test_the_share_is_of_all_records_where_some_have_no_rationale(training, rationales):
    half = {i: text for n, (i, text) in enumerate(rationales.items()) if n % 2}
    assert sum(bool(r.reasoning) for r in mix(training, half, 0.33)) == round(0.33 * len(training))
    assert {r.id for r in mix(training, half, 1) if r.reasoning} == half.keys()


@pytest.mark.parametrize("fraction", [-0.01, 1.01, 33, float("nan")])
def test_a_fraction_out_of_range_is_refused(training, rationales, fraction, tmp_path):
    with pytest.raises(UserError, match="from 0 to 1"):
        mix(training, rationales, fraction)
    with pytest.raises(UserError, match="from 0 to 1"):
        shuffled(training, rationales, fraction)
    if fraction == fraction:
        with pytest.raises(UserError, match="from 0 to 1"):
            write_arms(tmp_path, training, rationales, count_tokens=in_words, fractions=[fraction])
        assert not list(tmp_path.iterdir())


def test_a_list_of_ids_chooses_exactly_these(training, rationales):
    chosen = [r.id for r in training[10:40:3]]
    assert {r.id for r in mix(training, rationales, 0.33, chosen=chosen) if r.reasoning} == set(chosen)
    assert not any(r.reasoning for r in mix(training, rationales, 0.33, chosen=[]))
    assert {r.id for r in shuffled(training, rationales, 0.33, chosen=chosen) if r.reasoning} == set(chosen)


def test_chosen_ids_that_cannot_be_are_named(training, rationales):
    bare = training[0].id
    some = {i: text for i, text in rationales.items() if i != bare}
    for chosen, message in (
        (["nobody", training[1].id, "neither"], "2 are not in the training set: 'nobody', 'neither'"),
        ([bare], f"1 have no accepted rationale: '{bare}'"),
        ([f"x{i}" for i in range(9)], "'x4' and 4 more"),
        ("geography-002", "give a list of ids"),
    ):
        with pytest.raises(UserError, match=message):
            mix(training, some, 0.33, chosen=chosen)


@pytest.mark.parametrize("fraction", [0.33, 1.0])
def test_shuffled_rationales_are_others_of_like_length(training, rationales, fraction):
    right, wrong = mix(training, rationales, fraction), shuffled(training, rationales, fraction)
    assert [r.replace(reasoning="") for r in wrong] == training, "questions and answers stay right"
    pairs = [(a, b) for a, b in zip(right, wrong, strict=True) if a.reasoning or b.reasoning]
    assert len(pairs) == round(fraction * len(training))
    assert Counter(a.reasoning for a, _ in pairs) == Counter(b.reasoning for _, b in pairs), "each is used once"
    assert not any(a.reasoning == b.reasoning or concludes(b, b.reasoning) for a, b in pairs)
    apart = [abs(in_words(a.reasoning) - in_words(b.reasoning)) for a, b in pairs]
    assert sum(apart) / len(apart) < 1 and max(apart) <= 8
    assert sum(map(by_words, wrong)) == sum(map(by_words, right))
    assert wrong == shuffled(training, rationales, fraction) != shuffled(training, rationales, fraction, seed=1)
    by_id = {r.id: r for r in shuffled(training[::-1], rationales, fraction)}
    assert [by_id[r.id] for r in training] == wrong, "whatever the order"


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 30)), min_size=1, max_size=25), st.integers(0, 9))
def test_any_shuffle_is_a_derangement_without_giveaways_or_is_refused(kinds, seed):
    training = [Record(f"q{i}", "qa", "問", "Q?", str(100 + a)) for i, (a, _) in enumerate(kinds)]
    rationales = {r.id: f"{'word ' * n}{i} so it is {r.answer}." for i, (r, (_, n)) in enumerate(zip(training, kinds, strict=True))}
    most = Counter(r.answer for r in training).most_common(1)[0][1]
    if 2 * most > len(training):
        with pytest.raises(UserError, match="Let more records carry"):
            shuffled(training, rationales, 1.0, seed)
        return
    wrong = shuffled(training, rationales, 1.0, seed)
    assert sorted(r.reasoning for r in wrong) == sorted(rationales.values())
    assert not any(concludes(r, r.reasoning) for r in wrong)


def test_a_single_record_cannot_be_shuffled(training, rationales):
    with pytest.raises(UserError, match="Let more records carry"):
        shuffled(training, rationales, 0.33, chosen=[training[0].id])
    assert shuffled(training, rationales, 0) == training


def test_token_matched_repeats_plain_records_until_the_tokens_agree(training, rationales):
    reasoned = mix(training, rationales, 0.33)
    matched = token_matched(training, reasoned, by_words)
    goal, largest = sum(map(by_words, reasoned)), max(map(by_words, training))
    assert abs(sum(map(by_words, matched)) - goal) <= largest / 2 and sum(map(by_words, training)) < goal - largest
    assert matched[: len(training)] == training and not any(r.reasoning for r in matched)
    by_id = {r.id: r for r in training}
    again = matched[len(training) :]
    assert all(r.replace(id=r.id.split("#")[0]) == by_id[r.id.split("#")[0]] for r in again), "the same prompts and answers"
    assert len({r.id for r in matched}) == len(matched)
    times = Counter(r.id.split("#")[0] for r in matched).values()
    assert max(times) - min(times) <= 1, "no record is repeated twice before all are once"
    assert matched == token_matched(training, reasoned, by_words) != token_matched(training, reasoned, by_words, seed=1)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(made, st.lists(st.integers(1, 50), min_size=60, max_size=60), st.integers(0, 3000))
def test_any_token_match_ends_within_one_record(training, sizes, goal):
    size = {r.id: n for r, n in zip(training, sizes, strict=False)} | {"goal": goal}
    matched = token_matched(training, [Record("goal", "qa", "問", "Q?", "A")], lambda r: size[r.id])
    total, plain = sum(size[r.id.split("#")[0]] for r in matched), sum(size[r.id] for r in training)
    assert abs(total - goal) <= max(size[r.id] for r in training) if goal >= plain else matched == training


def test_token_matching_needs_tokens(training):
    for plain, tokens in (([], by_words), (training, lambda r: 0)):
        with pytest.raises(UserError, match="records with target tokens"):
            token_matched(plain, training, tokens)
    assert token_matched([], [], by_words) == []


def test_target_tokens_are_the_labels_of_training(training, rationales, tmp_path_factory):
    profile = profiles.choose("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONSAI_CACHE", str(tmp_path_factory.mktemp("cache")))
        tokenizer = models.load_tokenizer(profile, say=lambda text: None)
    for record in mix(training, rationales, 0.33)[:40]:
        stages = ("multistep", "answer")
        labels = [t for s in stages for t in prompts.encode_example(tokenizer, profile.model.prompt_style, s, record)["labels"]]
        counted = target_tokens(record, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))
        assert sum(t != prompts.IGNORED for t in labels) == counted


NAMES = ["train_plain.jsonl", *(f"train_reasoned-{p}.jsonl" for p in (20, 33, 67, 100)), "train_shuffled-33.jsonl", "train_plain-token-matched.jsonl"]


@pytest.fixture(scope="module")
def arms(training, rationales, tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    teachers = {i: ("authored", "a teacher")[n % 3 == 0] for n, i in enumerate(rationales)}
    options = {"count_tokens": in_words, "seed": 3, "teachers": teachers, "licences": {"authored": "CC BY 4.0"}}
    return folder, write_arms(folder, training, rationales, **options), options


def test_every_arm_has_its_file(arms, training, rationales):
    folder, manifest, _ = arms
    assert sorted(p.name for p in folder.iterdir()) == sorted([*NAMES, "accepted.json", "manifest.json"])
    assert read_json(folder / "manifest.json") == manifest and list(manifest["files"]) == NAMES
    found = {name: records.read(folder / name) for name in NAMES}
    assert found["train_plain.jsonl"] == training
    for percent in (20, 33, 67, 100):
        assert found[f"train_reasoned-{percent}.jsonl"] == mix(training, rationales, percent / 100, seed=3)
    assert found["train_shuffled-33.jsonl"] == shuffled(training, rationales, 0.33, seed=3, length=in_words)
    assert found["train_plain-token-matched.jsonl"] == token_matched(training, found["train_reasoned-33.jsonl"], by_words, seed=3)
    for name, file in manifest["files"].items():
        assert file["sha256"] == sha256(folder / name) and file["records"] == len(found[name])
        assert file["with_reasoning"] == sum(bool(r.reasoning) for r in found[name])
        assert file["target_tokens"] == sum(map(by_words, found[name]))
    goal = manifest["files"]["train_reasoned-33.jsonl"]["target_tokens"]
    assert abs(manifest["files"]["train_shuffled-33.jsonl"]["target_tokens"] - goal) <= 0.02 * goal


def test_the_manifest_says_where_everything_is_from(arms, training, rationales):
    _, manifest, _ = arms
    third, n = len(training) // 3, len(training)
    assert manifest["choice"]["seed"] == 3 and manifest["teachers"] == {"a teacher": third, "authored": n - third}
    assert manifest["licences"] == {"records": {"CC BY 4.0": n}, "rationales": {"a teacher": "–", "authored": "CC BY 4.0"}}
    assert set(manifest["gates"]) >= {"wrong-conclusion", "held-out-text"} and manifest["accepted"]["rationales"] == len(rationales)


def test_the_same_files_bit_by_bit(arms, training, rationales, tmp_path):
    folder, _, options = arms
    write_arms(tmp_path, training, rationales, **options)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_made_again_from_the_manifest(arms, tmp_path, monkeypatch):
    folder, _, _ = arms
    for name in ("_donors", "_repeats", "ranking"):
        monkeypatch.delattr(reasoning, name)
    plain = records.read(folder / "train_plain.jsonl")
    remake_arms(tmp_path, plain, read_json(folder / "accepted.json"), read_json(folder / "manifest.json"))
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_other_inputs_than_the_manifest_s_are_refused(arms, training, rationales, tmp_path):
    _, manifest, _ = arms
    with pytest.raises(UserError, match="not those of the manifest"):
        remake_arms(tmp_path, training, rationales | {training[0].id: "Another."}, manifest)
    with pytest.raises(UserError, match="train_plain.jsonl: differs"):
        remake_arms(tmp_path, [training[0].replace(en="Else?"), *training[1:]], rationales, manifest)


def test_a_list_leads_the_arms(training, rationales, tmp_path):
    chosen = [r.id for r in training[: round(0.18 * len(training))]]
    manifest = write_arms(tmp_path, training, rationales, count_tokens=in_words, fractions=(0.1, 0.18, 0.5), chosen=chosen)
    assert [n for n in manifest["files"] if "-" in n] == [
        "train_reasoned-18.jsonl", "train_reasoned-33.jsonl", "train_reasoned-50.jsonl", "train_shuffled-18.jsonl", "train_plain-token-matched.jsonl"
    ]  # fmt: skip
    carrying = {n: {r.id for r in records.read(tmp_path / n) if r.reasoning} for n in manifest["files"]}
    assert carrying["train_reasoned-18.jsonl"] == carrying["train_shuffled-18.jsonl"] == set(chosen)
    assert set(chosen) < carrying["train_reasoned-33.jsonl"] < carrying["train_reasoned-50.jsonl"]
    assert len(carrying["train_reasoned-50.jsonl"]) == round(0.5 * len(training))
    assert json.loads((tmp_path / "manifest.json").read_text())["choice"]["chosen"] == sorted(chosen)
    with pytest.raises(UserError, match="'nobody'"):
        write_arms(tmp_path, training, rationales, count_tokens=in_words, chosen=["nobody"])
