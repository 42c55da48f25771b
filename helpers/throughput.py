"""Training speed on this machine beside TRL's SFTTrainer: same model, data, adapter and effective batch, each in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from . import architectures, checkpoints, corpora, fused, models, pipeline, profiles, prompts, runtime, scale, training
from .files import UserError, cache_folder, sha256, whole_folder, write_json, write_text
from .profiles import Profile
from .records import Record

VARIANTS = {
    "trl": "TRL SFTTrainer as it comes",
    "trl-packed": "TRL at its best: NF4, packed, no gradient checkpointing, freed memory kept",
    "unsloth": "Unsloth with its own checkpointing",
    "frugal": "this project, as few examples at once as TRL",
    "ours": "this project",
}
# Steps that are left out: kernels are chosen and, by Unsloth, compiled in them.
WARM = 1
WARM_GPU = 4
# In the folder of a model with random weights.
RANDOM = "RANDOM.txt"


def available() -> list[str]:
    """The variants that this machine can run: Unsloth wants a GPU, and is not installed by this project; only on a GPU is the micro-batch chosen by the memory there is."""
    gpu = runtime.device().kind == "cuda"
    return [name for name in VARIANTS if (gpu or name not in ("unsloth", "frugal")) and (name != "unsloth" or importlib.util.find_spec("unsloth"))]


def _warm() -> int:
    return WARM_GPU if runtime.device().kind == "cuda" else WARM


def measure(
    steps: int = 8,
    profile: str = "gemma3-270m",
    variants: Sequence[str] = (),
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
    *,
    random_weights: bool = False,
    t4: bool = False,
    rounds: int = 1,
) -> dict:
    """Real (non-padding) tokens a second and peak memory (GB = 10⁹ bytes) of each variant (all that are `available`) over so many steps, after `WARM` (on a GPU `WARM_GPU`) others.

    The examples are the recipe's in miniature: sentence pairs and questions in its proportion, a rationale on its fraction of the questions. With
    `random_weights` the model has its published sizes, a small vocabulary in use and no training: as fast, and nothing to download. With `t4` a larger GPU works
    within a T4's limits (`runtime.as_t4`). With `folder`, `training.json` and `training.md` are written there, with the profile, where it is not the default, and the settings in their names.
    With `rounds` the variants take turns so many times, and the fastest of each counts: others on the machine only slow it. A variant that fails gets a row that
    says why. Raises `UserError`, also for no step or round.
    """
    for option, value in (("--steps", steps), ("--rounds", rounds)):
        if value < 1:
            raise UserError(f"{option} {value}: expected 1 or more.")
    # In a process of its own: the memory that it takes on the GPU is needed by what is measured.
    place = scale.apart("throughput", "random", steps, profile)["folder"] if random_weights else ""
    words = (steps, profile, place, "t4" if t4 else "")
    result: dict = {"machine": scale.machine(), "profile": profile, "steps": steps, "random_weights": random_weights, "as_t4": t4}
    result |= {"versions": _versions(), "rounds": rounds, "rows": []}
    found: dict[str, list[dict]] = {name: [] for name in variants or available()}
    for _ in range(rounds):
        ceiling = scale.apart("throughput", "gflops", *words)
        result |= ceiling if ceiling.get("gflops", 0.0) >= result.get("gflops", 0.0) else {}
        for name, rows in found.items():
            try:
                row = scale.apart("throughput", name, *words)
                said = f"{row['tokens_per_second']:.0f} tokens/s, {row['peak_gb']:.1f} GB"
            except UserError as error:
                if name == "ours":
                    raise
                row, said = {"failed": str(error).partition(" failed: ")[2]}, str(error)
            rows.append({"name": name} | row)
            say(f"{VARIANTS[name]}: {said}")
    for rows in found.values():
        speeds = [row.get("tokens_per_second", 0.0) for row in rows]
        result["rows"].append(rows[speeds.index(max(speeds))] | ({"slowest": min(speeds)} if rounds > 1 and min(speeds) else {}))
    if folder:
        stem = "-".join(["training", *([profile] if profile != "gemma3-270m" else []), *(["random"] if random_weights else []), *(["as-t4"] if t4 else [])])
        write_json(Path(folder) / f"{stem}.json", result)
        write_text(Path(folder) / f"{stem}.md", table(result))
    return result


def _versions() -> dict[str, str]:
    """Of the packages that train."""
    names = ("torch", "transformers", "peft", "trl", "bitsandbytes", "unsloth")
    return {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name)}


def table(result: dict) -> str:
    """The result of `measure` as Markdown."""
    own = next((r["tokens_per_second"] for r in result["rows"] if r["name"] == "ours"), None)
    gpu = result.get("device", "")
    where = f"one {gpu}, beside {scale.described(result['machine'])}" if gpu else scale.described(result["machine"])
    limits = f" The GPU keeps to a T4's limits: its precision, {runtime.T4_GIB} GiB, no flash attention; its speed is its own." if result.get("as_t4") and gpu else ""
    weights = " Random weights of the published sizes." if result.get("random_weights") else ""
    made = ", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items())
    lines = [
        f"Training {result['profile']} (LoRA on every linear layer, 16 examples a step, {result['steps']} steps{f', the fastest of {rounds} rounds' if (rounds := result.get('rounds', 1)) > 1 else ''}) on {where}.{limits}{weights}{f' {made}.' if made else ''}",
        "",
        "| trainer | precision | at once × accumulated | real tokens/s | this project is faster by | peak memory (GB) |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        if "failed" in row:
            reason = row["failed"].replace("|", "\\|")
            lines.append(f"| {VARIANTS[row['name']]} | did not run: {reason} | | | | |")
            continue
        times = f"{own / row['tokens_per_second']:.1f} ×" if own and row["name"] != "ours" else ""
        slowest = f" (slowest round: {row['slowest']:.0f})" if "slowest" in row else ""
        mended = ", but for its adapters put back to fp32" if row.get("mended") else ""
        lines.append(f"| {VARIANTS[row['name']]}{mended} | {row['precision']} | {row.get('at_once', '')} | {row['tokens_per_second']:.0f}{slowest} | {times} | {row['peak_gb']:.1f} |")
    return "\n".join([*lines, *_ceiling(result)]) + "\n"


def _ceiling(result: dict) -> list[str]:
    """How near this project comes to what the processor could do if it did nothing but multiply matrices: a line; none where it was not measured, or of a model of unknown size."""
    ours = next((r for r in result["rows"] if r["name"] == "ours"), None)
    try:
        shape = architectures.find(result["profile"])
    except UserError:
        return []
    if ours is None or "gflops" not in result:
        return []
    # Forward, and backward to the activations: the weights themselves are frozen.
    body = 4 * shape.config["num_hidden_layers"] * sum(x.size for x in shape.linears)
    each = body + 4 * shape.embedding * ours["labelled"] / ours["tokens"]
    most = result["gflops"] * 1e9 / each
    skipped = ", where products with tokens that its gradient leaves out (`fused.NEGLIGIBLE`) are counted as done" if ours["precision"] == "bfloat16" and "device" not in result else ""
    return [
        "",
        f"Matrices are multiplied here at {_rate(result['gflops'])} at best. At 4 FLOP a token for each weight of the linear layers, and for each of the output head where a token "
        f"is learnt from ({100 * ours['labelled'] / ours['tokens']:.0f} %), that would be {most:.0f} tokens/s; this project reaches {100 * ours['tokens_per_second'] / most:.0f} % of it{skipped}.",
    ]


def _rate(gflops: float) -> str:
    return f"{gflops:.0f} GFLOP/s" if gflops < 10_000 else f"{gflops / 1000:.0f} TFLOP/s"


def _order(profile: Profile, steps: int) -> training.Plan:
    """That many steps of a training, and the warm ones before them, in which sentence pairs and questions are mixed from the start."""
    whole = (steps + _warm()) * profile.recipe.batch_size * profile.recipe.accumulation
    questions = [r for r in corpora.questions() if r.split == "train"]
    if profile.model.source == "random" or _is_random(profile):
        pairs = [Record(f"p{n}-{i}", "translate", r.ja, r.en) for n in range(1 + whole // len(questions)) for i, r in enumerate(questions)]
    else:
        pairs = corpora.tatoeba(lambda text: None)
    # Each question comes twice.
    recipe, draw = profile.recipe, random.Random(0)
    of_pairs = round(whole * recipe.train_pairs / (recipe.train_pairs + 2 * len(questions)))
    chosen = draw.sample(questions, (whole - of_pairs + 1) // 2)
    reasoned = round(recipe.reasoning_fraction * len(chosen))
    chosen = [r if i < reasoned else r.replace(reasoning="") for i, r in enumerate(chosen)]
    mixed = dataclasses.replace(recipe, replay_pairs=of_pairs, question_epochs=1)
    return training.plan(mixed, draw.sample(pairs, of_pairs), chosen)


def _is_random(profile: Profile) -> bool:
    return (Path(profile.model.identifier) / RANDOM).exists()


def _random_model(profile: Profile) -> Path:
    """A folder with a model of the profile's published sizes and random weights in fp16, and the byte-level tokenizer of the tests. Raises `UserError` for unknown sizes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = architectures.find(profile.name)
    folder = cache_folder() / f"{profile.name}-{sha256(corpora.QUESTIONS)[:8]}-random"
    if not folder.exists():
        tokenizer = models.load_tokenizer(profiles.choose("tiny"))
        ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        torch.manual_seed(0)
        with torch.device(runtime.device().kind):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**dict(shape.config) | ids), dtype=torch.float16)
        with whole_folder(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            write_text(temporary / RANDOM, f"Random weights in the sizes of {shape.source}.\n")
    return folder


def _ours(profile: Profile, steps: int, fitted: bool = True) -> dict:
    order = _order(profile, steps)
    dev = {kind: [next(r for stage, r in order.items if (stage == "translate") == (kind == "pairs"))] for kind in ("pairs", "questions")}
    profile = pipeline.fitted(profile, order, lambda text: None) if fitted else profile
    with tempfile.TemporaryDirectory() as folder:
        training.train(profile.replace(evaluations=1), order, dev, folder, say=lambda text: None)
        rows = checkpoints.read_log(Path(folder) / "log.jsonl")
    *_, first = [r for r in rows if "tokens_per_second" in r][: _warm()]
    rest = [r for r in rows if r["step"] > first["step"]]
    tokens = [b["tokens_seen"] - a["tokens_seen"] for a, b in zip([first, *rest], rest, strict=False)]
    labelled = rest[-1]["target_tokens_seen"] - first["target_tokens_seen"]
    done = {"tokens": sum(tokens), "labelled": labelled, "seconds": sum(n / r["tokens_per_second"] for n, r in zip(tokens, rest, strict=True))}
    return done | {"at_once": _at_once(profile.recipe)}


def _at_once(recipe) -> str:
    return f"{recipe.batch_size} × {recipe.accumulation}{', checkpointed' if recipe.gradient_checkpointing else ''}"


def _trl(profile: Profile, steps: int, packed: bool = False, unsloth: bool = False) -> dict:
    """The texts as TRL's documentation gives them to it; of the recipe, the adapter, batch and learning rate are ours."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    # On a GPU QLoRA is what people do, with the recipe's micro-batch; on a CPU TRL's own documentation has no quantisation.
    cuda = runtime.device().kind == "cuda"
    here, recipe, style = runtime.device(profile.model.fp16_safe), profile.recipe, profile.model.prompt_style
    rows = _order(profile, steps).items
    texts = [{"prompt": prompts.prompt(style, stage, ja=r.ja, en=r.en), "completion": prompts.completion(stage, r)} for stage, r in rows]
    tokenizer = models.load_tokenizer(profile)
    adapter = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(profile.model.lora_targets), task_type="CAUSAL_LM")
    if unsloth:
        model, adapter = _unsloth_model(profile, here), None
    else:
        model = models.load_base(profile, here) if packed or cuda else models.pretrained(models.local_folder(profile), dtype=here.dtype)
    marks = []

    class Clock(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if cuda:
                torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args, state, control, **kwargs):
            if cuda:
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), state.num_input_tokens_seen))

    lengths = [len(tokenizer(t["prompt"] + t["completion"])["input_ids"]) for t in texts]
    batch = recipe.batch_size * recipe.accumulation
    size = recipe.batch_size if cuda else 8
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=1 if packed else size,
            gradient_accumulation_steps=1 if packed else batch // size or 1,
            learning_rate=recipe.learning_rate,
            num_train_epochs=1,
            use_cpu=here.kind == "cpu",
            bf16=here.dtype_name == "bfloat16",
            fp16=here.dtype_name == "float16",
            # A packed row holds as many tokens as a step of the others.
            **({"packing": True, "max_length": batch * sum(lengths) // len(lengths), "gradient_checkpointing": False} if packed else {}),
            include_num_input_tokens_seen="non_padding",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model, arguments, train_dataset=datasets.Dataset.from_list(texts), processing_class=tokenizer, peft_config=adapter, callbacks=[Clock()]
        )
        mended = here.dtype_name == "float16" and not unsloth
        if mended:
            # As it comes it makes the adapters bf16, whose gradients torch's scaler for fp16 has no kernel for: whoever is on a T4 has to put them back.
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        # What this project does for its own training, where it helps TRL as well.
        with fused.freed_memory_kept() if packed else nullcontext():
            trainer.train()
    begun = marks[_warm() - 1]
    once = "packed" if packed else f"{size} × {batch // size or 1}{', checkpointed' if arguments.gradient_checkpointing else ''}"
    return {"tokens": int(marks[-1][1] - begun[1]), "seconds": marks[-1][0] - begun[0], "at_once": once} | ({"mended": True} if mended else {})


def _unsloth_model(profile: Profile, here: runtime.Device):
    """Unsloth's loader and adapter, as its documentation has them."""
    from unsloth import FastLanguageModel

    recipe = profile.recipe
    model, _ = FastLanguageModel.from_pretrained(models.local_folder(profile), dtype=here.dtype, max_seq_length=recipe.max_length, load_in_4bit=True, trust_remote_code=False)
    return FastLanguageModel.get_peft_model(
        model, r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0, target_modules=list(profile.model.lora_targets),
        use_gradient_checkpointing="unsloth", random_state=recipe.seed,
    )  # fmt: skip


def _task(name: str, steps: int, profile_name: str, place: str = "", limits: str = "") -> dict:
    """What one process does."""
    runtime.quiet()
    if name == "unsloth":
        # It changes transformers and TRL, so before either is loaded.
        import unsloth  # noqa: F401
    if limits:
        # On a T4 Unsloth takes xformers' attention for its unpadded rows; here torch's flash attention stands in for that.
        runtime.as_t4(flash=name == "unsloth")
    profile = profiles.choose(profile_name, model_id=place)
    if name == "random":
        return {"folder": str(_random_model(profile))}
    here = runtime.device(profile.model.fp16_safe)
    if name == "gflops":
        # Large enough on a GPU for the launch of the product to count for nothing.
        found = {"gflops": round(runtime.gflops(here, 8192 if here.kind == "cuda" else 2048, 20), 1)}
        return found | ({"device": here.name} if here.kind == "cuda" else {})
    found = _ours(profile, steps, name == "ours") if name in ("ours", "frugal") else _trl(profile, steps, name == "trl-packed", name == "unsloth")
    peak = runtime.peak_memory_gb() if here.kind == "cuda" else scale.peak_gb()
    rate = found["tokens"] / found["seconds"]
    return found | {"tokens_per_second": round(rate, 1), "peak_gb": round(peak, 2), "precision": here.dtype_name}


if __name__ == "__main__":
    try:
        print(json.dumps(_task(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])))
    except UserError as error:
        sys.exit(str(error))
