"""Will it fit?  Memory of QLoRA training on a CUDA device, predicted from the model's configuration alone.

Counted tensor by tensor as transformers, peft and bitsandbytes keep them (tests/test_memory.py runs the full-size modules on the meta
device against it). Sizes are in bytes; GiB are 2³⁰ bytes, which is what CUDA tools print as "GB".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .activations import Step
from .architectures import ARCHITECTURES, Architecture, billions, find
from .figure_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    _finish,
    _legend,
    _nothing,
    _rows,
    style,
)
from .files import UserError
from .profiles import Profile
from .runtime import CONTEXT_GIB, T4_GIB, Device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GIB = 2**30
T4 = Device("cuda", "Tesla T4", (7, 5))
# Share of a GPU's memory that is counted on.
ROOM = 0.9
# Assumptions, not counted: the CUDA context with its kernels and cuBLAS workspaces, and what the caching allocator holds in pieces.
CONTEXT = CONTEXT_GIB * GIB
FRAGMENTATION = 0.05
WEIGHTS = ("nf4", "float16", "float32")
# Share of a prompt and its completion that is completion.
LABELLED = 0.5
# Examples at once in `training.dev_loss`.
EVALUATED = 32
PARTS = ("weights", "embeddings", "adapter", "optimiser", "gradients", "activations", "logits", "overhead")
PART_COLOURS = dict(zip(PARTS, (BLUE, SKY, GREEN, YELLOW, PURPLE, ORANGE, VERMILLION, GREY), strict=True))
LABELS = {"overhead": "overhead (assumed)"}


@dataclass(frozen=True)
class Plan:
    """Predicted memory in bytes, part by part, at the moment of the peak.

    `weights` are the blocks, `embeddings` also hold an output head of its own; `activations` what is kept for the backward pass and what is
    worked on; `logits` what the loss holds; `overhead` the CUDA context and the allocator's loss (assumed, see `CONTEXT`, `FRAGMENTATION`).
    `evaluation` is no part of the sum: all that is needed while the loss of `EVALUATED` examples of that length is taken at once.
    """

    model: str
    length: int
    batch: int
    weights: int
    embeddings: int
    adapter: int
    optimiser: int
    gradients: int
    activations: int
    logits: int
    overhead: int
    evaluation: int

    @property
    def load(self) -> int:
        """Bytes of the base model once it is loaded: what `torch.cuda.memory_allocated()` says then."""
        return self.weights + self.embeddings

    @property
    def total(self) -> int:
        """Bytes that the device must have."""
        return sum(getattr(self, part) for part in PARTS)

    def fits(self, budget: float = T4_GIB) -> bool:
        """Whether it fits into `budget` GiB."""
        return self.total <= budget * GIB


def plan(
    model: str | Path | Mapping | Architecture,
    *,
    length: int = 512,
    batch: int = 4,
    rank: int = 16,
    targets: tuple[str, ...] = (),
    weights: str = "nf4",
    compute: str = "",
    checkpointing: bool = True,
    logits: str = "labelled",
) -> Plan:
    """Memory of a training step (fp32 adapters under autocast, AdamW) from the second optimiser step on.

    `model` as in `architectures.find`. `length` is in tokens of the longest example, `batch` in examples at once (accumulation costs nothing).
    `targets` () adapts every linear layer. `weights` is how the blocks are kept (`nf4` with double quantisation, float16 or float32), `compute`
    the dtype of products and of embeddings (float16, bfloat16, float32; "": what a T4 takes, float32 for Gemma 3, which overflows fp16, else
    float16). `logits` are computed at `labelled` positions, half of `length`, as this series' trainer does, or at `all`, as others do. Raises
    `UserError`.
    """
    shape = find(model)
    if shape.why_not:
        raise UserError(f"{shape.name} cannot be trained here: {shape.why_not}. Take {shape.instead} instead.")
    compute = compute or ("float32" if shape.family == "gemma3_text" else "float16")
    for name, value in (("length", length), ("batch", batch), ("rank", rank)):
        if type(value) is not int or value < 1:
            raise UserError(f"{name}: expected a whole number from 1, found {value!r}.")
    for name, value, known in (
        ("weights", weights, WEIGHTS), ("compute", compute, ("float16", "bfloat16", "float32")), ("logits", logits, ("labelled", "all"))
    ):  # fmt: skip
        if value not in known:
            raise UserError(f"{name}: expected one of {', '.join(known)}, found {value!r}.")
    layers = shape.config["num_hidden_layers"]
    unit = 4 if compute == "float32" else 2
    adapter = 4 * shape.adapter(rank, targets)
    blocks = layers * _block_bytes(shape, weights, unit)
    embeddings = unit * ((1 if shape.tied else 2) * shape.embedding + shape.outer_vectors)
    step = Step(shape, length, batch, rank, targets, weights, compute != "float32")
    positions = batch * (length if logits == "all" else max(1, round(LABELLED * length)))
    loss, left = step.loss(positions, logits == "all")
    # Every block is kept whole, or its input alone and one block whole while it goes back.
    kept = layers * (step.stream if checkpointing else step.block)
    back = (step.block if checkpointing else 0) + step.working + left
    outside = step.outside
    activations, held = (kept + outside, loss) if loss > back else (kept + outside + back - left, left)
    counted = [blocks, embeddings, adapter, 2 * adapter, adapter, round(activations), round(held)]
    # Gradients are given back before an evaluation.
    evaluation = blocks + embeddings + 3 * adapter + step.evaluation(EVALUATED * length)
    overhead = [round(CONTEXT + FRAGMENTATION * held) for held in (sum(counted), evaluation)]
    return Plan(shape.name, length, batch, *counted, overhead[0], evaluation + overhead[1])


def _block_bytes(shape: Architecture, weights: str, unit: int) -> int:
    """Bytes of one block: its matrices in `weights`, biases and norms in the dtype of products."""
    matrices = sum(x.size for x in shape.linears)
    rest = unit * (shape.block - matrices)
    if weights != "nf4":
        return matrices * (4 if weights == "float32" else 2) + rest
    total = rest
    for x in shape.linears:
        # A 4-bit code for each number, an 8-bit scale for each 64, an fp32 one for each 256 of these (arXiv 2305.14314), two code books.
        scales = -(-x.size // 64)
        total += -(-x.size // 2) + scales + 4 * -(-scales // 256) + 4 * (16 + 256 + 1)
    return total


def known(profile: Profile) -> str:
    """What `plan` knows a profile's model by: its name, else its hub id or folder."""
    return profile.name if profile.name in ARCHITECTURES else profile.model.identifier


