"""`python3 -m helpers COMMAND`: everything that a checkout can do, from Python and git alone.

Kept in syntax that Python 3.6 can parse, so that an older Python gets as far as the check below.
"""

import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.stderr.write("error: Python 3.11 or newer is needed, this is " + found + ". Try: python3.11 -m helpers ...\n")
    sys.exit(2)

import argparse
import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import bootstrap
from .files import ROOT, UserError


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
    parameters = {"RUN": options.run, "PROFILE": options.profile, "STUDY": options.study}
    done = execution.run(notebooks.NOTEBOOKS, folder, parameters, options.fresh)
    execution.summary(folder, done)
    return 0


def _study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", default="quick", help="quick, full or a .toml file (default: %(default)s)")
    parser.add_argument("--plan", action="store_true", help="say what will run, with estimated time and memory, and stop")
    parser.add_argument("--report", action="store_true", help="write the report of what is done so far, and stop")
    parser.add_argument("--run", default="", metavar="NAME", help="run folder below runs/ (default: the study's name)")
    parser.add_argument("--profile", default="auto", help="model and recipe (default: the study's, or by what the machine has)")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="copy each finished arm's small result files and the report there")


def _study(options: argparse.Namespace) -> int:
    from . import display, evaluation, experiment, pipeline, report, results, runtime, studies

    runtime.quiet()
    name = options.run or studies.load(options.study).name
    _run_folder(name)
    run = runtime.open_run(name, options.profile, study=options.study)
    print(experiment.describe(run, experiment.plan(run)), flush=True)
    if options.plan:
        return 0
    kept = Path(options.keep) if options.keep else None
    if options.report:
        data = pipeline.load(run)
        stale = evaluation.stale(run, data)
        if stale:
            raise UserError(f"{', '.join(stale)}: predicted with other settings, data or code. Run the study again before its report.")
    else:
        with bootstrap.lock(run.folder.with_name(f".{name}.lock"), busy=f"{run.folder}: another command is using this run folder."):
            data = experiment.execute(
                run, view=display.training_view, progress=display.prediction_view(),
                done=lambda system: experiment.keep(run, system, kept) if kept else None,
            )  # fmt: skip
    found = results.results(run, data)
    folder = report.write(run, found, report.figures(run, found))
    if kept:
        experiment.keep_report(folder, kept)
    print(f"\nReport: {folder / 'report.html'}")
    return 0


def _search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("search", nargs="?", default="quick", help="quick or a .toml file (default: %(default)s)")
    parser.add_argument("--profile", default="auto", help="model and recipe (default: the study's, or by what the machine has)")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="copy the table there")


def _search(options: argparse.Namespace) -> int:
    from . import display, runtime, search
    from .files import write_json, write_text

    runtime.quiet()
    wanted = search.load(options.search)
    name = f"search-{wanted.name}"
    folder = _run_folder(name)
    with bootstrap.lock(folder.with_name(f".{name}.lock"), busy=f"{folder}: another command is using this run folder."):
        rows = search.execute(wanted, profile=options.profile, view=display.training_view)
    page = (folder / "search.md").read_text(encoding="utf-8")
    if options.keep:
        write_text(Path(options.keep) / f"{wanted.name}.md", page)
        write_json(Path(options.keep) / f"{wanted.name}.json", rows)
    print(f"\n{page}")
    return 0


def _judge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="?", default="quick", help="quick, full or a .toml file (default: %(default)s)")
    parser.add_argument("--run", default="", metavar="NAME", help="run folder below runs/ (default: the study's name)")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="wrong answers to judge (default: %(default)s)")


def _judge(options: argparse.Namespace) -> int:
    from . import agreement, pipeline, runtime, studies

    name = options.run or studies.load(options.study).name
    _run_folder(name)
    run = runtime.open_run(name, study=options.study)
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
    parser.add_argument("what", choices=["curation", "training"], help="curation: notebook 01 against rows; training: beside TRL")
    parser.add_argument("--steps", type=int, default=8, help="training: steps of each variant (default: %(default)s)")


def _bench(options: argparse.Namespace) -> int:
    from . import notebooks, scale, throughput

    folder = notebooks.NOTEBOOKS / "results" / "bench"
    if options.what == "training":
        print(throughput.table(throughput.measure(options.steps, folder=folder)))
    else:
        print(scale.table(scale.measure(folder=folder)))
    return 0


def _no_options(parser: argparse.ArgumentParser) -> None:
    pass


COMMANDS = {
    "run": Command("execute the notebooks from data to report", _run_options, _run),
    "study": Command("train and evaluate every arm and seed of a study", _study_options, _study),
    "search": Command("compare recipes and decodings on the dev set", _search_options, _search),
    "judge": Command("judge by hand which step broke, and measure the rule against it", _judge_options, _judge),
    "evaluate": Command("score the base model or an arm on a file of your own", _evaluate_options, _evaluate),
    "test": Command("run the tests", _test_options, _test, needs="test", passes_on=True),
    "bench": Command("measure this machine; tables go to notebooks/results/bench", _bench_options, _bench, needs="test"),
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
    try:
        return dispatch(argv)
    except KeyboardInterrupt:
        return _say("interrupted; run the same command again to go on", 130)
    except UserError as error:
        return _say("error: " + " ".join(str(error).split()))
    except MemoryError:
        return _say("error: memory ran out. Close other programs, or choose a smaller profile (--profile).")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" ({error.filename})" if error.filename else ""
        return _say(f"error: the disk is full{place}. Free some space and run again; what was finished is kept.")


def _say(line: str, code: int = 1) -> int:
    sys.stdout.flush()
    print(line, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
