"""How cost grows on this machine: a training step against tokens, length and model size, generation against batch; each point in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import models, profiles, runtime, scale, training
from .figure_style import BLUE, VERMILLION, _axes, _finish, save, style
from .files import UserError, write_json, write_text
from .profiles import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is varied: name → (what it is called, unit, the points).
SERIES = {
    "tokens": ("training step, tokens", "tokens in examples of 96", (192, 384, 768, 1536, 3072)),
    "length": ("training step, length", "tokens of one example", (128, 256, 512, 1024, 2048)),
    "size": ("training step, model size", "million parameters in the blocks", (3, 12, 50, 200)),
    "batch": ("generation, batch", "prompts", (1, 4, 16, 64, 128)),
}
# Of the random models: width and number of blocks, after Gemma 3's shape (feed-forward 3.2 times as wide, heads of 64).
SHAPES = {3: (256, 4), 12: (512, 4), 50: (768, 8), 200: (1280, 11)}
TIMES, WRITTEN = 4, 32  # steps of a point, of which the first is left out; tokens that each prompt is gone on with


def measure(
    series: Mapping[str, Sequence[int]] | None = None,
    profile: str = "gemma3-270m",
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Seconds and peak memory (GB = 10⁹ bytes) at each point of `series` (default: all of `SERIES`), and the slopes.

    Training is one step, half of each example labelled; of the real model, but for `size`, where random ones are of that size.
    With `folder`, `growth.json`, `growth.md` and `growth.png` (and .svg) are written there. Raises `UserError`.
    """
    points = dict(series or {name: given[2] for name, given in SERIES.items()})
    result: dict = {"machine": scale.machine(), "profile": profile, "series": {}}
    for name, values in points.items():
        rows = []
        for value in values:
            rows.append(scale.apart("growth", name, value, profile, what=f"{name} at {value}"))
            say(f"{SERIES[name][0]} {value:,}: {rows[-1]['seconds']:.2f} s, {rows[-1]['peak_gb']:.2f} GB")
        result["series"][name] = {"rows": rows, **_slopes(rows)}
    if folder:
        write_json(Path(folder) / "growth.json", result)
        write_text(Path(folder) / "growth.md", table(result))
        save(figure(result), folder, "growth")
    return result


