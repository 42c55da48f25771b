"""The playground: ipywidgets in 日本語 / English.

Only traits that ipywidgets 7.7 and 8 share are used. Whatever comes from data or from a model is escaped.
"""

from __future__ import annotations

import csv
import io
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import inference, progress, prompts
from .display import _PLAIN, PARTS, _escape, _japanese, _table, _text
from .files import UserError, write_text
from .profiles import Profile
from .records import Record

if TYPE_CHECKING:
    from ipywidgets import Widget

LONGEST, KEPT = 1000, 50  # characters of a question, runs in the history
EXAMPLES = (
    "日本で一番高い山はどこですか？",
    "フランスの首都はどこですか？",
    "りんごが12個あります。3人で同じ数ずつ分けると、1人何個ですか？",
    "エッフェル塔がある国の通貨は何ですか？",
    "1本80円の鉛筆を6本と1冊150円のノートを2冊買い、1,000円払いました。おつりは何円ですか？",
)
MODES = {
    "translate": "翻訳 / translate",
    "multistep": "一回で / multistep in one call",
    "two-calls": "二回に分けて / multistep in two calls",
    "direct": "直接回答 / answer directly",
}
_RUN, _RUNNING = "実行 / Run", "計算中 / running"
def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    # A UserError is written for the reader; of any other error the kind says more than the message.
    return progress.cut(words if isinstance(error, UserError) else f"{type(error).__name__}: {words}".rstrip(": "), 300)


def _ask(answer: Callable[[str, str, str], dict], system: str, mode: str, question: str) -> dict:
    begun = time.perf_counter()
    try:
        given = answer(system, mode, question)
        seconds = float(given.get("seconds", time.perf_counter() - begun))
        return {**{part: _text(given.get(part)).strip() for part in PARTS}, "seconds": round(seconds, 2), "error": ""}
    except Exception as error:  # noqa: BLE001  whatever a model raises belongs into the widget
        return dict.fromkeys(PARTS, "") | {"seconds": round(time.perf_counter() - begun, 2), "error": _one_line(error)}


class _Column:
    """One system's labelled boxes, and a line for seconds, waiting or an error."""

    def __init__(self, system: str):
        import ipywidgets as w

        self.note = w.HTML()
        self.boxes = {part: w.HTML(layout=w.Layout(display="none")) for part in PARTS}
        title = w.HTML(f"<b>{_escape(system)}</b>")
        layout = w.Layout(flex="1 1 0%", min_width="260px", padding="0 8px 0 0")
        self.widget = w.VBox([title, *self.boxes.values(), self.note], layout=layout)

    def show(self, result: Mapping[str, Any], note: str = "") -> None:
        """Fill the boxes; an empty one is hidden. `note` stands for the seconds while there is no result."""
        for part, box in self.boxes.items():
            text = result.get(part, "")
            box.value = (
                f'<div {_PLAIN} style="border:1px solid rgba(128,128,128,.5);border-radius:4px;padding:4px 8px;'
                f'line-height:1.5;overflow-wrap:anywhere"><b>{PARTS[part]}</b><br>{_escape(text)}</div>'
                if text
                else ""
            )
            box.layout.display = None if text else "none"
        if result.get("error"):
            note = f"エラー / error: {result['error']}"
        elif result:
            nothing = "" if any(result[p] for p in PARTS) else "出力なし / no output · "
            note = f"{nothing}{result['seconds']:.1f} 秒 / s"
        self.note.value = f"<span {_PLAIN}>{_escape(note)}</span>"


def _history_html(history: Sequence[dict], systems: Sequence[str]) -> str:
    if not history:
        return "<i>履歴はまだありません / no history yet</i>"

    def cell(result: dict) -> str:
        if result["error"]:
            return _escape(f"エラー / error: {result['error']}")
        shown = [part for part in ("english", "answer") if result[part]]
        lines = [f"{PARTS[part]}: {_escape(result[part])}" for part in shown]
        return "<br>".join([*lines, f"{result['seconds']:.1f} 秒 / s"])

    rows = [
        [_escape(e["time"]), MODES[e["mode"]], _japanese(e["question"]), *(cell(e["results"][s]) for s in systems)]
        for e in history
    ]
    return _table(["時刻 / Time", "方式 / Mode", "質問 / Question", *map(_escape, systems)], rows)


def _history_csv(history: Sequence[dict]) -> str:
    out = io.StringIO()
    names = ("time", "mode", "question", "system", *PARTS, "seconds", "error")
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for entry in history:
        for system, result in entry["results"].items():
            writer.writerow({k: entry[k] for k in names[:3]} | {"system": system} | result)
    # Spreadsheet programs take a CSV file for UTF-8 only when it begins with this mark.
    return "\ufeff" + out.getvalue()


