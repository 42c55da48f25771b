"""Score a model on a file of your own: translation where a row has English, the stages of the multistep task where it has answers."""

from __future__ import annotations

import difflib
import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import answers, display, evaluation, formats, inference, pipeline, runtime, scoring, studies, tables
from .assembly import short
from .files import UserError, whole_file, write_json
from .profiles import choose
from .progress import cut
from .records import _SURROGATE, Record, RecordError
from .results import DECODINGS
from .runtime import Run

FIELDS = ("id", "ja", "en", "answer", "answers", "aliases")  # and "task", which tells a sentence pair of this program
LONGEST = 2_000  # characters of a text: phi-2 has a context of 2,048 tokens
STEPS = ("right", "chaining", "translation", "knowledge/reasoning")
Progress = Callable[[str, int, int], None]


def open_run(name: str = "default", profile: str = "auto", study: str = "") -> Run:
    """The run folder `name`, with the profile, study and recipe that it was begun with; one that is not there is not begun by this.

    `study` is needed for a folder begun with a study file of one's own. Raises `UserError`.
    """
    marker = runtime.runs_folder() / name / "run.json"
    if marker.exists():
        begun = runtime.read_settings(marker)
        return runtime.open_run(name, profile, study=study or str(begun.get("study", "quick")), **begun["changes"])
    chosen = studies.load(study or "quick")
    wanted = chosen.profile if profile == "auto" else profile
    found = choose(wanted, cuda=runtime.device().kind == "cuda").replace(**dict(chosen.recipe))
    return Run(marker.parent, found, chosen)


def trained(run: Run) -> dict[str, list[int]]:
    """The arms that have an adapter in the run folder, each with its seeds."""
    found: dict[str, list[int]] = {}
    for path in sorted(run.path("arms").glob("*/seed*/adapter/adapter_model.safetensors")):
        arm, seed = path.parts[-4], path.parts[-3][4:]
        if seed.isdigit():
            found.setdefault(arm, []).append(int(seed))
    return {arm: sorted(seeds) for arm, seeds in found.items()}


def read(path: str | Path | formats.Raw, say: Callable[[str], None] = print) -> list[Record]:
    """The rows of an evaluation file: `qa` records where there are answers (`en` is "" where there is none), else `translate` records.

    A row has `id`, `ja`, and `en` or accepted answers or both: `answers` (a list of texts), or `answer` (one text) with `aliases`. Rows come
    from JSONL or what else `formats.load` reads; in a table, lists are split at "|" and ";". Fields beyond those are named by `say`, unless
    one looks misspelt. Raises `RecordError` with the first problem (file, line, field, what was expected) and the number of others.
    """
    raw = path if isinstance(path, formats.Raw) else formats.load(path)
    table = formats.table(raw)
    for note in table.notes:
        say(note)
    json_rows = raw.kind in (".jsonl", ".ndjson", ".json")
    columns = {} if json_rows else {c: f for f, c in tables.guess_columns(table.header).items() if f in FIELDS and f not in table.header}
    twice = next((c for c in table.header if table.header.count(c) > 1), "")
    if twice:
        raise RecordError(f"{raw.name}: the column {cut(twice[:80], 40)!r} is there twice. Rename one of them.")
    if columns:
        say(f"{raw.name}: " + ", ".join(f"{f} is the column {cut(c[:80], 40)!r}" for c, f in columns.items()) + ".")
    found, first, broken = [], "", 0
    seen: dict[str, str] = {}
    for where, cells in table.rows:
        try:
            if isinstance(cells, str):
                raise ValueError(cells)
            record = _record({columns.get(c, c): value for c, value in cells.items()}, json_rows)
            if record.id in seen:
                raise _wrong("id", f"a unique id, {cut(record.id[:80], 40)!r} is there before ({seen[record.id]})")
        except ValueError as error:
            broken += 1
            first = first or f"{where}, {error}"
        else:
            seen[record.id] = where.rsplit(", ", 1)[-1]
            found.append(record)
    tables.refuse(first, broken)
    if not found:
        raise RecordError(f"{raw.name}: no rows. Each line is a JSON object with id, ja, and en or answers or both.")
    unused = [c for c in table.header if columns.get(c, c) not in (*FIELDS, "task")]
    if unused:
        say(f"{raw.name}: fields not used: {', '.join(cut(c[:80], 40) for c in unused[:30])}{' …' if len(unused) > 30 else ''}.")
    return found


