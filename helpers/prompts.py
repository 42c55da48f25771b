"""Prompts, completions and stop strings: the one place that both training and inference use.

Prompt and completion are tokenised apart and then joined, so that the tokens a model is trained on are
exactly the tokens it meets at inference.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .files import UserError
from .records import Record

IGNORED = -100

INSTRUCTIONS = {
    "translate": "Translate into English.\nJapanese: {ja}",
    "multistep": "Translate into English, then answer.\nJapanese: {ja}",
    "answer": "Answer the question.\nQuestion: {en}",
    "direct": "Answer in English.\nJapanese: {ja}",
}
_CUES = {"translate": "English:", "multistep": "English:", "answer": "", "direct": ""}
_FIELD = re.compile(r"^(English|Reasoning|Answer):[ \t]*", re.MULTILINE)
_MARKER = re.compile(r"</?\|?\w+\|?>")
_WAY_OUT = "Choose the PROFILE of this model's own family: MODEL_ID takes the prompt style of the profile beside it."


@dataclass(frozen=True)
class PromptStyle:
    """How a model family frames an instruction.

    `before` and `after` surround the instruction, `end` is the token that closes a
    completion ("": the tokenizer's end-of-sequence token).
    """

    before: str = ""
    after: str = "\n"
    end: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """The special tokens among its parts, each once."""
        return tuple(dict.fromkeys(_MARKER.findall(self.before + self.after + self.end)))


# phi-2: "Instruct: … Output:" (model card). Phi-3: <|user|> … <|end|> <|assistant|> (model card); Phi-4-mini: the same without line breaks
# (model card). Gemma 3: ai.google.dev/gemma/docs/core/prompt-structure. Llama 3: llama.com, "Model Cards & Prompt formats".
# Qwen2.5, Qwen3: the chat template in their tokenizer_config.json. What these put in unasked stands here as well, so that the prompt is the
# one that the model knows and `apply_chat_template` makes: Qwen2.5's system message; in Qwen3 the empty thinking block of
# enable_thinking=False, because Reasoning is a line of the completion here.
STYLES: dict[str, PromptStyle] = {
    "text": PromptStyle(),
    "phi-2": PromptStyle("Instruct: ", "\nOutput:\n"),
    "phi-3": PromptStyle("<|user|>\n", "<|end|>\n<|assistant|>\n", "<|end|>"),
    "phi-4": PromptStyle("<|user|>", "<|end|><|assistant|>", "<|end|>"),
    "gemma": PromptStyle("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
    "llama-3": PromptStyle(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "qwen-2.5": PromptStyle(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
    ),
    "qwen-3": PromptStyle(
        "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>"
    ),
}


def instruction(stage: str, *, ja: str = "", en: str = "") -> str:
    """The instruction of a stage (`translate`, `multistep`, `answer`, `direct`) filled with one sentence or question."""
    clean = {"ja": " ".join(ja.split()), "en": " ".join(en.split())}
    template = INSTRUCTIONS[stage]
    field = "{ja}" if "{ja}" in template else "{en}"
    # A plain replace, because a user's text may hold braces.
    return template.replace(field, clean[field[1:-1]])


def prompt(style: str, stage: str, *, ja: str = "", en: str = "", shots: str = "") -> str:
    """The whole prompt text up to where the completion begins; `shots` is put in front of it."""
    frame = STYLES[style]
    return f"{frame.before}{shots}{instruction(stage, ja=ja, en=en)}{frame.after}{_CUES[stage]}"


def completion(stage: str, record: Record, reasoning_last: bool = False) -> str:
    """The completion of `record` for a stage, with its rationale where it has one, without the end token.

    The rationale stands before the answer, or after it with `reasoning_last`. Each part is one line, whatever line breaks a user's record has: decoding ends at the first.
    """
    en, reasoning, answer = (" ".join(part.split()) for part in (record.en, record.reasoning, record.answer))
    lines = []
    if stage in ("translate", "multistep"):
        lines.append(f"English: {en}")
    if stage != "translate":
        parts = [f"Reasoning: {reasoning}"] * bool(reasoning) + [f"Answer: {answer}"]
        lines += reversed(parts) if reasoning_last else parts
    return "\n".join(lines).removeprefix(_CUES[stage])


def lines(stage: str) -> tuple[str, tuple[str, ...]]:
    """How a completion that is to carry Reasoning begins, and the cues of the lines after its first one."""
    return ("", ("Reasoning:", "Answer:")) if stage == "multistep" else ("Reasoning:", ("Answer:",))


def few_shot(stage: str, examples: Sequence[Record]) -> str:
    """Solved examples in front of a prompt, a blank line between them; plain text in every style."""
    return "".join(
        f"{instruction(stage, ja=r.ja, en=r.en)}\n{_CUES[stage]}{completion(stage, r)}\n\n" for r in examples
    )


def encode_prompt(tokenizer, text: str) -> list[int]:
    """Token ids of a prompt, with the beginning-of-sequence token where the tokenizer has one."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ([tokenizer.bos_token_id] if _wants_bos(tokenizer) else []) + ids


def _wants_bos(tokenizer) -> bool:
    # phi-2's tokenizer names <|endoftext|> as bos as well as eos, and its model was not trained with one in front; so does Phi-4-mini's, whose
    # chat template puts none there.
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id


def end_id(tokenizer, style: str) -> int:
    """The id of the token that closes a completion in this style.

    Raises `UserError` for a tokenizer that lacks it, or that cuts one of the style's special tokens into pieces.
    """
    if STYLES[style].markers:
        return _checked_end(tokenizer, style)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"Prompt style {style!r}: expected the tokenizer to name an end-of-sequence token, found none. {_WAY_OUT}"
        )
    return tokenizer.eos_token_id


