"""Batched generation, and the five stages of the multistep task (S1 … S5)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from . import prompts
from .profiles import Profile
from .records import Record

STAGES = {
    "S1": "translate the question",
    "S2": "answer from the gold English",
    "S3": "answer from its own translation (two calls)",
    "S4": "translate, then answer, in one call",
    "S5": "answer directly from Japanese",
}
# Tokens between two looks at which rows have finished.
LOOK_EVERY = 4
# What each stage asks for: (instruction, budget of the recipe).
_CALLS = {
    "S1": ("translate", "translation_budget"),
    "S2": ("answer", "answer_budget"),
    "S3": ("answer", "answer_budget"),
    "S4": ("multistep", "multistep_budget"),
    "S5": ("direct", "answer_budget"),
}


@dataclass(frozen=True)
class Completion:
    """A generated text without its end token, how many tokens it took, and whether the budget cut it off."""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Prediction:
    """One model's output for one record at one stage, parsed."""

    id: str
    stage: str
    prompt_english: str
    text: str
    english: str
    reasoning: str
    answer: str
    well_formed: bool
    truncated: bool
    tokens: int

    def to_dict(self) -> dict:
        """Plain dictionary."""
        return asdict(self)


def ended(instruction: str, text: str) -> int:
    """How many characters of `text` belong to the completion once it has come to its end, or -1 while it has not.

    A translation is one line; the other completions end with the line of their answer, or at a blank line.
    """
    body = len(text) - len(text.lstrip())
    line = re.search(r"\n" if instruction == "translate" else r"\n\s*\n|(?<=\n)Answer:.*\n|^\s*Answer:.*\n", text[body:])
    return body + line.end() if line else -1


def generate(
    model,
    tokenizer,
    profile: Profile,
    texts: Sequence[str],
    budget: int,
    *,
    instruction: str = "",
    prefix: str = "",
    progress: Callable[[int], None] = lambda n: None,
) -> list[Completion]:
    """Greedy completions of `prefix + text` for each text, in order, at most `budget` tokens each.

    Prompts of like length share a batch; a row ends at the style's end token or, given its `instruction`, where `ended` says, and then
    leaves the batch. The `prefix` that all prompts begin with (few-shot examples) is computed once and its cache
    reused; it must end at a token boundary, such as a blank line.
    """
    import torch

    style_end = prompts.end_id(tokenizer, profile.model.prompt_style)
    ends = sorted({style_end, tokenizer.eos_token_id})
    head = prompts.encode_prompt(tokenizer, prefix) if prefix else []
    rows = [
        tokenizer(t, add_special_tokens=False)["input_ids"] if prefix else prompts.encode_prompt(tokenizer, t) for t in texts
    ]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[Completion | None] = [None] * len(rows)

    def finished(new: list[int]) -> bool:
        return new[-1] in ends or (bool(instruction) and ended(instruction, tokenizer.decode(new)) >= 0)

    with torch.inference_mode():
        shared = model(torch.tensor([head], device=model.device), use_cache=True).past_key_values if head else None
        for start in range(0, len(order), profile.recipe.generation_batch):
            chosen = order[start : start + profile.recipe.generation_batch]
            for i, new in zip(chosen, _batch(model, tokenizer, head, shared, [rows[i] for i in chosen], budget, finished, ends), strict=True):
                text = tokenizer.decode([t for t in new if t not in ends])
                end = ended(instruction, text) if instruction else -1
                cut = len(new) >= budget and new[-1] not in ends and end < 0
                found[i] = Completion(text[: end if end >= 0 else None].strip(), len(new), cut)
            progress(len(chosen))
    return found  # type: ignore[return-value]


def _batch(model, tokenizer, head, shared, rows, budget, finished, ends) -> list[list[int]]:
    """New token ids of each row. Left-padded between the shared prefix and the row, so that all rows end together.

    Every `LOOK_EVERY` tokens the rows that have finished leave the batch, so that one long answer does not hold up the others.
    """
    import torch

    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([head + [pad] * (width - len(r)) + r for r in rows], device=model.device)
    mask = torch.tensor([[1] * len(head) + [0] * (width - len(r)) + [1] * len(r) for r in rows], device=model.device)
    cache = None
    if shared is not None:
        cache = copy.deepcopy(shared)
        cache.batch_repeat_interleave(len(rows))
    new: list[list[int]] = [[] for _ in rows]
    alive, spent = list(range(len(rows))), 0
    while alive and spent < budget:
        room = min(LOOK_EVERY, budget - spent)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=room,
            do_sample=False,
            top_p=None,
            top_k=None,
            temperature=None,
            eos_token_id=ends,
            pad_token_id=pad,
            return_dict_in_generate=True,
        )
        stay = []
        for j, fresh in enumerate(out.sequences[:, ids.shape[1] :].tolist()):
            row = new[alive[j]]
            for token in fresh:
                row.append(token)
                if finished(row):
                    break
            else:
                stay.append(j)
        spent += room
        grown = out.sequences.shape[1] - ids.shape[1]
        if stay and spent < budget:
            index = torch.tensor(stay, device=model.device)
            cache = out.past_key_values
            cache.batch_select_indices(index)
            ids = out.sequences[index]
            mask = torch.cat([mask, mask.new_ones(len(mask), grown)], dim=1)[index]
        alive = [alive[j] for j in stay]
    return new