def advice(profile: Profile, budget: float = T4_GIB) -> str:
    """`verdict` of a profile's model with its recipe, in a T4's precision; why there is none for a model whose configuration is not known."""
    recipe, model = profile.recipe, profile.model
    options = {
        "length": recipe.max_length, "batch": recipe.batch_size, "rank": recipe.rank, "targets": model.lora_targets,
        "compute": dataclasses.replace(T4, fp16_safe=model.fp16_safe).dtype_name, "checkpointing": recipe.gradient_checkpointing,
    }  # fmt: skip
    try:
        return verdict(known(profile), budget, **options)
    except UserError as error:
        return f"{profile.name}: no prediction ({error})"


def fitted(profile: Profile, longest: int, budget: float) -> Profile:
    """The profile with as many examples of its step at once as fit into `ROOM` of `budget` GiB, every activation kept where that fits as well.

    `longest` is in tokens of the longest example. The step itself, batch × accumulation, stays as it is; so does the profile of a model whose configuration is not known.
    """
    recipe, model = profile.recipe, profile.model
    whole = recipe.batch_size * recipe.accumulation
    # As on a T4: on a newer GPU bf16 is as large as fp16, and Gemma 3 needs less than the fp32 that is counted here.
    compute = dataclasses.replace(T4, fp16_safe=model.fp16_safe).dtype_name
    for batch in (n for n in range(whole, 0, -1) if whole % n == 0):
        for checkpointing in (False, True):
            try:
                found = plan(
                    known(profile), length=longest, batch=batch, rank=recipe.rank, targets=model.lora_targets, compute=compute, checkpointing=checkpointing,
                )  # fmt: skip
            except UserError:
                return profile
            if found.fits(ROOM * budget):
                return profile.replace(batch_size=batch, accumulation=whole // batch, gradient_checkpointing=checkpointing)
    return profile


def largest(model: str | Path | Mapping | Architecture, budget: float = T4_GIB, *, length: int = 0, batch: int = 0, **options) -> int:
    """The largest `batch` that fits into `budget` GiB at a given `length` (tokens), or the largest `length` at a given `batch`; 0: none does.

    Give one of the two; other `options` as for `plan`. A length ends at what the model was made for. Raises `UserError`.
    """
    if bool(length) == bool(batch):
        raise UserError("largest: give either length or batch, and it finds the other.")
    most = find(model).config.get("max_position_embeddings", 1 << 17) if batch else 1 << 14

    def fits(n: int) -> bool:
        return plan(model, length=length or n, batch=batch or n, **options).fits(budget)

    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def verdict(model: str | Path | Mapping | Architecture, budget: float = T4_GIB, **options) -> str:
    """One sentence: whether QLoRA of the model fits into `budget` GiB with these `options` of `plan`, and what would. Raises `UserError`."""
    shape = find(model)
    size = f"{shape.name} ({billions(shape.parameters)} parameters)"
    if shape.why_not:
        return f"{size} cannot be trained on a T4: {shape.why_not}; take {shape.instead} instead."
    found = plan(shape, **options)
    rest = {k: v for k, v in options.items() if k not in ("length", "batch")}
    if found.fits(budget):
        longest = largest(shape, budget, batch=found.batch, **rest)
        end = " (all that it was made for)" if longest == shape.config.get("max_position_embeddings") else ""
        most = largest(shape, budget, length=found.length, **rest)
        dev = found.evaluation / GIB
        warning = f" Dev examples as long as that need {dev:.1f} GiB, {EVALUATED} at once: keep them shorter." if dev > budget else ""
        return (
            f"{size} fits: {found.total / GIB:.1f} of {budget:g} GiB at {found.batch} × {found.length} tokens; "
            f"up to batch {most} at that length, or {longest:,} tokens{end} at that batch.{warning}"
        )
    small = largest(shape, budget, batch=1, **rest)
    way = f"up to {small:,} tokens fit at batch 1" if small else "it does not fit at any length"
    return f"{size} does not fit at {found.batch} × {found.length} tokens: {found.total / GIB:.1f} of {budget:g} GiB; {way}."


def compare(models: Iterable[str] = (), **options) -> list[dict]:
    """A row a model (all that are known where none is named) with the parts of its plan in GiB; columns as `PARTS`, and model, at, load, total, fits.

    A model that cannot be trained has only its name.
    """
    rows = []
    for name in models or ARCHITECTURES:
        shape = find(name)
        if shape.why_not:
            rows.append({"model": shape.name, "fits": False})
            continue
        found = plan(shape, **options)
        sizes = {part: getattr(found, part) / GIB for part in PARTS}
        said = {"model": shape.name, "at": f"{found.batch} × {found.length}", "fits": found.fits()}
        rows.append(said | sizes | {"load": found.load / GIB, "total": found.total / GIB})
    return rows


def table(rows: Iterable[Mapping]) -> str:
    """The rows of `compare` as Markdown, in GiB; not measured on a T4."""
    lines = [
        "| model | loaded | adapter, its gradients and AdamW | activations and logits | context and allocator (assumed) | total (GiB) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if "total" not in row:
            lines.append(f"| {row['model']} | cannot be trained on a T4 | | | | |")
            continue
        trained = row["adapter"] + row["optimiser"] + row["gradients"]
        parts = (row["load"], trained, row["activations"] + row["logits"], row["overhead"])
        lines.append(f"| {row['model']} | " + " | ".join(f"{x:.2f}" for x in parts) + f" | {row['total']:.2f} |")
    return "\n".join(lines) + "\n"


@style()
def figure(rows: Iterable[Mapping], budget: float = T4_GIB, title: str | None = None, alt: str | None = None) -> Figure:
    """A stacked bar a model, the parts of its memory in GiB, against a line at `budget` GiB: the rows of `compare`."""
    rows = list(rows)
    if not rows:
        return _nothing(title, alt)
    able = [row for row in rows if "total" in row]
    at = f" at {able[0]['at']} tokens" if len({row.get("at") for row in able}) == 1 and able[0].get("at") else ""
    drawing, ax = _rows([row["model"] for row in rows], "GiB at the peak (predicted, not measured on a T4)", each=0.3)
    shown = [row.get("total", 0.0) for row in rows]
    left = [0.0] * len(rows)
    for part, colour in PART_COLOURS.items():
        sizes = [row.get(part, 0.0) for row in rows]
        ax.barh(range(len(rows)), sizes, left=left, height=0.72, color=colour, label=LABELS.get(part, part), edgecolor="white", linewidth=0.6)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    ax.axvline(budget, color=INK, linewidth=1.4, linestyle="--")
    limit = f"T4: {budget:g}" if budget == T4_GIB else f"{budget:g}"
    ax.annotate(limit, (budget, -0.5), textcoords="offset points", xytext=(-4, 1), ha="right", fontsize=9.5)
    for y, (row, total) in enumerate(zip(rows, shown, strict=True)):
        words = f" {total:.1f}" if "total" in row else " cannot be trained on a T4"
        inside = total < 0.8 * budget or total > budget
        ax.text(total, y, words, va="center", ha="left" if inside else "right", fontsize=9.5)
    ax.set_xlim(0, max(budget * 1.06, max(shown) * 1.12))
    _legend(drawing, *ax.get_legend_handles_labels())
    fitting = [row for row in able if row["total"] <= budget]
    finding = f"{len(fitting)} of {len(rows)} models can be trained within {budget:g} GiB{at}"
    if fitting:
        most = max(fitting, key=lambda row: row["total"])
        finding += f"; the largest need is {most['model']}'s, {most['total']:.1f} GiB"
    words = "; ".join(f"{row['model']} {row['total']:.1f} GiB" if "total" in row else f"{row['model']} cannot be trained" for row in rows)
    return _finish(drawing, title or finding, alt or f"Stacked bars of predicted training memory against {budget:g} GiB. {words}.")
