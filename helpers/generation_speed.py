"""Generation speed on this machine beside transformers: same tuned model, prompts, budgets and greedy decoding, each in a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import inference, models, prompts, runtime, scale
from .files import UserError, read_json, write_json, write_text
from .records import Record
from .runtime import Run

VARIANTS = {
    "single": "transformers, one by one, adapter beside NF4",
    "single-merged": "transformers, one by one, merged",
    "batched": "transformers, 32 at once, adapter beside NF4",
    "ours": "this project",
}
# One by one a few do: the rate is per token, and the prompts are a random sample of the same.
SAMPLED = {"single": 16, "single-merged": 32, "batched": 128}
BATCH = 32


def measure(
    run: Run,
    arm: str,
    seed: int,
    count: int = 300,
    variants: Sequence[str] = tuple(VARIANTS),
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Generated tokens a second and peak memory (GB = 10⁹ bytes) of each variant over up to `count` translations and as many one-call questions of the test sets.

    Slow variants take a sample of the prompts; `same` is their share, in percent, of completions that are this project's. With `folder`, `generation.json` and
    `generation.md` are written there. Raises `UserError`.
    """
    adapter = run.path("arms", arm, f"seed{seed}", "adapter")
    if not (adapter / "adapter_model.safetensors").exists():
        raise UserError(f"{adapter}: no adapter. Train this arm first, or give another with --run, --arm and --seed.")
    data = _data(run, count)
    counts = {name: sum(instruction == kind for instruction, _ in data) for name, kind in (("sentences", "translate"), ("questions", "multistep"))}
    result: dict = {"machine": scale.machine(), "profile": run.profile.name, "arm": arm, **counts, "rows": []}
    texts = {}
    with tempfile.TemporaryDirectory() as place:
        write_json(Path(place) / "prompts.json", [[s, r.to_dict()] for s, r in data])
        for name in sorted(variants, key=lambda v: v != "ours"):
            row = scale.apart("generation_speed", name, run.profile.name, adapter, Path(place) / "prompts.json")
            texts[name] = {int(i): text for i, text in row.pop("texts").items()}
            if "ours" in texts:
                row["same"] = round(100 * sum(texts["ours"][i] == text for i, text in texts[name].items()) / len(texts[name]), 1)
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
    return "\n".join([*lines, "", "Loading is not timed. Where the adapter stays beside NF4, sums are rounded elsewhere than in merged weights, so that some texts part."]) + "\n"


def _data(run: Run, count: int) -> list[tuple[str, Record]]:
    """(instruction, record) of the test sets, both kinds mixed."""
    import random

    from . import pipeline

    data = pipeline.load(run)
    both = [("translate", data.pairs["test"]), ("multistep", [r for r in data.questions["test"] if r.source == "bonsai"])]
    rows = [(instruction, r) for instruction, records in both for r in records[:count]]
    random.Random(0).shuffle(rows)
    return rows


def _task(name: str, profile_name: str, adapter: str, data: Path) -> dict:
    """What one process does."""
    import torch

    from . import profiles, records

    runtime.quiet()
    profile = profiles.choose(profile_name)
    rows = [(s, records.parse(r, "prompts.json")) for s, r in read_json(data)][: SAMPLED.get(name)]
    tokenizer = models.load_tokenizer(profile)
    model = models.load_for_inference(profile, adapter, merge=name in ("ours", "single-merged"))
    style, written, texts = profile.model.prompt_style, 0, {}
    asked = [prompts.prompt(style, s, ja=r.ja) for s, r in rows]
    budgets = {"translate": profile.recipe.translation_budget, "multistep": profile.recipe.multistep_budget}
    begun = time.perf_counter()
    if name == "ours":
        for instruction, budget in budgets.items():
            mine = [i for i, (s, _) in enumerate(rows) if s == instruction]
            for i, done in zip(mine, inference.generate(model, tokenizer, profile, [asked[i] for i in mine], budget, instruction=instruction), strict=True):
                written, texts[i] = written + done.tokens, done.text
    else:
        batch = BATCH if name == "batched" else 1
        ends = sorted({prompts.end_id(tokenizer, style), tokenizer.eos_token_id})
        for first in range(0, len(rows), batch):
            given = [prompts.encode_prompt(tokenizer, text) for text in asked[first : first + batch]]
            padded = tokenizer.pad({"input_ids": given}, padding_side="left", return_tensors="pt").to(model.device)
            with torch.inference_mode():
                out = model.generate(**padded, do_sample=False, max_new_tokens=max(budgets.values()), eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
            for i, ids in enumerate(out[:, padded["input_ids"].shape[1] :].tolist(), first):
                end = next((n for n, token in enumerate(ids) if token in ends), len(ids))
                written, texts[i] = written + min(end + 1, len(ids)), tokenizer.decode(ids[:end]).strip()
    seconds = time.perf_counter() - begun
    peak = runtime.peak_memory_gb() if runtime.device().kind == "cuda" else scale.peak_gb()
    return {"prompts": len(rows), "tokens": written, "seconds": round(seconds, 2), "tokens_per_second": round(written / seconds, 1), "peak_gb": round(peak, 2), "texts": texts}


if __name__ == "__main__":
    try:
        print(json.dumps(_task(*sys.argv[1:4], Path(sys.argv[4]))))
    except UserError as error:
        sys.exit(str(error))
