"""The playground: one Japanese question to two systems, such as base and a tuned one, side by side, as they write.

Only traits that ipywidgets 7.7 and 8 share are used. Whatever comes from a user or a model is escaped.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import progress
from .answering import MODES, Answerer, Request
from .display import _PLAIN, PARTS, _escape, _japanese, _line, _table, _text, one_line
from .files import UserError
from .history import RATINGS, History
from .language import label

LONGEST, SHOWN = 1000, 50  # characters of a question, runs in the table
EXAMPLES = (
    ("日本で一番高い山はどこですか？", "What is the highest mountain in Japan?"),
    ("フランスの首都はどこですか？", "What is the capital of France?"),
    ("りんごが12個あります。3人で同じ数ずつ分けると、1人何個ですか？", "There are 12 apples. If three people share them equally, how many does each get?"),
    ("エッフェル塔がある国の通貨は何ですか？", "What is the currency of the country where the Eiffel Tower stands?"),
    (
        "1本80円の鉛筆を6本と1冊150円のノートを2冊買い、1,000円払いました。おつりは何円ですか？",
        "Six pencils at 80 yen each and two notebooks at 150 yen each are paid for with 1,000 yen. How much is the change?",
    ),
)
_BOX = "border:1px solid rgba(128,128,128,.5);border-radius:4px;padding:4px 8px;line-height:1.5;overflow-wrap:anywhere"
_REDRAW = 0.1  # seconds between two drawings of a text that is being written


class _Column:
    """One system's labelled boxes, a line for seconds, waiting or an error, and the two ratings."""

    def __init__(self, rate: Callable[[str], None]):
        import ipywidgets as w

        self.title, self.note = w.HTML(), w.HTML()
        self.boxes = {part: w.HTML(layout=w.Layout(display="none")) for part in PARTS}
        small = w.Layout(width="3.5em")
        again = label("もう一度押すと取り消し / press again to take it back")
        self.ratings = {name: w.Button(description=RATINGS[name], tooltip=f"{label(text)} ({again})", layout=small)
                        for name, text in (("up", "良い / good"), ("down", "悪い / bad"))}  # fmt: skip
        for name, button in self.ratings.items():
            button.on_click(lambda _, name=name: rate(name))
        self.rating = w.HBox(list(self.ratings.values()), layout=w.Layout(display="none"))
        layout = w.Layout(flex="1 1 0%", min_width="260px", padding="0 8px 0 0")
        self.widget = w.VBox([self.title, *self.boxes.values(), self.note, self.rating], layout=layout)

    def name(self, system: str) -> None:
        """Clear the column for a system; "" hides it."""
        self.title.value = f"<b {_PLAIN}>{_escape(system)}</b>"
        self.widget.layout.display = None if system else "none"
        self.show({})
        self.rated(None)

    def show(self, parts: Mapping[str, Any], note: str = "") -> None:
        """Fill the boxes; an empty one is hidden."""
        for part, box in self.boxes.items():
            text = _text(parts.get(part)).strip()
            value = f'<div {_PLAIN} style="{_BOX}"><b>{label(PARTS[part])}</b><br>{_escape(text)}</div>' if text else ""
            if box.value != value:
                box.value, box.layout.display = value, None if text else "none"
        self.note.value = _line(note)

    def rated(self, rating: str | None) -> None:
        """Mark the rating; None hides the buttons."""
        self.rating.layout.display = "none" if rating is None else None
        for name, button in self.ratings.items():
            button.button_style = {"up": "success", "down": "danger"}[name] if name == rating else ""


def _note(result: Mapping[str, Any]) -> str:
    if result["error"]:
        return f"{label('エラー / error')}: {result['error']}"
    words = [] if any(result[p] for p in PARTS) else [label("出力なし / no output")]
    words += [f"{result['seconds']:.1f} {label('秒 / s')}", f"{result['written']} {label('トークン / tokens')}"]
    words += [label("停止 / stopped")] if result["stopped"] else []
    words += [label("長さの上限か繰り返しで打ち切り / cut off (limit or loop)")] if result["cut"] else []
    return " · ".join(words)


