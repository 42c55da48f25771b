"""How many tokens a character costs: the tokenizers of the known models that can be had here, side by side."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import models, profiles, teachers
from .files import UserError
from .records import Record

if TYPE_CHECKING:
    from pandas import DataFrame


def available(say: Callable[[str], None] = print) -> dict[str, Any]:
    """Name of each known model → its tokenizer, as far as packages, cache or hub have it; those not to be had are named in one line.

    Models that share a vocabulary are there once.
    """
    from transformers import AutoTokenizer

    found: dict[str, Any] = {}
    seen, lacking = set(), []
    offline = not _reachable()
    known = {name: p for name, p in profiles.PROFILES.items() if p.model.source != "random"}
    for name in (*known, "smollm2-135m"):
        try:
            if name not in known:
                tokenizer = AutoTokenizer.from_pretrained(teachers.smollm2_folder(say))
            elif known[name].model.source == "hub":
                tokenizer = AutoTokenizer.from_pretrained(known[name].model.identifier, local_files_only=offline, trust_remote_code=False)
            else:
                tokenizer = models.load_tokenizer(known[name], say)
        except (UserError, OSError, ValueError):
            lacking.append(name)
            continue
        vocabulary = frozenset(tokenizer.get_vocab())
        if vocabulary not in seen:
            seen.add(vocabulary)
            found[name] = tokenizer
    if lacking:
        say(f"Not to be had here (no network to the hub, or a gated model): {', '.join(lacking)}.")
    return found


def _reachable() -> bool:
    """Whether the hub answers: its client would try again and again for half a minute a model."""
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=3):
            return True
    except OSError:
        return False


def table(tokenizers: Mapping[str, Any], records: Sequence[Record], sample: int = 2000, seed: int = 0) -> DataFrame:
    """A row a tokenizer, language and record: `tokenizer`, `language` (Japanese, English), `tokens`, `characters`, `fertility`.

    At most `sample` records, drawn by `seed`. Tokens without special ones.
    """
    import pandas as pd

    from .filters import token_counter

    drawn = random.Random(seed).sample(list(records), min(sample, len(records)))
    rows = []
    for name, tokenizer in tokenizers.items():
        count = token_counter(tokenizer)
        for language, texts in (("Japanese", [r.ja for r in drawn]), ("English", [r.en for r in drawn])):
            rows += [(name, language, tokens, len(text)) for tokens, text in zip(count(texts), texts, strict=True)]
    frame = pd.DataFrame(rows, columns=["tokenizer", "language", "tokens", "characters"])
    return frame.assign(fertility=frame["tokens"] / frame["characters"].clip(lower=1))
