"""Generation speed on this machine beside transformers and llama.cpp: same tuned model, prompts, budgets and greedy decoding, each in a process of its own.

llama.cpp is measured where llama-cpp-python is installed (`tests/requirements-llama.txt`), on the merged model exported as GGUF.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import answers, export, fused, inference, models, prompts, runtime, scale
from .files import UserError, read_json, write_json, write_text
from .records import Record
from .runtime import Run

VARIANTS = {
    "single": "transformers, one by one, adapter beside NF4",
    "single-merged": "transformers, one by one, merged",
    "batched": "transformers, 32 at once, adapter beside NF4",
    "llama": "llama.cpp, one by one, merged, in this project's precision",
    "llama-batched": "llama.cpp, 32 at once, merged, in this project's precision",
    "llama-q8": "llama.cpp, one by one, merged, Q8_0",
    "llama-q8-batched": "llama.cpp, 32 at once, merged, Q8_0",
    "ours": "this project",
}
# One by one a few do: the rate is per token, and the prompts are a random sample of the same.
SAMPLED = {"single": 16, "single-merged": 32, "batched": 128, "llama": 64, "llama-q8": 64}
BATCH = 32
JOB = "job.json"


def available() -> tuple[str, ...]:
    """The variants that can be measured here: llama.cpp's where it is installed."""
    there = importlib.util.find_spec("llama_cpp") is not None
    return tuple(name for name in VARIANTS if there or not name.startswith("llama"))


