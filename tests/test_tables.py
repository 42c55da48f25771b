"""A user's table becomes valid records, or one line says which file, row and field is wrong; whatever the bytes are."""

from __future__ import annotations

import csv
import datetime
import http.server
import io
import json
import random
import re
import threading
import time
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import formats, records, tables, workbook
from helpers.files import UserError
from helpers.records import Record, RecordError
from tests.mutating import bytes_mutated

HEADER = ["質問", "Question", "Answer", "別解", "分類"]
ROWS = [
    ["水は何色ですか？", "What color is water?", "Clear", "Colorless|No color", "science"],
    ["「はい」と言いましたか？", 'Did he say "yes"?', "Yes", "", "everyday"],
    ["1,000円から300円使うと、\n残りは何円ですか？", "How many yen are left of 1,000 after spending 300?", "700", "seven hundred; 700 yen", "arithmetic"],
]


def csv_text(rows=ROWS, header=HEADER, **options) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([header, *rows])
    return out.getvalue()


def jsonl(rows=ROWS, header=HEADER) -> str:
    return "".join(json.dumps(dict(zip(header, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)


def excel(rows=ROWS, header=HEADER, title="Sheet1") -> bytes:
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.active.title = title
    for row in [header, *rows]:
        book.active.append(row)
    book.save(out)
    return out.getvalue()


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def read(path, columns=None, **options) -> list[Record]:
    return tables.read_table(path, columns, **({"say": str} | options))


def error(path, columns=None, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(path, columns, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), path.name if isinstance(path, Path) else "")


KINDS = {
    "own.csv": csv_text().encode(),
    "excel.csv": csv_text().encode("utf-8-sig"),
    "japanese.csv": csv_text().encode("cp932"),
    "semicolon.csv": csv_text(delimiter=";").encode(),
    "quoted.csv": csv_text(quoting=csv.QUOTE_ALL, lineterminator="\n").encode(),
    "own.tsv": csv_text(delimiter="\t").encode(),
    "unicode.txt": csv_text(delimiter="\t").encode("utf-16"),
    "own.jsonl": jsonl().encode(),
    "bom.jsonl": jsonl().encode("utf-8-sig"),
    "lines.json": jsonl().encode(),
    "own.json": json.dumps([json.loads(x) for x in jsonl().splitlines()], indent=1).encode(),
    "own.xlsx": excel(),
    "wrong-suffix.csv": excel(),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_format_gives_the_same_records(tmp_path, name):
    found = read(write(tmp_path, name, KINDS[name]))
    assert [(r.ja, r.en, r.answer, r.category) for r in found] == [(a, b, c, e) for a, b, c, _, e in ROWS]
    assert [r.aliases for r in found] == [("Colorless", "No color"), (), ("seven hundred", "700 yen")]
    assert all(r.task == "qa" and r.source == "own" and records.problem(r.to_dict()) is None for r in found)
    stem = name.rsplit(".", 1)[0]
    assert len({r.id for r in found}) == 3 and all(r.id.startswith(f"{stem}-") for r in found)


def test_what_the_reader_decides_is_said(tmp_path):
    said: list[str] = []
    read(write(tmp_path, "own.csv", csv_text([[*r, "x"] for r in ROWS], [*HEADER, "備考"]).encode("cp932")), say=said.append)
    assert [s.removeprefix(str(tmp_path / "own.csv")) for s in said] == [
        ": not UTF-8; read as CP932 (Shift_JIS), as Japanese Excel writes it.",
        ": columns not used: 備考.",
    ]


def test_ids_are_of_the_text_and_stay_when_rows_are_added(tmp_path):
    path = write(tmp_path, "own.csv", csv_text())
    before = {r.id for r in read(path)}
    path.write_text(csv_text([["雪は何色ですか？", "What color is snow?", "White", "", ""], *ROWS, ROWS[0]]), encoding="utf-8")
    after = [r.id for r in read(path)]
    assert before < set(after) and len(set(after)) == 5 and after[-1] == f"{after[1]}-2"


def test_an_id_column_is_kept_and_bare_numbers_get_the_name_of_the_file(tmp_path):
    path = write(tmp_path, "own.csv", "番号,日本語,英語\n7,雨だ。,It is raining.\nx-1,雪だ。,It is snowing.\n")
    assert [(r.id, r.task) for r in read(path)] == [("own-7", "translate"), ("x-1", "translate")]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["質問", "Question", "Answer"], {"ja": "質問", "en": "Question", "answer": "Answer"}),
        (["日本語", "英語"], {"ja": "日本語", "en": "英語"}),
        (["ＪＡ", " En "], {"ja": "ＪＡ", "en": " En "}),
        (["Japanese", "English", "答え", "解説"], {"ja": "Japanese", "en": "English", "answer": "答え", "reasoning": "解説"}),
        (["translation.ja", "translation.en", "id"], {"ja": "translation.ja", "en": "translation.en", "id": "id"}),
        (["question_ja", "question_en", "split"], {"ja": "question_ja", "en": "question_en", "split": "split"}),
        (["foo", "bar"], {}),
        (list(Record("a", "qa", "b", "c").to_dict()), {k: k for k in Record("a", "qa", "b", "c").to_dict()}),
    ],
)
def test_usual_names_are_guessed(header, expected):
    assert tables.guess_columns(header) == expected


def test_columns_by_argument(tmp_path):
    path = write(tmp_path, "own.csv", "a,b,c\n雨だ。,It is raining.,x\n")
    assert "no column for 'ja' and 'en' (the text in Japanese, in English). Its columns: 'a', 'b', 'c'." in error(path)
    (record,) = read(path, {"ja": "a", "en": "b", "category": "c"})
    assert (record.ja, record.category) == ("雨だ。", "x")
    assert "no column 'z' for the field 'en'. Its columns: 'a', 'b', 'c'" in error(path, {"ja": "a", "en": "z"})
    assert "'question' is no field of a record. Fields: id, task, ja" in error(path, {"ja": "a", "en": "b", "question": "c"})
    assert "no column for 'en'" in error(path, {"ja": "a"})
    assert "expected the name of a column for 'en', found 1" in error(path, {"ja": "a", "en": 1})
    assert "the column 'ja' (field 'ja') is there twice" in error(write(tmp_path, "two.csv", "ja,ja,en\nあ,い,a\n"))


def test_tasks(tmp_path):
    path = write(tmp_path, "own.csv", csv_text())
    assert {r.task for r in read(path, task="translate")} == {"translate"}
    assert "field 'answer': expected a non-empty string for task qa" in error(write(tmp_path, "b.csv", "ja,en\n雨だ。,Rain.\n"), task="qa")
    mixed = write(tmp_path, "c.csv", "task,ja,en,answer\nqa,何色？,What color?,red\ntranslate,雨だ。,Rain.,\n")
    assert [r.task for r in read(mixed)] == ["qa", "translate"]
    assert "c.csv, line 3, field 'answer' (column 'answer'): expected a non-empty string for task qa" in error(
        write(tmp_path, "c.csv", "ja,en,answer\n何色？,What color?,red\n雨だ。,Rain.,\n")
    )
    assert "task is 'chat'; choose auto, translate or qa" in error(path, task="chat")


def test_license_and_source_are_for_rows_that_name_none(tmp_path):
    path = write(tmp_path, "own.csv", "ja,en,license\n雨だ。,Rain.,CC0\n雪だ。,Snow.,\n")
    assert [(r.license, r.source) for r in read(path, license="MIT", source="mine")] == [("CC0", "mine"), ("MIT", "mine")]


def test_records_of_this_project_read_back(tmp_path, questions):
    path = records.write(tmp_path / "own.jsonl", questions[:50])
    assert read(path) == questions[:50]


def test_cells_as_a_reader_would_write_them(tmp_path):
    day = datetime.datetime(2024, 2, 29)
    answers = [42, 42.0, 3.5, True, day, datetime.datetime(2024, 2, 29, 8, 5), datetime.time(8, 5), " a "]
    path = write(tmp_path, "own.xlsx", excel([[f"問{i}", f"q{i}", a] for i, a in enumerate(answers)], ["ja", "en", "answer"]))
    assert [r.answer for r in read(path)] == ["42", "42", "3.5", "TRUE", "2024-02-29", "2024-02-29T08:05:00", "08:05:00", "a"]
    lines = write(tmp_path, "own.jsonl", '{"ja": "問", "en": "q", "answer": 7, "hops": 2, "aliases": ["seven"], "entities": "a; b"}\n')
    (record,) = read(lines)
    assert (record.answer, record.hops, record.aliases, record.entities) == ("7", 2, ("seven",), ("a", "b"))


def test_formulas_stay_text_and_are_never_run(tmp_path):
    text = '=HYPERLINK("http://example.com")'
    (record,) = read(write(tmp_path, "own.csv", f'ja,en\n雨だ。,"{text.replace(chr(34), chr(34) * 2)}"\n'))
    assert record.en == text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "ja,en\n雨だ。\n", "a.csv, line 2, expected 2 cells as in the first row, found 1."),
        ("a.csv", "ja,en\n雨だ。,a,b\n", "a.csv, line 2, expected 2 cells as in the first row, found 3."),
        ("a.csv", 'ja,en\n"一\n二",a\n\n雨だ。,\n', "a.csv, line 5, field 'en' (column 'en'): expected a non-empty string."),
        ("a.csv", 'ja,en\n"一\n二",a\n雨だ。,"b\n', "a.csv, line 4: not valid CSV"),
        ("a.csv", 'ja,en\n雨だ。,"b"c\n', "a.csv, line 2: not valid CSV"),
        ("a.csv", "ja,en\n,\n , \n", "a.csv: no row below the names of the columns"),
        ("a.csv", "", "a.csv: empty. Expected a first row with the names of the columns."),
        ("a.csv", "ja,en,split\n雨だ。,Rain.,valid\n", "field 'split' (column 'split'): expected one of train, dev, test or empty, found 'valid'"),
        ("a.csv", "ja,en,hops\n雨だ。,Rain.,two\n", "field 'hops' (column 'hops'): expected a whole number of at least 1, found 'two'"),
        ("a.csv", "ja,en,hops\n雨だ。,Rain.,0\n", "field 'hops' (column 'hops'): expected a whole number of at least 1, found 0"),
        ("a.csv", "id,ja,en\nx,雨だ。,Rain.\nx,雪だ。,Snow.\n", "line 3, field 'id': expected a unique id, 'x' is there before (line 2)"),
        ("a.csv", f"ja,en\n雨だ。,{'a' * 20_001}\n", "field 'en' (column 'en'): expected at most 20,000 characters, found 20,001"),
        ("a.csv", f"ja,en\n雨だ。,{'a' * 140_000}\n", "a.csv, line 2: not valid CSV (field larger than field limit"),
        ("a.csv", "ja,en\n雨だ。,a\x07b\n", "field 'en' (column 'en'): expected text without control characters, found U+0007"),
        ("a.csv", "ja,en\n雨だ。,\n雪だ。,\n風だ。,\n", "a.csv, line 2, field 'en' (column 'en'): expected a non-empty string. 2 more rows have a problem."),
        ("a.csv", "ja,en\n雨だ。,\n雪だ。,\n", "expected a non-empty string. 1 more row has a problem."),
        ("a.csv", "ja,en\n雨だ。,Rain.\n".encode().replace("雨".encode(), b"\xe9\x9b"), "a.csv, line 2: neither UTF-8 (byte 6) nor Shift_JIS"),
        ("a.csv", "ja,en\nいろはにほへとちりぬるを,Rain.\n".encode("euc-jp"), "a.csv, line 2: neither UTF-8 (byte 6) nor Shift_JIS"),
        ("a.csv", "ja,en\n雨だ。,Rain.\n".encode("utf-16")[:-1], "a.csv: not UTF-16"),
        ("a.csv", "<!DOCTYPE html><html><body>Sign in</body></html>", "a.csv: holds a web page and not a table"),
        ("a.jsonl", '{"ja": "雨だ。", "en": "Rain."}\n{"ja": \n', "a.jsonl, line 2, not valid JSON"),
        ("a.jsonl", '{"ja": "雨だ。", "en": "Rain."}\n\n[1]\n', "a.jsonl, line 3, expected a JSON object, found list."),
        ("a.jsonl", '{"ja": "雨だ。", "en": "Rain.", "en": "x"}\n', "a.jsonl, line 1, not valid JSON (field 'en' is there twice)"),
        ("a.jsonl", '{"ja": "雨だ。", "en": ["Rain."]}\n', "line 1, field 'en' (column 'en'): expected text, found list"),
        ("a.jsonl", '{"ja": "雨だ。", "en": "x", "answer": NaN}\n', "a.jsonl, line 1, not valid JSON (NaN is not JSON)"),
        ("a.jsonl", '{"ja": "雨だ。"}\n', "a.jsonl: no column for 'en'"),
        ("a.jsonl", '{"ja": "雨だ。", "en": "x"}\n{"ja": "雪だ。"}\n', "a.jsonl, line 2, field 'en' (column 'en'): expected a non-empty string"),
        ("a.jsonl", "[" * 100_000 + "\n", "a.jsonl, line 1, not valid JSON"),
        ("a.json", '[{"ja": "雨だ。", "en": "x"},\n {"ja": "雪だ。", "en": ""}]', "a.json, line 2, field 'en' (column 'en'): expected a non-empty string"),
        ("a.json", '[{"ja": "雨だ。", "en": "x"}\n {"ja": 1}]', "a.json, line 2: not valid JSON (no ',' or ']' after an item)"),
        ("a.json", '[{"ja": "雨だ。", "en": "x"}] 1', "a.json, line 1: not valid JSON (text after the list)"),
        ("a.json", '[{"ja": "雨だ。",\n "en": x}]', "a.json, line 2: not valid JSON (Expecting value)"),
        ("a.json", "17", "a.json, line 1: not valid JSON (no '[' at the beginning)"),
        ("a.json", "[]", "a.json: no column for 'ja' and 'en'"),
        ("a.xlsx", "ja,en", "a.xlsx: not an Excel file inside"),
        ("a.xlsx", b"PK\x03\x04 and nothing", "a.xlsx: cannot be read as Excel (BadZipFile"),
        ("a.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a.xlsx: an old .xls file or one with a password"),
        ("a.ods", "ja,en", "a.ods: expected a file of these kinds: .csv"),
    ],
)  # fmt: skip
def test_errors_name_the_file_the_line_and_the_way_out(tmp_path, name, content, expected):
    assert expected in error(write(tmp_path, name, content))


