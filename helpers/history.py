"""What was asked in the playground and how the answers were rated: one JSONL file in the run folder, and an evaluation file of what is known to be right."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from .answering import PARTS
from .answers import normalise_answer
from .bootstrap import lock
from .files import UserError, read_lines, whole_file, write_text
from .own_evaluation import LONGEST

RATINGS = {"up": "👍", "down": "👎", "": ""}
SETTINGS = ("asked", "temperature", "top_k", "tokens", "seed")
FIELDS = ("run", "time", "mode", "question", "system", *PARTS, "seconds", "written", "cut", "stopped", "error", "rating", "right", *SETTINGS)
_NUMBERS = {"run": int, "seconds": float, "written": int, "top_k": int, "tokens": int, "seed": int, "temperature": float}
_KINDS = dict.fromkeys(FIELDS, str) | _NUMBERS | dict.fromkeys(("cut", "stopped", "asked"), bool)


class History:
    """Rows, a row a run and system, oldest first, as in `history.jsonl` of `folder` (made when the first is added; None: not kept).

    A row has `FIELDS`: `run` numbers what was asked together, `written` is in tokens, `right` an answer that the reader knows to be right.
    Several of one folder do not erase each other's rows: each change is made to what the file holds then.
    Raises `UserError` for a file that is not such rows.
    """

    def __init__(self, folder: str | Path | None = None):
        self.path = Path(folder) / "history.jsonl" if folder else None
        self.rows: list[dict] = self._read() if self.path else []

    @property
    def runs(self) -> list[list[dict]]:
        """The rows of each run, newest run first."""
        grouped: dict[int, list[dict]] = {}
        for row in self.rows:
            grouped.setdefault(row["run"], []).append(row)
        return list(reversed(grouped.values()))

    def add(self, rows: list[dict]) -> int:
        """Add what was asked together, on disk before it is shown; its number is returned. Raises `UserError`."""
        empty, number = {name: kind() for name, kind in _KINDS.items()}, 0

        def added(kept: list[dict]) -> list[dict]:
            nonlocal number
            number = max((row["run"] for row in kept), default=0) + 1
            return [*kept, *({**empty, **{k: _clean(v) for k, v in row.items()}, "run": number} for row in rows)]

        self._change(added)
        return number

    def rate(self, run: int, system: str, rating: str) -> None:
        """Rate one answer `up` or `down`; the same rating again takes it back. Raises `UserError`."""
        self._change_run(run, lambda row: row | {"rating": "" if row["rating"] == rating else rating} if row["system"] == system else row)

    def correct(self, run: int, right: str) -> None:
        """Say what the right answer to a question is ("": not known). Raises `UserError`."""
        self._change_run(run, lambda row: row | {"right": _clean(" ".join(right.split()))})

    def _change_run(self, run: int, change: Callable[[dict], dict]) -> None:
        def changed(kept: list[dict]) -> list[dict]:
            if all(row["run"] != run for row in kept):
                raise UserError(f"{self.path}: this question is no longer there. Ask it again.")
            return [change(row) if row["run"] == run else row for row in kept]

        self._change(changed)

    def _change(self, change: Callable[[list[dict]], list[dict]]) -> None:
        if not self.path:
            self.rows = change(self.rows)
            return
        with lock(self.path.with_name(".history.lock"), f"{self.path}: another form is writing; waiting for it …"):
            rows = change(self._read())
            with whole_file(self.path) as f:
                f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            self.rows = rows
            known = self.evaluation()
            if known or self.evaluation_path.exists():
                with whole_file(self.evaluation_path) as f:
                    f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in known)

    def _read(self) -> list[dict]:
        return read_lines(self.path, **_KINDS) if self.path.exists() else []

    @property
    def evaluation_path(self) -> Path:
        """Where the evaluation file lies: `helpers evaluate` takes it."""
        return self.path.with_name("rated.jsonl")

    def evaluation(self) -> list[dict]:
        """Rows for `helpers evaluate`: each Japanese question of which a right answer or translation is known, from 👍 or as the reader gave it.

        What `helpers evaluate` would refuse the whole file for is left out: an answer without a letter or digit, a text that is too long.
        """
        found: dict[str, dict] = {}
        for row in self.rows:
            liked, mode = row["rating"] == "up", row["mode"]
            if mode == "answer":
                continue
            one = found.setdefault(row["question"], {"id": f"playground-{row['run']}", "ja": row["question"], "en": "", "answers": []})
            english, answer, right = (row[name] if len(row[name]) <= LONGEST else "" for name in ("english", "answer", "right"))
            if liked:
                one["en"] = one["en"] or english
            if mode == "translate":
                one["en"] = right or one["en"]
            given = [right if mode != "translate" else "", answer if liked else ""]
            one["answers"] += [a for a in given if normalise_answer(a) and a not in one["answers"]]
        return [{k: v for k, v in one.items() if v} for one in found.values() if one["en"] or one["answers"]]

    def csv(self) -> Path:
        """Write all rows as `history.csv`, newest first, and return its path. Raises `UserError`."""
        self.rows = self._read()
        out = io.StringIO()
        writer = csv.DictWriter(out, FIELDS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for run in self.runs for row in run)
        # Spreadsheet programs take a CSV file for UTF-8 only when it begins with this mark.
        return write_text(self.path.with_suffix(".csv"), "\ufeff" + out.getvalue())


def _clean(value):
    # A lone half of a surrogate pair cannot be encoded.
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def _cell(value):
    # A cell that begins so is a formula to a spreadsheet program; OWASP, "CSV injection".
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
