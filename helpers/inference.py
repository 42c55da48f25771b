"""Batched generation, and the five stages of the multistep task (S1 … S5)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

from . import decoding, fused, prompts
from .profiles import Profile
from .records import Record
from .runtime import gpu_gib

STAGES = {
    "S1": "translate the question",
    "S2": "answer from the gold English",
    "S3": "answer from its own translation (two calls)",
    "S4": "translate, then answer, in one call",
    "S5": "answer directly from Japanese",
}
PRIMARY = ("S2", "S4")
# Stages whose Reasoning can be asked for.
REASONED = ("S2", "S3", "S4")
# Rows of a batch on a GPU, at most.
MOST_AT_ONCE = 768
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
    """A generated text without its end token, how many tokens it took, and whether it was cut off: by its budget, or in a loop that would have used that up."""

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


@dataclass(frozen=True)
class _Call:
    """Completions that are asked for in the same way: of `prefix + text` for each of the `texts`."""

    texts: Sequence[str]
    budget: int
    instruction: str = ""
    asked: bool = False
    prefix: str = ""


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

    A row ends at the style's end token or, given its `instruction`, where `decoding.ended` says, and its place is given to one that waits. With `asked` the lines of the completion are begun for the model, "Reasoning:" among them, and each has its own
    budget in the recipe. The `prefix` that all prompts begin with (few-shot examples) is computed once and its cache reused; it must end
    at a token boundary, such as a blank line.
    """
    return _together(model, tokenizer, profile, [_Call(texts, budget, instruction, asked, prefix)], sampling, progress)[0]


def _together(model, tokenizer, profile: Profile, calls: Sequence[_Call], sampling: decoding.Sampling, progress: Callable[[int], None]) -> list[list[Completion]]:
    """The completions of each of the calls, which share batches: the last rows of one need not be waited for alone."""
    ends = sorted({prompts.end_id(tokenizer, profile.model.prompt_style), tokenizer.eos_token_id})
    begun, rows, writers = [], [], []
    with fused.freed_memory_kept():
        starts = {text: decoding.prefix(model, prompts.encode_prompt(tokenizer, text) if text else []) for text in {c.prefix for c in calls if c.texts}}
        for call in calls:
            opening, cues = prompts.lines(call.instruction) if call.asked else ("", ())
            first = tokenizer(opening, add_special_tokens=False)["input_ids"] if opening else []
            for text in call.texts:
                ids = tokenizer(text, add_special_tokens=False)["input_ids"] if call.prefix else prompts.encode_prompt(tokenizer, text)
                begun.append(opening)
                rows.append((starts[call.prefix], [*ids, *first]))
                writers.append(_writer(tokenizer, profile, call, ends, cues))
        decoding.decode(model, rows, writers, tokenizer.pad_token_id, _at_once(model, profile, rows, writers, sampling), progress, sampling)
    found = []
    for call in calls:
        count = len(call.texts)
        found.append([_completion(call, opening, done) for opening, done in zip(begun[:count], writers[:count], strict=True)])
        begun, writers = begun[count:], writers[count:]
    return found


def _writer(tokenizer, profile: Profile, call: _Call, ends: Sequence[int], cues: Sequence[str]) -> decoding.Writer:
    if not call.asked:
        return decoding.Writer(tokenizer, ends, call.budget, call.instruction)
    budgets = _line_budgets(profile, call.instruction)
    return decoding.LineWriter(tokenizer, ends, sum(budgets), cues=cues, budgets=budgets)


def _completion(call: _Call, opening: str, done: decoding.Writer) -> Completion:
    end = decoding.ended(call.instruction, done.text) if call.instruction and not call.asked else -1
    text = (opening + done.text[: end if end >= 0 else None]).strip()
    return Completion(text, len(done.tokens), done.cut and end < 0)


