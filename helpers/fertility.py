"""How many tokens a character costs: the tokenizers of the known models that can be had here, side by side."""

from __future__ import annotations

import os
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import models, profiles, teachers
from .files import UserError
from .records import Record

if TYPE_CHECKING:
    from pandas import DataFrame

SMOLLM2 = "smollm2-135m"


def available(say: Callable[[str], None] = print) -> dict[str, Any]:
    """Name of each known model → its tokenizer, as far as packages, the hub's cache or the hub have it.

    Of a vocabulary that several share, the first stands for all. One line says which are not to be had and why, one which share a
    vocabulary. Asks nothing of a hub that does not answer.
    """
    known = [name for name, p in profiles.PROFILES.items() if p.model.source != "random"]
    reachable = _reachable()
    found: dict[str, Any] = {}
    first: dict[frozenset[str], str] = {}
    lacking: dict[str, list[str]] = {}
    same = []
    for name in (*known, SMOLLM2):
        try:
            tokenizer = _load(name, not reachable, say)
        except (UserError, OSError, ValueError) as error:
            hub = name != SMOLLM2 and profiles.PROFILES[name].model.source == "hub"
            why = "the hub does not answer and its cache lacks them" if hub and not reachable else " ".join(str(error).split())[:120]
            lacking.setdefault(why, []).append(name)
            continue
        there = first.setdefault(_vocabulary(tokenizer), name)
        if there == name:
            found[name] = tokenizer
        else:
            same.append(f"{name} (that of {there})")
    if lacking:
        say("Tokenizers not to be had here: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in lacking.items()) + ".")
    if same:
        say(f"Left out because the vocabulary is there already: {', '.join(same)}.")
    return found


def _load(name: str, offline: bool, say: Callable[[str], None]) -> Any:
    from transformers import AutoTokenizer

    if name == SMOLLM2:
        return AutoTokenizer.from_pretrained(teachers.smollm2_folder(say), trust_remote_code=False)
    profile = profiles.PROFILES[name]
    if profile.model.source != "hub":
        return models.load_tokenizer(profile, say)
    return AutoTokenizer.from_pretrained(profile.model.identifier, local_files_only=offline, trust_remote_code=False)


def _vocabulary(tokenizer: Any) -> frozenset[str]:
    """Without added tokens: a chat model's extra marks do not change how text is cut."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return frozenset(backend.get_vocab(with_added_tokens=False) if backend else tokenizer.get_vocab())


def _reachable(seconds: float = 4) -> bool:
    """Whether the hub answers a request in time: its own client would try for minutes when it does not."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    answered, ended = [], threading.Event()

    def ask() -> None:
        request = urllib.request.Request(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
            answered.append(True)
        except urllib.error.HTTPError as error:
            answered.append(error.code < 500)
        except (OSError, ValueError):
            pass
        finally:
            ended.set()

    # In a thread of its own, because no timeout ends the look-up of a name.
    threading.Thread(target=ask, daemon=True).start()
    ended.wait(seconds)
    return answered == [True]


def table(tokenizers: Mapping[str, Any], records: Sequence[Record], sample: int = 2000, seed: int = 0) -> DataFrame:
    """A row a tokenizer, language and record: `tokenizer`, `language` (Japanese, English), `record` (id), `tokens`, `characters`,
    `fertility` (tokens per character).

    At most `sample` records, drawn by `seed`, the same for all. Tokens without special ones, characters as code points.
    """
    import pandas as pd

    from .filters import token_counter

    drawn = random.Random(seed).sample(list(records), min(sample, len(records)))
    rows = []
    for name, tokenizer in tokenizers.items():
        count = token_counter(tokenizer)
        for language, side in (("Japanese", "ja"), ("English", "en")):
            texts = [getattr(r, side) for r in drawn]
            counted = zip(drawn, texts, count(texts), strict=True) if texts else ()
            rows += [(name, language, r.id, tokens, len(text)) for r, text, tokens in counted]
    frame = pd.DataFrame(rows, columns=["tokenizer", "language", "record", "tokens", "characters"])
    frame = frame.astype({"tokens": int, "characters": int})
    return frame.assign(fertility=frame["tokens"] / frame["characters"].clip(lower=1))


def summary(frame: DataFrame) -> DataFrame:
    """A row a tokenizer and language of `table`: `n` texts, and of their fertility `median`, `5 %` and `95 %` (quantiles)."""
    groups = frame.groupby(["tokenizer", "language"], sort=False)["fertility"]
    shares = {"median": 0.5, "5 %": 0.05, "95 %": 0.95}
    return groups.size().to_frame("n").assign(**{name: groups.quantile(q) for name, q in shares.items()}).reset_index()
