"""What training leaves on disk while it goes on: its log, and checkpoints that are whole or not taken."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import UserError, read_object, whole_file, whole_folder

DRIVE = Path("/content/drive")  # where Colab mounts it
LOG, STATE = "log.jsonl", "trainer_state.json"
_PARTS = ("adapter_model*", "optimizer*", "scheduler.pt")
LOG_FIELDS = (
    "step", "phase", "loss", "learning_rate", "grad_norm", "tokens_seen", "target_tokens_seen", "tokens_per_second",
    "peak_memory_gb", "dev_answer_loss", "dev_translation_loss",
)  # fmt: skip


def read_log(path: str | Path, partial: bool = False) -> list[dict]:
    """Rows of a training log, one a step; none for no file. With `partial`, a last line that was cut off is left out.

    Raises `UserError` with the line for a malformed one.
    """
    path = Path(path)
    if not path.exists():
        return []
    content = path.read_bytes()
    rows = []
    # Not splitlines: it also parts a line at characters that JSON may hold.
    for number, line in enumerate((content[: content.rfind(b"\n") + 1] if partial else content).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
            row["step"], row["tokens_seen"] = int(row["step"]), int(row["tokens_seen"])
            rows.append(row)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: expected one JSON object a step with step and tokens_seen ({error}).") from error
    return rows


def begin_log(path: Path, step: int) -> dict:
    """Leave the rows of `path` up to `step`, and give the last of them; {} for none."""
    kept = [row for row in read_log(path, partial=True) if row["step"] <= step]
    with whole_file(path) as f:
        f.writelines(json.dumps(row) + "\n" for row in kept)
    return kept[-1] if kept else {}


def add_row(path: Path, row: dict) -> None:
    """Append a row's `LOG_FIELDS` to a log."""
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps({k: row[k] for k in LOG_FIELDS if k in row}) + "\n")


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was saved at, -1 for a folder that is none."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isascii() and number.isdigit() else -1


def _all(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("checkpoint-*") if step_of(p) >= 0), key=step_of)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`: one with weights, optimizer and schedule, whose trainer state, written last, can be read."""
    return next((p for p in reversed(_all(folder)) if _is_whole(p)), None)


def _is_whole(checkpoint: Path) -> bool:
    # Drive may have taken some files only. The trainer would begin anew, without a word, what it does not find.
    if any(all(p.is_file() and not p.stat().st_size for p in checkpoint.glob(part)) for part in _PARTS):
        return False
    try:
        read_object(checkpoint / STATE)
    except UserError:
        return False
    return True


def prune(folder: Path, keep: int = 2) -> None:
    """Remove all but the newest `keep` whole checkpoints, and what was cut off while it was saved.

    By number, not by date as the trainer does: a clock that was wrong, or Drive, may have put an old one into the future.
    """
    found = _all(folder)
    kept = [p for p in found if _is_whole(p)][-keep:]
    for checkpoint in found:
        if checkpoint not in kept:
            # Its mark of being whole first: a kill meanwhile leaves what is no longer taken for one.
            (checkpoint / STATE).unlink(missing_ok=True)
            shutil.rmtree(checkpoint, ignore_errors=True)


def copy_out(saved: Path, folder: Path) -> None:
    """Move a checkpoint that was saved elsewhere into `folder`: whole, or not at all. Raises `UserError`."""
    with whole_folder(folder / saved.name) as temporary:
        shutil.copytree(saved, temporary, dirs_exist_ok=True)
    shutil.rmtree(saved, ignore_errors=True)


@contextmanager
def saving_place(folder: Path, shared: bool = False) -> Iterator[Path]:
    """An empty folder to save into before `copy_out`: inside `folder`, or on this machine where `folder` is on Google Drive.

    Drive takes files one by one, in an order of its own, and a VM that goes away meanwhile leaves some. `shared`: others save there too.
    """
    if DRIVE in folder.absolute().parents and not shared:
        with tempfile.TemporaryDirectory() as place:
            yield Path(place)
        return
    place = folder / ".saving"
    if not shared:
        shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def begin_from(shared: Path, folder: Path) -> None:
    """Give a new arm the shared part of training: its checkpoint and log. The steps are the same in every arm."""
    source = last_checkpoint(shared)
    if source is None or last_checkpoint(folder) is not None:
        return
    # The log first: a checkpoint without one would count its tokens from zero.
    with whole_file(folder / LOG) as f:
        f.write((shared / LOG).read_text(encoding="utf-8"))
    with whole_folder(folder / source.name) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