def test_missing_files_and_odd_paths(tmp_path):
    assert "none.csv: no such file" in error(tmp_path / "none.csv")
    assert "cannot be read" in error(tmp_path)
    with pytest.raises(RecordError, match="cannot be read"):
        read("a\x00.csv")


def test_bounds(tmp_path, monkeypatch):
    path = write(tmp_path, "own.csv", csv_text(ROWS * 10))
    monkeypatch.setattr(formats, "MAX_ROWS", 20)
    assert "own.csv: more than 20 rows. Split it into smaller files." in error(path)
    assert "own.xlsx, sheet 'Sheet1': more than 20 rows" in error(write(tmp_path, "own.xlsx", excel(ROWS * 10)))
    assert "more than 20 rows" in error(write(tmp_path, "own.jsonl", jsonl(ROWS * 10)))
    monkeypatch.setattr(formats, "MAX_BYTES", 1 << 20)
    assert "larger than 1 MB" in error(write(tmp_path, "big.csv", b"x" * (1 << 20) + b"y"))
    monkeypatch.setattr(formats, "MAX_COLUMNS", 4)
    assert "more than 4 columns" in error(write(tmp_path, "own.csv", csv_text()))
    assert "more than 4 different fields" in error(write(tmp_path, "own.jsonl", jsonl()))


