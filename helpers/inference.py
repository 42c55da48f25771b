"""Batched generation, and the five stages of the multistep task (S1 … S5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from . import decoding, fused, prompts
from .profiles import Profile
from .records import Record

STAGES = {
    "S1": "translate the question",
    "S2": "answer from the gold English",
    "S3": "answer from its own translation (two calls)",
    "S4": "translate, then answer, in one call",
    "S5": "answer directly from Japanese",
}
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
    """One model's output for one record at one stage, parsed; `asked` when its Reasoning was asked for."""

    id: str
    stage: str
    asked: bool
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


def generate(
    model,
    tokenizer,
    profile: Profile,
    texts: Sequence[str],
    budget: int,
    *,
    instruction: str = "",
    asked: bool = False,
    prefix: str = "",
    sampling: decoding.Sampling = decoding.GREEDY,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Completion]:
    """Completions, greedy unless `sampling` says otherwise, of `prefix + text` for each text, in order, at most `budget` tokens each.

    Prompts of like length share a batch; a row ends at the style's end token or, given its `instruction`, where `decoding.ended` says, and
    then leaves the batch. With `asked` the lines of the completion are begun for the model, "Reasoning:" among them, and each has its own
    budget in the recipe. The `prefix` that all prompts begin with (few-shot examples) is computed once and its cache reused; it must end
    at a token boundary, such as a blank line.
    """
    ends = sorted({prompts.end_id(tokenizer, profile.model.prompt_style), tokenizer.eos_token_id})
    head = prompts.encode_prompt(tokenizer, prefix) if prefix else []
    rows = [
        tokenizer(t, add_special_tokens=False)["input_ids"] if prefix else prompts.encode_prompt(tokenizer, t) for t in texts
    ]
    begun, cues = prompts.lines(instruction) if asked else ("", ())
    opening = tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else []
    budgets = _line_budgets(profile, instruction) if asked else ()

    def writer() -> decoding.Writer:
        if asked:
            return decoding.LineWriter(tokenizer, ends, sum(budgets), cues=cues, budgets=budgets)
        return decoding.Writer(tokenizer, ends, budget, instruction)

    writers = [writer() for _ in rows]
    given = [row + opening for row in rows]
    with fused.freed_memory_kept():
        start = decoding.prefix(model, head)
        decoding.decode(model, start, given, writers, tokenizer.pad_token_id, profile.recipe.generation_batch, progress, sampling)
    found = []
    for done in writers:
        end = decoding.ended(instruction, done.text) if instruction and not asked else -1
        text = (begun + done.text[: end if end >= 0 else None]).strip()
        found.append(Completion(text, len(done.tokens), done.cut and end < 0))
    return found


def _line_budgets(profile: Profile, instruction: str) -> tuple[int, ...]:
    recipe = profile.recipe
    return ((recipe.translation_budget,) if instruction == "multistep" else ()) + (recipe.reasoning_budget, recipe.line_budget)


def translate(
    model, tokenizer, profile: Profile, japanese: Sequence[str], *, shots: Sequence[Record] = (), progress=lambda n: None
) -> list[Completion]:
    """English for each Japanese sentence; `shots` are solved examples for a base model (zero-shot without)."""
    return _call(model, tokenizer, profile, "translate", "translation_budget", [{"ja": ja} for ja in japanese], shots, progress)


def _call(model, tokenizer, profile, instruction, budget, inputs, shots, progress, asked=False, sampling=decoding.GREEDY) -> list[Completion]:
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
        asked=asked,
        prefix=prefix,
        sampling=sampling,
        progress=progress,
    )


def stage(
    model,
    tokenizer,
    profile: Profile,
    name: str,
    records: Sequence[Record],
    *,
    asked: bool = False,
    english: Sequence[str] | None = None,
    shots: Sequence[Record] = (),
    sampling: decoding.Sampling = decoding.GREEDY,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Prediction]:
    """Run one stage (S1 … S5) over question records; S3 takes the model's own S1 output as `english`.

    With `asked` the completion's Reasoning is begun for the model. Raises `ValueError` for S3 without `english`, and for S1 `asked`.
    """
    if name == "S3" and (english is None or len(english) != len(records)):
        raise ValueError("S3 needs the model's own translation of every record.")
    if name == "S1" and asked:
        raise ValueError("A translation carries no Reasoning.")
    inputs = _inputs(name, records, english)
    done = _call(model, tokenizer, profile, *_CALLS[name], inputs, shots, progress, asked, sampling)
    return _predictions(name, records, inputs, done, asked)


def _inputs(name: str, records: Sequence[Record], english: Sequence[str] | None = None) -> list[dict[str, str]]:
    if _CALLS[name][0] == "answer":
        return [{"en": e} for e in (english if name == "S3" and english is not None else [r.en for r in records])]
    return [{"ja": r.ja} for r in records]


def _predictions(name: str, records: Sequence[Record], inputs, done: Sequence[Completion], asked: bool = False) -> list[Prediction]:
    found = []
    for record, given, completion in zip(records, inputs, done, strict=True):
        parts = prompts.parse(_CALLS[name][0], completion.text)
        found.append(
            Prediction(
                record.id,
                name,
                asked,
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
    primary: Sequence[Record] = (),
    sentences: Sequence[str] = (),
    asked: bool = False,
    shots: Sequence[Record] = (),
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[list[Prediction], list[Completion]]:
    """S1 to S5 for every record and the primary stages, S2 and S4, for those of `primary`, in order of stage; the translations of `sentences`.

    With `asked`, S2 to S4 a second time (`primary`: S2 and S4), with Reasoning asked for. Stages that ask for the same thing run together in
    larger batches: S1 with the sentences, S2 with S3. The few-shot examples stand before every stage.
    """

    def call(stage: str, inputs: list[dict[str, str]], asked: bool = False) -> list[Completion]:
        return _call(model, tokenizer, profile, *_CALLS[stage], inputs, shots, progress, asked) if inputs else []

    n, every = len(records), [*records, *primary]
    given = _inputs("S1", records)
    done = call("S1", [*given, *({"ja": ja} for ja in sentences)])
    translated = done[n:]
    found = _predictions("S1", records, given, done[:n])
    gold, own, japanese = _inputs("S2", every), _inputs("S3", records, [p.english for p in found]), _inputs("S4", every)
    for reasoned in (False, True) if asked else (False,):
        done = call("S2", [*gold, *own], reasoned)
        found += _predictions("S2", every, gold, done[: len(gold)], reasoned)
        found += _predictions("S3", records, own, done[len(gold) :], reasoned)
        found += _predictions("S4", every, japanese, call("S4", japanese, reasoned), reasoned)
    given = _inputs("S5", records)
    return found + _predictions("S5", records, given, call("S5", given)), translated
