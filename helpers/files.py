"""Errors that tell the way out, and files that are either whole or absent. Standard library alone."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class UserError(RuntimeError):
    """Something the user can mend: one line that names the thing and the way out."""


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full, of whatever class it is."""
    # By text too: safetensors and tokenizers raise classes of their own, shutil.copytree an OSError without a number.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)


def memory_ran_out(error: BaseException) -> bool:
    """Whether an error says that the memory of the GPU or of the processor ran out, of whatever class it is."""
    # torch has a class of its own for a GPU, and only words for a processor, its own and oneDNN's; a system call has a number, which
    # safetensors puts into words (mmap); threads and shared libraries have a mapping of their own.
    own = type(error).__name__ == "OutOfMemoryError" or getattr(error, "errno", None) == errno.ENOMEM
    words = (
        os.strerror(errno.ENOMEM), "can't allocate memory", "could not create a primitive", "CUBLAS_STATUS_ALLOC_FAILED", "bad_alloc",
        "can't start new thread", "failed to map segment",
    )  # fmt: skip
    return isinstance(error, MemoryError) or own or any(w in str(error) for w in words)


def _explain(error: Exception, path: Path) -> Exception:
    """The `UserError` for a failed write; `error` itself when it has nothing to do with files."""
    number, reason = getattr(error, "errno", None), " ".join(str(error).split())
    if isinstance(error, UserError):
        return error
    if disk_is_full(error):
        return UserError(f"{path}: the disk is full. Free some space and run again; what was finished is kept.")
    if not isinstance(error, OSError):
        return error
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"{path}: no permission to write here. Choose another folder (BONSAI_RUNS or BONSAI_CACHE).")
    return UserError(f"{path}: cannot be written ({reason}). Choose another folder (BONSAI_RUNS or BONSAI_CACHE).")


def try_lock(handle: int) -> bool | None:
    """Lock an open file or folder without waiting, until its last descriptor is closed; False when another holds it, None where locks are unknown."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _begin(path: Path, make: Callable[..., Any]) -> tuple[Path, int]:
    """A temporary sibling of `path` made with `make` (mkstemp or mkdtemp), and a descriptor that holds its lock (-1: no locks here)."""
    while True:
        made = make(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(made if isinstance(made, str) else made[1])
        try:
            handle = made[0] if not isinstance(made, str) else os.open(temporary, os.O_RDONLY) if os.name != "nt" else -1
        except FileNotFoundError:
            continue
        locked = None if handle < 0 else try_lock(handle)
        # Another process may have taken it for a leftover before it was locked.
        if locked is None or (locked and temporary.exists()):
            return temporary, handle
        os.close(handle)


def _clear_away(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it; a folder that one had put aside comes back first.

    A writer that is alive holds a lock on its temporary sibling, which the system takes back when a process dies.
    """
    for part in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        old = part.with_suffix(".old")
        try:
            handle = os.open(part, os.O_RDONLY)
        except OSError:
            continue
        try:
            if try_lock(handle):
                if old.exists() and not path.exists():
                    os.replace(old, path)
                _remove(part)
                _remove(old)
        finally:
            os.close(handle)
    for old in path.parent.glob(f".{glob.escape(path.name)}.????????.old"):
        # Killed while it removed this, the new folder being in its place.
        if path.exists() and not old.with_suffix(".part").exists():
            _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary sibling of `path`; rename it to `path` only when the block ends without an error.

    Raises `UserError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary, guard = None, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_away(path)
        temporary, handle = _begin(path, tempfile.mkstemp)
        guard = os.dup(handle)
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "\n") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        if os.name == "nt":  # a file that is open cannot be renamed there
            os.close(guard)
            guard = -1
        os.replace(temporary, path)
    except Exception as error:
        explained = _explain(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        if temporary:
            _remove(temporary)
        if guard >= 0:
            os.close(guard)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary sibling folder; swap it in for `path` only when the block ends without an error.

    Raises `UserError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary, old, guard = None, None, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_away(path)
        temporary, guard = _begin(path, tempfile.mkdtemp)
        yield temporary
        os.chmod(temporary, 0o755)
        if path.is_dir():
            # Aside first: a removal that fails half-way would leave a damaged folder under the final name.
            old = temporary.with_suffix(".old")
            os.replace(path, old)
        os.replace(temporary, path)
    except Exception as error:
        explained = _explain(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        if old and old.exists() and not path.exists():
            os.replace(old, path)
        for leftover in (temporary, old):
            if leftover:
                shutil.rmtree(leftover, ignore_errors=True)
        if guard >= 0:
            os.close(guard)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` whole (UTF-8, LF). Raises `UserError`."""
    with whole_file(path) as f:
        f.write(text)
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented UTF-8 JSON, whole. Raises `UserError`."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises `UserError` that names file and line when it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Remove it and run again.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}). Remove it and run again, or restore it.") from error


Kind = type | tuple[str, ...]  # of a field: its type, or the texts that it may hold


def misfit(value: dict[str, Any], fields: dict[str, Kind]) -> str:
    """What is wrong with the first field that is missing or not of its kind, or ""."""
    for name, kind in fields.items():
        found = value.get(name)
        if isinstance(kind, tuple) and not (isinstance(found, str) and found in kind):
            return f"field {name!r}: expected one of {', '.join(kind)}, found {str(found)[:40]!r}"
        # True is an int to Python.
        if isinstance(kind, type) and (not isinstance(found, kind) or (kind is int and isinstance(found, bool))):
            return f"field {name!r}: expected {kind.__name__}, found {type(found).__name__}"
    return ""


def read_object(path: str | Path, **fields: Kind) -> dict[str, Any]:
    """Read a JSON file that holds an object with at least `fields`. Raises `UserError` that names file and field."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}. Remove it and run again, or restore it.")
    if wrong := misfit(value, fields):
        raise UserError(f"{path}, {wrong}. Remove the file and run again, or restore it.")
    return value


def _line_of(error: UnicodeDecodeError) -> int:
    return error.object[: error.start].count(b"\n") + 1


def read_lines(path: str | Path, **fields: Kind) -> list[dict[str, Any]]:
    """Read a JSONL file: an object a line, with at least `fields`. Raises `UserError` that names file, line and field."""
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {_line_of(error)}: not UTF-8 (byte {error.start}).") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error}). Each line is one JSON object.") from error
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}.")
        if wrong := misfit(value, fields):
            raise UserError(f"{path}, line {number}, {wrong}.")
        found.append(value)
    return found


def read_toml(name: str | Path, folder: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """The file `name` of `folder`, or that of a path that ends in .toml, and what it holds. Raises `UserError` with what is known."""
    path = Path(name) if str(name).endswith(".toml") else folder / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise UserError(f"{' '.join(str(path).split())}: no such {kind}. Known: {known}; or give the path of a .toml file.")
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error}).") from error


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where fetched models and corpora are kept: `BONSAI_CACHE`, else `~/.cache/bonsai-reasoning`."""
    return Path(os.environ.get("BONSAI_CACHE") or Path.home() / ".cache" / "bonsai-reasoning")
