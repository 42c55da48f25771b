"""Where records come from: the authored set, Tatoeba, facts, a user's table, a data set of the hub; each with what it is owed.

Every source gives a `Provided`: records, licence, attribution, and a revision that tells one state of the source from another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from . import corpora, formats, tables
from .files import UserError, sha256
from .records import Record, RecordError


@dataclass(frozen=True)
class Provided:
    """Records of one source. `revision` is "sha256:…" of its file, or the hub's commit; `name` never holds a machine's path."""

    name: str
    records: tuple[Record, ...]
    license: str
    attribution: str
    revision: str

    def to_manifest(self) -> dict:
        """What the run's manifest keeps of it."""
        kept = {k: getattr(self, k) for k in ("name", "license", "attribution", "revision")}
        return kept | {"records": len(self.records)}


def authored() -> Provided:
    """The questions written for this project, with their splits (`data/questions.jsonl`). Raises `RecordError`."""
    found = corpora.questions()
    revision = f"sha256:{sha256(corpora.QUESTIONS)}"
    return Provided("data/questions.jsonl", tuple(found), "CC BY 4.0", "The BONSAI Reasoning Notebooks authors", revision)


def tatoeba(say: Callable[[str], None] = print) -> Provided:
    """All Japanese–English pairs of the corpus, fetched on first use. Raises `UserError`."""
    found = corpora.tatoeba(say)
    return Provided("tatoeba", tuple(found), corpora.TATOEBA.license, corpora.TATOEBA.attribution, f"sha256:{corpora.TATOEBA.sha256}")


def facts(limit: int | None = None, seed: int = 0) -> Provided:
    """Bilingual questions generated from CLDR and iso-codes (`helpers.facts`), with splits by entity. Raises `UserError`."""
    from . import facts as generator

    found = tuple(generator.generate(limit, seed))
    return Provided("facts", found, generator.LICENSE, generator.ATTRIBUTION, generator.revision())


def table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    *,
    sheet: int | str = 0,
    task: str = "auto",
    license: str = "",
    attribution: str = "the user of this run",
    say: Callable[[str], None] = print,
) -> Provided:
    """A user's own CSV, TSV, JSONL, JSON, Excel file or Google Sheet; arguments and errors as in `tables.read_table`."""
    raw = formats.load(path)
    found = tables.read_table(raw, columns, sheet=sheet, task=task, license=license, say=say)
    name = raw.name if raw.name == "Google Sheet" else Path(raw.name).name
    return Provided(name, tuple(found), license or "as its records say", attribution, f"sha256:{raw.sha256}")


def mapped(path: str | Path, found: Sequence[Record]) -> Provided:
    """The records that a reader has mapped from a file (`helpers.mapping`)."""
    raw = formats.load(path)
    return Provided(Path(raw.name).name, tuple(found), "as its records say", "the user of this run", f"sha256:{raw.sha256}")