def playground(
    answer: Callable[[str, str, str], dict],
    systems: Sequence[str],
    examples: Sequence[str] = EXAMPLES,
    history_file: str | Path | None = None,
) -> Widget:
    """A form that asks every system the same Japanese question and shows their outputs side by side.

    `answer(system, mode, text)`, mode one of `MODES`, returns `english`, `reasoning`, `answer` (strings, any may be
    missing) and `seconds` (default: measured); what it raises is shown as one line. The last 50 runs stay in a table,
    newest first, and go to `history_file` as CSV (UTF-8, a row per run and system) on request; without one there is no
    such button. Raises `UserError` for no systems.
    """
    import ipywidgets as w

    systems = list(dict.fromkeys(systems))
    if not systems:
        raise UserError("The playground has no system to ask: name at least one, such as 'base'.")
    wide = {"description_width": "initial"}
    mode = w.Dropdown(
        options=[(label, key) for key, label in MODES.items()],
        value="multistep",
        description="方式 / Mode",
        style=wide,
        layout=w.Layout(width="26em", max_width="100%"),
    )
    question = w.Textarea(
        placeholder="日本語の質問や文 / a question or sentence in Japanese",
        description="日本語 / Japanese",
        style=wide,
        layout=w.Layout(width="100%", height="5em"),
    )
    button = w.Button(description=_RUN, button_style="primary", layout=w.Layout(width="14em"))
    status, table = w.HTML(), w.HTML(_history_html((), systems))
    columns = {system: _Column(system) for system in systems}
    history: deque[dict] = deque(maxlen=KEPT)

    def say(text: str) -> None:
        status.value = f"<span {_PLAIN}>{_escape(text)}</span>"

    def run(_) -> None:
        text = question.value.strip()
        if button.disabled:
            return
        if not text:
            say("質問を入力するか、例を選んでください / type a question or choose an example")
            return
        if len(text) > LONGEST:
            n = f"{len(text):,}"
            say(f"{n} 文字は長すぎます（上限 {LONGEST:,}）/ {n} characters are too many (limit {LONGEST:,})")
            return
        button.disabled, button.description = True, _RUNNING
        say("")
        chosen, results = mode.value, {}
        try:
            for column in columns.values():
                column.show({}, "待機中 / waiting")
            for system, column in columns.items():
                column.show({}, f"{_RUNNING} …")
                results[system] = _ask(answer, system, chosen, text)
                column.show(results[system])
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            history.appendleft({"time": now, "mode": chosen, "question": text, "results": results})
            table.value = _history_html(history, systems)
        except KeyboardInterrupt:
            for system in systems[len(results) :]:
                columns[system].show({})
            say("中断しました / interrupted")
        finally:
            button.disabled, button.description = False, _RUN

    def export(_) -> None:
        if not history:
            say("保存する履歴がありません / there is no history to export yet")
            return
        try:
            say(f"保存しました / saved: {write_text(history_file, _history_csv(history))}")
        except Exception as error:  # noqa: BLE001  a line in the widget, never a traceback
            say(f"エラー / error: {_one_line(error)}")

    def example(text: str) -> Widget:
        chip = w.Button(description=text, tooltip=text, layout=w.Layout(width="auto", max_width="100%"))
        chip.on_click(lambda _: setattr(question, "value", text))
        return chip

    button.on_click(run)
    save = w.Button(description="CSV 保存 / export CSV", layout=w.Layout(width="14em"))
    save.on_click(export)
    wrapped = w.Layout(flex_flow="row wrap", width="100%")
    hint = w.HTML("例（やさしい → 難しい）/ Examples (easy → hard)")
    title = w.HTML(f"<b>履歴（新しい順、{KEPT} 件まで）/ History (newest first, at most {KEPT})</b>")
    return w.VBox([
        mode, question, *([hint, w.HBox([example(e) for e in examples], layout=wrapped)] if examples else []),
        button, status,
        w.HBox([c.widget for c in columns.values()], layout=wrapped), title, table,
        *([] if history_file is None else [save]),
    ])  # fmt: skip


def answerer(
    systems: Mapping[str, tuple[Any, Any]], profile: Profile, shots: Sequence[Record] = ()
) -> Callable[[str, str, str], dict]:
    """The `answer` function of the playground for real models: system name → (model, tokenizer).

    The system called `base` gets the few-shot examples `shots`; the modes are the stages S1, S4, S1 then S3, and S5.
    `answer` raises `UserError` for an unknown system or mode and for a prompt that the model's context cannot hold.
    """

    def answer(system: str, mode: str, text: str) -> dict:
        if system not in systems:
            raise UserError(f"Unknown system {system!r}. Known: {', '.join(systems)}.")
        if mode not in MODES:
            raise UserError(f"Unknown mode {mode!r}. Known: {', '.join(MODES)}.")
        (model, tokenizer), given = systems[system], (shots if system == "base" else ())
        begun = time.perf_counter()
        record = Record("playground", "qa", text, "")
        _check_room(model, tokenizer, profile, "translate" if mode == "two-calls" else mode, text, given)

        def stage(name: str, **options) -> inference.Prediction:
            return inference.stage(model, tokenizer, profile, name, [record], shots=given, **options)[0]

        found = stage({"translate": "S1", "two-calls": "S1", "multistep": "S4", "direct": "S5"}[mode])
        english = found.english
        if mode == "two-calls":
            found = stage("S3", english=[english])
        seconds = time.perf_counter() - begun
        return {"english": english, "reasoning": found.reasoning, "answer": found.answer, "seconds": seconds}

    return answer


def _check_room(model, tokenizer, profile: Profile, instruction: str, text: str, shots: Sequence[Record]) -> None:
    whole = prompts.prompt(profile.model.prompt_style, instruction, ja=text, shots=prompts.few_shot(instruction, shots))
    tokens, recipe = len(prompts.encode_prompt(tokenizer, whole)), profile.recipe
    context = getattr(model.config, "max_position_embeddings", None)
    room = context and context - max(recipe.translation_budget, recipe.answer_budget, recipe.multistep_budget)
    if room and tokens > room:
        count = f"the prompt takes {tokens:,} tokens, the model has room for {room:,}"
        raise UserError(f"質問が長すぎます / {count}. Shorten the question.")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