def _at_once(
    model, profile: Profile, rows: Sequence[tuple[decoding.Prefix, Sequence[int]]], writers: Sequence[decoding.Writer], sampling: decoding.Sampling
) -> int:
    """Rows of a batch: the recipe's; on a GPU, whose steps cost the same for few and many, more where half of the memory left holds their cache.

    What is sampled depends on the batch, so not on the memory that happens to be left.
    """
    batch, left = profile.recipe.generation_batch, gpu_gib() * 2**30
    if not left or not rows or sampling.temperature > 0:
        return batch
    import torch

    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # Rows that are given free lanes are computed beside them first.
    length = decoding.room(rows, writers, True) + max(len(p.ids) + len(ids) for p, ids in rows)
    each = 2 * config.num_hidden_layers * heads * width * model.dtype.itemsize * length
    return max(batch, min(MOST_AT_ONCE, int((left - torch.cuda.memory_allocated()) / 2 / each)))


def _line_budgets(profile: Profile, instruction: str) -> tuple[int, ...]:
    recipe = profile.recipe
    return ((recipe.translation_budget,) if instruction == "multistep" else ()) + (recipe.reasoning_budget, recipe.line_budget)


def translate(
    model, tokenizer, profile: Profile, japanese: Sequence[str], *, shots: Sequence[Record] = (), progress=lambda n: None
) -> list[Completion]:
    """English for each Japanese sentence; `shots` are solved examples for a base model (zero-shot without)."""
    return _together(model, tokenizer, profile, [_call(profile, "S1", [{"ja": ja} for ja in japanese], shots)], decoding.GREEDY, progress)[0]


def _call(profile: Profile, stage: str, inputs: Sequence[dict[str, str]], shots: Sequence[Record], asked: bool = False) -> _Call:
    (instruction, budget), style = _CALLS[stage], profile.model.prompt_style
    examples = prompts.few_shot(instruction, shots) if shots else ""
    # Only the plain style lets the examples stand in front of everything and be computed once.
    prefix = examples if style == "text" else ""
    texts = [prompts.prompt(style, instruction, **i, shots="" if prefix else examples) for i in inputs]
    return _Call(texts, getattr(profile.recipe, budget), instruction, asked, prefix)


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
    done = _together(model, tokenizer, profile, [_call(profile, name, inputs, shots, asked)], sampling, progress)[0]
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
    translations: Sequence[tuple[Sequence[str], Sequence[Record]]] = (),
    asked: Collection[str] = (),
    shots: Sequence[Record] = (),
    reasoned_shots: Sequence[Record] | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[list[Prediction], list[list[Completion]]]:
    """S1 to S5 for every record and the primary stages, S2 and S4, for those of `primary`, in order of stage; and the completions of
    `translations`, each of them sentences and the few-shot examples before them.

    Those stages of S2 to S4 that are `asked` are run a second time (`primary`: S2 and S4), with Reasoning asked for. All that does not wait
    for a translation runs together, then S3. The few-shot examples `shots` stand before every stage; where `reasoned_shots` are given, these
    before those that are asked for Reasoning.
    """
    reasoned_shots = shots if reasoned_shots is None else reasoned_shots
    every = [*records, *primary]
    inputs = {name: _inputs(name, every if name in PRIMARY else records) for name in STAGES if name != "S3"}

    def run(wanted: Sequence[tuple[str, bool]], more: Sequence[_Call] = ()) -> list[list[Completion]]:
        calls = [_call(profile, name, inputs[name], reasoned_shots if reasoned else shots, reasoned) for name, reasoned in wanted]
        return _together(model, tokenizer, profile, [*calls, *more], decoding.GREEDY, progress)

    order = [("S1", False), *((name, reasoned) for reasoned in (False, True) for name in REASONED if name in asked or not reasoned), ("S5", False)]
    first = [key for key in order if key[0] != "S3"]
    done = run(first, [_call(profile, "S1", [{"ja": ja} for ja in sentences], examples) for sentences, examples in translations])
    found = dict(zip(first, done, strict=False))
    translated = _predictions("S1", records, inputs["S1"], found["S1", False])
    inputs["S3"] = _inputs("S3", records, [p.english for p in translated])
    last = [key for key in order if key[0] == "S3"]
    found |= dict(zip(last, run(last), strict=True))
    predictions = [p for name, reasoned in order for p in _predictions(name, every if name in PRIMARY else records, inputs[name], found[name, reasoned], reasoned)]
    return predictions, done[len(first) :]
