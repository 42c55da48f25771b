"""Decisions of a reader on records (accept, edit, reject): on disk before anything else happens, and applied by every later run.

One JSONL file, only ever added to. Curation and the review of rationales keep a file each: both decide by record id.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from .files import UserError, _explain
from .records import Record, RecordError, problem

VERDICTS = ("accept", "edit", "reject")
EDITABLE = ("ja", "en", "answer", "reasoning")
REJECTED = "rejected in review"
CHANGED = "decision not used: the record has changed since; decide again"
ABSENT = "decision not used: no such record here"
_CONTENT = ("task", "ja", "en", "answer", "aliases", "reasoning")


@dataclass(frozen=True)
class Decision:
    """What was decided on a record. `was` and `becomes` are the digests of the record before and after `changes`."""

    id: str
    was: str
    becomes: str
    verdict: str
    changes: dict[str, str]
    time: str


def digest(record: Record) -> str:
    """A short hash of what a reader sees of a record: task, both sides, answer, aliases and rationale."""
    content = json.dumps([getattr(record, name) for name in _CONTENT], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def current(record: Record, decision: Decision | None) -> tuple[Record, str]:
    """The record as decided, and its state: "" (undecided), a verdict, or `changed` when the decision was on another text.

    A record that holds the changes already stays as it is.
    """
    if decision is None:
        return record, ""
    if digest(record) not in (decision.was, decision.becomes):
        return record, "changed"
    return record.replace(**decision.changes), decision.verdict


def apply(records: Sequence[Record], decisions: Mapping[str, Decision]) -> tuple[list[Record], list[tuple[str, str]]]:
    """The records as decided, and (record id, reason) of what was left out: `REJECTED` for a record that was refused.

    A decision that cannot be used leaves its record as it is and is named there too: `CHANGED`, `ABSENT`, or what makes the edited
    record invalid. Applying twice changes nothing more.
    """
    kept, dropped = [], []
    for record in records:
        edited, state = current(record, decisions.get(record.id))
        broken = problem(edited.to_dict()) if state in ("accept", "edit") else None
        if state == "reject":
            dropped.append((record.id, REJECTED))
        elif broken:
            dropped.append((record.id, f"decision not used: field {broken[0]!r}, expected {broken[1]}"))
            kept.append(record)
        else:
            kept.append(edited)
            if state == "changed":
                dropped.append((record.id, CHANGED))
    here = {r.id for r in records}
    return kept, dropped + [(record_id, ABSENT) for record_id in decisions if record_id not in here]


class EditStore:
    """The decisions in one file. Several kernels may have it open: each addition takes an exclusive lock.

    `say` is told once when the file ends in a line that was cut off (a kernel or machine that stopped while it was written).
    """

    def __init__(self, path: str | Path, say: Callable[[str], None] = print):
        self.path, self.say = Path(path), say
        self._said = ""

    def decisions(self) -> dict[str, Decision]:
        """The decision that holds for each record id, as the file is now. Raises `UserError` for a damaged file."""
        with self._locked():
            return {d.id: d for d in self._read()[0]}

    def decide(self, record: Record, verdict: str, changes: Mapping[str, str] | None = None) -> Decision:
        """Save a decision on a record as the reader sees it, earlier edits included; returns when it is on disk.

        `changes` holds new texts of `EDITABLE` fields. Raises `RecordError` when they make the record invalid, `UserError` for
        another verdict or field, or when the file cannot be written.
        """
        changes = dict(changes or {})
        if verdict not in VERDICTS:
            raise UserError(f"Unknown verdict {verdict!r}. Known: {', '.join(VERDICTS)}.")
        if set(changes) - set(EDITABLE):
            raise UserError(f"Field {min(set(changes) - set(EDITABLE))!r} cannot be edited. Known: {', '.join(EDITABLE)}.")
        edited = record.replace(**changes)
        broken = problem(edited.to_dict())
        if broken:
            raise RecordError(f"Record {record.id!r}, field {broken[0]!r}: expected {broken[1]}.")
        with self._locked():
            last = next((d for d in reversed(self._read()[0]) if d.id == record.id), None)
            was = digest(record)
            # An edit of an edited record counts from the text before both, which is what a re-run meets.
            if last and was == last.becomes:
                was, changes = last.was, last.changes | changes
            decision = Decision(record.id, was, digest(edited), verdict, changes, _now())
            self._append(asdict(decision))
        return decision

    def undo(self, among: Collection[str] | None = None) -> str:
        """Take the last decision back (of the ids in `among`, if given), also after a restart; returns its record id or ""."""
        with self._locked():
            held = [d.id for d in self._read()[0] if among is None or d.id in among]
            if held:
                self._append({"id": held[-1], "verdict": "undo", "time": _now()})
        return held[-1] if held else ""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=10):
                yield
        except Timeout as error:
            raise UserError(f"{self.path}: another notebook holds it. Close that one, or try again.") from error
        except OSError as error:
            raise _explain(error, self.path) from error

    def _read(self) -> tuple[list[Decision], int]:
        """The decisions not undone, oldest first, and the number of bytes before a line that was cut off."""
        data = self.path.read_bytes() if self.path.exists() else b""
        whole, held = 0, []
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            value = _parsed(line)
            if value is None and not line.endswith(b"\n"):
                self._tell(f"{self.path}, line {number}: cut off while it was written, so that decision is not there.")
                break
            try:
                _replay(held, value)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{self.path}, line {number}: not a decision ({error}). Repair or remove this line.") from error
            whole += len(line)
        return held, whole

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.say(text)

    def _append(self, value: dict) -> None:
        _, whole = self._read()
        line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        with open(self.path, "ab") as f:
            f.truncate(whole)
            f.seek(0, os.SEEK_END)
            if whole and not self.path.read_bytes().endswith(b"\n"):
                line = b"\n" + line
            f.write(line)
            f.flush()
            os.fsync(f.fileno())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _replay(held: list[Decision], value: object) -> None:
    """Put the decision that a line holds at the end of `held`, or take the one that it undoes out."""
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    if value.get("verdict") == "undo":
        undone = max((i for i, d in enumerate(held) if d.id == value["id"]), default=None)
        if undone is None:
            raise ValueError(f"it undoes a decision on {value['id']!r} that is not there")
        del held[undone]
        return
    decision = Decision(**value)
    texts = (decision.id, decision.was, decision.becomes, decision.time)
    if decision.verdict not in VERDICTS or not all(isinstance(t, str) for t in texts):
        raise ValueError("unknown verdict, or a field that is no text")
    if not isinstance(decision.changes, dict) or not all(k in EDITABLE and isinstance(v, str) for k, v in decision.changes.items()):
        raise ValueError("changes of other fields, or of no text")
    held.append(decision)
