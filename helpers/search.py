"""A search on the dev set: arms trained and decoded, or the base model prompted, in several ways, a row each; the test set is not looked at."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import (
    answers,
    assembly,
    attention,
    decoding,
    evaluation,
    fused,
    inference,
    models,
    packing,
    pipeline,
    prompts,
    runtime,
    scoring,
    studies,
)
from .files import ROOT, UserError, read_object, read_toml, write_json, write_text
from .profiles import Recipe
from .records import Record
from .runtime import Run

FOLDER = ROOT / "data" / "searches"
STAGES = ("S2", "S3", "S4", "S5")
# Settings of a variant's decoding, and their defaults. `draw` is which seeded draw of few-shot examples.
DECODING = {"shots": 0, "draw": 0, "samples": 1, "temperature": 0.7}
BASE = "base"


@dataclass(frozen=True)
class Search:
    """`variants` are (name, its settings) in the order of the file: fields of the recipe, or of `DECODING` (of the base model: of these alone).

    `recipe` holds the (field, value) that differ from the study's recipe in all of them.
    """

    name: str
    about: str
    study: str
    arm: str
    variants: tuple[tuple[str, dict], ...]
    recipe: tuple[tuple[str, int | float | str], ...] = ()


def load(name: str | Path) -> Search:
    """The search `name` of `data/searches`, or that of a TOML file. Raises `UserError` with the file, the field and what was expected."""
    path, found = read_toml(name, FOLDER, "search")
    unknown = sorted(found.keys() - {"about", "study", "arm", "recipe", "variants"})
    if unknown:
        raise UserError(f"{path}, {unknown[0]!r}: expected only about, study, arm, [recipe] and [variants.NAME] tables.")
    variants = found.get("variants")
    if not isinstance(variants, dict) or not variants or any(not isinstance(v, dict) for v in variants.values()):
        raise UserError(f"{path}, [variants]: expected a table for each variant, such as [variants.rank-8].")
    for variant in variants:
        # It becomes the name of a file.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", variant):
            raise UserError(f"{path}, [variants.{variant!r}]: expected a name of letters, digits, '.', '_' and '-', up to 64 of them.")
    about, study, arm = (found.get(k, d) for k, d in (("about", ""), ("study", "quick"), ("arm", studies.BASELINE)))
    types = {k: type(v) for k, v in DECODING.items()}
    if arm != BASE:
        types |= {f.name: type(f.default) for f in dataclasses.fields(Recipe)} | {"arm": str}
    for variant, settings in variants.items():
        for field, value in settings.items():
            if field == "seed" or field not in types or (type(value) is not types[field] and (types[field], type(value)) != (float, int)):
                wanted = "a field of the recipe other than seed, arm, or" if arm != BASE else "of the base model, which is not trained,"
                raise UserError(f"{path}, [variants.{variant}] {field}: expected {wanted} {', '.join(DECODING)}, with a value of its kind, found {value!r}.")
        _check_decoding(settings, lambda field, expected, variant=variant: UserError(f"{path}, [variants.{variant}] {field}: expected {expected}."))
        if not studies.is_arm(settings.get("arm", studies.BASELINE)):
            raise UserError(f"{path}, [variants.{variant}] arm: expected {studies.ARMS}, found {settings['arm']!r}.")
        recipe = _recipe(settings)
        studies.check_recipe(recipe, lambda field, expected, variant=variant: UserError(f"{path}, [variants.{variant}], {field}: expected {expected}."))
    for field, value in (("about", about), ("study", study), ("arm", arm)):
        if not isinstance(value, str):
            raise UserError(f"{path}, {field}: expected a text, found {value!r}.")
    if arm != BASE and not studies.is_arm(arm):
        raise UserError(f"{path}, arm: expected {BASE}, {studies.ARMS}, found {arm!r}.")
    recipe = found.get("recipe", {})
    studies.check_recipe(recipe, lambda field, expected: UserError(f"{path}, {field}: expected {expected}."))
    try:
        studies.load(study)
    except UserError as error:
        raise UserError(f"{path}, study: {error}") from error
    return Search(path.stem, about, study, arm, tuple(variants.items()), tuple(recipe.items()))


def _check_decoding(settings: dict, bad: Callable[[str, str], UserError]) -> None:
    shots, draw, samples, temperature = ({**DECODING, **settings}[k] for k in ("shots", "draw", "samples", "temperature"))
    if shots < 0:
        raise bad("shots", "a number of examples from 0")
    if draw < 0 or ("draw" in settings and not shots):
        raise bad("draw", "a number from 0, and shots above 0 beside it")
    if samples < 1:
        raise bad("samples", "a number from 1 (1: greedy)")
    if samples > 1 and shots:
        raise bad("samples", "no shots beside it: the samples are drawn without examples")
    if samples > 1 and temperature <= 0:
        raise bad("temperature", "a value above zero")
    if samples == 1 and "temperature" in settings:
        raise bad("temperature", "samples above 1 beside it: one answer is decoded greedily")


def execute(
    search: Search, *, profile: str = "auto", view: pipeline.View = lambda steps: lambda row: None, say: Callable[[str], None] = print,
    kept: Path | None = None,
) -> list[dict]:
    """Train (of the base model: prompt) and decode each variant on the dev set, a row each; goes on where it stopped, or from the variants in the file `kept`, brought up to date.

    Data and rationales are made once for each set of settings that they depend on; variants that differ in decoding alone share an adapter. What was measured with the same data and settings
    is kept, of older code too. Raises `UserError`.
    """
    home = runtime.open_run(f"search-{search.name}", profile, study=search.study, **dict(search.recipe))
    data = pipeline.ensure(home, say=say)
    known: dict[str, dict] = {}
    for path in (kept, home.path("search.json")):
        if path and path.exists():
            known |= read_object(path)
    done: dict[str, dict] = {}
    for number, (name, settings) in enumerate(search.variants):
        say(f"[{number + 1}/{len(search.variants)}] {name}")
        run = _folder(home, search, settings)
        data = pipeline.ensure(run, say=lambda line: None)
        # What was measured with older code is not measured again: remove it from the file for that.
        arm = settings.get("arm", search.arm)
        # What a search decodes with stands in its variants.
        recipe = dataclasses.replace(run.recipe, ask_base=False)
        given = {"settings": settings, "data": pipeline.fingerprint(run.profile.model, recipe, data.manifest["files"], arm)}
        if {k: known.get(name, {}).get(k) for k in given} == given:
            made = known[name]["made_from"] == _made_from(run, data, arm)
            say(f"Variant {name}: measured before{'' if made else ', with older code'}.")
            done[name] = known[name]
        else:
            folder = pipeline.train_arm(run, data, arm, view=view, say=say) if arm != BASE else None
            found = _measure(run, data, folder, arm, DECODING | settings)
            done[name] = given | {"made_from": _made_from(run, data, arm), "rows": [{"variant": name, "settings": _words(settings), **row} for row in found]}
        # What is known of later variants stays until they are looked at.
        for path in filter(None, (home.path("search.json"), kept)):
            write_json(path, known | done)
            write_text(path.with_suffix(".md"), table(search, home, [row for one in done.values() for row in one["rows"]]))
    for path in filter(None, (home.path("search.json"), kept)):
        write_json(path, done)
    return [row for one in done.values() for row in one["rows"]]


def _recipe(settings: dict) -> dict:
    return {k: v for k, v in settings.items() if k not in DECODING and k != "arm"}


def _made_from(run: Run, data: pipeline.Data, arm: str) -> list[str]:
    if arm == BASE:
        return assembly.hashes(*(Path(m.__file__) for m in (attention, decoding, fused, inference, evaluation, models, packing, prompts)))
    return [pipeline.training_key(run, data, arm), *assembly.hashes(*(Path(m.__file__) for m in (attention, decoding, fused, inference, packing)))]


def _folder(home: Run, search: Search, settings: dict) -> Run:
    """A run folder of its own for each recipe that is trained, with the data of the first."""
    changes = _recipe(settings)
    run = home
    if changes:
        # The name says what differs, so that variants of one recipe share it.
        label = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(f"{k}-{v}" for k, v in sorted(changes.items())))
        run = runtime.open_run(f"{home.folder.name}-{label}"[:64], home.profile.name, study=search.study, **dict(search.recipe) | changes)
        for part in ("data", "reasoning"):
            if not run.path(part).exists():
                shutil.copytree(home.path(part), run.path(part))
    return run


def _words(settings: dict) -> str:
    return ", ".join(f"{k} {v}" for k, v in settings.items()) or "as it is"


def _measure(run: Run, data: pipeline.Data, folder: Path | None, arm: str, settings: dict) -> list[dict]:
    """The rows of one variant; the base model, without a `folder`, is prompted as in `evaluation`: pairs as the examples of a translation."""
    tokenizer = models.load_tokenizer(run.profile)
    model = models.load_for_inference(run.profile, folder / "adapter" if folder else None)
    questions, pairs = data.questions["dev"], data.pairs["dev"]
    drawn = dataclasses.replace(run, profile=run.profile.replace(few_shot=settings["shots"])).with_seed(run.recipe.seed + settings["draw"])
    # A study's control problems get examples of their own kind; a search has one prompt for all, and takes the authored ones.
    pool = evaluation.examples_for(run, data, control=False) if folder is None else data.questions["train"]
    if settings["shots"] > len(pool):
        raise UserError(f"{settings['shots']} shots: there are {len(pool)} training questions to take them from.")
    shots = evaluation.shots(drawn, pool)
    asked = folder is not None and studies.reasons(arm)
    common: dict[str, object] = {"n": len(questions)}
    if folder:
        logs = [row for row in pipeline.training_logs(run)[arm, run.recipe.seed] if "dev_answer_loss" in row]
        common |= {k: logs[-1][k] for k in ("dev_answer_loss", "dev_translation_loss")}
    if settings["samples"] > 1:
        found = _voted(model, tokenizer, run, questions, asked, settings)
        return [common | row for row in _rows(found, questions)]
    examples = shots if settings["shots"] else ()
    # A base model is shown pairs for a translation, as in `evaluation`.
    pairs_shown = evaluation.shots(drawn, data.pairs["train"]) if settings["shots"] and not folder else examples
    found, (translated,) = inference.all_stages(
        model, tokenizer, run.profile, questions, translations=[([p.ja for p in pairs], pairs_shown)], asked=inference.REASONED if asked else (), shots=examples
    )
    chrf = scoring.chrf_interval([c.text for c in translated], [p.en for p in pairs])
    quality = {"chrf": chrf.value, "chrf_low": chrf.low, "chrf_high": chrf.high, "pairs": len(pairs)}
    return [common | quality | row for row in _rows(found, questions)]


def _voted(model, tokenizer, run: Run, questions: Sequence[Record], asked: bool, settings: dict) -> list[inference.Prediction]:
    """The answer that most samples agree on (arXiv 2203.11171), at S2 and S4; of a tie, the one that was sampled first."""
    found = []
    for stage in inference.PRIMARY:
        for reasoned in (False, True) if asked else (False,):
            drawn = [
                inference.stage(
                    model, tokenizer, run.profile, stage, questions, asked=reasoned, sampling=decoding.Sampling(settings["temperature"], seed=i)
                )
                for i in range(settings["samples"])
            ]
            for samples in zip(*drawn, strict=True):
                votes = Counter(answers.normalise_answer(p.answer) for p in samples if p.well_formed)
                chosen = votes.most_common(1)[0][0] if votes else None
                found.append(next((p for p in samples if chosen is not None and answers.normalise_answer(p.answer) == chosen), samples[0]))
    return found


def _rows(found: Sequence[inference.Prediction], questions: Sequence[Record]) -> list[dict]:
    gold = {r.id: r for r in questions}
    rows = []
    for asked in sorted({p.asked for p in found}):
        row: dict[str, object] = {"decoding": "asked" if asked else "free"}
        for stage in STAGES:
            done = [p for p in found if p.stage == stage and p.asked == asked]
            if done:
                right = scoring.accuracy([answers.exact_match(p.answer, gold[p.id].answer, gold[p.id].aliases) for p in done])
                row |= {stage: right.value, f"{stage}_low": right.low, f"{stage}_high": right.high}
            if done and stage == "S4":
                row |= {"well_formed": 100 * sum(p.well_formed for p in done) / len(done), "cut_off": 100 * sum(p.truncated for p in done) / len(done)}
        rows.append(row)
    return rows


def table(search: Search, run: Run, rows: Sequence[dict]) -> str:
    """The rows as a Markdown page."""

    def value(row: dict, key: str) -> str:
        return f"{row[key]:.1f} [{row[f'{key}_low']:.1f}, {row[f'{key}_high']:.1f}]" if key in row else ""

    lines = [f"# Search on dev: {search.name}, {search.arm}", "", search.about, ""]
    lines += [f"{run.profile.name}, seed {run.recipe.seed}; dev questions n={rows[0]['n']}, dev pairs n={rows[0].get('pairs', 0)}; percent right with 95 % intervals."]
    head = ["Variant", "Settings", "Decoding", "chrF++", *STAGES, "S4 well-formed", "S4 cut off", "Dev answer loss"]
    lines += ["", "| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for row in rows:
        cells = [row["variant"], row["settings"], row["decoding"], *(value(row, k) for k in ("chrf", *STAGES))]
        cells += [f"{row['well_formed']:.1f} %", f"{row['cut_off']:.1f} %", f"{row['dev_answer_loss']:.3f}" if "dev_answer_loss" in row else ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