def measure(
    run: Run,
    arm: str,
    seed: int,
    count: int = 300,
    variants: Sequence[str] = (),
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Generated tokens a second and peak memory (GB = 10⁹ bytes) of each variant (default: `available`) over up to `count` translations and as many one-call questions of the test sets.

    Slow variants take a sample of the prompts; `same` is their share, in percent, of completions that are this project's (of one that it cut off in a loop, the beginning). With `folder`, `generation.json` and
    `generation.md` are written there. Raises `UserError`.
    """
    trained, variants = export.find(run, arm, seed), variants or available()
    data = _data(run, count)
    counts = {name: sum(instruction == kind for instruction, _ in data) for name, kind in (("sentences", "translate"), ("questions", "multistep"))}
    result: dict = {"machine": scale.machine(), "profile": run.profile.name, "arm": arm, **counts, "rows": []}
    texts = {}
    with tempfile.TemporaryDirectory() as place:
        write_json(Path(place) / JOB, {"profile": dataclasses.asdict(run.profile), "prompts": [[s, r.to_dict()] for s, r in data]})
        if any(name.startswith("llama") for name in variants):
            export.save(trained, Path(place) / "export", gguf=True, say=say)
        for name in sorted(variants, key=lambda v: v != "ours"):
            weights = next(Path(place).glob("export/*.gguf")) if name.startswith("llama") else trained.adapter
            row = scale.apart("generation_speed", name, weights, Path(place) / JOB)
            texts[name] = {int(i): text for i, text in row.pop("texts").items()}
            if "ours" in texts:
                row["same"] = round(100 * sum(_same(texts["ours"][i], text) for i, text in texts[name].items()) / len(texts[name]), 1)
            result["rows"].append({"name": name} | row)
            say(f"{VARIANTS[name]}: {row['tokens_per_second']:.0f} tokens/s, {row['peak_gb']:.1f} GB")
    if folder:
        write_json(Path(folder) / "generation.json", result)
        write_text(Path(folder) / "generation.md", table(result))
    return result


def table(result: dict) -> str:
    """The result of `measure` as Markdown."""
    own = next((r["tokens_per_second"] for r in result["rows"] if r["name"] == "ours"), None)
    lines = [
        f"Greedy completions of {result['profile']}, tuned ({result['arm']}), for {result['sentences']} sentences to translate and {result['questions']} questions in one call, on "
        f"{scale.described(result['machine'])}.",
        "",
        "| how | prompts | generated tokens/s | this project is faster by | peak memory (GB) | same text as this project's |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        other = own and row["name"] != "ours"
        times, same = (f"{own / row['tokens_per_second']:.1f} ×", f"{row['same']:.0f} %") if other else ("", "")
        lines.append(f"| {VARIANTS[row['name']]} | {row['prompts']} | {row['tokens_per_second']:.0f} | {times} | {row['peak_gb']:.1f} | {same} |")
    return "\n".join([*lines, "", "Loading is not timed. Each way rounds its sums elsewhere (of bfloat16, or of Q8_0), so that some texts part; in float32 transformers writes what this project does (tests/test_export.py)."]) + "\n"


def _data(run: Run, count: int) -> list[tuple[str, Record]]:
    """(instruction, record) of the test sets, both kinds mixed."""
    import random

    from . import pipeline

    data = pipeline.load(run)
    both = [("translate", data.pairs["test"]), ("multistep", [r for r in data.questions["test"] if r.source == "bonsai"])]
    rows = [(instruction, r) for instruction, records in both for r in records[:count]]
    random.Random(0).shuffle(rows)
    return rows


def _same(ours: str, other: str) -> bool:
    return ours == other or (answers.ends_in_a_loop(ours) and other.startswith(ours))


def _task(name: str, weights: str, file: str) -> dict:
    """What one process does; `weights` is the adapter's folder, or a GGUF file for llama.cpp, `file` the job's."""
    import torch

    from . import profiles, records

    runtime.quiet()
    job = read_json(file)
    profile = profiles.parse(job["profile"])
    rows = [(s, records.parse(r, JOB)) for s, r in job["prompts"]][: SAMPLED.get(name)]
    tokenizer = models.load_tokenizer(profile)
    own = name.startswith("llama")
    model = None if own else models.load_for_inference(profile, weights, merge=name in ("ours", "single-merged"))
    if model is not None and name != "ours":
        # As transformers comes, without the attention and the norms of this project.
        (model.get_base_model() if hasattr(model, "get_base_model") else model).set_attn_implementation("sdpa")
        fused.remove_norms(model)
    style, written, texts = profile.model.prompt_style, 0, {}
    asked = [prompts.prompt(style, s, ja=r.ja) for s, r in rows]
    budgets = {"translate": profile.recipe.translation_budget, "multistep": profile.recipe.multistep_budget}
    batch = BATCH if name.endswith("batched") else 1
    ends = sorted({prompts.end_id(tokenizer, style), tokenizer.eos_token_id})

    def keep(i: int, ids: list[int]) -> None:
        nonlocal written
        end = next((n for n, token in enumerate(ids) if token in ends), len(ids))
        written, texts[i] = written + min(end + 1, len(ids)), tokenizer.decode(ids[:end]).strip()

    llama = _Llama(Path(weights), batch, "q8" in name) if own else None
    begun = time.perf_counter()
    if name == "ours":
        for instruction, budget in budgets.items():
            mine = [i for i, (s, _) in enumerate(rows) if s == instruction]
            for i, done in zip(mine, inference.generate(model, tokenizer, profile, [asked[i] for i in mine], budget, instruction=instruction), strict=True):
                written, texts[i] = written + done.tokens, done.text
    elif llama:
        for i, ids in enumerate(llama.generate([prompts.encode_prompt(tokenizer, text) for text in asked], ends, max(budgets.values()))):
            keep(i, ids)
    else:
        for first in range(0, len(rows), batch):
            given = [prompts.encode_prompt(tokenizer, text) for text in asked[first : first + batch]]
            padded = tokenizer.pad({"input_ids": given}, padding_side="left", return_tensors="pt").to(model.device)
            with torch.inference_mode():
                out = model.generate(**padded, do_sample=False, max_new_tokens=max(budgets.values()), eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
            for i, ids in enumerate(out[:, padded["input_ids"].shape[1] :].tolist(), first):
                keep(i, ids)
    seconds = time.perf_counter() - begun
    peak = runtime.peak_memory_gb() if runtime.device().kind == "cuda" else scale.peak_gb()
    return {"prompts": len(rows), "tokens": written, "seconds": round(seconds, 2), "tokens_per_second": round(written / seconds, 1), "peak_gb": round(peak, 2), "texts": texts}


class _Llama:
    """A GGUF file in llama.cpp, with room for `slots` sequences at once; `quantised` to Q8_0 first."""

    ROOM, BATCH = 1024, 2048

    def __init__(self, file: Path, slots: int, quantised: bool):
        import llama_cpp

        self.cpp, self.slots = llama_cpp, slots
        self.silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        if quantised:
            wanted = llama_cpp.llama_model_quantize_default_params()
            wanted.ftype, file, source = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, file.with_name(f"q8-{os.getpid()}"), file
            if llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), ctypes.byref(wanted)):
                raise UserError(f"{source.name}: llama.cpp cannot quantise it.")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = self.ROOM * slots, self.BATCH, 512, slots
        settings.n_threads = settings.n_threads_batch = runtime.cores()
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        self.context = self.model and llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise UserError(f"{file.name}: llama.cpp cannot load it.")
        self.width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def generate(self, rows: Sequence[Sequence[int]], ends: Sequence[int], budget: int) -> list[list[int]]:
        """Greedy token ids after each row of token ids, the end token among them; a slot that is done takes the next row (continuous batching)."""
        import numpy as np

        cpp, found = self.cpp, [[] for _ in rows]
        memory, batch = cpp.llama_get_memory(self.context), cpp.llama_batch_init(self.BATCH, 0, 1)
        # By length, as the other variant with a batch: the longest prompt decides what its neighbours wait for.
        waiting, free, busy = sorted(range(len(rows)), key=lambda i: -len(rows[i])), list(range(self.slots)), {}
        while waiting or busy:
            batch.n_tokens, asked = 0, []
            for slot, i in busy.items():
                asked.append((slot, self._add(batch, found[i][-1:], len(rows[i]) + len(found[i]) - 1, slot)))
            while waiting and free and batch.n_tokens + len(rows[waiting[-1]]) <= self.BATCH:
                busy[slot := free.pop()] = i = waiting.pop()
                asked.append((slot, self._add(batch, rows[i], 0, slot)))
            if cpp.llama_decode(self.context, batch):
                raise UserError("llama.cpp cannot decode a batch.")
            for slot, place in asked:
                logits = np.ctypeslib.as_array(cpp.llama_get_logits_ith(self.context, place), (self.width,))
                written = found[busy[slot]]
                written.append(int(logits.argmax()))
                if written[-1] in ends or len(written) == budget:
                    del busy[slot]
                    free.append(slot)
                    cpp.llama_memory_seq_rm(memory, slot, -1, -1)
        cpp.llama_batch_free(batch)
        return found

    @staticmethod
    def _add(batch, ids: Sequence[int], position: int, slot: int) -> int:
        """Put tokens of a sequence into the batch; the place of the last, whose logits are asked for."""
        for n, token in enumerate(ids):
            place = batch.n_tokens
            batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.seq_id[place][0] = token, position + n, 1, slot
            batch.logits[place] = n + 1 == len(ids)
            batch.n_tokens += 1
        return batch.n_tokens - 1


if __name__ == "__main__":
    try:
        print(json.dumps(_task(*sys.argv[1:4])))
    except UserError as error:
        sys.exit(str(error))
