"""The card of an exported model, written from its run folder only: base, data, recipe, measured numbers, prompt, limits."""

from __future__ import annotations

from collections import Counter
from numbers import Real
from pathlib import Path

from . import corpora, inference, models, prompts, studies
from .files import Kind, UserError, misfit, read_lines, read_object, sha256
from .profiles import Recipe
from .records import TASKS
from .results import DECODINGS
from .runtime import Run

# The hub's names for the licences of `profiles` (hub documentation, "Licenses").
_LICENCES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "Gemma Terms of Use": "gemma", "Meta Llama 3 Community License": "llama3"}
# Section 3.1 of the Gemma Terms of Use asks for this sentence, word for word, beside every copy of a derived model.
_NOTICES = {"gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"}
_ARMS = {
    "plain": "no training question carries a rationale",
    "reasoned": "{} % of the training questions carry a rationale (Reasoning) before their answer",
    "explained": "{} % of the training questions carry a rationale after their answer",
    "shuffled": "a control: {} % of the training questions carry the rationale of another question",
    "plain-token-matched": "a control: no rationale, as many target tokens as reasoned-33",
}


def base_name(run: Run) -> str:
    """What the base model is called in public: its hub id, or the bare name of a folder or of a random test model."""
    model = run.profile.model
    if model.source == "package":
        return model.model_card.removeprefix("https://huggingface.co/")
    return Path(model.identifier).name if Path(model.identifier).exists() else model.identifier


def _on_hub(run: Run) -> bool:
    return run.profile.model.source != "random" and base_name(run).count("/") == 1


def title(run: Run, arm: str, seed: int) -> str:
    """Name of the exported model, such as "gemma3-270m-reasoned-33-seed0"."""
    return f"{run.profile.name}-{arm}-seed{seed}"


def licence(run: Run, arm: str) -> str:
    """Text of the LICENSE.txt of an export: whose terms hold for the weights and for the data they were trained on."""
    model = run.profile.model
    notice = _NOTICES.get(_LICENCES.get(model.license, ""), "")
    lines = [f"Base model {base_name(run)}: {model.license}.", notice and f"{notice}.", "These weights are derived from it: the same terms hold for them."]
    return "\n".join([*filter(None, lines), *(f"Training data: {line}" for line in _attributions(run, arm))]) + "\n"


def card(run: Run, arm: str, seed: int, weights: str) -> str:
    """The README.md of an export (Markdown with the hub's metadata); `weights` is "adapter" or the dtype of the merged model.

    Raises `UserError` when a file of the run folder is damaged; what the run folder does not have is said to be missing.
    """
    parts = [
        f"# {title(run, arm, seed)}",
        f"{base_name(run)}, trained with QLoRA to translate Japanese into English and to answer short questions asked in Japanese. "
        f"Arm {arm}, seed {seed} of a comparison of training with and without Reasoning: {_about(arm)}. "
        + ("This is the LoRA adapter alone." if weights == "adapter" else f"The adapter is merged into the base model; weights in {weights}."),
        "## Base model and licence\n\n" + licence(run, arm).replace("\n", "\n\n").strip(),
        "## Training data\n\n" + _data(run, arm),
        "## Recipe\n\n" + _recipe(run, arm, seed),
        "## Measured\n\n" + _measured(run, arm, seed),
        "## Prompt format\n\n" + _prompt(run, arm, seed, weights),
        "## Limits\n\n" + _limits(run, arm, weights),
    ]
    return _metadata(run, arm, weights) + "\n\n".join(parts) + "\n"


