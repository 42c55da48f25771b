"""A form that asks which column of a user's table is which field, in 日本語 / English.

Only traits that ipywidgets 7.7 and 8 share are used. Whatever comes from the file is escaped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import formats, progress, tables
from .display import _PLAIN, _escape, _japanese, _table, one_line
from .files import UserError
from .language import label
from .records import Record

if TYPE_CHECKING:
    from ipywidgets import Widget

LABELS = {
    "ja": "日本語の文・質問 / Japanese",
    "en": "英語の文・質問 / English",
    "answer": "英語の答え / answer",
    "aliases": "別解 / other answers",
    "reasoning": "英語の説明 / rationale",
    "category": "分類 / category",
    "hops": "ホップ数 / hops",
    "entities": "題材 / entities",
    "split": "分割 / split",
    "id": "識別子 / id",
    "task": "タスク / task",
}
_NONE = "なし / none"
_LONGEST = 80  # characters of a cell in the preview


def mapping_widget(
    path: str | Path, on_records: Callable[[list[Record]], None], *, sheet: int | str = 0, license: str = "", rows: int = 5
) -> Widget:
    """A drop-down a field, the usual column names preselected, and a preview; the button hands the records to `on_records`.

    `path` is whatever `tables.read_table` takes; it is read once, when the form is made. Errors in rows are shown in the form; those of
    the file as a whole are raised: `RecordError`, `UserError`.
    """
    import ipywidgets as w

    raw = formats.load(path)
    header, shown = tables.preview(raw, rows, sheet)
    guessed = tables.guess_columns(header)
    # Values are positions: a column's name may be empty or there twice.
    options = [(f"({label(_NONE)})", -1), *((progress.cut(name[:80], 40), i) for i, name in enumerate(header))]
    wide = {"description_width": "14em"}
    # The label does not shrink: what the drop-down needs beside it is the least width.
    size = {"width": "34em", "max_width": "98%", "min_width": "25em"}
    fields = {
        field: w.Dropdown(
            options=options,
            value=header.index(guessed[field]) if field in guessed else -1,
            description=label(text),
            style=wide,
            layout=w.Layout(**size),
        )
        for field, text in LABELS.items()
    }
    head = [_escape(progress.cut(name[:80], 40)) for name in header]
    cells = [[_japanese(progress.cut(cell[: 2 * _LONGEST], _LONGEST)) for cell in row] for row in shown]
    button = w.Button(description=label("読み込む / load"), button_style="primary", layout=w.Layout(width="14em"))
    status = w.HTML()

    def say(*lines: str) -> None:
        status.value = f"<span {_PLAIN}>{'<br>'.join(map(_escape, lines))}</span>"

    def load(_) -> None:
        notes: list[str] = []
        button.disabled = True
        try:
            columns = {field: header[box.value] for field, box in fields.items() if box.value >= 0}
            found = tables.read_table(raw, columns, sheet=sheet, license=license, say=notes.append)
            on_records(found)
            say(label(f"{len(found):,} 件を読み込みました / {len(found):,} records loaded"), *notes)
        except UserError as error:
            say(f"{label('エラー / error')}: {error}", *notes)
        except Exception as error:  # noqa: BLE001  a line in the widget: a traceback goes where nobody looks
            say(f"{label('エラー / error')}: {one_line(error)}", *notes)
        finally:
            button.disabled = False

    button.on_click(load)
    title = w.HTML(f"<b>{label(f'最初の {len(shown)} 行 / First {len(shown)} rows')}</b>")
    hint = w.HTML(label("各項目がどの列に当たるかを選んでください。日本語と英語は必須です / Choose what each column is. Japanese and English are required"))
    table = w.HTML(f'<div style="overflow-x:auto;line-height:1.5">{_table(head, cells)}</div>')
    return w.VBox([hint, *fields.values(), button, status, title, table])
