"""Forms in which a reader decides on records and on rationales, in 日本語 / English; each decision is on disk before the next is shown.

Only traits that ipywidgets 7.7 and 8 share are used. Whatever comes from data is escaped.
"""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from . import gates
from .display import _PLAIN, PARTS, _escape, _japanese, _line, one_line
from .edits import EDITABLE, Decision, EditStore, current
from .files import UserError
from .language import label
from .records import Record

if TYPE_CHECKING:
    from ipywidgets import HTML, Button, Widget

FIELDS = {"ja": "日本語 / Japanese", "en": PARTS["english"], "reasoning": PARTS["reasoning"], "answer": PARTS["answer"]}
STATES = {
    "": "未確認 / undecided",
    "accept": "採用 / accepted",
    "edit": "編集済み / edited",
    "reject": "除外 / rejected",
    "changed": "判断後に変更あり・要再確認 / changed since it was decided on",
}
BUTTONS = {"accept": "採用 / Accept", "edit": "編集 / Edit", "reject": "除外 / Reject"}  # the first letter is the key
STYLES = {"accept": "success", "edit": "info", "reject": "danger"}
MOVES = {"previous": "前 / previous", "next": "次 / next", "undo": "取り消し / Undo"}
# What a key gives: itself, or the kana that a Japanese input method makes of it.
COMMANDS = {
    "a": "accept", "あ": "accept", "ア": "accept",
    "e": "edit", "え": "edit", "エ": "edit",
    "r": "reject",
    "n": "next", "ん": "next", "ン": "next",
    "p": "previous",
    "u": "undo", "う": "undo", "ウ": "undo",
}  # fmt: skip
_KEYS = "a e r n p u"
_HELP = (
    "印の付いた行へのキー操作（コマンド欄に入力）: a 採用 · r 除外 · e 編集 · n 次の行 · p 前の行 · u 取り消し"
    " / keys in the command box, for the marked row: a accept · r reject · e edit · n next row · p previous row · u undo"
)
_QUICK = "速すぎます。もう一度押してください / too quick for this one to have been read: press again"
_REFUSED = "!"
_EVERYTHING = "*"
_LINE = "28px"  # what a line of text takes: a note that comes up must not push the buttons from under the mouse
_OPEN = "編集中です。先に保存するか中止してください / an edit is open: save or cancel it first"


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _error(error: BaseException) -> str:
    return _line(f"{label('エラー / error')}: {one_line(error)}")


def _reason(code: str) -> str:
    """What the code of a gate means."""
    return label(gates.REASONS.get(code, ""))


def _focus(widget: Widget) -> None:
    # ipywidgets 7 cannot: there the reader clicks.
    if hasattr(widget, "focus"):
        widget.focus()


def _mark(buttons: Mapping[str, Button], state: str) -> None:
    for name in BUTTONS:
        buttons[name].button_style = STYLES[name] if name == state else ""


def _card(record: Record, head: str, fields: Sequence[str], marked: bool = False) -> str:
    lines = [f"<b>{label(FIELDS[f])}</b>: {_japanese(getattr(record, f))}" for f in fields if getattr(record, f)]
    style = "border-top:1px solid rgba(128,128,128,.5);padding:4px 8px;line-height:1.5;overflow-wrap:anywhere"
    style += ";box-shadow:inset 5px 0 #0072b2;background:rgba(0,114,178,.1)" if marked else ""
    current_row = ' aria-current="true"' if marked else ""
    return f'<div {_PLAIN}{current_row} style="{style}">{"<br>".join([head, *lines])}</div>'