def _slopes(rows: Sequence[dict]) -> dict[str, float]:
    """The power that seconds grow with over the upper half of the points, where what is the same for all weighs less; GB for each thousand more."""
    upper = rows[len(rows) // 2 :] if len(rows) > 3 else rows
    power = scale.slope([(math.log(r["x"]), math.log(r["seconds"])) for r in upper])
    memory = scale.slope([(r["x"], r["peak_gb"]) for r in rows])
    return {"power": round(power, 2), "gb_per_thousand": round(1000 * memory, 3)}


def table(result: dict) -> str:
    """The result of `measure` as Markdown."""
    lines = [
        f"{result['profile']} on {scale.described(result['machine'])}. Median of {TIMES - 1} steps; a prompt is gone on with for {WRITTEN} tokens by transformers' generate.",
        "",
        "| what grows | at | seconds | tokens/s | peak memory (GB) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, found in result["series"].items():
        for row in found["rows"]:
            lines.append(f"| {SERIES[name][0]} | {row['x']:,} | {row['seconds']:.2f} | {row['tokens'] / row['seconds']:,.0f} | {row['peak_gb']:.2f} |")
    lines.append("")
    for name, found in result["series"].items():
        lines.append(
            f"* {SERIES[name][0]}: seconds grow as its power {found['power']:.2f} (1 = linear, upper half of the points), memory by {found['gb_per_thousand']:.2f} GB for each thousand."
        )
    return "\n".join(lines) + "\n"


@style()
def figure(result: dict, title: str | None = None, alt: str | None = None) -> Figure:
    """A panel a series: seconds and peak memory, both axes logarithmic."""
    drawing, axes = _axes(5.6, 2, 2)
    words = []
    for ax, (name, found) in zip(axes.flat, result["series"].items(), strict=False):
        x = [row["x"] for row in found["rows"]]
        ax.loglog(x, [row["seconds"] for row in found["rows"]], color=BLUE, marker="o", label="seconds")
        ax.loglog(x, [row["peak_gb"] for row in found["rows"]], color=VERMILLION, marker="s", linestyle="--", label="peak memory (GB)")
        ax.set_xticks(x, [f"{value:,}" for value in x])
        ax.minorticks_off()
        low, high = ax.get_ylim()
        ticks = [v for v in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= v <= high]
        ax.set_yticks(ticks, [f"{v:g}" for v in ticks])
        ax.grid(axis="y")
        ax.set_title(f"{SERIES[name][0]}: power {found['power']:.2f}")
        ax.set_xlabel(SERIES[name][1])
        words.append(f"{SERIES[name][0]} from {x[0]:,} to {x[-1]:,}: {found['rows'][0]['seconds']:.2f} to {found['rows'][-1]['seconds']:.2f} s")
    for ax in list(axes.flat)[len(result["series"]) :]:
        ax.set_axis_off()
    drawing.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    powers = {name: found["power"] for name, found in result["series"].items()}
    steepest = max(powers, key=lambda name: powers[name])
    finding = f"Cost grows at most with the power {powers[steepest]:.2f} ({SERIES[steepest][0]})"
    return _finish(drawing, title or finding, alt or f"Seconds and peak memory on logarithmic axes. {'; '.join(words)}.")


def _sized(base: Profile, millions: int, folder: Path) -> Profile:
    """A random model with so many parameters in its blocks, and the tiny model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tiny = Path(models.local_folder(profiles.choose("tiny"), lambda text: None))
    for path in tiny.iterdir():
        if path.name != "model.safetensors":
            shutil.copy(path, folder)
    width, blocks = SHAPES[millions]
    config = AutoConfig.from_pretrained(tiny, trust_remote_code=False)
    config.update({"hidden_size": width, "intermediate_size": 16 * width // 5, "num_hidden_layers": blocks, "layer_types": ["full_attention"] * blocks})
    config.update({"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return dataclasses.replace(base, model=dataclasses.replace(base.model, source="hub", identifier=str(folder)))


def _step_seconds(profile: Profile, examples: int, length: int) -> tuple[float, int]:
    """Median seconds of a step on `examples` × `length` tokens, and the tokens in it."""
    import torch

    from . import fused

    here = runtime.device(profile.model.fp16_safe)
    model = models.add_adapter(models.load_base(profile, here, lambda text: None), profile)
    fused.install(model, here)
    model.train()
    # A number that every vocabulary here has.
    draw = random.Random(0)
    rows = [[draw.randrange(300, 1000) for _ in range(length)] for _ in range(examples)]
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=1e-4)
    micro = min(examples, profile.recipe.batch_size)
    seconds = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        for first in range(0, examples, micro):
            batch = training.collate([{"input_ids": r, "labels": [-100] * (length // 2) + r[length // 2 :]} for r in rows[first : first + micro]], 0)
            with torch.autocast(here.kind, here.dtype, enabled=here.dtype_name != "float32"):
                loss, count = training.labelled_loss(model, {k: v.to(model.device) for k, v in batch.items()})
            (loss / count).backward()
        optimiser.step()
        optimiser.zero_grad()
        if here.kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:]), examples * length


def _generation_seconds(profile: Profile, prompts_at_once: int) -> tuple[float, int]:
    import torch

    tokenizer = models.load_tokenizer(profile)
    model = models.load_for_inference(profile)
    draw = random.Random(0)
    ids = torch.tensor([[draw.randrange(300, 1000) for _ in range(32)] for _ in range(prompts_at_once)], device=model.device)
    seconds = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=WRITTEN, max_new_tokens=WRITTEN, pad_token_id=tokenizer.pad_token_id)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:]), prompts_at_once * WRITTEN


def _task(name: str, value: int, profile_name: str) -> dict:
    """What one process does."""
    runtime.quiet()
    profile = profiles.choose(profile_name)
    with tempfile.TemporaryDirectory() as folder:
        if name == "batch":
            seconds, tokens = _generation_seconds(profile, value)
        elif name == "size":
            seconds, tokens = _step_seconds(_sized(profile, value, Path(folder)), 8, 96)
        elif name == "length":
            seconds, tokens = _step_seconds(profile, 1, value)
        else:
            seconds, tokens = _step_seconds(profile.replace(batch_size=1 << 20), value // 96, 96)
    peak = runtime.peak_memory_gb() if runtime.device().kind == "cuda" else scale.peak_gb()
    return {"x": value, "seconds": round(seconds, 4), "tokens": tokens, "peak_gb": round(peak, 3)}


if __name__ == "__main__":
    try:
        print(json.dumps(_task(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    except UserError as error:
        sys.exit(str(error))
