"""Run a study: what it will take, then every (arm, seed) trained and evaluated, one after the other or several at once; what is done is kept."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from . import (
    architectures,
    assembly,
    checkpoints,
    corpora,
    distributed,
    evaluation,
    inference,
    memory,
    models,
    pipeline,
    profiles,
    reasoning,
    studies,
)
from .evaluation import System
from .files import ROOT, UserError, read_json, read_object, whole_file, write_json, write_text
from .progress import clock
from .records import Record
from .runtime import GPU_JOBS, Run, cores, device, gflops, gpu_gib, quiet

# Tokens an S-stage answer takes on average, measured on the default run (S1 18, S2 6, S4 28; with Reasoning 45 more).
TOKENS = {"S1": 18, "S2": 8, "S3": 8, "S4": 30, "S5": 8}
REASONED = 45
# What is kept of training beside the predictions.
TRAINING = ("log.jsonl", "done.json")
JUDGED = "judged.jsonl"
# Without a log of this profile: tokens a second of training and of generation for each GFLOP/s of the processor and billion parameters (2 cores of an AMD EPYC).
PER_GFLOPS = 0.24, 0.15
# Processes at one GPU, at most: beyond, they wait for each other.
AT_ONCE = 6


@dataclass(frozen=True)
class Job:
    """One (arm, seed): `steps` of training, `seconds` expected for training and prediction, and what of it is done."""

    arm: str
    seed: int
    steps: int
    train_seconds: float
    predict_seconds: float
    trained: bool
    predicted: bool


def plan(run: Run, kept: Path | None = None) -> list[Job]:
    """What the study will run, in order, the base model first; seconds are estimates from earlier logs of this profile, else from a probe.

    What lies in `kept` counts as done once the data are there to compare with.
    """
    # What was made with other settings or code will be made again.
    data = pipeline.load(run) if pipeline.is_curated(run) else None
    put_on = data is not None and run.path("reasoning", "manifest.json").exists()
    questions = data.questions["train"] if data else _training_questions(run)
    per_second = _rates(run)
    jobs = []
    for system in evaluation.systems(run):
        steps, tokens = (0, 0.0) if system.name == "base" else _training(run, questions, system.name)
        trained = system.adapter is None or (put_on and pipeline.is_trained(run.with_seed(system.seed), data, system.name))
        predicted = data is not None and _is_there(run, data, system, kept)
        trained = trained or predicted
        jobs.append(
            Job(system.name, system.seed, steps, tokens / per_second[0], _to_predict(run, system) / per_second[1], trained, predicted)
        )
    return jobs


def _training_questions(run: Run) -> list[Record]:
    authored = [r for r in corpora.questions() if r.split == "train"]
    chosen = set(reasoning.ranking(authored)[: run.recipe.questions or None])
    control = [r for r in assembly.control_questions(run) if r.split == "train"]
    return [r for r in authored if r.id in chosen] + control


def _training(run: Run, questions: list[Record], arm: str) -> tuple[int, float]:
    """Optimiser steps of an arm, and its tokens; the shared steps count with the first arm of a seed."""
    recipe = run.recipe
    share = int(arm.split("-")[1]) / 100 if arm.startswith(("reasoned", "explained")) else recipe.reasoning_fraction
    reasoned = share * studies.has_rationales(arm)
    examples = (2 * len(questions) * (1.3 if arm.endswith("matched") else 1)) * recipe.question_epochs
    replayed = min(recipe.replay_pairs, recipe.train_pairs)
    pairs = recipe.train_pairs - replayed
    batch = recipe.batch_size * recipe.accumulation
    tokens = examples * (58 + REASONED * reasoned) + 38 * (replayed + (pairs if arm == run.study.arms[0] else 0))
    return pairs // batch + int(examples + replayed) // batch, tokens


def _to_predict(run: Run, system: System) -> float:
    recipe, asked = run.recipe, evaluation.asked_stages(run, system)
    authored, control = recipe.test_questions or sum(r.split == "test" for r in corpora.questions()), recipe.control_test
    # By the base model with examples and without.
    translated = recipe.test_pairs * TOKENS["S1"] * (2 if system.name == "base" else 1)

    def tokens(stages: Iterable[str]) -> float:
        return sum(TOKENS[s] for s in stages) + sum(TOKENS[s] + REASONED for s in stages if s in asked)

    return translated + authored * tokens(TOKENS) + control * tokens(inference.PRIMARY)


def _rates(run: Run) -> tuple[float, float]:
    """Tokens a second of training and of generation on this machine: what the newest log of this profile says, else a probe."""
    logs, marks = [], []
    for folder in _alike(run):
        logs += folder.glob("arms/*/seed*/log.jsonl")
        marks += folder.glob("predictions/**/done.json")
    newest = (_rows(path) for path in _by_age(logs))
    trained = next((rates for rows in newest if (rates := [row["tokens_per_second"] for row in rows if "tokens_per_second" in row])), None)
    predicted = next((rate for path in _by_age(marks) if (rate := _rate(path))), None)
    speed = gflops(device(run.profile.model.fp16_safe)) / _billions(run) if not (trained and predicted) else 0.0
    return statistics.median(trained) if trained else PER_GFLOPS[0] * speed, predicted or PER_GFLOPS[1] * speed


def _alike(run: Run) -> list[Path]:
    """Run folders of this profile; one whose settings cannot be read has nothing to say of time and memory."""
    found = []
    for marker in sorted(run.folder.parent.glob("*/run.json")):
        with contextlib.suppress(UserError):
            if read_object(marker).get("profile") == run.profile.name:
                found.append(marker.parent)
    return found


def _rows(log: Path) -> list[dict]:
    with contextlib.suppress(UserError):
        return checkpoints.read_log(log, partial=True)
    return []


def _billions(run: Run) -> float:
    """Parameters of the model, 10⁹; of one that is not known here, what the smallest has."""
    with contextlib.suppress(UserError):
        return architectures.find(run.profile.model.identifier).parameters / 1e9
    return 0.27


def _rate(path: Path) -> float:
    tokens = seconds = None
    with contextlib.suppress(UserError):
        marker = read_object(path)
        tokens, seconds = marker.get("tokens"), marker.get("seconds")
    return tokens / seconds if isinstance(tokens, int) and isinstance(seconds, int | float) and seconds > 0 else 0.0


def _by_age(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda p: p.stat().st_mtime, reverse=True)


def memory_gb(run: Run) -> float | None:
    """Peak memory that this profile's logs report, in GB (10⁹ bytes); None where there are none yet."""
    found = []
    for folder in _alike(run):
        for path in folder.glob("arms/*/seed*/log.jsonl"):
            found += [row["peak_memory_gb"] for row in _rows(path) if "peak_memory_gb" in row]
    return max(found, default=None)