class _Keys:
    """A command box: `do` is called with the action of each key of `COMMANDS`, `say` with a line about anything else."""

    def __init__(self, do: Callable[[str], None], say: Callable[[str], None]):
        import ipywidgets as w

        self._do, self._say, self._read = do, say, ""
        self.box = w.Text(
            placeholder=_KEYS, description=label("コマンド / Command"), continuous_update=True,
            style={"description_width": "initial"}, layout=w.Layout(width="18em", max_width="98%"),
        )  # fmt: skip
        self.box.observe(self._typed, "value")

    def _typed(self, change: dict) -> None:
        typed, self.box.value = change["new"], ""
        if not typed:
            return
        # A quick second key may come in before the front end has emptied the box: what was read already is not read again.
        fresh = typed[len(self._read) :] if typed.startswith(self._read) and typed != self._read else typed
        self._read = typed
        keys = "".join(unicodedata.normalize("NFKC", fresh).casefold().split())
        if len(keys) == 1 and keys in COMMANDS:
            self._do(COMMANDS[keys])
        elif keys:
            self._say(f"{keys[:20]}: {label(f'{_KEYS} のうち 1 文字を入力してください / one key at a time: {_KEYS}')}")


class _Editor:
    """Text areas for some fields of one record; `save(record, changes)` raises `UserError` for what cannot be saved.

    `left` is called when a button has closed the form.
    """

    def __init__(
        self, fields: Sequence[str], save: Callable[[Record, dict[str, str]], None], left: Callable[[], None] = lambda: None
    ):
        import ipywidgets as w

        # Of the width "100%" the right edge is cut off: the margins come on top.
        wide, size = {"description_width": "10em"}, w.Layout(width="auto", height="5em")
        self.areas = {f: w.Textarea(description=label(FIELDS[f]), style=wide, layout=size) for f in fields}
        self.title, self.note, self.record = w.HTML(), w.HTML(), None
        self._save, self._left = save, left
        keep, stop = w.Button(description=label("保存 / Save"), button_style="primary"), w.Button(description=label("中止 / Cancel"))
        keep.on_click(self._keep)
        stop.on_click(self._leave)
        self.widget = w.VBox([self.title, *self.areas.values(), w.HBox([keep, stop]), self.note])
        self.close()

    def open(self, record: Record) -> None:
        """Show the texts of a record."""
        self.record, self.note.value = record, ""
        self.title.value = _line(f"{label('編集 / editing')}: {record.id}")
        for name, area in self.areas.items():
            area.value = getattr(record, name)
        self.widget.layout.display = None
        _focus(next(iter(self.areas.values())))

    def close(self) -> None:
        """Hide the form; what was not saved is gone."""
        self.record, self.widget.layout.display = None, "none"

    def _leave(self, _=None) -> None:
        self.close()
        self._left()

    def _keep(self, _) -> None:
        if self.record is None:
            return
        typed = {name: area.value.strip() for name, area in self.areas.items()}
        changes = {name: text for name, text in typed.items() if text != getattr(self.record, name)}
        if not changes:
            self.note.value = _line(label("変更がありません / nothing has been changed"))
            return
        try:
            self._save(self.record, changes)
        except Exception as error:  # noqa: BLE001  a line in the widget, never a traceback; what was typed stays
            self.note.value = _error(error)
        else:
            self._leave()