def translate(
    model, tokenizer, profile: Profile, japanese: Sequence[str], *, shots: Sequence[Record] = (), progress=lambda n: None
) -> list[Completion]:
    """English for each Japanese sentence; `shots` are solved examples for a base model (zero-shot without)."""
    return _call(model, tokenizer, profile, "translate", "translation_budget", [{"ja": ja} for ja in japanese], shots, progress)


def _call(model, tokenizer, profile, instruction, budget, inputs, shots, progress) -> list[Completion]:
    style = profile.model.prompt_style
    examples = prompts.few_shot(instruction, shots) if shots else ""
    # Only the plain style lets the examples stand in front of everything and be computed once.
    prefix = examples if style == "text" else ""
    texts = [prompts.prompt(style, instruction, **i, shots="" if prefix else examples) for i in inputs]
    return generate(
        model,
        tokenizer,
        profile,
        texts,
        getattr(profile.recipe, budget),
        instruction=instruction,
        prefix=prefix,
        progress=progress,
    )


def stage(
    model,
    tokenizer,
    profile: Profile,
    name: str,
    records: Sequence[Record],
    *,
    english: Sequence[str] | None = None,
    shots: Sequence[Record] = (),
    progress: Callable[[int], None] = lambda n: None,
) -> list[Prediction]:
    """Run one stage (S1 … S5) over question records; S3 takes the model's own S1 output as `english`.

    Raises `ValueError` for S3 without `english`.
    """
    if name == "S3" and (english is None or len(english) != len(records)):
        raise ValueError("S3 needs the model's own translation of every record.")
    instruction, budget = _CALLS[name]
    inputs = _inputs(name, records, english)
    done = _call(model, tokenizer, profile, instruction, budget, inputs, shots, progress)
    return _predictions(name, records, inputs, done)


def _inputs(name: str, records: Sequence[Record], english: Sequence[str] | None = None) -> list[dict[str, str]]:
    if _CALLS[name][0] == "answer":
        return [{"en": e} for e in (english if name == "S3" and english is not None else [r.en for r in records])]
    return [{"ja": r.ja} for r in records]


def _predictions(name: str, records: Sequence[Record], inputs, done: Sequence[Completion]) -> list[Prediction]:
    found = []
    for record, given, completion in zip(records, inputs, done, strict=True):
        parts = prompts.parse(_CALLS[name][0], completion.text)
        found.append(
            Prediction(
                record.id,
                name,
                given.get("en", ""),
                completion.text,
                parts.english,
                parts.reasoning,
                parts.answer,
                parts.well_formed and not completion.truncated,
                completion.truncated,
                completion.tokens,
            )
        )
    return found


def all_stages(
    model,
    tokenizer,
    profile: Profile,
    records: Sequence[Record],
    *,
    sentences: Sequence[str] = (),
    shots: Sequence[Record] = (),
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[list[Prediction], list[Completion]]:
    """S1 to S5 for every record, in order of stage, and the translations of `sentences`.

    Stages that ask for the same thing run together in larger batches: S1 with the sentences, S2 with S3. The few-shot examples stand
    before every stage.
    """

    def call(stage: str, inputs: list[dict[str, str]]) -> list[Completion]:
        return _call(model, tokenizer, profile, *_CALLS[stage], inputs, shots, progress)

    n = len(records)
    asked = _inputs("S1", records)
    done = call("S1", [*asked, *({"ja": ja} for ja in sentences)])
    translated = done[n:]
    first = _predictions("S1", records, asked, done[:n])
    gold, own = _inputs("S2", records), _inputs("S3", records, [p.english for p in first])
    done = call("S2", [*gold, *own])
    found = [*first, *_predictions("S2", records, gold, done[:n]), *_predictions("S3", records, own, done[n:])]
    for name in ("S4", "S5"):
        asked = _inputs(name, records)
        found += _predictions(name, records, asked, call(name, asked))
    return found, translated
