"""The answers of a teacher, kept as they come: an append-only JSONL file, one line a candidate."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .files import UserError
from .records import Record
from .teachers import Candidate, Teacher

_LINE = {"key": str, "id": str, "teacher": str, "model": str, "prompt_version": str, "sample": int, "text": str, "tokens_in": int,
         "tokens_out": int, "seconds": (int, float), "error": str}  # fmt: skip


def content_key(record: Record) -> str:
    """Hash of what a teacher sees of a record: questions, answer, expression. A new id, split or alias costs nothing."""
    seen = json.dumps([record.ja, record.en, record.answer, record.check], ensure_ascii=False)
    return hashlib.sha256(seen.encode("utf-8", "replace")).hexdigest()[:16]


class Store:
    """The cache of one teacher: candidates by (content key, sample), appended to a JSONL file as they come."""

    def __init__(self, path: Path, teacher: Teacher, price: tuple[float, float], say: Callable[[str], None]):
        self.path, self.teacher, self.price = path, teacher, price
        self.found: dict[tuple[str, int], Candidate] = {}
        self.tokens_in = self.tokens_out = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._read(path.read_bytes(), say)
        except BaseException:
            os.close(self.handle)
            raise

    def _failed(self, error: OSError) -> UserError:
        reason = error.strerror or error
        return UserError(f"{self.path}: cannot be written ({reason}). What came before is kept: run again to go on.")

    def _read(self, data: bytes, say: Callable[[str], None]) -> None:
        *lines, tail = data.split(b"\n")
        self.end = len(data) - len(tail)
        for number, line in enumerate(lines, 1):
            value, broken = _parse(line)
            if broken:
                raise UserError(f"{self.path}, line {number}: {broken}. Remove this line to ask again for what it held.")
            self._take(value)
        if tail:
            value, broken = _parse(tail)
            if broken:
                say(f"{self.path.name}: its last line was cut off by an interruption; it is dropped and asked for again.")
            else:
                self._take(value)
                self.end = len(data)
            os.ftruncate(self.handle, self.end)
            if not broken:
                self._append(b"\n")

    def _take(self, value: dict) -> None:
        if (value["teacher"], value["model"], value["prompt_version"]) == self._who:
            fields = ("text", "tokens_in", "tokens_out", "seconds", "error")
            self._keep(value["key"], value["sample"], Candidate(value["id"], *(value[f] for f in fields)))

    def _keep(self, key: str, sample: int, candidate: Candidate) -> None:
        if (key, sample) not in self.found:
            self.found[key, sample] = candidate
            self.tokens_in += candidate.tokens_in
            self.tokens_out += candidate.tokens_out

    @property
    def _who(self) -> tuple[str, str, str]:
        return self.teacher.name, self.teacher.model, self.teacher.prompt_version

    @property
    def cost(self) -> float:
        return (self.tokens_in * self.price[0] + self.tokens_out * self.price[1]) / 1e6

    def add(self, candidates: Sequence[tuple[str, int, Candidate]]) -> None:
        """Append; on the disk when this returns. In one write, so that a kill leaves whole lines and at most one torn."""
        lines = []
        for key, sample, c in candidates:
            values = (key, c.record_id, *self._who, sample, c.text, c.tokens_in, c.tokens_out, round(c.seconds, 3), c.error)
            lines.append(json.dumps(dict(zip(_LINE, values, strict=True)), ensure_ascii=False) + "\n")
        self._append("".join(lines).encode("utf-8", "replace"))
        for key, sample, c in candidates:
            self._keep(key, sample, c)

    def _append(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.write(self.handle, data[written:])
            os.fsync(self.handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, self.end)
            raise self._failed(error) from error
        self.end += len(data)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        os.close(self.handle)


def _parse(line: bytes) -> tuple[dict, str]:
    """The value of a cache line, and what is wrong with it ("" when nothing is)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"not valid JSON ({' '.join(str(error).split())})"
    if not isinstance(value, dict):
        return {}, "not a JSON object"
    for name, kind in _LINE.items():
        if not isinstance(value.get(name), kind) or isinstance(value[name], bool):
            return {}, f"field {name!r} is missing or of the wrong type"
    return value, ""
