"""The exact tokens a model is trained on are the ones it meets at inference, and only the completion is supervised."""

from __future__ import annotations

import pytest

from helpers import models, profiles, prompts
from helpers.records import Record

RECORD = Record("q", "qa", "水は何度で凍りますか？", "At how many degrees does water freeze?", "0", ("zero",), "Water turns to ice at 0 degrees.")


@pytest.fixture(scope="module", params=["tiny", "tiny-phi", "tiny-phi3"])
def family(request):
    profile = profiles.choose(request.param)
    return profile, models.load_tokenizer(profile)


def test_exact_texts_of_every_style():
    text = {s: prompts.prompt(s, "multistep", ja=RECORD.ja) for s in prompts.STYLES}
    body = "Translate into English, then answer.\nJapanese: 水は何度で凍りますか？"
    assert text["text"] == body + "\nEnglish:"
    assert text["phi-2"] == f"Instruct: {body}\nOutput:\nEnglish:"
    assert text["phi-3"] == f"<|user|>\n{body}<|end|>\n<|assistant|>\nEnglish:"


@pytest.mark.parametrize(
    ("stage", "reasoning", "expected"),
    [
        ("translate", "", " At how many degrees does water freeze?"),
        ("multistep", "", " At how many degrees does water freeze?\nAnswer: 0"),
        ("multistep", "Ice.", " At how many degrees does water freeze?\nReasoning: Ice.\nAnswer: 0"),
        ("answer", "", "Answer: 0"),
        ("direct", "Ice.", "Reasoning: Ice.\nAnswer: 0"),
    ],
)
def test_exact_completions(stage, reasoning, expected):
    assert prompts.completion(stage, RECORD.replace(reasoning=reasoning)) == expected


def test_labels_mask_the_prompt_and_supervise_the_end(family):
    profile, tokenizer = family
    style = profile.model.prompt_style
    for stage in prompts.INSTRUCTIONS:
        example = prompts.encode_example(tokenizer, style, stage, RECORD)
        prompt = prompts.encode_prompt(tokenizer, prompts.prompt(style, stage, ja=RECORD.ja, en=RECORD.en))
        ids, labels = example["input_ids"], example["labels"]
        assert ids[: len(prompt)] == prompt, "what inference sends is what training saw"
        assert labels[: len(prompt)] == [-100] * len(prompt)
        assert labels[len(prompt) :] == ids[len(prompt) :], "every completion token is supervised"
        assert ids[-1] == labels[-1] == prompts.end_id(tokenizer, style)
        assert tokenizer.decode(ids[len(prompt) : -1]) == prompts.completion(stage, RECORD)


def test_exact_tokens_with_the_tiny_tokenizer():
    tokenizer = models.load_tokenizer(profiles.choose("tiny"))
    ids = prompts.encode_example(tokenizer, "text", "answer", RECORD)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 2
    assert ids[-1] == tokenizer.eos_token_id == 1
    assert ids.count(2) == 1 and ids.count(1) == 1


def test_phi3_ends_with_its_own_token():
    tokenizer = models.load_tokenizer(profiles.choose("tiny-phi3"))
    assert prompts.end_id(tokenizer, "phi-3") == tokenizer.convert_tokens_to_ids("<|end|>") != tokenizer.eos_token_id


def test_answer_only_labels_the_answer_and_the_end_and_ignores_reasoning(family):
    profile, tokenizer = family
    example = prompts.encode_answer_only(tokenizer, profile.model.prompt_style, RECORD)
    labelled = [t for t in example["labels"] if t != -100]
    assert tokenizer.decode(labelled[:-1]) == " 0"
    assert labelled[-1] == prompts.end_id(tokenizer, profile.model.prompt_style)
    assert example == prompts.encode_answer_only(tokenizer, profile.model.prompt_style, RECORD.replace(reasoning=""))


@pytest.mark.parametrize(
    ("stage", "text", "english", "reasoning", "answer", "good"),
    [
        ("translate", " Hello.", "Hello.", "", "", True),
        ("translate", "", "", "", "", False),
        ("multistep", " Where?\nAnswer: Here", "Where?", "", "Here", True),
        ("multistep", " Where?\nReasoning: Near.\nAnswer: Here", "Where?", "Near.", "Here", True),
        ("multistep", " Where?", "Where?", "", "Where?", False),
        ("multistep", " Where?\nAnswer:", "Where?", "", "", False),
        ("answer", "Answer: 12", "", "", "12", True),
        ("answer", "Reasoning: 3 + 9 = 12.\nAnswer: 12", "", "3 + 9 = 12.", "12", True),
        ("answer", "It is 12", "", "", "It is 12", False),
        ("answer", "Answer: 1\nAnswer: 2", "", "", "1", False),
        ("direct", "", "", "", "", False),
    ],
)
def test_parse(stage, text, english, reasoning, answer, good):
    assert prompts.parse(stage, text) == prompts.Parsed(english, reasoning, answer, good)


def test_few_shot_is_the_training_format():
    shots = prompts.few_shot("answer", [RECORD.replace(reasoning="")])
    assert shots == "Answer the question.\nQuestion: At how many degrees does water freeze?\nAnswer: 0\n\n"


def test_braces_and_newlines_in_a_users_text_do_no_harm():
    assert prompts.instruction("translate", ja="{en}\n  {0}").endswith("Japanese: {en} {0}")


def test_show_masked_gives_back_the_whole_text(family):
    profile, tokenizer = family
    example = prompts.encode_example(tokenizer, profile.model.prompt_style, "multistep", RECORD)
    pieces = prompts.show_masked(tokenizer, example)
    assert [s for _, s in pieces] == [False, True]
    assert "".join(t for t, _ in pieces) == tokenizer.decode(example["input_ids"])