# Asked for every example, found once for each tokenizer.
@functools.lru_cache(maxsize=8)
def _checked_end(tokenizer, style: str) -> int:
    for marker in STYLES[style].markers:
        found = tokenizer.tokenize(marker)
        if marker not in found:
            raise UserError(
                f"Prompt style {style!r}: expected {marker} to be one token of the tokenizer, found {len(found)}. {_WAY_OUT}"
            )
    return tokenizer.convert_tokens_to_ids(STYLES[style].end)


def encode_example(tokenizer, style: str, stage: str, record: Record, reasoning_last: bool = False) -> dict[str, list[int]]:
    """`input_ids` and `labels` of one training example: prompt masked by position with -100, end token supervised."""
    left = encode_prompt(tokenizer, prompt(style, stage, ja=record.ja, en=record.en))
    right = tokenizer(completion(stage, record, reasoning_last), add_special_tokens=False)["input_ids"] + [end_id(tokenizer, style)]
    return {"input_ids": left + right, "labels": [IGNORED] * len(left) + right}


def encode_answer_only(tokenizer, style: str, record: Record) -> dict[str, list[int]]:
    """One dev example of the multistep stage in which only the answer and the end token are labelled.

    The gold English stands in the context and no rationale does, so that the loss means the same for every arm that ends with its answer (an `explained` one may go on, which
    the end token counts against it).
    """
    left = encode_prompt(tokenizer, prompt(style, "multistep", ja=record.ja))
    context = tokenizer(f" {record.en}\nAnswer:", add_special_tokens=False)["input_ids"]
    right = tokenizer(f" {record.answer}", add_special_tokens=False)["input_ids"] + [end_id(tokenizer, style)]
    return {"input_ids": left + context + right, "labels": [IGNORED] * (len(left) + len(context)) + right}


@dataclass(frozen=True)
class Parsed:
    """The labelled parts of a completion; `well_formed` when every part that the stage needs is there, once."""

    english: str
    reasoning: str
    answer: str
    well_formed: bool


def parse(stage: str, text: str) -> Parsed:
    """Read the parts of a model's completion (given without the prompt's cue).

    A completion without `Answer:` falls back to its last line, so that a base model is not punished for format alone;
    `well_formed` is False then.
    """
    whole = (_CUES[stage] + " " + text.strip()).strip() if _CUES[stage] else text.strip()
    marks = list(_FIELD.finditer(whole))
    parts: dict[str, str] = {}
    for mark, following in itertools.pairwise([*marks, None]):
        body = whole[mark.end() : following.start() if following else len(whole)].strip()
        parts.setdefault(mark.group(1), body)
    names = [m.group(1) for m in marks]
    if stage == "translate":
        english = parts.get("English", whole).split("\n")[0].strip()
        return Parsed(english, "", "", bool(english) and names == ["English"])
    last = whole.splitlines()[-1].strip() if whole else ""
    answer = parts.get("Answer", _FIELD.sub("", last)).split("\n")[0].strip()
    wanted = ["English", "Answer"] if stage == "multistep" else ["Answer"]
    good = [n for n in names if n != "Reasoning"] == wanted and len(names) == len(set(names)) and bool(answer)
    return Parsed(parts.get("English", "").split("\n")[0].strip(), parts.get("Reasoning", ""), answer, good)


def show_masked(tokenizer, example: dict[str, list[int]]) -> list[tuple[str, bool]]:
    """Decode one training example into (text, supervised) pieces, for a reader to see what is masked."""
    pieces: list[tuple[str, bool]] = []
    start = 0
    labels, ids = example["labels"], example["input_ids"]
    for i in range(1, len(ids) + 1):
        if i == len(ids) or (labels[i] == IGNORED) != (labels[start] == IGNORED):
            pieces.append((tokenizer.decode(ids[start:i]), labels[start] != IGNORED))
            start = i
    return pieces
