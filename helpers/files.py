"""Errors that tell the way out, and files that are either whole or absent. Standard library alone."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class UserError(RuntimeError):
    """Something the user can mend: one line that names the thing and the way out."""


def _explain(error: Exception, path: Path) -> Exception:
    """The `UserError` for a failed write; `error` itself when it has nothing to do with files."""
    number, reason = getattr(error, "errno", None), " ".join(str(error).split())
    # By text too: safetensors raises a class of its own, shutil.copytree an OSError without a number.
    if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in reason:
        return UserError(f"{path}: the disk is full. Free some space and run again; what was finished is kept.")
    if not isinstance(error, OSError):
        return error
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"{path}: no permission to write here. Choose another folder (BONSAI_RUNS or BONSAI_CACHE).")
    return UserError(f"{path}: cannot be written ({reason}). Choose another folder (BONSAI_RUNS or BONSAI_CACHE).")


@contextlib.contextmanager
def whole_file(path: str | Path, mode: str = "w") -> Iterator[Any]:
    """Open a temporary sibling of `path`; rename it to `path` only when the block ends without an error.

    Raises `UserError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "\n") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except Exception as error:
        explained = _explain(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary sibling folder; swap it in for `path` only when the block ends without an error.

    Raises `UserError` when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = old = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
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


def read_toml(name: str | Path, folder: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """The file `name` of `folder`, or that of a path that ends in .toml, and what it holds. Raises `UserError` with what is known."""
    path = Path(name) if str(name).endswith(".toml") else folder / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise UserError(f"{path}: no such {kind}. Known: {known}; or give the path of a .toml file.")
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