def _metadata(run: Run, arm: str, weights: str) -> str:
    from huggingface_hub import ModelCardData

    hub = _LICENCES.get(run.profile.model.license, "other")
    more = {"license_name": run.profile.model.license.lower().replace(" ", "-")} if hub == "other" else {}
    data = ModelCardData(
        language=["ja", "en"],
        license=hub,
        library_name="peft" if weights == "adapter" else "transformers",
        pipeline_tag="text-generation",
        base_model=base_name(run) if _on_hub(run) else None,
        base_model_relation=("adapter" if weights == "adapter" else "finetune") if _on_hub(run) else None,
        tags=["translation", "question-answering", "qlora", *(["reasoning"] if studies.has_rationales(arm) else [])],
        **more,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def _about(arm: str) -> str:
    if arm in _ARMS:
        return _ARMS[arm]
    kind, _, percent = arm.rpartition("-")
    return _ARMS[kind].format(percent) if kind in _ARMS else "an arm of one's own"


def _checked(path: Path, name: str, value: object, fields: dict[str, Kind]) -> dict:
    if wrong := misfit(value, fields) if isinstance(value, dict) else f"expected an object, found {type(value).__name__}":
        raise UserError(f"{path}, {name}, {wrong}. Remove the file and run again, or restore it.")
    return value


def _rows(path: Path, name: str, /, **fields: Kind) -> list[dict]:
    """The list of objects called `name` in a JSON file. Raises `UserError` that names file and field."""
    return [_checked(path, name, row, fields) for row in read_object(path, **{name: list})[name]]


def _attributions(run: Run, arm: str) -> list[str]:
    path = run.path("data", "manifest.json")
    sources = _rows(path, "sources", name=str, license=str, attribution=str) if path.exists() else []
    found = [f"{s['name']}, {s['license']}. {s['attribution'].rstrip('.')}." for s in sources]
    path = run.path("reasoning", "manifest.json")
    if found and studies.has_rationales(arm) and path.exists():
        manifest = read_object(path, teachers=dict, licences=dict)
        licences = _checked(path, "licences", manifest["licences"], {"rationales": dict})["rationales"]
        found += [f"rationales by the teacher {t!r}, {licences.get(t, 'licence not stated')}." for t in manifest["teachers"]]
    return found or ["what it was is not in the run folder any more."]


def _data(run: Run, arm: str) -> str:
    path = run.path("data", "train.jsonl")
    if not path.exists():
        return "The training data are not in the run folder any more."
    rows = read_lines(path, task=TASKS, source=str, license=str)
    counted = Counter((r["task"], r["source"], r["license"]) for r in rows)
    lines = [f"| {'sentence pairs' if t == 'translate' else 'questions'} | {s} | {li or 'not stated'} | {n:,} |" for (t, s, li), n in counted.items()]
    table = "\n".join(["| what | source | licence | records |", "| --- | --- | --- | ---: |", *lines])
    return table + "\n\n" + "\n".join(f"* {a}" for a in _attributions(run, arm))


def _epochs(r: Recipe) -> str:
    if r.replay_pairs >= r.train_pairs:
        return f"{r.question_epochs} over the questions, 1 over the sentence pairs, mixed"
    return f"1 over the sentence pairs, then {r.question_epochs} over the questions with {r.replay_pairs} of the pairs mixed in"


def _recipe(run: Run, arm: str, seed: int) -> str:
    r, done = run.recipe, _trained(run, arm, seed)
    rows = {
        "method": "QLoRA (arXiv 2305.14314): base in NF4 with double quantisation, LoRA on " + " ".join(run.profile.model.lora_targets),
        "rank, alpha": f"{r.rank}, {r.alpha}",
        "learning rate": f"{r.learning_rate:g}, warm-up over {100 * r.warmup_ratio:g} % of the steps",
        "examples a step": f"{r.batch_size} × {r.accumulation}",
        "longest example": f"{r.max_length} tokens",
        "epochs": _epochs(r),
    }
    if done:
        rows["run"] = f"{done['steps']} steps, {done['tokens_seen']:,} tokens, {done['precision']} on {done['device']}"
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())])


def _measured(run: Run, arm: str, seed: int) -> str:
    path, number = run.path("report", "results.json"), {"value": Real, "low": Real, "high": Real, "n": int}
    by_seed = _rows(path, "by_seed", arm=str, seed=int, decoding=str, set=str, stage=tuple(inference.STAGES), **number) if path.exists() else []
    rows = [r for r in by_seed if (r["arm"], r["seed"]) == (arm, seed)]
    if not rows:
        return "Not measured: the run folder has no results of this arm and seed."
    if not _is_predicted(run, arm, seed):
        return "Not measured: the results in the run folder are of another adapter."
    lines = ["| what | questions | value [95 % interval] | n |", "| --- | --- | ---: | ---: |"]
    for r in _rows(path, "translation", system=str, seeds=int, **number):
        if r["system"] == arm:
            mean = f", mean over {r['seeds']} seeds" if r["seeds"] > 1 else ""
            lines.append(f"| chrF++ on unseen sentence pairs{mean} | | {_interval(r, '')} | {r['n']} |")
    for r in rows:
        asked = ", asked for Reasoning" if r["decoding"] == DECODINGS[True] else ""
        lines.append(f"| {r['stage']}, {inference.STAGES[r['stage']]}{asked} | {r['set']} | {_interval(r, ' %')} | {r['n']} |")
    text = "\n".join(lines) + "\n\nAccuracy is exact match after normalisation, greedy decoding, held-out questions (`control`: generated arithmetic and date problems)."
    against = [r for r in _rows(path, "paired", a=str, stage=str, verdict=str, seeds=int) if r["a"] == arm and r["stage"] in inference.PRIMARY]
    if against:
        text += "\n\nPaired comparisons over all seeds of the arm, Holm-adjusted:\n\n" + "\n".join(
            f"* {r['verdict'].rstrip('.')}; seeds: {r['seeds']}." for r in against
        )
    return text


