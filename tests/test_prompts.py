"""The exact tokens a model is trained on are the ones it meets at inference, and only the completion is supervised."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from helpers import export, models, profiles, prompts
from helpers.files import UserError
from helpers.records import Record
from tests import chat_tokenizers

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
    assert text["phi-4"] == f"<|user|>{body}<|end|><|assistant|>English:"
    assert text["gemma"] == f"<start_of_turn>user\n{body}<end_of_turn>\n<start_of_turn>model\nEnglish:"
    header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    assert text["llama-3"] == f"{header('user')}{body}<|eot_id|>{header('assistant')}English:"
    turns = f"<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert text["qwen-2.5"] == f"<|im_start|>system\n{system}<|im_end|>\n{turns}English:"
    assert text["qwen-3"] == f"{turns}<think>\n\n</think>\n\nEnglish:"


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


def test_a_rationale_after_the_answer(family):
    profile, tokenizer = family
    style, record = profile.model.prompt_style, RECORD.replace(reasoning="Ice.")
    assert prompts.completion("multistep", record, True) == " At how many degrees does water freeze?\nAnswer: 0\nReasoning: Ice."
    assert prompts.completion("direct", record, True) == "Answer: 0\nReasoning: Ice." and prompts.completion("translate", record, True) == prompts.completion("translate", RECORD)
    before, after = (prompts.encode_example(tokenizer, style, "multistep", record, last) for last in (False, True))
    assert prompts.show_masked(tokenizer, after)[1][0].split("Answer: 0\n")[1].startswith("Reasoning: Ice.")
    assert before["input_ids"][: before["labels"].count(prompts.IGNORED)] == after["input_ids"][: after["labels"].count(prompts.IGNORED)]


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


@pytest.fixture(scope="module", params=chat_tokenizers.FAMILIES)
def chat(request):
    return request.param, chat_tokenizers.make(request.param)


def by_template(tokenizer, *turns: str, opening: bool) -> list[int]:
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns, strict=False)]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=opening, enable_thinking=False, return_dict=False)


def check_against_template(style, tokenizer, stage, reasoning):
    record = RECORD.replace(reasoning=reasoning)
    user, cue = prompts.instruction(stage, ja=record.ja, en=record.en), prompts._CUES[stage]
    left = prompts.encode_prompt(tokenizer, prompts.prompt(style, stage, ja=record.ja, en=record.en))
    begun = tokenizer(cue, add_special_tokens=False)["input_ids"] if cue else []
    assert left == by_template(tokenizer, user, opening=True) + begun
    example = prompts.encode_example(tokenizer, style, stage, record)
    whole = by_template(tokenizer, user, cue + prompts.completion(stage, record), opening=False)
    n, end = len(example["input_ids"]), prompts.end_id(tokenizer, style)
    assert whole[:n] == example["input_ids"] and tokenizer.decode(whole[n:]) in ("", "\n")
    assert example["labels"].count(end) == 1 and example["labels"][-1] == end == tokenizer.convert_tokens_to_ids(prompts.STYLES[style].end)
    assert example["input_ids"].count(end) == 2 + (style == "qwen-2.5"), "the ends of the system's, the user's and the model's turn"
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        assert left.count(tokenizer.bos_token_id) == (tokenizer.bos_token_id is not None)


@pytest.mark.parametrize("stage", prompts.INSTRUCTIONS)
@pytest.mark.parametrize("reasoning", ["", "Ice."])
def test_a_chat_style_gives_the_tokens_of_the_chat_template(chat, stage, reasoning):
    check_against_template(*chat, stage, reasoning)


# TRL ships them to recognise a model by its template.
@pytest.mark.parametrize(("style", "name"), [("gemma", "gemma3"), ("llama-3", "llama3"), ("qwen-2.5", "qwen2_5"), ("qwen-3", "qwen3")])
def test_a_chat_style_gives_the_tokens_of_the_published_template(style, name):
    path = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates" / f"{name}.jinja"
    if not path.exists():
        pytest.skip(f"this version of TRL has no {path.name}")
    tokenizer = chat_tokenizers.make(style)
    tokenizer.chat_template = path.read_text(encoding="utf-8")
    for stage in prompts.INSTRUCTIONS:
        for reasoning in ("", "Ice."):
            check_against_template(style, tokenizer, stage, reasoning)


def test_few_shot_examples_stand_in_the_users_turn(chat):
    style, tokenizer = chat
    shots = prompts.few_shot("answer", [RECORD])
    left = prompts.encode_prompt(tokenizer, prompts.prompt(style, "answer", en="Why?", shots=shots))
    assert left == by_template(tokenizer, shots + prompts.instruction("answer", en="Why?"), opening=True)


def test_markers_are_the_special_tokens_of_a_style(chat):
    style, tokenizer = chat
    named = {tokenizer.bos_token, tokenizer.pad_token} - {prompts.STYLES[style].end}
    assert set(prompts.STYLES[style].markers) == set(chat_tokenizers.FAMILIES[style][0]) - named - {"<eos>"}
    assert prompts.STYLES["text"].markers == prompts.STYLES["phi-2"].markers == ()


def test_an_exported_chat_tokenizer_gives_the_same_ids_and_keeps_its_template(chat, tmp_path):
    from transformers import AutoTokenizer

    style, tokenizer = chat
    export.save_tokenizer(tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = prompts.prompt(style, "multistep", ja=RECORD.ja)
    assert again(text)["input_ids"] == prompts.encode_prompt(again, text) == prompts.encode_prompt(tokenizer, text)
    assert by_template(again, RECORD.ja, opening=True) == by_template(tokenizer, RECORD.ja, opening=True)
    assert prompts.end_id(again, style) == prompts.end_id(tokenizer, style)


@pytest.mark.parametrize(("style", "marker"), [(s, m) for s in chat_tokenizers.FAMILIES for m in prompts.STYLES[s].markers])
def test_a_tokenizer_without_a_special_token_of_the_style_is_refused(style, marker):
    tokenizer = chat_tokenizers.make(style, without=marker)
    with pytest.raises(UserError) as caught:
        prompts.encode_example(tokenizer, style, "answer", RECORD)
    message = str(caught.value)
    assert f"{style!r}: expected {marker} to be one token" in message and "PROFILE" in message and "\n" not in message


def test_an_unknown_token_is_not_taken_for_the_end():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")), unk_token="<unk>")
    assert words.convert_tokens_to_ids("<|end|>") == 0
    with pytest.raises(UserError, match=r"expected <\|user\|> to be one token"):
        prompts.end_id(words, "phi-3")
    with pytest.raises(UserError, match="'text': expected the tokenizer to name an end-of-sequence token"):
        prompts.end_id(words, "text")