def _wrong(field: str, expected: str) -> ValueError:
    return ValueError(f"field {cut(field[:80], 40)!r}: expected {expected}")


def _record(cells: Mapping[str, Any], json_row: bool) -> Record:
    """Raises `ValueError` with the field and what was expected."""
    given = {name: value for name, value in cells.items() if value is not None and (json_row or not _is_blank(value))}
    if given.get("task") == "translate" and given.get("answer") == "":
        del given["answer"]  # a sentence pair as this program writes it
    for name in given:
        if meant := _meant(name, given):
            raise _wrong(name, f"one of {', '.join(FIELDS)}; it looks like {meant!r}: rename it, or remove it")
    for name in ("id", "ja"):
        if name not in given:
            raise _wrong(name, "a value, this field is required")
    if type(given["id"]) is int:
        given["id"] = str(given["id"])
    if "answer" in given and "answers" in given:
        raise _wrong("answers", "either 'answer' or 'answers', found both")
    texts = {name: _text(name, given[name], json_row) for name in ("id", "ja", "en", "answer") if name in given}
    accepted = _list("answers", given["answers"], json_row) if "answers" in given else [texts["answer"]] if "answer" in texts else []
    others = _list("aliases", given["aliases"], json_row) if given.get("aliases") not in (None, [], ()) else []
    if others and not accepted:
        raise _wrong("aliases", "an 'answer' that they are aliases of")
    if not accepted and "en" not in texts:
        raise _wrong("en", "English in 'en', accepted answers in 'answers' or 'answer', or both, found neither")
    for answer in accepted + others:
        if not answers.normalise_answer(answer):
            raise _wrong("answers" if "answers" in given else "answer", f"a text with a letter or digit in it, found {cut(answer[:80], 40)!r}")
    best, *rest = dict.fromkeys(accepted + others) or [""]
    return Record(texts["id"], "qa" if best else "translate", texts["ja"], texts.get("en", ""), best, tuple(rest))


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _meant(name: str, given: Mapping[str, Any]) -> str:
    """The field that an unknown field looks like, by its spelling, or by its usual name where that field is not in the row; else ""."""
    if name in FIELDS:
        return ""
    key = tables._key(name)
    if key in FIELDS:
        return key
    # Two letters are near too many names that mean something else.
    near = difflib.get_close_matches(key, FIELDS[3:], 1, 0.8)
    if near and abs(len(key) - len(near[0])) <= 1:
        return near[0]
    usual = next((field for field in tables.guess_columns([name]) if field in FIELDS), "")
    has = {*given, *(["answer"] if "answers" in given else [])}
    return "" if usual in has else usual


def _text(name: str, value: Any, json_row: bool) -> str:
    if not json_row:
        try:
            value = tables._text(value)
        except ValueError as error:
            raise _wrong(name, str(error)) from error
    if not isinstance(value, str):
        raise _wrong(name, f"a text, found {type(value).__name__}")
    if not value.strip():
        raise _wrong(name, "a text that is not empty (leave the field out where there is none)")
    if _SURROGATE.search(value):
        raise _wrong(name, "text that UTF-8 can hold, found half of a surrogate pair")
    if len(value) > LONGEST:
        raise _wrong(name, f"at most {LONGEST:,} characters, found {len(value):,}")
    return value.strip()


def _list(name: str, value: Any, json_row: bool) -> list[str]:
    if not json_row:
        try:
            value = tables._list(value)
        except ValueError as error:
            raise _wrong(name, str(error)) from error
    if not isinstance(value, list) or not value:
        raise _wrong(name, "a list of texts with at least one in it")
    return [_text(name, item, True) for item in value]