def describe(run: Run, jobs: list[Job]) -> str:
    """The plan as text: a line a job, and the sum of what is left."""
    lines = [f"Study {run.study.name} with {run.profile.name}: {run.study.about}", ""]
    lines.append(f"  {'arm':22}{'seed':>5}{'steps':>7}{'train':>9}{'predict':>9}  state")
    left = 0.0
    for job in jobs:
        state = "done" if job.trained and job.predicted else "trained" if job.trained and job.arm != "base" else "to do"
        left += (0 if job.trained else job.train_seconds) + (0 if job.predicted else job.predict_seconds)
        seed = "" if job.seed < 0 else job.seed
        lines.append(f"  {job.arm:22}{seed:>5}{job.steps or '':>7}{clock(job.train_seconds):>9}{clock(job.predict_seconds):>9}  {state}")
    peak = memory_gb(run)
    together = f" one after the other, {most} at once here" if (most := at_once(run)) > 1 else ""
    lines += ["", f"Left: about {clock(left)}{together}. Peak memory: {f'{peak:.1f} GB' if peak else 'not measured on this machine yet'}."]
    return "\n".join(lines)


def execute(
    run: Run,
    *,
    view: pipeline.View = lambda steps: lambda row: None,
    progress: Callable[[str, int, int], None] = lambda system, done, total: None,
    done: Callable[[System], None] = lambda system: None,
    say: Callable[[str], None] = print,
    kept: Path | None = None,
    jobs: int = 1,
) -> pipeline.Data:
    """Curate, put rationales on, then train and evaluate each (arm, seed) in turn; goes on where it stopped, or from the results in `kept`.

    Results in `kept` are taken as they are when data and settings are the same, of older code too: the report says which those are. What an (arm,
    seed) finished comes to is copied there, and `done` is called. With `jobs` so many are at work at once, each in a process of its own: a small
    model leaves most of a large GPU idle, and cores that work on one matrix wait for each other. Raises `UserError`.
    """
    data = pipeline.ensure(run, say=say)
    if kept:
        _restore_judged(run, kept)
    if jobs > 1:
        _together(run, data, kept, jobs, say)
    for number, system in enumerate(evaluation.systems(run)):
        say(f"[{number + 1}/{len(run.study.jobs) + 1}] {system.label}")
        _one(run, data, system, kept, view, progress, say)
        done(system)
    return data


