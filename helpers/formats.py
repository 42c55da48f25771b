"""The rows of a user's file: CSV, TSV, JSONL, JSON, Excel, Google Sheet; each row knows its line. Nothing in a file is ever executed.

Bounds keep a damaged or hostile file from filling the memory: 200 MB a file, 1,000,000 rows, 1,000 columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from . import workbook
from .files import UserError
from .records import RecordError, _once

MAX_BYTES = 200 * 2**20
MAX_ROWS, MAX_COLUMNS = 1_000_000, 1_000
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".xlsx", ".xlsm")
# A row is (where it is, its cells by column name), or (where, what is wrong with it).
Row = tuple[str, dict[str, Any] | str]
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")
_JAPANESE = re.compile("[\u3041-\u30ff\u3400-\u9fff]")
_KANA_IN_UTF8 = re.compile(rb"\xe3[\x80-\x83][\x80-\xbf]")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", re.IGNORECASE)
_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon"}


@dataclass(frozen=True)
class Raw:
    """A file as it was read: the name for messages, the stem for record ids, the kind (a suffix) and its bytes."""

    name: str
    stem: str
    kind: str
    data: bytes

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Table:
    """Column names, rows in the order of the file, and what the reader had to decide (`notes`), such as the encoding."""

    header: list[str]
    rows: Iterable[Row]
    notes: tuple[str, ...] = ()


def load(path: str | Path) -> Raw:
    """The bytes of a file, or of a Google Sheet by its address. Raises `RecordError`, `UserError`."""
    if str(path).startswith(("https://", "http://")):
        return Raw("Google Sheet", "sheet", ".csv", download(export_url(str(path))))
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecordError(f"{path}: larger than {MAX_BYTES >> 20} MB. Split it into smaller files.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file. Give the path of a file of these kinds: {', '.join(SUFFIXES)}.") from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    return Raw(str(path), path.stem, path.suffix.lower(), data)


def export_url(url: str) -> str:
    """The address of the CSV export of a Google Sheet, from the address in the browser. Raises `UserError` for another page."""
    try:
        parts = urllib.parse.urlsplit(url)
        found = re.match(r"/spreadsheets/(?:u/\d+/)?d/(e/)?([\w-]{10,})(?:/|$)", parts.path)
    except ValueError:
        found = None
    if not found or parts.scheme != "https" or parts.netloc != "docs.google.com":
        expected = "https://docs.google.com/spreadsheets/d/…; of other pages save the file and give its path"
        raise UserError(f"{url[:120]!r}: expected {expected}.")
    gid = re.search(r"gid=(\d+)", f"{parts.query}#{parts.fragment}")
    tab = f"&gid={gid[1]}" if gid else ""
    base = f"https://docs.google.com/spreadsheets/d/{found[1] or ''}{found[2]}"
    return f"{base}/pub?output=csv{tab}" if found[1] else f"{base}/export?format=csv{tab}"


def download(url: str, limit: int = MAX_BYTES, timeout: float = 60) -> bytes:
    """The bytes behind an address; `limit` in bytes, `timeout` in seconds. Raises `UserError`, also for a login page."""
    share = "Share the sheet so that anyone with the link can view it, or export it (File, Download, CSV) and give the file."
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            data = answer.read(limit + 1)
    except urllib.error.HTTPError as error:
        raise UserError(f"Google Sheet: the server answered {error.code} ({error.reason}). {share}") from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UserError(f"Google Sheet: cannot be fetched ({reason}). Check the network, or export it and give the file.") from error
    if len(data) > limit:
        raise UserError(f"Google Sheet: larger than {limit >> 20} MB. Export a part of it and give the file.")
    if _MARKUP.match(data[:1000]):
        raise UserError(f"Google Sheet: a web page came back and not a table. {share}")
    return data


def table(raw: Raw, sheet: int | str = 0) -> Table:
    """The table in a file, its kind told by the suffix and the content; `sheet` is the position or name of an Excel sheet.

    Raises `RecordError` when the file as a whole cannot be read; what is wrong with one row is in that row.
    """
    if raw.data.startswith(b"PK\x03\x04"):
        lines = workbook.rows(raw.name, raw.data, sheet, MAX_ROWS)
        return _grid(raw.name, _header(f"{raw.name}, sheet {sheet!r}", lines), lines, (), exact=False)
    if raw.data.startswith(b"\xd0\xcf\x11\xe0"):
        raise RecordError(f"{raw.name}: an old .xls file or one with a password. Save it as .xlsx without a password, or as CSV.")
    if raw.kind in (".xlsx", ".xlsm"):
        raise RecordError(f"{raw.name}: not an Excel file inside. Save it again as .xlsx, or as CSV.")
    if raw.kind not in SUFFIXES:
        raise RecordError(f"{raw.name}: expected a file of these kinds: {', '.join(SUFFIXES)}. Save the table as one of them.")
    if _MARKUP.match(raw.data[:1000]):
        raise RecordError(f"{raw.name}: holds a web page and not a table. Export the table as CSV.")
    text, notes = _decode(raw)
    if raw.kind in (".jsonl", ".ndjson", ".json"):
        as_list = raw.kind == ".json" and not text.lstrip().startswith("{")
        return _objects(raw.name, _json_list(raw.name, text) if as_list else _json_lines(raw.name, text), notes)
    return _csv(raw, text, notes)


def _bounded(name: str, rows: Iterable[Row]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if number >= MAX_ROWS:
            raise RecordError(f"{name}: more than {MAX_ROWS:,} rows. Split it into smaller files.")
        yield row


def _decode(raw: Raw) -> tuple[str, tuple[str, ...]]:
    """Text and notes. CP932 (Shift_JIS of Japanese Excel) only where it is strictly that and reads as Japanese."""
    data = raw.data
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16"), (f"{raw.name}: read as UTF-16.",)
        except UnicodeDecodeError as error:
            raise RecordError(f"{raw.name}: not UTF-16 (byte {error.start}). Save the file as UTF-8.") from error
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        broken = RecordError(f"{raw.name}, line {line}: neither UTF-8 (byte {error.start}) nor Shift_JIS. Save the file as UTF-8.")
    high = sum(map(len, re.findall(rb"[\x80-\xff]+", data)))
    # One bad byte makes UTF-8 fail, and the rest would still pass as CP932, as mojibake.
    if raw.kind in (".csv", ".tsv", ".txt") and 15 * len(_KANA_IN_UTF8.findall(data)) <= high:
        try:
            text = data.decode("cp932")
        except UnicodeDecodeError:
            raise broken from None
        # EUC-JP read as CP932 is half-width katakana for the most part.
        if 2 * len(_HALF_WIDTH.findall(text)) <= len(_JAPANESE.findall(text)):
            return text, (f"{raw.name}: not UTF-8; read as CP932 (Shift_JIS), as Japanese Excel writes it.",)
    raise broken


def _csv(raw: Raw, text: str, notes: tuple[str, ...]) -> Table:
    first = next((line for line in text.splitlines() if line.strip()), "")
    usual = "\t" if raw.kind == ".tsv" else ","
    delimiter = usual if usual in first else next((d for d in _DELIMITERS if d in first), usual)
    if delimiter != usual and raw.kind != ".txt":
        notes += (f"{raw.name}: columns are separated by {_DELIMITERS[delimiter]}s.",)
    lines = _csv_lines(raw.name, text, delimiter)
    return _grid(raw.name, _header(raw.name, lines), lines, notes, exact=True)


def _blank(cells: list[Any]) -> bool:
    return all(c is None or not str(c).strip() for c in cells)


def _header(name: str, lines: Iterable[tuple[str, list[Any]]]) -> list[Any]:
    for _, cells in lines:
        if not _blank(cells):
            return cells
    raise RecordError(f"{name}: empty. Expected a first row with the names of the columns.")


def _csv_lines(name: str, text: str, delimiter: str) -> Iterator[tuple[str, list[Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        # A cell may hold line breaks: the row is where it begins.
        where = f"{name}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RecordError(f"{where}: not valid CSV ({error}). A cell that begins with a quotation mark must end in one.") from error
        yield where, cells


def _grid(name: str, header: list[Any], lines: Iterable[tuple[str, list[Any]]], notes: tuple[str, ...], exact: bool) -> Table:
    """A table from lines of cells. `exact`: a line that lacks cells is wrong (CSV), not one whose last cells are empty (Excel)."""
    names = [str(c).strip() if c is not None else "" for c in header]
    while names and not names[-1]:
        names.pop()
    if len(names) > MAX_COLUMNS:
        raise RecordError(f"{name}: more than {MAX_COLUMNS:,} columns. Give a file with fewer.")
    width = len(names)
    names = [n or f"(column {i})" for i, n in enumerate(names, 1)]

    def rows() -> Iterator[Row]:
        for where, cells in lines:
            cells = list(cells)
            while len(cells) > width and cells[-1] in (None, ""):
                cells.pop()
            if _blank(cells):
                continue
            if len(cells) > width or (exact and len(cells) < width):
                yield where, f"expected {width} cells as in the first row, found {len(cells)}"
            else:
                yield where, dict(zip(names, cells, strict=False))

    return Table(names, _bounded(name, rows()), notes)


def flatten(value: dict, prefix: str = "") -> dict[str, Any]:
    """Nested objects with dotted names: `{"translation": {"ja": …}}` becomes `{"translation.ja": …}`."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}{key}.") if isinstance(item, dict) and item else {f"{prefix}{key}": item})
    return flat


