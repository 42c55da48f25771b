"""`python3 -m helpers COMMAND`: everything that a checkout can do, from Python and git alone.

Kept in syntax that Python 3.6 can parse, so that an older Python gets as far as the check below.
"""

import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write("error: Python 3.11 or newer is needed, this is " + found + ". Try: python3.11 -m helpers ...\n")
    sys.exit(2)

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import bootstrap
from .files import ROOT, UserError, disk_is_full, memory_ran_out


@dataclass(frozen=True)
class Command:
    """One command: `needs` names what is installed first (see `bootstrap.REQUIREMENTS`), "" for nothing.

    `execute` gets the parsed options and returns the exit code; it imports what it uses.
    """

    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]
    needs: str = "run"
    passes_on: bool = False


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", default="default", metavar="NAME", help="run folder below runs/ (default: %(default)s)"
    )
    parser.add_argument("--profile", default="auto", help="model and recipe (default: by what the machine has)")
    parser.add_argument("--study", default="quick", help="which arms and seeds: quick, full or a .toml file (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="remove the run folder first and begin again")


def _run_folder(name: str) -> Path:
    from .runtime import runs_folder

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UserError(f"run name {name!r}: use letters, digits, '.', '_' and '-' only, up to 64 of them.")
    return runs_folder() / name


def _run(options: argparse.Namespace) -> int:
    from . import execution, notebooks, profiles, studies

    profiles.choose(options.profile)
    studies.load(options.study)
    folder = _run_folder(options.run)
    # A kernel works in the folder of the notebooks.
    study = str(Path(options.study).absolute()) if options.study.endswith(".toml") else options.study
    parameters = {"RUN": options.run, "PROFILE": options.profile, "STUDY": study}
    done = execution.run(notebooks.NOTEBOOKS, folder, parameters, options.fresh)
    execution.summary(folder, done)
    return 0


def _study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", default="quick", help="quick, full or a .toml file (default: %(default)s)")
    parser.add_argument("--plan", action="store_true", help="say what will run, with estimated time and memory, and stop")
    parser.add_argument("--report", action="store_true", help="write the report of what is done so far, and stop")
    parser.add_argument("--run", default="", metavar="NAME", help="run folder below runs/ (default: the study's name)")
    parser.add_argument("--profile", default="auto", help="model and recipe (default: the study's, or by what the machine has)")
    parser.add_argument("--jobs", type=int, default=None, metavar="N", help="how many (arm, seed) at once (default: 1; on a GPU as many as it has room for). On a CPU they share its cores, and each takes its own memory")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="copy each finished arm's small result files and the report there, and go on from those that lie there")


def _study(options: argparse.Namespace) -> int:
    from . import display, evaluation, experiment, own_evaluation, pipeline, report, results, runtime, studies

    runtime.quiet()
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: expected 1 or more.")
    name = options.run or studies.load(options.study).name
    _run_folder(name)
    # A look at the plan begins no run folder.
    run = own_evaluation.open_run(name, options.profile, options.study) if options.plan else runtime.open_run(name, options.profile, study=options.study)
    kept = Path(options.keep) if options.keep else None
    if kept and not options.plan and not options.report and not pipeline.is_curated(run):
        # What is kept is done only beside the data that it was made from.
        pipeline.curate(run)
    print(experiment.describe(run, experiment.plan(run, kept)), flush=True)
    if options.plan:
        if kept and not pipeline.is_curated(run):
            print(f"What lies in {kept} is not counted yet: it is compared with the data, which the study makes first.")
        return 0
    if options.report:
        data = experiment.restore_all(run, kept) if kept else pipeline.load(run)
        stale = evaluation.stale(run, data)
        if stale:
            raise UserError(f"{', '.join(stale)}: predicted with other settings or data. Run the study again before its report.")
    else:
        with bootstrap.lock(run.folder.with_name(f".{name}.lock"), busy=f"{run.folder}: another command is using this run folder."):
            jobs = options.jobs or experiment.at_once(run)
            data = experiment.execute(run, view=display.training_view, progress=display.prediction_view(), kept=kept, jobs=jobs)
    found = results.results(run, data)
    folder = report.write(run, found, report.figures(run, found))
    if kept:
        experiment.keep_report(run, folder, kept)
    print(f"\nReport: {folder / 'report.html'}")
    return 0