def hub(
    dataset_id: str,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    config: str | None = None,
    revision: str | None = None,
    *,
    streaming: bool = False,
    limit: int | None = None,
    task: str = "auto",
    license: str = "",
    say: Callable[[str], None] = print,
) -> Provided:
    """A data set of the Hugging Face hub ("owner/name"), or a local folder in the same layout, through `datasets.load_dataset`.

    `config`, `split` and `revision` as there (a slice such as "train[:500]" works without `streaming`); `limit` takes the first records
    alone, with `streaming` without fetching the rest. Nested columns are reached with dots: the layout of JESC and OPUS is
    `columns={"ja": "translation.ja", "en": "translation.en"}`. Code inside a data set is never run. The licence is that
    of the card unless given. Raises `UserError` when the data set cannot be had, `RecordError` for rows that are no records.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1.")
    folder = Path(dataset_id)
    local = bool(dataset_id) and folder.is_dir()
    if not local and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset_id):
        raise UserError(f"{dataset_id!r}: expected OWNER/NAME as on the hub, or the path of a folder that is there.")
    name = folder.resolve().name if local else dataset_id
    try:
        import datasets

        card, state = _local_card(folder) if local else _hub_card(dataset_id, revision)
        pinned = None if local else state or revision
        data = datasets.load_dataset(dataset_id, config, split=split, revision=pinned, streaming=streaming)
        names = _names(data)
        state = state or f"fingerprint:{getattr(data, '_fingerprint', 'unknown')}"
        chosen = tables.columns_of(name, names, columns)
        # Images and sounds in other columns need not be decoded, nor, when streamed, fetched.
        data = data.select_columns(sorted({c if c in data.column_names else c.split(".")[0] for c in chosen.values()}))
        rows = [(f"{name}, {split}, row {i}", formats.flatten(row)) for i, row in enumerate(_bounded(name, data, limit), 1)]
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  the hub, its cache, fsspec and the readers of the formats each have their own
        raise UserError(_explained(name, config, split, error)) from error
    license = license or card
    stem = re.sub(r"[^\w.-]+", "-", name.split("/")[-1])
    found = tables.to_records(name, names, rows, chosen, stem=stem, task=task, license=license, source=name, say=say)
    owner = f"{name} on the Hugging Face hub (huggingface.co/datasets/{name})" if not local else f"the makers of {name}"
    return Provided(name, tuple(found), license or "not named on its card", owner, state)


def _bounded(name: str, data: Any, limit: int | None) -> Iterator[dict]:
    for number, row in enumerate(islice(data, limit)):
        if number >= formats.MAX_ROWS:
            raise RecordError(f"{name}: more than {formats.MAX_ROWS:,} rows. Ask for fewer with limit=….")
        yield row


def _names(data: Any) -> list[str]:
    """Dotted column names, from the features where they are known, else (streaming) from the first row."""

    def dotted(features: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for key, feature in features.items():
            if type(feature).__name__ == "Translation":
                yield from (f"{prefix}{key}.{language}" for language in feature.languages)
            elif isinstance(feature, dict) and feature:
                yield from dotted(feature, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    return list(dotted(data.features)) if data.features else list(formats.flatten(next(iter(data), {})))


def _license(card: Any) -> str:
    named = (card or {}).get("license_name") or (card or {}).get("license") or ""
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named)


def _local_card(folder: Path) -> tuple[str, str]:
    """(licence on the card, SHA-256 over names and contents of the visible files) of a folder."""
    digest, files = hashlib.sha256(), sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        relative = path.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts):
            digest.update(f"{relative.as_posix()}\0{sha256(path)}\n".encode())
    readme = folder / "README.md"
    if not readme.is_file():
        return "", f"sha256:{digest.hexdigest()}"
    from huggingface_hub import DatasetCard

    card = DatasetCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    return _license(card.data), f"sha256:{digest.hexdigest()}"


def _hub_card(dataset_id: str, revision: str | None) -> tuple[str, str]:
    """(licence, commit) as the hub gives them; both empty when it cannot be asked and the data set may yet be in the cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().dataset_info(dataset_id, revision=revision, timeout=30)
    except HfHubHTTPError:
        raise
    except Exception:  # noqa: BLE001  no network, under the names of whichever HTTP library is beneath
        return "", ""
    return _license(info.card_data), info.sha or ""


def _explained(name: str, config: str | None, split: str, error: Exception) -> str:
    """One line for what `load_dataset` raised, with the way out; tokens are cut out."""
    chain, cause = [], error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    kinds = " ".join(type(e).__name__ for e in chain)
    text = " ".join(" ".join(f"{type(e).__name__}: {e}" for e in chain).split())
    text = re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_…", text)
    reason = re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_…", " ".join(str(error).split()))[:300]
    missing = re.search(r"RepositoryNotFound|DatasetNotFound|RevisionNotFound", kinds)
    # A gated data set that one may not see comes as "not found" too.
    if re.search(r"GatedRepo|is a gated", f"{kinds} {text}") or (not missing and re.search(r"\b40[13]\b", text)):
        return (
            f"{name}: the hub asks who you are (gated or private). Accept its terms on huggingface.co/datasets/{name} and set HF_TOKEN "
            "(in Colab: the key icon, Secrets)."
        )
    if missing:
        return f"{name}: no such data set or revision on the hub, or a private one. Check the name, or set HF_TOKEN."
    if re.search(r"Offline|Connect(ion|)Error|(Connect|Read)Timeout|MaxRetry|NameResolution|LocalEntryNotFound|ProxyError", text):
        return f"{name}: the hub cannot be reached and the data set is not in the cache. Check network and HF_HUB_OFFLINE, or give a file."
    if "Dataset scripts are no longer supported" in text or "trust_remote_code" in text:
        way = "Try its Parquet version: revision='refs/convert/parquet'"
        return f"{name}: needs code of its own to load, which is never run here. {way}."
    return f"{name} (config {config or 'default'!r}, split {split!r}): cannot be loaded ({reason}). Check config, split and revision."
