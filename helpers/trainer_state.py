"""Training curves of other people: the log that a Hugging Face `Trainer` keeps in trainer_state.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

_STATE = "trainer_state.json"
# Field of a Hugging Face log entry → column here; TRL counts tokens under a name of its own.
_FIELDS = {
    "loss": "loss", "learning_rate": "learning_rate", "grad_norm": "grad_norm", "eval_loss": "eval_loss", "epoch": "epoch",
    "num_tokens": "tokens_seen", "num_input_tokens_seen": "tokens_seen"}  # fmt: skip


def read_trainer_state(path: str | Path, arm: str = "", say: Callable[[str], None] = print) -> DataFrame:
    """Curves of a Hugging Face `Trainer`, for `loss_curves`: the file trainer_state.json, or a checkpoint or output folder.

    An output folder's own state counts, else that of its checkpoint with the highest number. A row a step: arm (default:
    the output folder's name), step, epoch, tokens_seen, loss, learning_rate, grad_norm, and eval_loss (on that run's own
    data, so not an answer-only dev loss). A value that is NaN, infinite or null becomes a gap, and `say` is told; other
    fields and the closing summary are left out. Raises `UserError` that names file, entry and field.
    """
    import pandas as pd

    file = _state_file(Path(path))
    try:
        state = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error}). Expected the {_STATE} of a Hugging Face Trainer.") from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise UserError(f"{file}, field 'log_history': expected a list of log entries, found {type(history).__name__}.")
    rows: dict[int, dict[str, float]] = {}
    gaps: dict[str, list[int]] = {}
    for number, entry in enumerate(history, 1):
        where = f"{file}, log_history entry {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected an object, found {_shown(entry)}.")
        if "train_loss" in entry:
            continue  # the closing summary: a mean over the whole run, at the last step
        step = entry.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise UserError(f"{where}, field 'step': expected a whole number from 0, found {_shown(step)}.")
        row = rows.setdefault(step, {})  # training and evaluation of a step are entries of their own
        for field, column in _FIELDS.items():
            if field not in entry:
                continue
            value = entry[field]
            if isinstance(value, bool) or not (value is None or isinstance(value, int | float)):
                raise UserError(f"{where}, field {field!r}: expected a number, found {_shown(value)}.")
            if value is not None and math.isfinite(value):
                row[column] = float(value)
            else:
                gaps.setdefault(field, []).append(step)
    if not any({"loss", "eval_loss"} & set(row) for row in rows.values()):
        raise UserError(f"{file}, field 'log_history': expected entries with 'loss' or 'eval_loss', found none in {len(history)}.")
    for field, steps in gaps.items():
        shown = ", ".join(map(str, steps[:5])) + (", …" if len(steps) > 5 else "")
        say(f"{file}: {field} is not a finite number at {len(steps)} of {len(rows)} steps ({shown}); left as gaps.")
    folder = file.resolve().parent
    folder = folder.parent if re.fullmatch(r"checkpoint-\d+", folder.name) else folder
    columns = ["arm", "step", *dict.fromkeys(("epoch", "tokens_seen", *_FIELDS.values()))]
    table = pd.DataFrame([{"arm": arm or folder.name, "step": step, **row} for step, row in sorted(rows.items())])
    return table.reindex(columns=columns)


def _state_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: no such file. Give a {_STATE}, or the checkpoint or output folder that holds it.")
        return path
    if (path / _STATE).is_file():
        return path / _STATE
    # By number: as text, checkpoint-1000 comes before checkpoint-200.
    found = {int(p.parent.name.partition("-")[2]): p for p in path.glob(f"checkpoint-*/{_STATE}")
             if re.fullmatch(r"checkpoint-\d+", p.parent.name)}  # fmt: skip
    if not found:
        raise UserError(f"{path}: holds neither {_STATE} nor a checkpoint-N folder with one.")
    return found[max(found)]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"
