"""The cells of an Excel workbook (.xlsx): stored values alone, no formula is computed, no macro run, no link followed."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from .files import UserError
from .records import RecordError

MAX_UNPACKED, MAX_MEMBERS = 2**30, 10_000


def rows(name: str, data: bytes, sheet: int | str = 0, limit: int = 1_000_000) -> Iterator[tuple[str, list[Any]]]:
    """(where, cells) of each row of a sheet, by its position or name; empty cells are None.

    Raises `RecordError` for what is no workbook, for a missing sheet, more than `limit` rows, an error value, a formula without a stored
    value, and an archive that unpacks to more than 1 GB or defines XML entities.
    """
    import warnings

    try:
        formulas = _check_archive(name, data)
        import openpyxl

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            books = [openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)]
            if formulas:
                books.append(openpyxl.load_workbook(io.BytesIO(data), read_only=True))
            titles = [s.title for s in books[0].worksheets]
            title = titles[sheet] if isinstance(sheet, int) and 0 <= sheet < len(titles) else sheet
            if title not in titles:
                raise RecordError(f"{name}: no sheet {sheet!r}. Its sheets: {', '.join(map(repr, titles[:20]))}.")
            values, *sources = [_cells(f"{name}, sheet {title!r}", book[title], limit) for book in books]
            for number, cells in enumerate(values, 1):
                where = f"{name}, sheet {title!r}, row {number}"
                # The pass that sees formulas shows the cells whose formula was never computed and stored.
                for i, source in enumerate(next(sources[0], [])) if sources else ():
                    if (i >= len(cells) or cells[i] is None) and isinstance(source, str) and source.startswith("="):
                        out = "Open the file in Excel and save it, or paste the values."
                        raise RecordError(f"{where}: a formula without a stored value. {out}")
                yield where, cells
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  openpyxl lets through whatever its XML, ZIP and number parsers raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RecordError(f"{name}: cannot be read as Excel ({reason}). Open it and save it again as .xlsx or CSV.") from error


def _cells(where: str, worksheet: Any, limit: int) -> Iterator[list[Any]]:
    # The size that a sheet claims may be wrong or absurd.
    worksheet.reset_dimensions()
    for number, row in enumerate(worksheet.iter_rows(), 1):
        # Empty rows count: one row may claim any number, and those before it are made up.
        if number > limit:
            raise RecordError(f"{where}: more than {limit:,} rows. Split it into smaller files.")
        values = []
        for cell in row:
            if cell.value is not None and cell.data_type == "e":
                found = f"expected a value, found the Excel error {cell.value}"
                raise RecordError(f"{where}, row {number}: {found}. Mend or empty the cell.")
            values.append(cell.value)
        while values and values[-1] is None:
            values.pop()
        yield values


def _check_archive(name: str, data: bytes) -> bool:
    """Whether a sheet has formulas."""
    formulas = False
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        # zipfile reads no more of a member than the size that the directory gives.
        if sum(m.file_size for m in members) > MAX_UNPACKED or len(members) > MAX_MEMBERS:
            raise RecordError(f"{name}: unpacks to more than {MAX_UNPACKED >> 30} GB. Save the sheet as CSV.")
        for member in members:
            if not member.filename.endswith((".xml", ".rels")):
                continue
            tail = b""
            with archive.open(member) as f:
                while block := f.read(1 << 20):
                    seen = tail + block
                    if b"<!DOCTYPE" in seen or b"<!ENTITY" in seen:
                        raise RecordError(f"{name}: {member.filename} defines XML entities, which no Excel file needs. Save it anew.")
                    formulas |= member.filename.startswith("xl/worksheets") and bool(re.search(rb"<(?:\w+:)?f[ >/]", seen))
                    tail = seen[-16:]
    return formulas
