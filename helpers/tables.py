"""A user's own table becomes records: which column is which field, and every row checked, named by file and line.

Cells are taken as text and never executed. A cell that begins with "=", "+", "-" or "@" stays what it is: it matters only to a
spreadsheet program that opens an export of it.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from . import formats
from .files import UserError
from .formats import Raw, Row
from .progress import cut
from .records import _FIELDS, _LISTS, TASKS, Record, RecordError, problem

MAX_CELL = 20_000  # characters
# Usual names of a field's column, the surest first; compared without case, width, spaces and punctuation.
NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "番号", "no", "識別子", "通し番号"),
    "task": ("task", "タスク", "課題"),
    "ja": (
        "ja", "日本語", "japanese", "jp", "jpn", "translation.ja", "question_ja", "ja_question", "japanese_question", "質問_ja",
        "日本語の質問", "日本語質問", "日本語文", "和文", "質問文", "問題文", "質問", "問題", "設問", "sentence_ja", "text_ja",
    ),
    "en": (
        "en", "英語", "english", "eng", "translation.en", "question_en", "en_question", "english_question", "質問_en", "英語の質問",
        "英語質問", "英語文", "英文", "英訳", "sentence_en", "text_en", "question", "translation",
    ),
    "answer": ("answer", "答え", "正解", "正答", "解答", "回答", "答", "answer_en", "gold_answer", "英語の答え"),
    "aliases": ("aliases", "alias", "別解", "別名", "別表記", "許容解", "answer_aliases"),
    "reasoning": ("reasoning", "rationale", "推論", "解説", "根拠", "説明", "理由", "explanation"),
    "category": ("category", "分類", "カテゴリー", "カテゴリ", "ジャンル", "種別", "topic"),
    "hops": ("hops", "ホップ数", "ホップ"),
    "source": ("source", "出典"),
    "license": ("license", "licence", "ライセンス"),
    "split": ("split", "分割"),
    "entities": ("entities", "題材", "エンティティ"),
    "check": ("check", "検算"),
}  # fmt: skip
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


_KEYS = {field: tuple(map(_key, names)) for field, names in NAMES.items()}


def guess_columns(header: Iterable[str]) -> dict[str, str]:
    """Field → column for the usual Japanese and English column names; a field without such a column is not in it."""
    by_key: dict[str, str] = {}
    for name in header:
        by_key.setdefault(_key(name), name)
    return {field: by_key[next(k for k in keys if k in by_key)] for field, keys in _KEYS.items() if any(k in by_key for k in keys)}


def read_table(
    path: str | Path | Raw,
    columns: Mapping[str, str] | None = None,
    *,
    sheet: int | str = 0,
    task: str = "auto",
    license: str = "",
    source: str = "own",
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Records from CSV, TSV, JSONL, JSON, .xlsx, or the address of a Google Sheet; blank rows alone are passed over.

    `columns` maps fields to column names (`{"ja": "質問", "en": "Question", "answer": "Answer"}`), by default `guess_columns` of the
    header; nested JSON is reached with dots ("translation.ja"). `task` is "translate", "qa" or "auto": by the task column, else qa where
    there is an answer column. Aliases and entities are split at "|" and ";". Without an id column an id is made from
    the file's name and the text. `license` and `source` are for rows that name none. `say` gets the encoding where it had
    to be found out, and the columns not used. Raises `RecordError` with the first problem (file, line, field, what was
    expected) and the number of others; `UserError` for wrong arguments.
    """
    raw = path if isinstance(path, Raw) else formats.load(path)
    table = formats.table(raw, sheet)
    for note in table.notes:
        say(note)
    return to_records(
        raw.name, table.header, table.rows, columns, stem=raw.stem, task=task, license=license, source=source, say=say
    )  # fmt: skip


def preview(path: str | Path | Raw, rows: int = 5, sheet: int | str = 0) -> tuple[list[str], list[list[str]]]:
    """The column names and the first `rows` rows as text, for a form that asks which column is which. Raises `RecordError`."""
    table = formats.table(path if isinstance(path, Raw) else formats.load(path), sheet)
    shown = []
    for where, cells in islice(table.rows, rows):
        if isinstance(cells, str):
            raise RecordError(f"{where}: {cells}.")
        shown.append(["" if cells.get(name) is None else str(cells[name])[:MAX_CELL] for name in table.header])
    return table.header, shown


def _short(text: str, width: int = 40) -> str:
    # Sliced first: `cut` takes long for a text of many thousand characters.
    return cut(text[: 2 * width], width)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:30]) + (" …" if len(names) > 30 else "")


def columns_of(name: str, header: list[str], columns: Mapping[str, str] | None) -> dict[str, str]:
    """The checked map of fields to columns. Raises `RecordError` that lists the header when a column or a side is missing."""
    shown = _listed([repr(_short(h)) for h in header])
    chosen = guess_columns(header) if columns is None else {f: c for f, c in columns.items() if c}
    for field, column in chosen.items():
        if field not in _FIELDS:
            raise UserError(f"columns: {field!r} is no field of a record. Fields: {', '.join(_FIELDS)}.")
        if not isinstance(column, str):
            raise UserError(f"columns: expected the name of a column for {field!r}, found {column!r}.")
        if column not in header:
            near = [h for h in header if _key(h) == _key(column)]
            if len(near) != 1:
                raise RecordError(f"{name}: no column {_short(column)!r} for the field {field!r}. Its columns: {shown}.")
            chosen[field] = near[0]
        if header.count(chosen[field]) > 1:
            raise RecordError(f"{name}: the column {_short(column)!r} (field {field!r}) is there twice. Rename one of them.")
    missing = [field for field in ("ja", "en") if field not in chosen]
    if missing:
        raise RecordError(
            f"{name}: no column for {' and '.join(map(repr, missing))} (the text in Japanese, in English). Its columns: {shown}. "
            'Name them: columns={"ja": …, "en": …}.'
        )
    return chosen


