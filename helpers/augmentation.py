"""The rationales of a run: a teacher is asked, a reader looks, the gates refuse; then a training file for each arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from . import asking, corpora, edits, filters, gates, models, reasoning, records, teachers
from .assembly import Data, control_questions, fingerprint, hashes, is_fresh, own_file, short
from .display import asking_view
from .files import UserError, read_object, sha256, write_json
from .records import Record
from .runtime import Run
from .teachers import Teacher

# What is read of `augmentation.json` again.
_MARKED = {"made_from": str, "teacher": str, "questions": int, "proposed": dict}


def augment(
    run: Run,
    data: Data,
    say: Callable[[str], None] = print,
    *,
    teacher: Teacher | None = None,
    samples: int = 4,
    budget: asking.Budget | None = None,
    price: tuple[float, float] = (0.0, 0.0),
    progress: asking.Progress | None = None,
    chosen: Collection[str] | None = None,
) -> dict:
    """`reasoning/`: a training file for each arm (see `reasoning.write_arms`), and `data/train_reasoned.jsonl`; returns the manifest.

    The rationales come from `teacher` (default: the authored set and the user's own records), pass a reader (`reasoning/edits.jsonl`)
    and the gates of `helpers.gates`. `samples`, `budget`, `price` and `progress` as in `asking.collect`; what a teacher was asked for is
    never asked again. `chosen`: the ids of the records that carry a rationale, in place of a seeded draw. What a teacher made is kept by
    later calls without one. Raises `UserError`.
    """
    recipe, folder, train = run.recipe, run.path("reasoning"), data.questions["train"]
    marker, review = folder / "augmentation.json", folder / "edits.jsonl"
    code = hashes(*(Path(module.__file__) for module in (edits, gates, reasoning)))
    key = fingerprint(data.manifest["files"], recipe.reasoning_fraction, recipe.seed, code, hashes(review))
    before = read_object(marker, **_MARKED) if marker.exists() else {}
    same = is_fresh(marker, key, folder / "manifest.json", run.path("data", "train_reasoned.jsonl"))
    if teacher is None and chosen is None:
        if same:
            say(f"Rationales: found in {short(folder)}, by {before['teacher']}.")
            return before
        if before.get("teacher", "authored") != "authored" or before.get("chosen"):
            raise UserError(
                f"{folder}: the rationales there ({before['teacher']}) were made from other data or settings. Run notebook 02 again with "
                "its teacher (what it has answered is not asked again), or remove this folder."
            )
    say("Rationales: none for these settings in the run folder, so they are put on now.")
    teacher = teacher or teachers.authored(library_of(run))
    tokens = filters.token_counter(models.load_tokenizer(run.profile, say))

    def count(text: str) -> int:
        return tokens([text])[0]

    asked = asking.collect(
        teacher, train, folder / "asked.jsonl", samples=samples, accept=lambda r, text: gates.gate(r, text, count_tokens=count),
        budget=budget, price=price, progress=progress or asking_view(), say=say,
    )  # fmt: skip
    # A refused one too: a reader may mend it.
    proposed = {i: text for i, _, text in asked.refused if text} | asked.accepted
    read, left = reasoning.reviewed(train, proposed, edits.EditStore(review, say).decisions())
    for record_id, why in left:
        say(f"Rationale of {record_id}: left out ({why}).")
    held = [r for split in ("dev", "test") for r in (*data.questions[split], *data.pairs[split])]
    accepted, outcomes = gates.check(train, read, held, count_tokens=count)
    reasoning.write_arms(
        folder, train, accepted, count_tokens=count, fractions=(0.2, recipe.reasoning_fraction, 0.67, 1.0), control=recipe.reasoning_fraction,
        seed=recipe.seed, chosen=chosen, teachers=teacher.name, licences={"authored": "CC BY 4.0"},
    )  # fmt: skip
    mixed = reasoning.mix(train, accepted, recipe.reasoning_fraction, recipe.seed, chosen)
    path = records.write(run.path("data", "train_reasoned.jsonl"), mixed)
    if chosen is not None:
        say(f"Your list of {len(set(chosen)):,} records is the arm reasoned-{round(100 * len(set(chosen)) / len(train))}.")
    # What was asked for counts in whichever run that was: a call that goes on after a kill has asked for the rest only.
    manifest = {
        "made_from": key,
        "teacher": teacher.name if teacher.name == teacher.model else f"{teacher.name} {teacher.model}".strip(),
        "prompt_version": teacher.prompt_version,
        "fraction": recipe.reasoning_fraction,
        "chosen": sorted(chosen) if chosen is not None else None,
        "questions": len(mixed),
        "with_reasoning": sum(bool(r.reasoning) for r in mixed),
        "outcomes": dict(Counter(outcomes.values())),
        "proposed": {i: [text, outcomes.get(i, "missing")] for i, text in proposed.items()},
        "acceptance": gates.acceptance(train, outcomes, teacher.name),
        "asked": {"requests": sum(asked.outcomes.values()), "tokens_in": asked.tokens_in, "tokens_out": asked.tokens_out, "cost": asked.cost, "left": asked.left},
        "files": {path.name: sha256(path)},
    }
    write_json(marker, manifest)
    return manifest


def teacher(run: Run, name: str = "authored", model: str = "", base_url: str = "", say: Callable[[str], None] = print) -> Teacher:
    """The teacher called `name`: `authored`, `worked`, `local` (an instruct model here) or `endpoint` (an OpenAI-compatible server).

    Raises `UserError` for another name.
    """
    library = library_of(run)
    if name == "authored":
        return teachers.authored(library)
    if name == "worked":
        return teachers.by_program()
    if name == "local":
        return teachers.local(model, library=library, say=say)
    if name == "endpoint":
        from .endpoint import endpoint

        return endpoint(model, base_url, library=library)
    raise UserError(f"Unknown teacher {name!r}. Known: authored, worked, local, endpoint.")


def library_of(run: Run) -> list[Record]:
    """The records that bring a rationale: the authored ones, those of the positive control and the user's own."""
    return [*corpora.questions(), *control_questions(run), *(records.read(own_file(run)) if own_file(run).exists() else [])]


def compare(run: Run, data: Data, by: Teacher, some: Sequence[Record], samples: int = 1, say: Callable[[str], None] = print) -> list[dict]:
    """The rows of `gates.acceptance` for a teacher asked about `some` training questions; nothing is put on. Raises `UserError`."""
    asked = asking.collect(
        by, some, run.path("reasoning", "asked.jsonl"), samples=samples, accept=gates.gate, progress=asking_view(), say=say
    )  # fmt: skip
    read = {i: text for i, _, text in asked.refused if text} | asked.accepted
    _, outcomes = gates.check(some, read, [r for split in ("dev", "test") for r in data.questions[split]])
    return gates.acceptance(some, outcomes, by.name)


def arm_files(run: Run) -> list[dict]:
    """The training files that `augment` has written, a row a file. Raises `UserError` when it has not."""
    return [{"file": name, **facts} for name, facts in read_object(run.path("reasoning", "manifest.json"), files=dict)["files"].items()]


def for_review(run: Run, data: Data) -> list[tuple[Record, str, str]]:
    """(record, rationale, gate's code) of every rationale proposed for a training question, as `review.rationale_review` takes them."""
    marker = run.path("reasoning", "augmentation.json")
    proposed = read_object(marker, **_MARKED)["proposed"]
    for record_id, pair in proposed.items():
        if not isinstance(pair, list) or [type(part) for part in pair] != [str, str]:
            raise UserError(f"{marker}, field 'proposed', record {record_id!r}: expected a rationale and the gate's word. Run notebook 02 again.")
    outcome = {"accepted": ""}
    return [(r, text, outcome.get(code, code)) for r in data.questions["train"] if r.id in proposed for text, code in [proposed[r.id]]]
