"""Static tables and progress lines for notebooks, in 日本語 / English. Whatever comes from data or a model is escaped."""

from __future__ import annotations

import html
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import progress
from .files import UserError
from .language import label

if TYPE_CHECKING:
    from IPython.display import HTML

PARTS = {"english": "英語 / English", "reasoning": "推論 / Reasoning", "answer": "答え / Answer"}
# Without these classes a front end would set the text between two "$" as mathematics.
_PLAIN = 'class="tex2jax_ignore mathjax_ignore"'
_CELL = 'align="left" valign="top" style="text-align:left;vertical-align:top;overflow-wrap:break-word;min-width:3em"'


def _text(value: Any) -> str:
    # A value missing in a data frame comes as NaN or NA.
    missing = value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _escape(value: Any) -> str:
    return html.escape(_text(value)).replace("\n", "<br>")


def _japanese(value: Any) -> str:
    # The language decides whether a kanji is drawn in its Japanese or in its Chinese form.
    return f'<span lang="ja">{_escape(value)}</span>'


def _line(text: str) -> str:
    return f"<span {_PLAIN}>{_escape(text)}</span>"


def one_line(error: BaseException) -> str:
    """An error as one line."""
    words = " ".join(str(error).split())
    # A UserError is written for the reader; of any other error the kind says more than the message.
    return progress.cut(words if isinstance(error, UserError) else f"{type(error).__name__}: {words}".rstrip(": "), 300)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of cells that are HTML already."""

    def line(tag: str, row: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag} {_CELL}>{cell}</{tag}>" for cell in row) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<table {_PLAIN}><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"


def table(frame: Any, precision: int = 1) -> HTML:
    """A data frame as an escaped table without its index: text to the left, numbers to the right with `precision` digits.

    pandas' own styled tables do not escape, and set Japanese text flush right.
    """
    from IPython.display import HTML

    def cell(value: Any) -> str:
        if type(value).__name__ in ("bool", "bool_") or not hasattr(value, "__float__"):
            return _japanese(value)
        whole = math.isfinite(value) and value == int(value)
        shown = f"{value:,.{0 if whole else precision}f}" if _text(value) else "–"
        return f'<div style="text-align:right">{shown}</div>'

    rows = [[cell(v) for v in row] for row in frame.itertuples(index=False)]
    return HTML(_table([_escape(c) for c in frame.columns], rows))


def show_sides(frame_rows: Sequence[Mapping[str, Any]]) -> HTML:
    """A static table for readers without widgets: a row a question, a column a system.

    Each of `frame_rows` is one system's output for one question: `question`, `system`, and optional `english`,
    `reasoning`, `answer`, `gold`, `right` (true, false or missing), `id`, `stage`. Rows belong together when they agree
    in id, stage and question. Raises `UserError` for a row without question or system.
    """
    from IPython.display import HTML

    groups: dict[tuple, dict[str, Mapping]] = {}
    for number, row in enumerate(frame_rows, 1):
        for name in ("question", "system"):
            if not _text(row.get(name)):
                raise UserError(f"Row {number} of the comparison has no {name!r}.")
        key = tuple(_text(row.get(k)) for k in ("id", "stage", "question"))
        groups.setdefault(key, {})[_text(row["system"])] = row
    systems = list(dict.fromkeys(s for found in groups.values() for s in found))

    def side(row: Mapping | None) -> str:
        if row is None:
            return "–"
        lines = [f"<b>{label(title)}</b>: {_escape(row.get(part))}" for part, title in PARTS.items() if _text(row.get(part))]
        mark = "" if not _text(row.get("right")) else f"<b>{label('正 / right')}</b>" if row["right"] else f"<b>{label('誤 / wrong')}</b>"
        return "<br>".join([*lines, *([mark] if mark else [])]) or "–"

    rows = []
    for key, found in groups.items():
        gold = next((_text(r.get("gold")) for r in found.values() if _text(r.get("gold"))), "")
        rows.append([_japanese(key[-1]), _escape(gold), *(side(found.get(s)) for s in systems)])
    return HTML(_table([label("質問 / Question"), label("正答 / Gold answer"), *map(_escape, systems)], rows))


def masked_example(pieces: Sequence[tuple[str, bool]]) -> HTML:
    """A decoded training example (`prompts.show_masked`): masked text grey, supervised text marked, newlines as ↵."""
    from IPython.display import HTML

    # Fixed background and ink together stay readable on any page; <mark> alone tells the parts apart without styles.
    def one(text: str, supervised: bool) -> str:
        shown = html.escape(text).replace("\n", "↵\n")
        if supervised:
            return f'<mark style="background:#ffe08a;color:#1a1a1a">{shown}</mark>'
        return f'<span style="color:#6a6a6a">{shown}</span>'

    body = "".join(one(text, supervised) for text, supervised in pieces)
    legend = f"{one(label('マスク（損失なし） / masked (no loss)'), False)} · {one(label('学習対象 / supervised (loss)'), True)} · ↵ {label('改行 / newline')}"
    box = "background:#ffffff;color:#1a1a1a;padding:8px;border:1px solid #cccccc;border-radius:4px"
    text = "white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0 0;background:#ffffff;color:#1a1a1a"
    return HTML(f'<div {_PLAIN} style="{box}"><div>{legend}</div><pre style="{text}">{body}</pre></div>')


class _Line:
    """One line of progress: redrawn in place in a notebook, where it ends as plain text; printed every 10 % elsewhere."""

    def __init__(self) -> None:
        self.handle = None
        self.drawn, self.tenth = 0.0, -1

    def show(self, done: int, total: int, text: str, picture: str = "") -> None:
        """`picture` is HTML to stand below the line while it is running."""
        ended, now = done >= total, time.monotonic()
        if _in_notebook():
            # Redrawing at every step of a quick run would flood the front end.
            if ended or self.handle is None or now - self.drawn >= 0.5:
                self.drawn = now
                self._draw(done, total, text, ended, picture)
        elif ended or 10 * done // total > self.tenth:
            self.tenth = 10 * done // total
            print(f"{progress.bar(done, total)} {text}", flush=True)

    def _draw(self, done: int, total: int, text: str, ended: bool, picture: str) -> None:
        from IPython.display import display

        bundle = {"text/plain": text}
        if not ended:
            bar = f'<progress value="{done}" max="{total}" style="vertical-align:middle"></progress>'
            bundle["text/html"] = f"{bar} {html.escape(text)}{picture}"
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)


def training_view(total_steps: int) -> Callable[[dict], None]:
    """A `progress` callback for `training.train`: step, loss, tokens/s, time left, peak memory (GB), and the loss so far as a curve.

    In a notebook one output is redrawn and ends as one line of text, which is all that a headless run keeps (notebook 04 draws the curves); elsewhere
    a plain line comes about every 10 %. A step that does not go on from the last one begins a new line: the next arm.
    """
    return _TrainingView(total_steps)


class _TrainingView:
    def __init__(self, total: int):
        self.total = max(1, total)
        self.reached: int | None = None

    def __call__(self, row: dict) -> None:
        step, now = int(row["step"]), time.monotonic()
        if self.reached is None or step <= self.reached:
            self.first, self.begun = step, now
            self.known: dict[str, Any] = {}
            self.points: list[tuple[int, float, float | None]] = []
            self.line = _Line()
        self.reached = step
        self.known |= {k: v for k, v in row.items() if v is not None}
        if "loss" in row:
            self.points.append((step, row["loss"], row.get("dev_answer_loss")))
        pause = f'<br><small>■ {label("（カーネルの中断）: 一時停止して保存 / (interrupt the kernel): pause and save")}</small>'
        self.line.show(step, self.total, self._text(now), _curve(self.points, self.total) + pause)

    def _text(self, now: float) -> str:
        row, step, seconds = self.known, self.reached or 0, now - self.begun
        parts = [f"{label('学習 / training')}: {label('ステップ / step')} {step:,}/{self.total:,}"]
        if "loss" in row:
            parts.append(f"{label('損失 / loss')} {row['loss']:.3f}")
        if "dev_answer_loss" in row:
            parts.append(f"{label('答えの損失（dev） / dev answer loss')} {row['dev_answer_loss']:.3f}")
        if "tokens_per_second" in row:
            parts.append(f"{row['tokens_per_second']:,.0f} {label('トークン/秒 / tokens/s')}")
        if step >= self.total:
            parts.append(f"{label('完了 / done in')} {progress.clock(seconds)}")
        elif step > self.first:
            parts.append(f"{label('残り / ETA')} {progress.clock(seconds / (step - self.first) * (self.total - step))}")
        if "peak_memory_gb" in row:
            parts.append(f"{label('最大メモリ / peak')} {row['peak_memory_gb']:.1f} GB")
        return " · ".join(parts)


def _curve(points: Sequence[tuple[int, float, float | None]], total: int) -> str:
    """The training loss of each step as a line, the dev answer loss as dots: an SVG picture, "" for fewer than two points."""
    shown = [p for p in points if math.isfinite(p[1])]
    if len(shown) < 2:
        return ""
    values = [v for _, loss, dev in shown for v in (loss, dev) if v is not None and math.isfinite(v)]
    low, top = min(values), max(values)
    # So many digits that two ticks never read the same; one tick where the curve is flat.
    digits = min(6, max(1, -math.floor(math.log10(top - low)))) if top > low else 3
    names = [f"{top:.{digits}f}", f"{low:.{digits}f}"]
    wide, high, left = 560, 120, 12 + 7 * max(map(len, names))
    low, top = (low, top) if names[0] != names[1] else (low - 0.5, low + 0.5)

    def place(step: int, value: float) -> str:
        return f"{left + step / total * (wide - left - 4):.1f},{4 + (top - value) / (top - low) * (high - 20):.1f}"

    line = " ".join(place(step, loss) for step, loss, _ in shown)
    measured = [(step, dev) for step, _, dev in shown if dev is not None and math.isfinite(dev)]
    dots = "".join('<circle r="3.5" fill="#d55e00" cx="{}" cy="{}"/>'.format(*place(step, dev).split(",")) for step, dev in measured)
    heights = dict(zip(names, (12, high - 16), strict=True)) if names[0] != names[1] else {names[0]: high // 2}
    ticks = "".join(f'<text x="0" y="{y}">{name}</text>' for name, y in heights.items())
    key = f"<tspan fill='#0072b2'>— {label('学習損失 / training loss')}</tspan>  <tspan fill='#d55e00'>● {label('答えの損失（dev） / dev answer loss')}</tspan>"
    last = f"{shown[-1][1]:.3f}"
    title = f"{shown[-1][0]}/{total} ステップ後の損失: {last} / Loss after {shown[-1][0]} of {total} steps: {last}"
    return (
        f'<br><svg width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" role="img" style="max-width:100%" font-size="11" fill="currentColor">'
        f"<title>{label(title)}</title>{ticks}"
        f'<polyline fill="none" stroke="#0072b2" stroke-width="1.3" points="{line}"/>{dots}<text x="{left}" y="{high - 2}">{key}</text></svg>'
    )


def prediction_view() -> Callable[[str, int, int], None]:
    """A `progress` callback for `evaluation.predict`: a line a system with the share done and the time left."""
    lines: dict[str, tuple[_Line, float]] = {}

    def show(system: str, done: int, total: int) -> None:
        line, begun = lines.setdefault(system, (_Line(), time.monotonic()))
        seconds = time.monotonic() - begun
        left = f"{label('残り / ETA')} {progress.clock(seconds / max(done, 1) * (total - done))}" if done < total else f"{label('完了 / done in')} {progress.clock(seconds)}"
        line.show(done, total, f"{label('予測 / predicting')}: {system} {done:,}/{total:,} · {left}")

    return show


def asking_view() -> Callable[[int, int, int, float, float], None]:
    """A `progress` callback for `asking.collect`: records settled, tokens and cost so far, time left."""
    line, begun = _Line(), time.monotonic()

    def show(done: int, total: int, tokens: int, cost: float, eta: float) -> None:
        parts = [f"{label('教師に問い合わせ中 / asking')}: {done:,}/{total:,}", f"{tokens:,} {label('トークン / tokens')}"] + ([f"${cost:.4f}"] if cost else [])
        left = f"{label('残り / ETA')} {progress.clock(eta)}" if done < total else f"{label('完了 / done in')} {progress.clock(time.monotonic() - begun)}"
        line.show(done, total, " · ".join([*parts, left]))

    return show


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