def _one(run: Run, data: pipeline.Data, system: System, kept: Path | None, view: pipeline.View, progress, say) -> None:
    if kept and not evaluation.is_predicted(run, data, system) and restore(run, data, system, kept, older=True):
        say(f"Results of {system.label}: taken from {kept}.")
    else:
        if system.adapter and not evaluation.is_predicted(run, data, system):
            pipeline.train_arm(run.with_seed(system.seed), data, system.name, view=view, say=say)
        evaluation.predict(run, data, some=[system], progress=progress, say=say)
    if kept:
        keep(run, data, system, kept)


def at_once(run: Run) -> int:
    """How many (arm, seed) this machine has room for at once: 1 without a GPU, else as many as its memory holds with every activation kept, and two cores each, up to `AT_ONCE`."""
    recipe, budget = run.recipe, gpu_gib()
    if not budget:
        return 1
    try:
        each = memory.plan(memory.known(run.profile), length=recipe.max_length, batch=recipe.batch_size * recipe.accumulation, rank=recipe.rank, checkpointing=False)
    except UserError:
        return 1
    return max(1, min(AT_ONCE, cores() // 2, int(memory.ROOM * budget * memory.GIB // each.total)))


def _together(run: Run, data: pipeline.Data, kept: Path | None, jobs: int, say: Callable[[str], None]) -> None:
    """Let `jobs` processes go through the study, each (arm, seed) in one of them. What they leave undone, the caller does afterwards, and meets the error there."""
    todo = [s for s in evaluation.systems(run) if not _is_there(run, data, s, kept)]
    if len(todo) < 2:
        return
    jobs = min(jobs, len(todo))
    # Fetched and converted once, not by each of them.
    models.load_tokenizer(run.profile, say)
    say(f"{jobs} at once, of {len(todo)} to do.")
    task = {"folder": str(run.folder.absolute()), "profile": asdict(run.profile), "study": asdict(run.study), "kept": str(kept.absolute()) if kept else ""}
    environment = {**os.environ, GPU_JOBS: str(jobs), distributed.PARENT: str(os.getpid())}
    if not gpu_gib():
        # Each its share of the cores, or their threads wait for each other.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    workers = []
    try:
        for _ in range(jobs):
            # In sessions of their own: an interrupt from the terminal would reach them besides, as their second one, at which nothing more is saved.
            command = [sys.executable, "-m", f"{__package__}.experiment"]
            workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=environment, text=True, start_new_session=True))
            with contextlib.suppress(BrokenPipeError), workers[-1].stdin as pipe:
                json.dump(task, pipe)
        for worker in workers:
            worker.wait()
    finally:
        # Each saves the step that it trains, and stops (on Windows at once).
        for worker in workers:
            worker.terminate()
        try:
            for worker in workers:
                worker.wait()
        except KeyboardInterrupt:
            for worker in workers:
                worker.kill()
            raise
    if codes := [str(worker.returncode) for worker in workers if worker.returncode]:
        say(f"Some processes ended early (exit codes {', '.join(codes)}; the reason stands above, unless they were killed). What they left is done now, one after the other.")


def _work(task: dict) -> None:
    """One of the processes of `_together`: takes each (arm, seed) that is not done and that no other is at."""
    from filelock import FileLock, Timeout

    quiet()
    # As an interrupt: what it has started itself saves and ends before it does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=distributed.pause_when_gone, args=(int(os.environ[distributed.PARENT]),), daemon=True).start()
    study = task["study"] | {"seeds": tuple((arm, tuple(seeds)) for arm, seeds in task["study"]["seeds"]), "recipe": tuple(map(tuple, task["study"]["recipe"]))}
    run, kept = Run(Path(task["folder"]), profiles.parse(task["profile"]), studies.Study(**study)), Path(task["kept"]) if task["kept"] else None
    data = pipeline.load(run)
    places = run.path("predictions")
    places.mkdir(exist_ok=True)
    # One arm of every seed before the next arm: the first of a seed may train what its others wait for.
    for system in sorted(evaluation.systems(run), key=lambda s: run.study.arms.index(s.name) if s.adapter else -1):
        lock = FileLock(places / f".{system.label.replace(' ', '-')}.work")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            if _is_there(run, data, system, kept):
                continue

            def say(text: str, label: str = system.label) -> None:
                print(f"{label}: {text}", flush=True)

            begun = time.monotonic()
            _one(run, data, system, kept, lambda steps: lambda row: None, lambda label, done, total: None, say)
            say(f"done in {clock(time.monotonic() - begun)}, by process {os.getpid()}.")
        finally:
            lock.release()