def _search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("search", nargs="?", default="quick", help="quick, base, order, small or a .toml file (default: %(default)s)")
    parser.add_argument("--profile", default="auto", help="model and recipe (default: the study's, or by what the machine has)")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="copy the table there, and go on from what lies there")


def _search(options: argparse.Namespace) -> int:
    from . import display, runtime, search

    runtime.quiet()
    wanted = search.load(options.search)
    name = f"search-{wanted.name}"
    folder = _run_folder(name)
    with bootstrap.lock(folder.with_name(f".{name}.lock"), busy=f"{folder}: another command is using this run folder."):
        kept = Path(options.keep) / f"{wanted.name}.json" if options.keep else None
        search.execute(wanted, profile=options.profile, view=display.training_view, kept=kept)
    page = (folder / "search.md").read_text(encoding="utf-8")
    print(f"\n{page}")
    return 0


def _judge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", default="quick", help="quick, full or a .toml file (default: %(default)s)")
    parser.add_argument("--run", default="", metavar="NAME", help="run folder below runs/ (default: the study's name)")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="wrong answers to judge (default: %(default)s)")


def _judge(options: argparse.Namespace) -> int:
    from . import agreement, export, pipeline, studies

    name = options.run or studies.load(options.study).name
    _run_folder(name)
    run = export.open_run(name, options.study)
    data = pipeline.load(run)
    judged, sheet = run.path("judged.jsonl"), run.path("to_judge.jsonl")
    if judged.exists():
        found = agreement.measure(run, data, agreement.read(judged))
        print(f"Rule and reader agree on {found['agree']:.0f} % of {found['n']} wrong answers, Cohen's kappa {found['kappa']:.2f}.")
        return 0
    agreement.write(sheet, [row | {"step": ""} for row in agreement.sample(run, data, options.count)])
    print(f"{sheet}: for each row put the step that broke first into `step` ({', '.join(agreement.JUDGED)}), save as {judged.name}, and run this again.")
    return 0


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="JSONL rows (or a table) with id, ja, and en or answers or both")
    parser.add_argument("--model", default="base", metavar="ARM", help="base or a trained arm (default: %(default)s)")
    parser.add_argument("--run", default="default", metavar="NAME", help="run folder below runs/ (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="which of the arm's trained seeds (default: the first)")
    parser.add_argument("--profile", default="auto", help="model and recipe (default: the run's, or by what the machine has)")
    parser.add_argument("--study", default="", metavar="FILE", help="the .toml file, where the run was begun with one of your own")


def _evaluate(options: argparse.Namespace) -> int:
    from . import own_evaluation, runtime

    runtime.quiet()
    _run_folder(options.run)
    run = own_evaluation.open_run(options.run, options.profile, options.study)
    own_evaluation.evaluate(run, options.file, options.model, options.seed)
    return 0


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arm", metavar="ARM", help="a trained arm, such as plain or reasoned-33")
    parser.add_argument("--run", default="default", metavar="NAME", help="run folder below runs/ (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="which of the arm's trained seeds (default: the first)")
    parser.add_argument("--study", default="", metavar="FILE", help="the .toml file, where the run was begun with one of your own")
    parser.add_argument("--to", default="", metavar="FOLDER", help="new folder for the merged model (default: exports/ of the run folder)")
    parser.add_argument("--dtype", default="auto", help="of the weights: auto (what this machine computes in), float16, bfloat16 or float32 (default: %(default)s)")
    parser.add_argument("--gguf", action="store_true", help="a GGUF file for llama.cpp beside them")
    parser.add_argument("--push", default="", metavar="OWNER/NAME", help="instead: upload the adapter and its card to the hub (private)")
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to see")
    parser.add_argument("--dry-run", action="store_true", help="with --push: only show what would be uploaded")


def _export(options: argparse.Namespace) -> int:
    from . import export, runtime

    if options.push and (options.gguf or options.to or options.dtype != "auto"):
        raise UserError("--push uploads the adapter, not a merged model: leave out --to, --dtype and --gguf, or export first and then push.")
    if not options.push and (options.public or options.dry_run):
        raise UserError("--public and --dry-run belong to --push OWNER/NAME.")
    runtime.quiet()
    _run_folder(options.run)
    trained = export.find(export.open_run(options.run, options.study), options.arm, options.seed)
    if options.push:
        export.push(trained, options.push, public=options.public, dry_run=options.dry_run)
        return 0
    folder = export.save(trained, options.to or export.default_folder(trained), options.dtype, options.gguf)
    print(f"\n{folder}\n{export.contents(folder)}")
    return 0


def _test_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--slow", action="store_const", dest="mark", const="slow", help="only the slow tests")
    which.add_argument(
        "--all", action="store_const", dest="mark", const="", help="every test (default: those not slow)"
    )
    parser.set_defaults(mark="not slow")


def _test(options: argparse.Namespace) -> int:
    import pytest

    return int(pytest.main([*(["-m", options.mark] if options.mark else []), *options.rest]))


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main()


def _badges_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "address", nargs="?", metavar="OWNER/NAME", help="public repository; left out: as in pyproject.toml"
    )


def _badges(options: argparse.Namespace) -> int:
    from . import notebooks

    changed = notebooks.badges(options.address)
    print("\n".join(f"rewritten: {path.relative_to(ROOT)}" for path in changed) or "Nothing to change.")
    return 0


def _publish_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", default="default", metavar="NAME", help="the finished run (default: %(default)s)")


def _publish(options: argparse.Namespace) -> int:
    from . import publication

    changed = publication.publish(_run_folder(options.run))
    print("\n".join(f"published: {path.relative_to(ROOT)}" for path in changed) or "Nothing to change.")
    return 0


def _bench_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["curation", "training", "generation", "growth"], help="curation: notebook 01 against rows; training: beside TRL; generation: beside transformers and llama.cpp; growth: cost against tokens, length, size, batch")
    parser.add_argument("--steps", type=int, default=8, help="training: steps of each variant (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="training: how often the variants take turns; the fastest round counts (default: %(default)s)")
    parser.add_argument("--random", action="store_true", help="training: random weights of the model's published sizes, nothing to download")
    parser.add_argument("--as-t4", action="store_true", help="training: a larger GPU keeps to a T4's precision, memory and kernels")
    parser.add_argument("--profile", default="gemma3-270m", help="training, growth: model and recipe (default: %(default)s)")
    parser.add_argument("--run", default="default", metavar="NAME", help="generation: run folder below runs/ (default: %(default)s)")
    parser.add_argument("--study", default="quick", help="generation: the study of that run (default: %(default)s)")
    parser.add_argument("--arm", default="reasoned-33", help="generation: a trained arm (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="generation: one of its trained seeds (default: %(default)s)")


def _bench(options: argparse.Namespace) -> int:
    from . import export, generation_speed, growth, notebooks, profiles, runtime, scale, throughput

    folder = notebooks.NOTEBOOKS / "results" / "bench"
    if options.what == "training":
        profiles.choose(options.profile)
        print(throughput.table(throughput.measure(options.steps, options.profile, folder=folder, random_weights=options.random, t4=options.as_t4, rounds=options.rounds)))
    elif options.what == "growth":
        profiles.choose(options.profile)
        print(growth.table(growth.measure(profile=options.profile, folder=folder)))
    elif options.what == "generation":
        runtime.quiet()
        _run_folder(options.run)
        run = export.open_run(options.run, options.study)
        print(generation_speed.table(generation_speed.measure(run, options.arm, options.seed, folder=folder)))
    else:
        print(scale.table(scale.measure(folder=folder)))
    return 0


def _plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names, hub ids or folders with a config.json (default: all that are known)")
    parser.add_argument("--length", type=int, default=512, help="tokens of the longest example (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="examples at once (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapter (default: %(default)s)")
    parser.add_argument("--weights", default="nf4", choices=["nf4", "float16", "float32"], help="how the model is kept (default: %(default)s)")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep every activation: faster, more memory")
    parser.add_argument("--budget", type=float, default=14.74, metavar="GIB", help="memory of the device (default: a T4's, %(default)s)")


def _plan(options: argparse.Namespace) -> int:
    from . import memory

    settings = {"length": options.length, "batch": options.batch, "rank": options.rank, "weights": options.weights}
    settings["checkpointing"] = not options.no_checkpointing
    rows = memory.compare(options.models, **settings)
    print(memory.table(rows))
    for model in options.models or memory.ARCHITECTURES:
        print(memory.verdict(model, options.budget, **settings))
    print("\nPredicted from the configurations; within 3 % of what an H200 allocated for phi-2 and Phi-3-mini (notebooks/results/bench/memory.md); not measured on a T4.")
    return 0


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


COMMANDS = {
    "run": Command("execute the notebooks from data to report", _run_options, _run),
    "study": Command("train and evaluate every arm and seed of a study", _study_options, _study),
    "search": Command("compare recipes and decodings on the dev set", _search_options, _search),
    "judge": Command("judge by hand which step broke, and measure the rule against it", _judge_options, _judge),
    "evaluate": Command("score the base model or an arm on a file of your own", _evaluate_options, _evaluate),
    "export": Command("take a trained arm home: merged, as GGUF, or to the hub", _export_options, _export),
    "test": Command("run the tests", _test_options, _test, needs="test", passes_on=True),
    "bench": Command("measure this machine; tables go to notebooks/results/bench", _bench_options, _bench, needs="test"),
    "plan": Command("will it fit? predicted memory of training on a T4, model by model", _plan_options, _plan, needs=""),
    "doctor": Command("say what this machine has and what is missing", _no_options, _doctor, needs=""),
    "badges": Command("write the public address into notebooks and README", _badges_options, _badges, needs=""),
    "publish": Command("copy a finished run's outputs into notebooks/", _publish_options, _publish, needs=""),
}


def dispatch(argv: list[str]) -> int:
    """Parse `argv`, install what the command needs, execute it; returns the exit code. Raises `UserError`."""
    parser = argparse.ArgumentParser(prog="python3 -m helpers", description="BONSAI Reasoning Notebooks")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.configure(subparsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False))
    options, options.rest = parser.parse_known_args(argv)
    command = COMMANDS[options.command]
    if options.rest and not command.passes_on:
        parser.error("unknown: " + " ".join(options.rest))
    if command.needs:
        bootstrap.enter(command.needs, argv)
    return command.execute(options)


def main(argv: list[str]) -> int:
    """`dispatch`, with every error that the user can mend as one line on stderr; anything else shows its traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    for name in ("BONSAI_RUNS", "BONSAI_CACHE"):
        if os.environ.get(name):
            # Kernels and other processes work in other folders.
            os.environ[name] = os.path.abspath(os.environ[name])
    try:
        return dispatch(argv)
    except KeyboardInterrupt:
        return _say("interrupted; run the same command again to go on", 130)
    except UserError as error:
        return _say("error: " + " ".join(str(error).split()))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if memory_ran_out(error):
            return _say("error: memory ran out. Close other programs, or choose a smaller profile (--profile).")
        if not disk_is_full(error):
            raise
        place = f" ({error.filename})" if getattr(error, "filename", None) else ""
        return _say(f"error: the disk is full{place}. Free some space and run again; what was finished is kept.")


def _say(line: str, code: int = 1) -> int:
    sys.stdout.flush()
    print(line, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