def _is_predicted(run: Run, arm: str, seed: int) -> bool:
    """Whether the predictions in the run folder were made with the adapter that is there."""
    weights = run.path("arms", arm, f"seed{seed}", "adapter", "adapter_model.safetensors")
    marker = run.path("predictions", arm, f"seed{seed}", "done.json")
    return weights.exists() and marker.exists() and read_object(marker).get("adapter") == sha256(weights)


def _interval(row: dict, unit: str) -> str:
    return f"{row['value']:.1f}{unit} [{row['low']:.1f}, {row['high']:.1f}]"


def _trained(run: Run, arm: str, seed: int) -> dict:
    """What its training ended with; empty where that is not in the run folder any more."""
    path = run.path("arms", arm, f"seed{seed}", "done.json")
    return read_object(path, steps=int, tokens_seen=int, precision=str, device=str) if path.exists() else {}


def _prompt(run: Run, arm: str, seed: int, weights: str) -> str:
    style, example = run.profile.model.prompt_style, next(r for r in corpora.questions() if r.split == "test")
    blocks = {
        "Translation": prompts.prompt(style, "translate", ja=example.ja),
        "Translate, then answer": prompts.prompt(style, "multistep", ja=example.ja),
        "Answer an English question": prompts.prompt(style, "answer", en=example.en),
    }
    answer = blocks["Answer an English question"]
    breaks = len(answer) - len(answer.rstrip("\n"))
    ending = {0: "", 1: ", in the last one with the line break"}.get(breaks, f", in the last one with its {breaks} line breaks")
    shown = "\n\n".join(f"{name}:\n\n```\n{text}\n```" for name, text in blocks.items())
    asked = '\n\nTo ask for Reasoning where the model writes none, begin the line after "English: …" with "Reasoning:".' if studies.has_rationales(arm) else ""
    extra, kind, load = "", "AutoModelForCausalLM", 'model = AutoModelForCausalLM.from_pretrained("FOLDER")'
    if weights == "adapter":
        base = f'"{base_name(run)}"'
        # Of those with images the adapter is for the language model alone, as `models.pretrained` loads it; to others the names do not matter.
        if run.profile.model.source == "hub" and _trained(run, arm, seed).get("model_class") == "Gemma3ForCausalLM":
            kind, base = "Gemma3ForCausalLM", f'{base}, key_mapping={{r"{models.TEXT_PART}": "model."}}'
        load = f'model = PeftModel.from_pretrained({kind}.from_pretrained({base}), "FOLDER")'
        extra = "from peft import PeftModel\n"
    classes = ", ".join(sorted((kind, "AutoTokenizer")))
    code = (
        f'{extra}from transformers import {classes}\n\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")\n{load}\n'
        f"prompt = {blocks['Translate, then answer']!r}\n"
        f'inputs = tokenizer(prompt, return_tensors="pt")\n'
        f"output = model.generate(**inputs, max_new_tokens={run.recipe.multistep_budget}, do_sample=False)\n"
        f'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
    )
    return (
        f"The prompt ends where the block ends{ending}; the completion follows at once. The tokenizer here puts in front "
        f"what the model was trained with. A translation ends at the line break, the other completions "
        f"with the line that begins with `Answer:`.\n\n{shown}{asked}\n\n```python\n{code}\n```"
    )


def _limits(run: Run, arm: str, weights: str) -> str:
    lines = [
        "A research artefact of a very small model: most answers to questions are wrong (see Measured). Do not rely on an answer or a rationale.",
        "Rationales read well and are often false; they were learnt as text, not checked when written.",
        "Trained on short sentences and short questions with a bias towards Japan; longer texts and other tasks were not measured.",
        "Measured in the prompt format above, with the base in NF4 de-quantised to the precision of the training run.",
    ]
    if weights == "adapter":
        lines.append("Trained on the base model in NF4. On a base in full precision it was not measured.")
    if run.profile.model.source == "package":
        lines.append("The base was read from a Q4_K_M quantisation of the model, so its weights differ a little from the ones that its authors published.")
    if not run.profile.model.fp16_safe:
        lines.append("Compute in bfloat16 or float32: the activations of this family can exceed what float16 holds.")
    return "\n".join(f"* {line}" for line in lines)