def _is_there(run: Run, data: pipeline.Data, system: System, kept: Path | None) -> bool:
    return evaluation.is_predicted(run, data, system) or bool(kept and _is_kept(run, data, system, kept))


def _place(folder: Path, system: System) -> Path:
    return folder / (system.name if system.adapter is None else f"{system.name}/seed{system.seed}")


def keep(run: Run, data: pipeline.Data, system: System, folder: Path) -> None:
    """Copy the small result files of a system that is done into `folder`: its predictions, compressed, and its training log."""
    place = _place(folder, system)
    for name in evaluation.FILES:
        with whole_file(place / f"{name}.gz", "wb") as f, gzip.GzipFile(fileobj=f, mode="wb", mtime=0, filename="") as g:
            g.write((system.folder / name).read_bytes())
    if system.adapter:
        for name in TRAINING:
            made = system.adapter.parent / name
            if made.exists():
                write_text(place / name, made.read_text(encoding="utf-8"))
            # The adapters of a study may have been removed, its predictions kept.
            elif not (place / name).exists():
                raise UserError(f"{made}: is missing, so what {system.label} came to cannot be kept. Remove its predictions and run again.")
    write_json(place / "predictions.json", read_json(system.folder / "done.json"))


def restore(run: Run, data: pipeline.Data, system: System, folder: Path, *, older: bool = False) -> bool:
    """Put back what `keep` copied, where it was made from the same data, settings and (but for `older`) code; whether it was there.

    The adapter is not kept: whoever wants to use it trains it again.
    """
    place = _place(folder, system)
    fresh = pipeline.is_fresh(place / "predictions.json", evaluation.made_from(run, data, system))
    if not (fresh or older) or not _is_kept(run, data, system, folder):
        return False
    for name in evaluation.FILES:
        with whole_file(system.folder / name, "wb") as f:
            f.write(gzip.decompress((place / f"{name}.gz").read_bytes()))
    if system.adapter and not all((system.adapter.parent / name).exists() for name in TRAINING):
        for name in TRAINING:
            write_text(system.adapter.parent / name, (place / name).read_text(encoding="utf-8"))
        if fresh:
            write_json(system.adapter.parent / "made_from.json", {"made_from": pipeline.training_key(run.with_seed(system.seed), data, system.name)})
    write_json(system.folder / "done.json", read_json(place / "predictions.json"))
    return True


def _is_kept(run: Run, data: pipeline.Data, system: System, folder: Path) -> bool:
    """Whether results from the same data and settings lie whole in `folder`."""
    place = _place(folder, system)
    files = [*(place / f"{n}.gz" for n in evaluation.FILES), *(place / name for name in TRAINING if system.adapter)]
    return evaluation.is_comparable(run, data, place / "predictions.json") and all(f.exists() for f in files)


def restore_all(run: Run, folder: Path, say: Callable[[str], None] = print) -> pipeline.Data:
    """The data of a study, and its results that lie in `folder`, put back for a report, those of older code too. Raises `UserError`."""
    data = pipeline.ensure(run, say=say)
    _restore_judged(run, folder)
    for system in evaluation.systems(run):
        if not evaluation.is_predicted(run, data, system):
            restore(run, data, system, folder, older=True)
    return data


def _restore_judged(run: Run, folder: Path) -> None:
    if (folder / JUDGED).exists() and not run.path(JUDGED).exists():
        write_text(run.path(JUDGED), (folder / JUDGED).read_text(encoding="utf-8"))


def keep_report(run: Run, report: Path, folder: Path) -> None:
    """Copy what a reader of the repository opens: the report, its details, its numbers and its figures as PNG; and what a reader has judged."""
    if run.path(JUDGED).exists():
        write_text(folder / JUDGED, run.path(JUDGED).read_text(encoding="utf-8"))
    files = [report / name for name in ("report.md", "details.md", "headline.json", "results.json")]
    for path in (*files, *sorted(report.glob("figures/*.png"))):
        with whole_file(folder / path.relative_to(report), "wb") as f:
            f.write(path.read_bytes())


if __name__ == "__main__":
    try:
        _work(json.load(sys.stdin))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