def _objects(name: str, found: Iterable[Row], notes: tuple[str, ...]) -> Table:
    # All rows first: an object may have a field that those before it lack.
    rows = list(_bounded(name, found))
    header = list(dict.fromkeys(chain.from_iterable(cells for _, cells in rows if isinstance(cells, dict))))
    if rows and not header and isinstance(rows[0][1], str):
        raise RecordError(f"{rows[0][0]}, {rows[0][1]}.")
    if len(header) > MAX_COLUMNS:
        raise RecordError(f"{name}: more than {MAX_COLUMNS:,} different fields. Give objects that have the same ones.")
    return Table(header, rows, notes)


def _object(value: object) -> dict[str, Any] | str:
    if not isinstance(value, dict):
        return f"expected a JSON object, found {type(value).__name__}"
    try:
        return flatten(value)
    except RecursionError:
        return "not valid JSON (nested too deep)"


def _constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant)


def _json_lines(name: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{name}, line {number}", _object(_DECODER.decode(line.strip()))
            except (ValueError, RecursionError) as error:
                yield f"{name}, line {number}", f"not valid JSON ({error}). Each line is one JSON object"


def _json_list(name: str, text: str) -> Iterator[Row]:
    """The items of a JSON list, decoded one after another so that each knows its line."""
    space = re.compile(r"[ \t\r\n]*")
    at, line, counted = space.match(text).end(), 1, 0

    def wrong(reason: str) -> RecordError:
        return RecordError(f"{name}, line {text.count(chr(10), 0, at) + 1}: not valid JSON ({reason}). Expected a list of objects.")

    if text[at : at + 1] != "[":
        raise wrong("no '[' at the beginning")
    at = space.match(text, at + 1).end()
    if text[at : at + 1] == "]":
        at += 1
    else:
        while True:
            try:
                value, end = _DECODER.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                at = getattr(error, "pos", at)
                raise wrong(getattr(error, "msg", None) or str(error)) from error
            line, counted = line + text.count("\n", counted, at), at
            yield f"{name}, line {line}", _object(value)
            at = space.match(text, end).end()
            mark, at = text[at : at + 1], at + 1
            if mark == "]":
                break
            if mark != ",":
                at -= 1
                raise wrong("no ',' or ']' after an item")
            at = space.match(text, at).end()
    if text[at:].strip():
        raise wrong("text after the list")
