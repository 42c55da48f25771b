"""Ask a model one question while watching: the completion as it is written, token by token, until it ends or is stopped."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import decoding, evaluation, fused, models, own_evaluation, pipeline, prompts, runtime
from .files import UserError
from .profiles import Profile
from .records import Record
from .runtime import Run

MODES = {
    "translate": "翻訳 / translate",
    "answer": "英語の質問に答える / answer an English question",
    "multistep": "多段階（一回の呼び出し） / multistep in one call",
    "two-calls": "多段階（二回の呼び出し） / multistep in two calls",
    "direct": "日本語から直接回答 / answer directly from Japanese",
}
PARTS = ("english", "reasoning", "answer")
Loader = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Request:
    """What is asked and how: `mode` one of `MODES`, `text` Japanese (English for "answer"), `asked` to begin the Reasoning for the model.

    Greedy at `temperature` 0; `tokens` limits a completion (of an asked one, its Reasoning), 0: as in the recipe.
    """

    mode: str
    text: str
    asked: bool = False
    temperature: float = 0.0
    top_k: int = 40
    tokens: int = 0
    seed: int = 0


class Stopped(Exception):
    """The completion was stopped before its end."""


class _Watched:
    """A writer (`decoding.Writer`) whose text is shown after each token, and that stops where it is told to."""

    def __init__(self, writer: decoding.Writer, seen: Callable[[str], None], stop: Callable[[], bool]):
        self._writer, self._seen, self._stop = writer, seen, stop

    def __getattr__(self, name: str):
        return getattr(self._writer, name)

    def take(self, token: int) -> bool:
        """As `decoding.Writer.take`. Raises `Stopped`."""
        over = self._writer.take(token)
        self._seen(self._writer.text)
        if not over and self._stop():
            raise Stopped
        return over


class Answerer:
    """Models by name, each loaded when it is first asked, at most `keep` of them held at a time.

    `systems` maps a name to a function that loads (model, tokenizer). The one called `base` is given the few-shot examples `shots`, with
    their rationales when Reasoning is asked for.
    """

    def __init__(self, profile: Profile, systems: Mapping[str, Loader], shots: Sequence[Record] = (), keep: int = 2):
        self.profile, self.loaders, self.shots, self.keep = profile, dict(systems), list(shots), keep
        self._held: dict[str, tuple[Any, Any]] = {}
        self._prefixes: dict[tuple[str, str], decoding.Prefix] = {}

    @property
    def systems(self) -> list[str]:
        """The names."""
        return list(self.loaders)

    def is_loaded(self, system: str) -> bool:
        """Whether its model is held."""
        return system in self._held

    def _model(self, system: str) -> tuple[Any, Any]:
        if system not in self._held:
            while len(self._held) >= self.keep:
                oldest = next(iter(self._held))
                del self._held[oldest]
                self._prefixes = {k: v for k, v in self._prefixes.items() if k[0] != oldest}
                # Models hold reference cycles; one more of them may not fit on a GPU.
                gc.collect()
            self._held[system] = self.loaders[system]()
        self._held[system] = self._held.pop(system)
        return self._held[system]

    def __call__(
        self, system: str, request: Request, seen: Callable[[dict[str, str]], None] = lambda parts: None, stop: Callable[[], bool] = lambda: False
    ) -> dict:
        """The parts that a system writes: `english`, `reasoning`, `answer` (texts), `seconds`, `tokens`, `cut` (by the limit, or in a loop), `stopped`.

        `seen` gets the parts as they grow, `stop` is asked after every token. Raises `UserError` for an unknown system or mode and for a
        prompt that the model's context cannot hold.
        """
        if system not in self.loaders:
            raise UserError(f"Unknown system {system!r}. Known: {', '.join(self.loaders)}.")
        if request.mode not in MODES:
            raise UserError(f"Unknown mode {request.mode!r}. Known: {', '.join(MODES)}.")
        # A lone half of a surrogate pair cannot be encoded.
        text = request.text.encode("utf-8", "replace").decode("utf-8")
        self._model(system)
        begun = time.perf_counter()
        result: dict[str, Any] = dict.fromkeys(PARTS, "") | {"tokens": 0, "cut": False, "stopped": False}
        calls = [("translate", "ja"), ("answer", "en")] if request.mode == "two-calls" else [(request.mode, "en" if request.mode == "answer" else "ja")]
        given = text
        for instruction, language in calls:
            asked = request.asked and instruction != "translate"
            self._complete(system, instruction, {language: given}, dataclasses.replace(request, asked=asked), result, seen, stop)
            given = result["english"]
            if result["stopped"]:
                break
        return result | {"seconds": time.perf_counter() - begun}

    def _complete(self, system, instruction: str, inputs: dict[str, str], request: Request, result: dict, seen, stop) -> None:
        """One call: `result` is brought up to date in place."""
        model, tokenizer = self._model(system)
        style, recipe = self.profile.model.prompt_style, self.profile.recipe
        shots = [r if request.asked else r.replace(reasoning="") for r in self.shots] if system == "base" else []
        examples = prompts.few_shot(instruction, shots) if shots else ""
        # As in `inference`: only the plain style lets the examples stand in front of everything and be computed once.
        prefix = examples if style == "text" else ""
        whole = prompts.prompt(style, instruction, **inputs, shots="" if prefix else examples)
        head = prompts.encode_prompt(tokenizer, prefix) if prefix else []
        row = tokenizer(whole, add_special_tokens=False)["input_ids"] if prefix else prompts.encode_prompt(tokenizer, whole)
        begun, cues = prompts.lines(instruction) if request.asked else ("", ())
        row = row + (tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else [])
        writer = self._writer(tokenizer, instruction, request, cues, recipe)
        context = getattr(model.config, "max_position_embeddings", None)
        if context and len(head) + len(row) + writer.longest > context:
            n, room = len(head) + len(row), context - writer.longest
            raise UserError(f"質問が長すぎます / the prompt takes {n:,} tokens, the model has room for {room:,}. Shorten the question.")
        before = {part: result[part] for part in PARTS}

        def show(text: str) -> None:
            seen(before | parts_so_far(instruction, begun + text))

        watched = _Watched(writer, show, stop)
        sampling = decoding.Sampling(request.temperature, request.top_k, request.seed)
        try:
            with fused.freed_memory_kept():
                decoding.decode(model, [(self._prefix(system, model, prefix, head), row)], [watched], tokenizer.pad_token_id, 1, lambda n: None, sampling)
        except Stopped:
            result["stopped"] = True
        end = decoding.ended(instruction, writer.text) if not request.asked else -1
        text = (begun + writer.text[: end if end >= 0 else None]).strip()
        found = prompts.parse(instruction, text)
        written = {"reasoning": found.reasoning, "answer": found.answer} if instruction != "translate" else {"english": found.english}
        written |= {"english": found.english} if instruction == "multistep" else {}
        # What was stopped has no last line that could be taken for the answer.
        result |= parts_so_far(instruction, text) if result["stopped"] else written
        result["tokens"] += len(writer.tokens)
        result["cut"] |= writer.cut and end < 0

    def _writer(self, tokenizer, instruction: str, request: Request, cues: Sequence[str], recipe) -> decoding.Writer:
        ends = sorted({prompts.end_id(tokenizer, self.profile.model.prompt_style), tokenizer.eos_token_id})
        if request.asked:
            budgets = ((recipe.translation_budget,) if instruction == "multistep" else ()) + (request.tokens or recipe.reasoning_budget, recipe.line_budget)
            return decoding.LineWriter(tokenizer, ends, sum(budgets), cues=cues, budgets=budgets)
        budget = {"translate": recipe.translation_budget, "multistep": recipe.multistep_budget}.get(instruction, recipe.answer_budget)
        return decoding.Writer(tokenizer, ends, request.tokens or budget, instruction)

    def _prefix(self, system: str, model, prefix: str, head: Sequence[int]) -> decoding.Prefix:
        key = (system, prefix)
        if key not in self._prefixes:
            self._prefixes[key] = decoding.prefix(model, head)
        return self._prefixes[key]


def parts_so_far(instruction: str, text: str) -> dict[str, str]:
    """The labelled parts of a completion that is still being written; what has no label yet is left out, and so is English that was not asked for."""
    cue = "English:" if instruction in ("translate", "multistep") else ""
    whole = f"{cue} {text.lstrip()}" if cue else text
    marks = list(prompts._FIELD.finditer(whole))
    parts: dict[str, str] = {}
    for mark, following in itertools.pairwise([*marks, None]):
        body = whole[mark.end() : following.start() if following else len(whole)].strip()
        # Of an answer in two calls, the translation is the first call's.
        if cue or mark.group(1) != "English":
            parts.setdefault(mark.group(1).lower(), body)
    return parts


def of_run(run: Run, data: pipeline.Data, say: Callable[[str], None] = print) -> Answerer:
    """The base model and every trained arm of a run (its first seed), loaded when asked; on a GPU in NF4, two of which fit on a T4.

    Raises `UserError` when an adapter folder is not whole.
    """
    merge = runtime.device().kind == "cpu"
    tokenizer = models.load_tokenizer(run.profile, say)

    def loader(adapter) -> Loader:
        return lambda: (models.load_for_inference(run.profile, adapter, say, merge), tokenizer)

    systems = {"base": loader(None)}
    trained = own_evaluation.trained(run)
    for arm in [*(a for a in run.study.arms if a in trained), *(a for a in trained if a not in run.study.arms)]:
        systems[arm] = loader(run.path("arms", arm, f"seed{trained[arm][0]}", "adapter"))
    accepted = pipeline.rationales(run)
    pool = [r for r in data.questions["train"] if r.id in accepted]
    shots = [r.replace(reasoning=accepted[r.id]) for r in evaluation.shots(run, pool)]
    return Answerer(run.profile, systems, shots)