class Playground:
    """The form; shown as the last value of a cell, or by `display`.

    `folder` keeps the history and the ratings (`helpers.history`); without one they last as long as the form. `answer` is an
    `answering.Answerer`, or what has its `systems` and is called like it. With `background` a run goes on beside the kernel, so that the
    stop button is heard; on Colab, where widgets cannot be changed from a thread (googlecolab/colabtools issue 3373), it does not: there
    interrupting the kernel stops it. Raises `UserError` for no systems, and for a damaged history.
    """

    def __init__(
        self, answer: Answerer, folder: str | Path | None = None, examples: Sequence[tuple[str, str]] = EXAMPLES, background: bool | None = None
    ):
        self.answer, self.history = answer, History(folder)
        self.systems = list(answer.systems)
        if not self.systems:
            raise UserError("The playground has no system to ask: name at least one, such as 'base'.")
        self.background = "google.colab" not in sys.modules if background is None else background
        self._stop, self._thread, self._run = threading.Event(), None, 0
        self._build(examples)
        self._redraw()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _build(self, examples: Sequence[tuple[str, str]]) -> None:
        import ipywidgets as w

        wide, row = {"description_width": "initial"}, w.Layout(flex_flow="row wrap", width="100%")
        # A row that is full wraps; nothing in it is squeezed.
        size, own = w.Layout(width="22em", max_width="98%", flex="0 0 auto"), w.Layout(width="auto", margin="2px 24px 2px 2px", flex="0 0 auto")

        def made(kind, text: str, **options):
            return kind(description=label(text), style=wide, **({"layout": size} | options))

        def under(text: str, slider, width: str):
            # Beside its label, in two languages, nothing would be left of a slider.
            slider.layout = w.Layout(width="auto")
            words = w.HTML(f'<div style="line-height:1.5">{label(text)}</div>')
            return w.VBox([words, slider], layout=w.Layout(width=width, max_width="98%", flex="0 0 auto"))

        tuned = [s for s in self.systems if s != "base"]
        self.mode = made(w.Dropdown, "方式 / Mode", options=[(label(text), key) for key, text in MODES.items()], value="multistep",
                         layout=w.Layout(width="35em", max_width="98%", flex="0 0 auto"))  # fmt: skip
        self.system = made(w.Dropdown, "モデル / Model", options=tuned or self.systems, value=(tuned or self.systems)[-1])
        self.beside = made(w.Dropdown, "並べるモデル / Beside it", options=[(label("なし / none"), ""), *((s, s) for s in self.systems)],
                           value="base" if tuned and "base" in self.systems else "")  # fmt: skip
        self.beside.layout = w.Layout(width="22em", max_width="98%", flex="0 0 auto", display=None if len(self.systems) > 1 else "none")
        self.asked = w.Checkbox(description=label("推論を書かせる / ask for Reasoning"), value=False, indent=False, layout=own)
        self.temperature = w.FloatSlider(value=0.0, min=0.0, max=1.5, step=0.1)
        self.top_k = w.IntSlider(value=40, min=1, max=100)
        self.tokens = w.IntSlider(value=0, min=0, max=400, step=16)
        sliders = [under("温度 / Temperature", self.temperature, "17em"), under("候補数 / Top k", self.top_k, "17em"),
                   under("最大トークン数（0: 既定） / Max tokens (0: default)", self.tokens, "28em")]  # fmt: skip
        self.seed = made(w.BoundedIntText, "シード / Seed", value=0, min=0, max=2**31 - 1, layout=w.Layout(width="14em", flex="0 0 auto"))
        # Of the width "100%" the right edge is cut off: the margins come on top.
        self.question = w.Textarea(layout=w.Layout(width="auto", height="5em"), style=wide)
        self.chips = [(w.Button(layout=w.Layout(width="auto", max_width="98%")), texts) for texts in examples]
        for chip, texts in self.chips:
            chip.on_click(lambda _, texts=texts: setattr(self.question, "value", texts[self.mode.value == "answer"]))
        self.start = w.Button(description=label("実行 / Run"), button_style="primary", layout=w.Layout(width="14em"))
        self.halt = w.Button(description=label("停止 / Stop"), disabled=True, layout=w.Layout(width="14em"))
        self.status, self.table = w.HTML(), w.HTML()
        self.columns = [_Column(lambda rating, place=place: self._rate(place, rating)) for place in (0, 1)]
        self.past = made(w.Dropdown, "履歴から選ぶ / Pick a run", options=[("–", 0)], value=0,
                         layout=w.Layout(width="45em", max_width="98%", flex="0 0 auto", display="none"))  # fmt: skip
        self.right = made(w.Text, "正しい答え / Right answer", placeholder=label("分かれば / if you know it"), layout=w.Layout(width="auto", display="none"), continuous_update=False)
        self.save = w.Button(description=label("CSV で保存 / save as CSV"), layout=w.Layout(width="16em", display=None if self.history.path else "none"))
        self.start.on_click(self._begin)
        self.halt.on_click(self._halt)
        self.save.on_click(self._save)
        self.right.observe(self._correct, "value")
        self.past.observe(self._choose, "value")
        self.mode.observe(lambda _: self._language(), "value")
        self._language()
        hint = w.HTML(label("例（やさしい → 難しい） / Examples (easy → hard)"))
        for column in self.columns:
            column.name("")
        self.widget = w.VBox([
            w.HBox([self.mode, self.system, self.beside], layout=row), w.HBox(sliders, layout=row), w.HBox([self.asked, self.seed], layout=row),
            self.question, hint, w.HBox([chip for chip, _ in self.chips], layout=row), w.HBox([self.start, self.halt], layout=row), self.status,
            self.past, w.HBox([c.widget for c in self.columns], layout=row), self.right,
            w.Box([self.table], layout=w.Layout(overflow="auto", width="auto")), self.save,
        ])  # fmt: skip

    def _language(self) -> None:
        """The examples and the field's description follow the mode: one of them takes English."""
        english = self.mode.value == "answer"
        self.question.description = label("英語 / English" if english else "日本語 / Japanese")
        self.question.placeholder = label("英語の質問 / a question in English" if english else "日本語の質問や文 / a question or sentence in Japanese")
        for chip, texts in self.chips:
            # A button's text does not wrap; the whole of it is in the tooltip and, after a click, in the field.
            chip.description, chip.tooltip = progress.cut(texts[english], 56), texts[english]

    def _say(self, text: str) -> None:
        self.status.value = _line(text)

    def _begin(self, _) -> None:
        text = self.question.value.strip()
        if self._thread or self.start.disabled:
            return
        if not text:
            return self._say(label("質問を入力するか、例を選んでください / type a question or choose an example"))
        if len(text) > LONGEST:
            n = f"{len(text):,}"
            return self._say(label(f"{n} 文字は長すぎます（上限 {LONGEST:,}） / {n} characters are too many (limit {LONGEST:,})"))
        request = Request(self.mode.value, text, self.asked.value, self.temperature.value, self.top_k.value, self.tokens.value, self.seed.value)
        chosen = list(dict.fromkeys(filter(None, (self.beside.value, self.system.value))))
        japanese = any("\u3040" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff" for c in text)
        odd = not japanese and request.mode != "answer"
        self._say(label("日本語が見当たりません / there is no Japanese in it") if odd else "")
        self._stop.clear()
        self.start.disabled, self.start.description, self.halt.disabled = True, label("計算中 / running"), not self.background
        self._run, self.past.disabled = 0, True
        if not self.background:
            self._say(label("停止するには: ランタイム → 実行を中断 / to stop: Runtime → Interrupt execution"))
            return self._work(request, chosen)
        self._thread = threading.Thread(target=self._work, args=(request, chosen), daemon=True)
        self._thread.start()

    def _work(self, request: Request, chosen: list[str]) -> None:
        rows = []
        try:
            self.right.layout.display = "none"
            for place, column in enumerate(self.columns):
                column.name(chosen[place] if place < len(chosen) else "")
                column.show({}, label("待機中 / waiting"))
            for column, system in zip(self.columns, chosen, strict=False):
                if self._stop.is_set():
                    column.show({}, label("停止 / stopped"))
                    continue
                result = self._ask(column, system, request)
                column.show(result, _note(result))
                rows.append(result)
        finally:
            try:
                self._finish(request, rows)
            finally:
                self._thread = None
                self.start.disabled, self.start.description, self.halt.disabled = False, label("実行 / Run"), True
                self.past.disabled = False

    def _ask(self, column: _Column, system: str, request: Request) -> dict:
        begun, drawn = time.monotonic(), 0.0
        partial: dict[str, str] = {}

        def seen(parts: Mapping[str, str]) -> None:
            nonlocal drawn
            partial.update(parts)
            if time.monotonic() - drawn >= _REDRAW:
                column.show(parts, f"{label('計算中 / running')} …")
                drawn = time.monotonic()

        loaded = getattr(self.answer, "is_loaded", lambda system: True)(system)
        column.show({}, f"{label('計算中 / running' if loaded else 'モデルを読み込み中 / loading the model')} …")
        row = {"system": system, "error": "", "stopped": False, "cut": False, "written": 0}
        try:
            given = self.answer(system, request, seen, self._stop.is_set)
            row |= {part: _text(given.get(part)).strip() for part in PARTS}
            row |= {"written": int(given.get("tokens", 0)), "cut": bool(given.get("cut")), "stopped": bool(given.get("stopped"))}
        except KeyboardInterrupt:
            self._stop.set()
            row |= {part: partial.get(part, "") for part in PARTS} | {"stopped": True}
        except Exception as error:  # noqa: BLE001  whatever a model raises belongs into the widget
            row |= dict.fromkeys(PARTS, "") | {"error": one_line(error)}
        return row | {"seconds": round(time.monotonic() - begun, 2)}

    def _finish(self, request: Request, rows: list[dict]) -> None:
        if not rows:
            return self._redraw()
        settings = {"asked": request.asked, "temperature": float(request.temperature), "top_k": request.top_k, "tokens": request.tokens, "seed": request.seed}
        asked = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "mode": request.mode, "question": request.text, **settings}
        number = self._guarded(lambda: self.history.add([asked | row for row in rows]))
        if number is None:
            return
        self._run = number
        self._ratable()
        self._redraw()

    def _rows(self) -> list[dict]:
        return [row for row in self.history.rows if row["run"] == self._run]

    def _ratable(self) -> None:
        """The ratings and the right answer of the run that is shown."""
        rows = self._rows()
        for column, row in zip(self.columns, rows, strict=False):
            column.rated(None if row["error"] else row["rating"])
        self.right.value = rows[0]["right"] if rows else ""
        self.right.layout.display = None if rows else "none"

    def _choose(self, change) -> None:
        """Show a run of the history, to be rated as if it had just ended."""
        if self.start.disabled or change["new"] == self._run:
            return
        self._run = change["new"]
        rows = self._rows()
        for place, column in enumerate(self.columns):
            row = rows[place] if place < len(rows) else None
            column.name(row["system"] if row else "")
            if row:
                column.show(row, _note(row))
        self._ratable()

    def _guarded(self, act: Callable[[], Any]) -> Any:
        """What `act` returns, or None with its error as a line in the form."""
        try:
            return act()
        except Exception as error:  # noqa: BLE001  a line in the widget, never a traceback
            return self._say(f"{label('エラー / error')}: {one_line(error)}")

    def _halt(self, _) -> None:
        self._stop.set()
        self.halt.disabled = True

    def _rate(self, place: int, rating: str) -> None:
        row = self._rows()[place]
        self._guarded(lambda: self.history.rate(self._run, row["system"], rating))
        self.columns[place].rated(self._rows()[place]["rating"])
        self._redraw()

    def _correct(self, change) -> None:
        known = next((row["right"] for row in self._rows()), "")
        if self._run and change["new"] != known:
            self._guarded(lambda: self.history.correct(self._run, change["new"]))
            self._redraw()

    def _save(self, _) -> None:
        if not self.history.rows:
            return self._say(label("保存する履歴がありません / there is no history to save yet"))
        path = self._guarded(self.history.csv)
        if path:
            others = [p.name for p in (self.history.path, self.history.evaluation_path) if p.exists()]
            self._say(f"{label('保存しました / saved')}: {path} · {label('同じフォルダー / same folder')}: {', '.join(others)}")

    def _redraw(self) -> None:
        self.table.value = _history_html(self.history)
        # New options choose the first one, which is not what the reader does.
        self.past.unobserve(self._choose, "value")
        self.past.options = [("–", 0), *((_title(run), run[0]["run"]) for run in self.history.runs)]
        self.past.value = self._run
        self.past.observe(self._choose, "value")
        self.past.layout.display = None if self.history.rows else "none"


