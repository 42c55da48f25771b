"""The data contract: one record a line (JSONL, UTF-8), checked field by field."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .answers import normalise_answer
from .files import UserError, whole_file

TASKS = ("translate", "qa")
SPLITS = ("", "train", "dev", "test")


class RecordError(UserError):
    """A record that breaks the contract; the message gives file, line, field and what was expected."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sentence pair (`task="translate"`) or one bilingual question with its answer (`task="qa"`).

    `ja` and `en` hold the same sentence or question in both languages. `answer` and `aliases` are the accepted
    short English answers, `reasoning` the English rationale ("" where there is none), `hops` the number of facts
    or operations to combine. `entities` decides the split: no entity is in two splits. `check` is an expression
    that computes the answer, where one can be computed.
    """

    id: str
    task: str
    ja: str
    en: str
    answer: str = ""
    aliases: tuple[str, ...] = ()
    reasoning: str = ""
    category: str = ""
    hops: int = 1
    source: str = ""
    license: str = ""
    split: str = ""
    entities: tuple[str, ...] = ()
    check: str = ""

    @property
    def difficulty(self) -> str:
        """`calculation` where the answer is computed, else `two-hop` where facts are combined or compared, else `fact`."""
        if self.check or self.category in ("arithmetic", "dates"):
            return "calculation"
        return "two-hop" if self.hops > 1 else "fact"

    def replace(self, **changes) -> Record:
        """The same record with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        """Plain dictionary with lists instead of tuples, in the order of the contract."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


_FIELDS = {f.name: f for f in dataclasses.fields(Record)}
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRINGS = tuple(n for n, f in _FIELDS.items() if f.type == "str")
_LISTS = tuple(n for n, f in _FIELDS.items() if f.type.startswith("tuple"))


def problem(value: object) -> tuple[str, str] | None:
    """The first (field, expectation) that `value` breaks, or None when it is a valid record."""
    if not isinstance(value, dict):
        return "record", f"a JSON object, found {type(value).__name__}"
    for name in value:
        if name not in _FIELDS:
            return name, f"one of the fields {', '.join(_FIELDS)}"
    for name in ("id", "task", "ja", "en"):
        if name not in value:
            return name, "this field is required"
    for name in _STRINGS:
        if not isinstance(value.get(name, ""), str):
            return name, f"a string, found {type(value[name]).__name__}"
    for name in _LISTS:
        items = value.get(name, [])
        if not isinstance(items, (list, tuple)) or not all(isinstance(i, str) for i in items):
            return name, "a list of strings"
    for name, field in value.items():
        if any(isinstance(text, str) and _SURROGATE.search(text) for text in (field if name in _LISTS else [field])):
            return name, "text that UTF-8 can hold, found half of a surrogate pair"
    for name in ("id", "ja", "en"):
        if not value[name].strip():
            return name, "a non-empty string"
    if value["task"] not in TASKS:
        return "task", f"one of {', '.join(TASKS)}, found {value['task']!r}"
    if value["task"] == "qa" and not value.get("answer", "").strip():
        return "answer", "a non-empty string for task qa"
    if value["task"] == "qa" and not normalise_answer(value["answer"]):
        return "answer", f"a text with a letter or digit in it, or no answer could match it, found {value['answer'][:40]!r}"
    hops = value.get("hops", 1)
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 1:
        return "hops", f"a whole number of at least 1, found {hops!r}"
    if value.get("split", "") not in SPLITS:
        return "split", f"one of train, dev, test or empty, found {value['split']!r}"
    return None


def parse(value: object, where: str) -> Record:
    """Make a `Record` from a JSON value. Raises `RecordError` that starts with `where`."""
    broken = problem(value)
    if broken:
        raise RecordError(f"{where}, field {broken[0]!r}: expected {broken[1]}.")
    return Record(**{k: tuple(v) if k in _LISTS else v for k, v in value.items()})


def _once(pairs: list[tuple[str, object]]) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return value


def read(path: str | Path) -> list[Record]:
    """Read a JSONL file of records. Raises `RecordError` with file, line and field; drops nothing silently."""
    path = Path(path)
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file. Run notebook 01, or give the path of a JSONL file.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecordError(f"{path}, line {line}: not UTF-8 (byte {error.start}). Save the file as UTF-8.") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}).") from error
    found: list[Record] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix("\ufeff")
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{where}: not valid JSON ({error}). Each line is one JSON object.") from error
        record = parse(value, where)
        if record.id in seen:
            raise RecordError(f"{where}, field 'id': expected a unique id, {record.id!r} is on line {seen[record.id]} too.")
        seen[record.id] = number
        found.append(record)
    return found


def write(path: str | Path, records: Iterable[Record]) -> Path:
    """Write records as JSONL, whole (temporary name, then rename). Raises `UserError`."""
    with whole_file(path) as f:
        for record in records:
            f.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")
    return Path(path)