def evaluate(
    run: Run,
    path: str | Path,
    model: str = "base",
    seed: int | None = None,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score the base model or a trained arm of a run on a file (see `read`): the summary, and the `folder` it was written to.

    Where a row has `en`: S1. Where it has answers: S3, S4, S5, and with `en` S2 and the first broken step; an arm that learnt from Reasoning
    does S2 to S4 a second time, asked for it. The base model gets the study's few-shot examples where the run has training data. Without
    `seed`, an arm's first one. Decoding is greedy. Rates are percent, intervals 95 %. `predictions.jsonl` holds a row a prediction with
    what it was scored against, `summary.json` the numbers. Raises `UserError`, `RecordError`.
    """
    raw = formats.load(path)
    rows = read(raw, say)
    model, seed, given = _which(run, model, seed)
    folder = _folder(run, f"{raw.stem}-{model}" + ("" if given is None else f"-seed{given}"))
    data = pipeline.load(run) if run.path("data", "manifest.json").exists() else None
    shots = _shots(run, data) if model == "base" and data else {"questions": [], "sentences": []}
    kinds = sorted({"questions" if r.answer else "sentences" for r in rows})
    shown = [r for kind in kinds for r in shots[kind]]
    prompt = "as it was trained" if model != "base" else f"few-shot with {', '.join(f'{len(shots[k])} training {k}' for k in kinds)}"
    if model == "base" and not shown:
        prompt = f"zero-shot (the run {run.folder.name} has no training records to show it)"
    known = shown if model == "base" else [r for d in (data.pairs, data.questions) for r in d["train"]] if data else None
    begun = time.monotonic()
    show = progress or display.prediction_view()
    loaded = _load(run, model, seed, say)
    found = _predict(loaded, rows, shots, studies.reasons(model), lambda done, total: show(_label(model, seed), done, total))
    del loaded
    # Models hold reference cycles; two of them at once may not fit on a GPU.
    gc.collect()
    scored = list(_scored(rows, found))
    summary = {
        "file": Path(raw.name).name,
        "sha256": raw.sha256,
        "run": run.folder.name,
        "profile": run.profile.name,
        "model": model,
        "seed": seed,
        "prompt": prompt,
        "shots": [r.id for r in shown],
        "rows": {"all": len(rows), "en": sum(bool(r.en) for r in rows), "answers": sum(bool(r.answer) for r in rows),
                 "both": sum(bool(r.en and r.answer) for r in rows), "like_training": _resembling(rows, known)},
        "translation": _translation(scored),
        "stages": list(_stages(scored)),
        "broken": list(_broken(scored)),
        "seconds": round(time.monotonic() - begun, 1),
        "tokens": sum(p.tokens for p in found),
    }  # fmt: skip
    with whole_file(folder / "predictions.jsonl") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in scored)
        # Before the rename: an interruption must not leave an old summary beside new predictions.
        (folder / "summary.json").unlink(missing_ok=True)
    write_json(folder / "summary.json", summary)
    say(table(summary))
    say(f"Written: {folder / 'predictions.jsonl'}, {folder / 'summary.json'}")
    return summary | {"folder": folder}


def _which(run: Run, model: str, seed: int | None) -> tuple[str, int | None, int | None]:
    """Model, the seed to use and the seed asked for. Raises `UserError` for what is not trained in this run."""
    if model == "base":
        if seed is not None:
            raise UserError("The base model has no seed: leave --seed out, or name an arm with --model.")
        return model, None, None
    there = trained(run)
    if model not in there:
        known = "; ".join(f"{arm} (seed {', '.join(map(str, seeds))})" for arm, seeds in there.items())
        rest = f"Trained there: {known}; or give base." if known else "No arm is trained there yet (notebook 03, or the commands run and study)."
        raise UserError(f"{short(run.folder)}: no trained adapter of {cut(model[:80], 40)!r}. {rest}")
    if seed is not None and seed not in there[model]:
        raise UserError(f"{short(run.folder)}: {model} is not trained with seed {seed}. Seeds there: {', '.join(map(str, there[model]))}.")
    return model, there[model][0] if seed is None else seed, seed


def _folder(run: Run, name: str) -> Path:
    """Made first, so that a folder that cannot be written says so before the model has worked."""
    folder = run.path("evaluations", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}). Choose another folder (BONSAI_RUNS), or a shorter file name.") from error
    return folder


def _shots(run: Run, data: pipeline.Data) -> dict[str, list[Record]]:
    """The examples that the study gives the base model for authored questions and for sentences."""
    questions, reasoned = [r for r in data.questions["train"] if not evaluation.is_control(r)], run.path("reasoning", "accepted.json")
    if reasoned.exists():
        accepted = pipeline.rationales(run)
        questions = [r for r in questions if r.id in accepted]
    return {"questions": evaluation.shots(run, questions), "sentences": evaluation.shots(run, data.pairs["train"])}


def _resembling(rows: Sequence[Record], known: Sequence[Record] | None) -> int | None:
    """How many rows are all but copies of what the model was shown; None where the training data are not there."""
    from .similarity import Contamination

    if known is None:
        return None
    guard = Contamination(known)
    return sum(guard.match(r) is not None for r in rows)


def _load(run: Run, name: str, seed: int | None, say: Callable[[str], None]) -> tuple:
    from . import models

    tokenizer = models.load_tokenizer(run.profile, say)
    adapter = None if seed is None else pipeline.arm_folder(run.with_seed(seed), name) / "adapter"
    return models.load_for_inference(run.profile, adapter, say), tokenizer, run.profile


def _predict(
    model: tuple, rows: Sequence[Record], shots: Mapping[str, Sequence[Record]], reasons: bool, progress: Callable[[int, int], None]
) -> list[inference.Prediction]:
    """Predictions in the order of stage, decoding and row."""
    questions, sentences = [r for r in rows if r.answer], [r for r in rows if not r.answer]
    gold = [r for r in questions if r.en]
    decodings = (False, True) if reasons else (False,)
    total, done = len(rows) + len(decodings) * (len(gold) + 2 * len(questions)) + len(questions), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    def call(stage: str, some: Sequence[Record], kind: str = "questions", **options) -> list[inference.Prediction]:
        return inference.stage(*model, stage, some, shots=shots[kind], progress=step, **options) if some else []

    found = call("S1", questions) + call("S1", sentences, "sentences")
    english = {p.id: p.english for p in found}
    for asked in decodings:
        found += call("S2", gold, asked=asked)
        found += call("S3", questions, asked=asked, english=[english[r.id] for r in questions])
        found += call("S4", questions, asked=asked)
    found += call("S5", questions)
    place = {r.id: i for i, r in enumerate(rows)}
    return sorted(found, key=lambda p: (p.stage, p.asked, place[p.id]))


def _scored(rows: Sequence[Record], found: Iterable[inference.Prediction]) -> Iterator[dict[str, Any]]:
    """A row a prediction, with what it is scored against; `exact` and `lenient` are None at S1."""
    by_id = {r.id: r for r in rows}
    for p in found:
        record = by_id[p.id]
        gold = () if p.stage == "S1" else (record.answer, record.aliases)
        exact, lenient = (match(p.answer, *gold) if gold else None for match in (answers.exact_match, answers.lenient_match))
        accepted = [record.answer, *record.aliases] if record.answer else []
        yield p.to_dict() | {"ja": record.ja, "en": record.en, "answers": accepted, "exact": exact, "lenient": lenient}


def _rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: 100 * sum(bool(r[name]) for r in rows) / len(rows) for name in ("well_formed", "truncated")}


def _translation(scored: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    some = [r for r in scored if r["stage"] == "S1" and r["en"]]
    if not some:
        return None
    outputs, references = [r["english"] for r in some], [r["en"] for r in some]
    corpus = scoring.corpus_scores(outputs, references)
    # No interval can be drawn from one sentence.
    interval = scoring.chrf_interval(outputs, references) if len(some) > 1 else None
    return {"stage": "S1", "n": len(some), "chrf": corpus["chrf"], "low": interval and interval.low, "high": interval and interval.high,
            "bleu": corpus["bleu"], **_rates(some), "signatures": {"chrF++": corpus["chrf_signature"], "BLEU": corpus["bleu_signature"]}}  # fmt: skip


def _stages(scored: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for row in scored:
        if row["stage"] != "S1":
            groups.setdefault((row["stage"], row["asked"]), []).append(row)
    for (stage, asked), some in groups.items():
        exact, lenient = (scoring.accuracy([r[name] for r in some]) for name in ("exact", "lenient"))
        yield {"stage": stage, "decoding": DECODINGS[asked], "n": len(some), "exact": exact.value, "exact_low": exact.low, "exact_high": exact.high,
               "lenient": lenient.value, "lenient_low": lenient.low, "lenient_high": lenient.high, **_rates(some)}  # fmt: skip


def _broken(scored: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first broken step of S4, counted over the rows that have S2, S3 and S4, for each decoding."""
    right = {(r["stage"], r["asked"], r["id"]): r["exact"] for r in scored}
    for asked in sorted({asked for stage, asked, _ in right if stage == "S2"}):
        ids = [i for stage, how, i in right if stage == "S2" and how == asked]
        steps = [answers.first_broken_step(*(right[s, asked, i] for s in ("S2", "S3", "S4"))) or "right" for i in ids]
        yield {"decoding": DECODINGS[asked], "n": len(ids), **{step: steps.count(step) for step in STEPS}}


def table(summary: Mapping[str, Any]) -> str:
    """A summary as lines of text."""
    n, one, stages = summary["rows"], summary["translation"], summary["stages"]
    lines = ["", f"{summary['file']}: {n['all']:,} rows, {n['en']:,} with English, {n['answers']:,} with answers, {n['both']:,} with both",
             f"{_label(summary['model'], summary['seed'])} of the run {summary['run']} ({summary['profile']}), prompted {summary['prompt']}"]  # fmt: skip
    if n["like_training"]:
        what = "the examples in its prompt" if summary["model"] == "base" else "records that this arm was trained on"
        lines.append(f"Careful: {n['like_training']:,} of the rows are much like {what}.")
    if n["like_training"] is None:
        lines.append("Not checked: whether rows are much like those that the arm was trained on (the run has no data).")

    def line(name: str, count: str, first: str, second: str, well_formed: str, truncated: str) -> None:
        lines.append(f"{name:9}{count:>6}{first:>21}{second:>21}{well_formed:>15}{truncated:>13}")

    def rates(row: Mapping[str, Any]) -> tuple[str, str]:
        return f"{row['well_formed']:.1f}", f"{row['truncated']:.1f}"

    def interval(row: Mapping[str, Any], key: str, low: str, high: str) -> str:
        return f"{row[key]:.1f}" + ("" if row[low] is None else f" [{row[low]:.1f}, {row[high]:.1f}]")

    lines.append("")
    if one:
        line("", "n", "chrF++ [95 %]", "BLEU", "well-formed %", "truncated %")
        line("S1", f"{one['n']:,}", interval(one, "chrf", "low", "high"), f"{one['bleu']:.1f}", *rates(one))
        lines.append("")
    if stages:
        line("", "n", "exact % [95 %]", "lenient % [95 %]", "well-formed %", "truncated %")
    for row in stages:
        matches = (interval(row, k, f"{k}_low", f"{k}_high") for k in ("exact", "lenient"))
        line(row["stage"] + (" asked" if row["decoding"] == "asked" else ""), f"{row['n']:,}", *matches, *rates(row))
    for row in summary["broken"]:
        lines.append(f"First broken step of S4, {row['decoding']} (n={row['n']:,}): {', '.join(f'{step} {row[step]:,}' for step in STEPS)}")
    shown = dict.fromkeys((["S1"] if one else []) + [row["stage"] for row in stages])
    lines += ["", *(f"{stage} {inference.STAGES[stage]}" for stage in shown)]
    if any(row["decoding"] == "asked" for row in stages):
        lines.append("asked: its Reasoning is begun for the model; free: it writes what it likes")
    return "\n".join(lines + [f"{name} {signature}" for name, signature in (one["signatures"] if one else {}).items()])


def _label(model: str, seed: int | None) -> str:
    return model if seed is None else f"{model} seed {seed}"