def _title(run: list[dict]) -> str:
    answers = ", ".join(f"{row['system']} {RATINGS.get(row['rating'], '')}".strip() for row in run)
    return f"{run[0]['run']} · {progress.cut(run[0]['question'], 30)} · {answers}"


def _history_html(history: History) -> str:
    if not history.rows:
        return f"<i>{label('履歴はまだありません / no history yet')}</i>"

    def cell(row: dict) -> str:
        name = f"<b>{_escape(row['system'])}</b> {RATINGS.get(row['rating'], '')}"
        if row["error"]:
            return f"{name}<br>{_escape(label('エラー / error'))}: {_escape(row['error'])}"
        shown = [part for part in PARTS if part != "reasoning" and row[part]]
        return "<br>".join([name, *(f"{label(PARTS[part])}: {_escape(row[part])}" for part in shown), _escape(_note(row))])

    def wrapped(content: str) -> str:
        return f'<div style="overflow-wrap:anywhere;min-width:9em">{content}</div>'

    rows = []
    for run in history.runs[:SHOWN]:
        first = run[0]
        question = _japanese(first["question"]) + (f"<br>{label('正答 / right answer')}: {_escape(first['right'])}" if first["right"] else "")
        mode = label(MODES.get(first["mode"], first["mode"]))
        question = f'<div style="min-width:12em">{question}</div>'
        rows.append([_escape(first["time"][:16]), _escape(mode), question, *(wrapped(cell(row)) for row in run), *[""] * (2 - len(run))])
    head = [label(text) for text in ("時刻 / Time", "方式 / Mode", "質問 / Question")]
    answers = label("答え / Answers")
    title = label(f"履歴（新しい順、{SHOWN} 件まで） / History (newest first, at most {SHOWN})")
    return f'<div style="line-height:1.5"><b>{title}</b>{_table([*head, answers, ""], rows)}</div>'