def to_records(
    name: str,
    header: list[str],
    rows: Iterable[Row],
    columns: Mapping[str, str] | None = None,
    *,
    stem: str = "own",
    task: str = "auto",
    license: str = "",
    source: str = "own",
    say: Callable[[str], None] = print,
) -> list[Record]:
    """Records from rows of cells by column name; arguments and errors as in `read_table`, `name` and `stem` for messages and ids."""
    if task not in ("auto", *TASKS):
        raise UserError(f"task is {task!r}; choose auto, translate or qa.")
    chosen = columns_of(name, header, columns)
    unused = [h for h in header if h not in chosen.values()]
    if unused:
        say(f"{name}: columns not used: {_listed([_short(h) for h in unused])}.")
    defaults = {"task": ("qa" if "answer" in chosen else "translate") if task == "auto" else task, "license": license, "source": source}
    found, first, broken = [], "", 0
    seen: dict[str, str] = {}
    copies: Counter[str] = Counter()
    for where, cells in rows:
        try:
            record = _record(cells, chosen, defaults, stem, task != "auto")
            if "id" not in chosen:
                record = _with_new_id(record, copies)
            elif record.id in seen:
                raise ValueError(f"field 'id': expected a unique id, {record.id!r} is there before ({seen[record.id]})")
        except ValueError as error:
            broken += 1
            first = first or f"{where}, {_short(str(error), 400)}"
        else:
            seen[record.id] = where.rsplit(", ", 1)[-1]
            found.append(record)
    refuse(first, broken)
    if not found:
        raise RecordError(f"{name}: no row below the names of the columns. Expected at least one.")
    return found


def refuse(first: str, broken: int) -> None:
    """Raise `RecordError` with the `first` problem and how many more rows have one; nothing when none is `broken`."""
    if broken:
        others = f" {broken - 1:,} more {'row has' if broken == 2 else 'rows have'} a problem." if broken > 1 else ""
        raise RecordError(f"{first}.{others}")


def _record(cells: dict[str, Any] | str, chosen: dict[str, str], defaults: dict[str, str], stem: str, forced: bool) -> Record:
    """Raises `ValueError` with the field and what was expected."""
    if isinstance(cells, str):
        raise ValueError(cells)
    value: dict[str, Any] = {}
    for field, column in chosen.items():
        cell = cells.get(column)
        try:
            made = _list(cell) if field in _LISTS else _number(cell) if field == "hops" else _text(cell)
        except ValueError as error:
            raise ValueError(f"field {field!r} (column {column!r}): expected {error}") from error
        if made not in (None, ""):
            value[field] = made
    if forced:
        value["task"] = defaults["task"]
    value = {k: v for k, v in defaults.items() if v} | value
    value["id"] = value.get("id", "") if "id" in chosen else stem
    # A bare number would be the id of a row in every other file as well.
    if re.fullmatch(r"\d+", value["id"]):
        value["id"] = f"{stem}-{value['id']}"
    if wrong := problem({"ja": "", "en": ""} | value):
        column = f" (column {chosen[wrong[0]]!r})" if wrong[0] in chosen else ""
        raise ValueError(f"field {wrong[0]!r}{column}: expected {wrong[1]}")
    return Record(**{k: tuple(v) if k in _LISTS else v for k, v in value.items()})


def _with_new_id(record: Record, copies: Counter[str]) -> Record:
    # From the text, not from the row's number: it stays when rows are added above.
    digest = hashlib.sha256("\n".join((record.ja, record.en)).encode()).hexdigest()[:10]
    copies[digest] += 1
    return record.replace(id=f"{record.id}-{digest}" + (f"-{copies[digest]}" if copies[digest] > 1 else ""))


def _text(cell: Any) -> str:
    """A cell as text; numbers and dates as a reader would write them. Raises `ValueError`."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "TRUE" if cell else "FALSE"
    if isinstance(cell, float):
        if cell != cell or cell in (float("inf"), float("-inf")):
            raise ValueError("text or a finite number")
        return str(int(cell)) if cell == int(cell) and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, int):
        if abs(cell) >= 10**40:
            raise ValueError("text, or a number of at most 40 digits")
        return str(cell)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    if not isinstance(cell, str):
        raise ValueError(f"text, found {type(cell).__name__}")
    if len(cell) > MAX_CELL:
        raise ValueError(f"at most {MAX_CELL:,} characters, found {len(cell):,}")
    if control := _CONTROL.search(cell):
        raise ValueError(f"text without control characters, found U+{ord(control[0]):04X}")
    return cell.strip()


def _list(cell: Any) -> list[str]:
    if isinstance(cell, (list, tuple)):
        if not all(isinstance(i, str) for i in cell):
            raise ValueError("a list of strings")
        return [text for i in cell if (text := _text(i))]
    return [text for part in re.split(r"[|;｜；]", _text(cell)) if (text := part.strip())]


def _number(cell: Any) -> int | None:
    text = _text(cell)
    if text and not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError(f"a whole number of at least 1, found {text[:40]!r}")
    return int(text) if text else None