def test_excel_sheets_formulas_and_errors(tmp_path):
    book, path = openpyxl.Workbook(), tmp_path / "own.xlsx"
    book.active.title = "Notes"
    book.active["A3"] = "日本語"
    sheet = book.create_sheet("文")
    for row in [[None, None], ["日本語", "英語"], [None, None], ["雨だ。", "Rain."], ["雪だ。", None]]:
        sheet.append(row)
    book.save(path)
    assert "own.xlsx, sheet '文', row 5, field 'en' (column '英語'): expected a non-empty string" in error(path, sheet="文")
    assert "no column for 'en'. " not in error(path, sheet=1) and "own.xlsx: no column for 'en'" in error(path)
    assert "no sheet 'x'. Its sheets: 'Notes', '文'." in error(path, sheet="x")
    assert "no sheet 7" in error(path, sheet=7)
    sheet["B5"] = '=CONCATENATE("Sn","ow.")'
    book.save(path)
    assert "own.xlsx, sheet '文', row 5: a formula without a stored value" in error(path, sheet="文")
    sheet["B5"] = "#N/A"
    sheet["B5"].data_type = "e"
    book.save(path)
    assert "row 5: expected a value, found the Excel error #N/A" in error(path, sheet="文")


def repacked(data: bytes, change) -> bytes:
    """A workbook whose members went through `change(name, content)`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def in_sheet(old: bytes, new: bytes):
    return lambda name, content: content.replace(old, new) if name.startswith("xl/worksheets") else content


def test_a_stored_value_of_a_formula_is_taken(tmp_path):
    data = excel([["雨だ。", "=A1"]], ["日本語", "英語"])
    assert "formula without a stored value" in error(write(tmp_path, "own.xlsx", data))
    stored = repacked(data, lambda n, c: c.replace(b"<v></v>", b"<v>It rains.</v>").replace(b"<v />", b"<v>It rains.</v>").replace(b'r="B2"', b'r="B2" t="str"'))
    assert [r.en for r in read(write(tmp_path, "own.xlsx", stored))] == ["It rains."]


def test_hostile_workbooks(tmp_path, monkeypatch):
    bomb = repacked(excel(), lambda n, c: c.replace(b"<worksheet", b'<!DOCTYPE x [<!ENTITY a "b">]><worksheet') if "worksheets" in n else c)
    assert "defines XML entities" in error(write(tmp_path, "own.xlsx", bomb))
    far = repacked(excel(), in_sheet(b'<row r="4"', b'<row r="999999999"'))
    begun = time.monotonic()
    assert "more than 1,000,000 rows" in error(write(tmp_path, "own.xlsx", far))
    assert time.monotonic() - begun < 20
    wide = repacked(excel(), in_sheet(b'ref="A1:E4"', b'ref="A1:XFD1048576"'))
    assert len(read(write(tmp_path, "own.xlsx", wide))) == 3
    monkeypatch.setattr(workbook, "MAX_UNPACKED", 1 << 10)
    assert "unpacks to more than" in error(write(tmp_path, "own.xlsx", excel()))


def test_preview(tmp_path):
    header, rows = tables.preview(write(tmp_path, "own.csv", csv_text()), rows=2)
    assert header == HEADER and rows == ROWS[:2]
    header, rows = tables.preview(write(tmp_path, "own.jsonl", '{"a": {"ja": "x"}}\n{"b": null, "a": {"ja": 1}}\n'))
    assert (header, rows) == (["a.ja", "b"], [["x", ""], ["1", ""]])
    with pytest.raises(RecordError, match="line 2: expected 5 cells"):
        tables.preview(write(tmp_path, "own.csv", csv_text([["x"]])))


ID = "1AbC_dEf-GhIjKlMnOpQrStUvWxYz0123456789"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"https://docs.google.com/spreadsheets/d/{ID}/edit?usp=sharing", f"https://docs.google.com/spreadsheets/d/{ID}/export?format=csv"),
        (f"https://docs.google.com/spreadsheets/d/{ID}/edit#gid=42", f"https://docs.google.com/spreadsheets/d/{ID}/export?format=csv&gid=42"),
        (f"https://docs.google.com/spreadsheets/u/1/d/{ID}/edit?gid=7#gid=7", f"https://docs.google.com/spreadsheets/d/{ID}/export?format=csv&gid=7"),
        (f"https://docs.google.com/spreadsheets/d/e/2PACX-{ID}/pubhtml?gid=0", f"https://docs.google.com/spreadsheets/d/e/2PACX-{ID}/pub?output=csv&gid=0"),
        (f"https://docs.google.com/spreadsheets/d/{ID}", f"https://docs.google.com/spreadsheets/d/{ID}/export?format=csv"),
    ],
)  # fmt: skip
def test_the_address_of_a_sheet_becomes_that_of_its_export(url, expected):
    assert formats.export_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/own.csv", f"http://docs.google.com/spreadsheets/d/{ID}/edit", "https://docs.google.com/document/d/abcdefghijkl/edit",
        f"https://docs.google.com@evil.example/spreadsheets/d/{ID}/edit", f"https://docs.google.com:8/spreadsheets/d/{ID}", "https://[",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(url):
    with pytest.raises(UserError, match=r"expected https://docs.google.com/spreadsheets/d/"):
        read(url)


class Sheets(http.server.BaseHTTPRequestHandler):
    """Answers as Google does: a table, a login page, a refusal."""

    def do_GET(self):
        bodies = {"/table": csv_text().encode(), "/login": b"<!DOCTYPE html><html><head><title>Sign in", "/big": b"x" * 5000}
        self.send_response(200 if self.path in bodies else 401)
        self.end_headers()
        self.wfile.write(bodies.get(self.path, b""))

    def log_message(self, *args):
        pass


def test_downloads(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sheets)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert formats.download(f"{address}/table") == csv_text().encode()
        monkeypatch.setattr(formats, "export_url", lambda url: f"{address}/table")
        found = read("https://docs.google.com/any")
        assert len(found) == 3 and found[0].id.startswith("sheet-")
        for path, expected in {"/login": "a web page came back", "/private": "answered 401"}.items():
            with pytest.raises(UserError, match=expected) as caught:
                formats.download(address + path)
            assert "Share the sheet" in str(caught.value)
        with pytest.raises(UserError, match="larger than"):
            formats.download(f"{address}/big", limit=4000)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(UserError, match=r"cannot be fetched \(.*Check the network"):
        formats.download(f"{address}/table", timeout=2)


CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path, rows):
    header = ["ja", "en", "category"]
    wanted = [tuple(c.strip() for c in row) for row in rows]
    for name, content in {
        "own.csv": csv_text(rows, header).encode(), "own.jsonl": jsonl(rows, header).encode(), "own.xlsx": excel(rows, header),
    }.items():  # fmt: skip
        if name.endswith("xlsx") and any(c.startswith(("=", "#")) for row in rows for c in row):
            continue
        found = read(write(tmp_path, name, content))
        assert [(r.ja, r.en, r.category) for r in found] == wanted, name


# ---- the fuzz: mutated files load to valid records, or one line names the file

JUNK = [b'"', b"\\", b"{", b"}", b"[", b",", b":", b"\x00", b"\n", b"\r", b"\t", b";", b"\xe3", b"\xff\xfe", b"\xef\xbb\xbf", b"<", b"&#0;", b"PK\x03\x04"]


ODD = ["", " ", "\n", "x" * 20_001, "\x00", "\u200b", "=1+1", "@x", "#REF!", "NaN", "-1", "1e999", "qa", "dev", "雨", "🌳", "'", '"', "a|b;;c", "\ufeff"]
ODD_JSON = [*ODD, None, True, 0, -1, 1.5, 10**50, [], ["a"], [1], {}, {"a": {"b": 1}}, [[]], "\ud800"]


def rows_mutated(generator: random.Random, odd: list) -> tuple[list, list[list]]:
    """Header and rows with one to three changes of structure."""
    header, rows = list(HEADER), [list(r) for r in ROWS]
    for _ in range(generator.randint(1, 3)):
        row = generator.choice([header, *rows])
        if not row:
            continue
        at = generator.randrange(len(row))
        match generator.randrange(7):
            case 0:
                row[at] = generator.choice(odd)
            case 1:
                del row[at]
            case 2:
                row.insert(at, generator.choice(odd))
            case 3:
                rows.append(list(generator.choice(rows)))
            case 4:
                header[min(at, len(header) - 1)] = generator.choice(["id", "hops", "split", "task", "aliases", "ja", "en", "entities"])
            case 5:
                generator.shuffle(row)
            case _:
                rows.insert(0, [generator.choice(odd) for _ in header])
        if not header:
            break
    return header, rows


def mutated_file(kind: str, generator: random.Random) -> bytes:
    structure = generator.random() < 0.5
    if kind in ("own.jsonl", "own.json"):
        if not structure:
            return bytes_mutated(KINDS[kind], generator, JUNK)
        header, rows = rows_mutated(generator, ODD_JSON)
        lines = [json.dumps(dict(zip(map(str, header), row, strict=False))) for row in rows]
        return (f"[{', '.join(lines)}]" if kind == "own.json" else "\n".join(lines)).encode()
    if kind == "records.jsonl":
        record = Record("q-1", "qa", *ROWS[0][:3], ("a",)).to_dict()
        if not structure:
            return bytes_mutated(json.dumps(record, ensure_ascii=False).encode() + b"\n", generator, JUNK)
        record[generator.choice([*record, "new"])] = generator.choice(ODD_JSON)
        return json.dumps(record).encode()
    if kind == "own.csv":
        if not structure:
            return bytes_mutated(csv_text().encode(generator.choice(["utf-8", "cp932", "utf-8-sig", "utf-16"])), generator, JUNK)
        header, rows = rows_mutated(generator, ODD)
        return csv_text(rows, header, delimiter=generator.choice(",;\t")).encode("utf-8", "surrogatepass")
    if structure:
        header, rows = rows_mutated(generator, [c for c in ODD if c != "\x00"] + [1, 1.5, True, None, datetime.date(2024, 1, 1)])
        return excel(rows, header)
    data = EXCEL
    if generator.random() < 0.3:
        return bytes_mutated(data, generator, JUNK)
    target = generator.choice(["xl/worksheets/sheet1.xml"] * 3 + ["xl/workbook.xml", "xl/sharedStrings.xml", "[Content_Types].xml", "xl/styles.xml"])
    return repacked(data, lambda name, content: xml_mutated(content, generator) if name == target else content)


def xml_mutated(data: bytes, generator: random.Random) -> bytes:
    """Bytes, or a number or attribute inside the markup, changed."""
    if generator.random() < 0.5:
        return bytes_mutated(data, generator, JUNK)
    odd = [b'r="ZZZ9"', b'r="A0"', b't="s"', b't="e"', b't="b"', b't="d"', b't="n"', b't="inlineStr"', b'r="99999999"', b's="77"', b'ref="A1:XFD9"', b"<v>99</v>", b"<v>-1</v>", b"<f>A1</f>"]
    parts = data.split(b" ")
    parts.insert(generator.randrange(len(parts)), generator.choice(odd))
    return b" ".join(parts)


EXCEL = excel()


def fuzz(tmp_path: Path, count: int, seed: int) -> dict[str, dict[str, int]]:
    generator = random.Random(seed)
    kinds = {"own.csv": read, "own.jsonl": read, "own.xlsx": read, "own.json": read, "records.jsonl": records.read}
    outcomes = {kind: {"loads": 0, "refused": 0} for kind in kinds}
    for number in range(count):
        kind = list(kinds)[number % len(kinds)]
        path = tmp_path / kind
        path.write_bytes(mutated_file(kind, generator))
        begun = time.monotonic()
        try:
            found = kinds[kind](path)
        except UserError as refused:
            message = str(refused)
            assert message.startswith(str(path)) and "\n" not in message and (len(message) < 3000 or kind == "records.jsonl"), (number, message)
            if ", field '" in message:
                assert re.match(r"(, sheet '.+')?, (line|row) \d+, field '", message.removeprefix(str(path))), (number, message)
            outcomes[kind]["refused"] += 1
        else:
            assert all(records.problem(r.to_dict()) is None for r in found), number
            assert len({r.id for r in found}) == len(found)
            assert records.write(tmp_path / "again.jsonl", found) and records.read(tmp_path / "again.jsonl") == found
            outcomes[kind]["loads"] += 1
        assert time.monotonic() - begun < 10, (number, "took too long")
    return outcomes


def test_six_hundred_mutated_files_load_or_are_refused_by_name(tmp_path):
    outcomes = fuzz(tmp_path, 600, seed=1)
    assert all(min(o.values()) >= 15 for o in outcomes.values()), f"the fuzz must reach both ends: {outcomes}"


@pytest.mark.slow
def test_twelve_thousand_mutated_files_load_or_are_refused_by_name(tmp_path):
    outcomes = fuzz(tmp_path, 12_000, seed=2)
    assert all(min(o.values()) >= 400 for o in outcomes.values()), f"the fuzz must reach both ends: {outcomes}"