def curation_table(records: Sequence[Record], store: EditStore, page_size: int = 10, *, settle: float = 0.3) -> Widget:
    """A paged, searchable table of records with accept, edit and reject; every decision goes to `store` at once.

    Filters by category, split and state; the search is in both sides, answer and rationale, without regard to case and width (NFKC),
    and every word must be found. Keys go into the command box below the marked row: a, r (then the next row is marked), e, n, p, u;
    `settle` is as in `rationale_review`. Decisions of an earlier kernel are shown. `records` may be as they were before earlier
    decisions or after. Raises `UserError` for `page_size` below 1 or a damaged file.
    """
    import ipywidgets as w

    if page_size < 1:
        raise UserError(f"page_size is {page_size}; it must be at least 1.")
    records = list(records)
    wide, wrapped = {"description_width": "initial"}, w.Layout(flex_flow="row wrap")
    narrow = w.Layout(width="21em")  # two stand side by side in 600 pixels
    found: list[Record] = []
    page = mark = 0  # `mark` is the row of the page that the keys are for
    since = 0.0

    def options(values: Sequence[str]) -> list[tuple[str, str]]:
        counts = sorted(Counter(values).items())
        return [(f"{label('すべて / all')} ({len(values):,})", _EVERYTHING), *((f"{v or '–'} ({n:,})", v) for v, n in counts)]

    def dropdown(description: str, choices: list[tuple[str, str]]):
        return w.Dropdown(options=choices, value=_EVERYTHING, description=description, style=wide, layout=narrow)

    search = w.Text(placeholder=label("日本語か英語で / Japanese or English"), description=label("検索 / Search"), style=wide, layout=narrow)
    category = dropdown(label("分類 / Category"), options([r.category for r in records]))
    split = dropdown(label("分割 / Split"), options([r.split for r in records]))
    state = dropdown(label("状態 / State"), [(label("すべて / all"), _EVERYTHING), *((label(text), key) for key, text in STATES.items())])
    back, forth = w.Button(description=f"← {label('前 / previous')}"), w.Button(description=f"{label('次 / next')} →")
    where, note = w.HTML(), w.HTML(layout=w.Layout(min_height=_LINE))

    def now() -> list[tuple[Record, str]]:
        decisions = store.decisions()
        return [current(r, decisions.get(r.id)) for r in records]

    def select(_=None) -> None:
        words = _folded(search.value).split()

        def wanted(record: Record, verdict: str) -> bool:
            text = _folded("\n".join((record.id, *(getattr(record, f) for f in FIELDS))))
            pairs = ((category, record.category), (split, record.split), (state, verdict))
            return all(box.value in (_EVERYTHING, value) for box, value in pairs) and all(word in text for word in words)

        found[:] = [r for r, (shown, verdict) in zip(records, now(), strict=True) if wanted(shown, verdict)]
        show(0)

    def place(record: Record | None) -> None:
        # Below its record, or above all of them when that one is not on this page. Moved by the style sheet, it keeps focus and cursor.
        part = found[page * page_size : (page + 1) * page_size]
        at = next((i for i, r in enumerate(part) if record and r.id == record.id), -1)
        editor.widget.layout.order = f"{2 * at + 2}"

    def show(number: int, row: int = 0) -> None:
        nonlocal page, mark, since
        pages = max(1, -(-len(found) // page_size))
        page = min(max(number, 0), pages - 1)
        back.disabled, forth.disabled = page == 0, page == pages - 1
        count = f"{page + 1:,} / {pages:,} ({len(found):,} {label('件 / records')})"
        where.value = _line(count if found else f"{count} · {label('該当なし / nothing found')}")
        part, decisions = found[page * page_size : (page + 1) * page_size], store.decisions()
        place(editor.record)
        mark, since = min(max(row, 0), max(len(part) - 1, 0)), time.monotonic()
        # Below its row: what is typed scrolls the box into view, and the row with it.
        bar.layout.order, bar.layout.display = f"{2 * mark + 2}", None if part else "none"
        for i, (text, buttons, remark, box) in enumerate(rows):
            remark.value = ""
            box.layout.display = None if i < len(part) else "none"
            if i >= len(part):
                text.value = ""
            else:
                shown, verdict = current(part[i], decisions.get(part[i].id))
                head = " · ".join(_escape(t) for t in (shown.id, shown.category, shown.split, label(STATES[verdict])) if t)
                text.value = _card(shown, head, tuple(FIELDS), i == mark)
                _mark(buttons, verdict)

    def press(i: int, verdict: str) -> None:
        if editor.record is not None:
            rows[i][2].value = _line(f"{label(_OPEN)}: {editor.record.id}")
            return
        original = found[page * page_size + i]
        shown, _ = current(original, store.decisions().get(original.id))
        if verdict == "edit":
            show(page, i)
            place(shown)
            editor.open(shown)
        else:
            decide(shown, verdict, {})

    def decide(record: Record, verdict: str, changes: dict[str, str]) -> None:
        store.decide(record, verdict, changes)
        note.value = _line(f"{label('保存しました / saved')}: {record.id} – {label(STATES[verdict])}")
        # The page stays as it is, filter or no filter, and so does the mark after a click: a row that moved would take a second click
        # meant for this one.
        show(page, mark)

    def undo() -> None:
        taken = store.undo({r.id for r in records})
        note.value = _line(f"{label('取り消しました / undone')}: {taken}" if taken else label("取り消すものがありません / nothing to undo"))
        at = next((i for i, r in enumerate(found) if r.id == taken), page * page_size + mark)
        show(*divmod(at, page_size))

    def go(at: int) -> None:
        show(*divmod(min(max(at, 0), len(found) - 1), page_size))
        _focus(keys.box)

    def key(action: str) -> None:
        hint.value, at = "", page * page_size + mark
        if editor.record is not None:
            say(f"{label(_OPEN)}: {editor.record.id}")
        elif action == "undo":
            undo()
        elif action in MOVES:
            go(at + (1 if action == "next" else -1))
        elif action == "edit":
            press(mark, action)
        elif time.monotonic() - since < settle:
            say(label(_QUICK))
        else:
            press(mark, action)
            go(at + 1)

    def guarded(action: Callable[[], None], line: HTML = note) -> Callable:
        def run(_=None) -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001  a line in the widget, never a traceback
                line.value = _error(error)

        return run

    def say(text: str) -> None:
        hint.value = _line(text)

    hint = w.HTML()
    keys = _Keys(lambda action: guarded(lambda: key(action), hint)(), say)
    bar = w.HBox([keys.box, hint], layout=w.Layout(flex_flow="row wrap"))
    editor = _Editor(EDITABLE, lambda record, changes: decide(record, "edit", changes), left=lambda: _focus(keys.box))
    rows = []
    for i in range(page_size):
        text, buttons, remark = w.HTML(layout=w.Layout(flex="1 1 24em")), {}, w.HTML()
        for name in BUTTONS:
            buttons[name] = w.Button(description=label(BUTTONS[name]), layout=w.Layout(width="9em"))
            buttons[name].on_click(guarded(lambda i=i, name=name: press(i, name), remark))
        row = w.HBox([text, w.HBox(list(buttons.values()))], layout=wrapped)
        # A layout of its own: rows are hidden one by one.
        rows.append((text, buttons, remark, w.VBox([row, remark], layout=w.Layout(order=f"{2 * i + 1}"))))
    for box in (search, category, split, state):
        box.observe(guarded(select), "value")
    back.on_click(guarded(lambda: show(page - 1)))
    forth.on_click(guarded(lambda: show(page + 1)))
    away = w.Button(description=label("取り消し / Undo"))
    away.on_click(guarded(undo))
    select()
    filters, moves = w.HBox([search, category, split, state], layout=wrapped), w.HBox([back, where, forth, away], layout=wrapped)
    return w.VBox([filters, moves, w.HTML(f'<div style="line-height:1.5">{label(_HELP)}</div>'), note, editor.widget, bar, *(box for *_, box in rows)])


def rationale_review(
    pairs: Sequence[tuple[Record, str, str]],
    store: EditStore,
    *,
    gate: Callable[[Record, str], str] = gates.gate,
    settle: float = 0.3,
) -> Widget:
    """One rationale at a time, the record before and after it side by side: accept, edit or reject it by button or key.

    `pairs` holds (record, rationale, code of the gate that refuses it or ""). Keys go into the command box: a, e, r, n (next),
    p (previous), u (undo), also as a Japanese input method writes them. A refused rationale must be edited until `gate` lets it pass.
    A drop-down leaves those of one state, as they are when it is chosen. The form opens at the first pair without a decision.
    Within `settle` seconds of a pair coming up no decision on it is taken: a key that repeats or a double click would decide on
    what nobody has read. Raises `UserError` for no pairs or a damaged file.
    """
    if not pairs:
        raise UserError("There is no rationale to review. Run the cells above, which make them.")
    return _Review(pairs, store, gate, settle).widget


class _Review:
    def __init__(self, pairs: Sequence[tuple[Record, str, str]], store: EditStore, gate: Callable, settle: float):
        import ipywidgets as w

        self.records = [record.replace(reasoning=rationale) for record, rationale, _ in pairs]
        self.codes = [code for *_, code in pairs]
        self.store, self.gate, self.settle = store, gate, settle
        self.found, self.index, self.since = list(range(len(self.records))), 0, 0.0  # those shown; the place among them
        self.where, self.note, self.question = w.HTML(), w.HTML(layout=w.Layout(min_height=_LINE)), w.HTML()
        half = w.Layout(flex="1 1 24em")
        self.before, self.after = w.HTML(layout=half), w.HTML(layout=half)
        self.editor = _Editor(("reasoning",), self._save, left=lambda: _focus(self.box))
        self.box = _Keys(self._do, self._say).box
        self.buttons = {}
        for name, text in (BUTTONS | MOVES).items():
            self.buttons[name] = w.Button(description=f"{label(text)} ({name[0]})", layout=w.Layout(width="auto", min_width="9em"))
            self.buttons[name].on_click(lambda _, name=name: self._do(name))
        states = [(label("すべて / all"), _EVERYTHING), *((label(text), key) for key, text in STATES.items())]
        states.append((label("検査を通らないもの / refused by a gate"), _REFUSED))
        self.chosen, self.state = _EVERYTHING, w.Dropdown(
            options=states, value=_EVERYTHING, description=label("状態 / State"), style={"description_width": "initial"},
            layout=w.Layout(width="28em", max_width="98%"),
        )  # fmt: skip
        self.state.observe(self._filter, "value")
        wrapped = w.Layout(flex_flow="row wrap")
        sides = w.HBox([self.before, self.after], layout=wrapped)
        groups = [w.HBox([self.buttons[name] for name in names], layout=wrapped) for names in (BUTTONS, MOVES)]
        keys = w.HBox([*groups, self.box], layout=wrapped)
        # The keys stand above what differs in height from pair to pair.
        self.widget = w.VBox([self.where, self.state, keys, self.note, self.question, sides, self.editor.widget])
        self._go(self._undecided(0, len(self.records) - 1))

    def _undecided(self, start: int, otherwise: int) -> int:
        """The first pair of those shown, from `start` on, then from the beginning, that awaits a decision; `otherwise` when none does."""
        decisions, n = self.store.decisions(), len(self.found)
        order = [(start + i) % n for i in range(n)]
        records = [self.records[self.found[i]] for i in order]
        states = [current(r, decisions.get(r.id))[1] for r in records]
        return next((i for i, state in zip(order, states, strict=True) if state in ("", "changed")), otherwise)

    def _now(self, number: int, decisions: Mapping[str, Decision]) -> tuple[Record, str, str]:
        """The record of a pair with its rationale as it is now, its state, and the code of the gate that refuses it."""
        original = self.records[number]
        shown, state = current(original, decisions.get(original.id))
        return shown, state, self.codes[number] if shown == original else self.gate(shown, shown.reasoning)

    def _here(self) -> tuple[Record, str, str]:
        return self._now(self.found[self.index], self.store.decisions())

    def _say(self, text: str) -> None:
        self.note.value = _line(text)

    def _filter(self, change: dict) -> None:
        wanted = change["new"]
        if wanted == self.chosen:
            return
        try:
            if self.editor.record is not None:
                raise UserError(label(_OPEN))
            decisions = self.store.decisions()
            now = [self._now(i, decisions) for i in range(len(self.records))]
            found = [i for i, (_, state, code) in enumerate(now) if wanted in (_EVERYTHING, state, _REFUSED if code else None)]
            if not found:
                raise UserError(label("該当なし / nothing found"))
        except Exception as error:  # noqa: BLE001  a line in the widget, never a traceback
            self.note.value = _error(error)
            self.state.value = self.chosen
            return
        self.found, self.chosen, self.note.value = found, wanted, ""
        self._go(self._undecided(0, 0))

    def _go(self, index: int) -> None:
        self.index = min(max(index, 0), len(self.found) - 1)
        decisions, total = self.store.decisions(), len(self.records)
        shown, state, code = self._here()
        decided = sum(current(r, decisions.get(r.id))[1] not in ("", "changed") for r in self.records)
        done = f" · {label('全件判断済み / all decided')}" if decided == total else ""
        place = f"{self.index + 1:,} / {len(self.found):,}"
        self.where.value = _line(f"{place} · {label('判断済み / decided')}: {decided:,} / {total:,}{done} · {shown.id} · {label(STATES[state])}")
        self.question.value = _card(shown, f"<b>{label(FIELDS['ja'])}</b>: {_japanese(shown.ja)}", ("en",))
        self.before.value = _card(shown, f"<b>{label('付ける前 / before')}</b>", ("answer",))
        refused = f" · {label('検査 / gate')}: <b>{_escape(code)}</b> – {_escape(_reason(code))}" if code else ""
        self.after.value = _card(shown, f"<b>{label('付けた後 / after')}</b>{refused}", ("reasoning", "answer"))
        _mark(self.buttons, state)
        self.buttons["previous"].disabled = self.index == 0
        self.buttons["next"].disabled = self.index == len(self.found) - 1
        self.since = time.monotonic()

    def _do(self, action: str) -> None:
        try:
            if self.editor.record is not None:
                self._say(label(_OPEN))
            elif action in ("previous", "next"):
                self.note.value = ""
                self._go(self.index + (1 if action == "next" else -1))
            elif action == "undo":
                self._undo()
            elif action == "edit":
                self.note.value = ""
                self.editor.open(self._here()[0])
            else:
                self._decide(action)
        except Exception as error:  # noqa: BLE001  a line in the widget, never a traceback
            self.note.value = _error(error)

    def _decide(self, verdict: str) -> None:
        if time.monotonic() - self.since < self.settle:
            self._say(label(_QUICK))
            return
        shown, _, code = self._here()
        if verdict == "accept" and code:
            self._say(label("検査を通らない説明です。編集するか、除外してください / a gate refuses this rationale: edit it, or reject it"))
            return
        self._settled(shown, verdict, {})

    def _save(self, record: Record, changes: dict[str, str]) -> None:
        edited = record.replace(**changes)
        code = self.gate(edited, edited.reasoning)
        if code:
            raise UserError(f"{code}: {_reason(code)}")
        self._settled(record, "edit", changes)

    def _settled(self, record: Record, verdict: str, changes: dict[str, str]) -> None:
        self.store.decide(record, verdict, changes)
        self.note.value = _line(f"{label('保存しました / saved')}: {record.id} – {label(STATES[verdict])}")
        # Those shown stay as they are: where all of them are decided, the next one is the next.
        self._go(self._undecided(self.index + 1, self.index + 1))

    def _undo(self) -> None:
        taken = self.store.undo({r.id for r in self.records})
        self.note.value = _line(f"{label('取り消しました / undone')}: {taken}" if taken else label("取り消すものがありません / nothing to undo"))
        if taken:
            number = next(i for i, r in enumerate(self.records) if r.id == taken)
            if number not in self.found:
                self.found, self.chosen = list(range(len(self.records))), _EVERYTHING
                self.state.value = _EVERYTHING
            self._go(self.found.index(number))
