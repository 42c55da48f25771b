"""Headless runs: the notebooks executed one after the other through papermill, with progress and a record of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import bootstrap, notebooks
from .files import ROOT, UserError, read_json, read_object, write_json, write_text
from .progress import Status, bar, clock, columns, cut, pad

_STATE = "state.json"


@dataclass(frozen=True)
class Done:
    """One notebook of a run: `seconds` its execution took, `kept` when its executed copy was up to date."""

    name: str
    seconds: float
    kept: bool


def run(source: Path, folder: Path, parameters: dict[str, Any], fresh: bool = False, inputs: Path = ROOT) -> list[Done]:
    """Execute the notebooks of `source` in order; executed copies go to `folder/notebooks`.

    A parameter is passed to the notebooks that have it, where it differs from their default. A notebook is kept when
    its cells, the code cells of those before it, the parameters, and `helpers/*.py`, `data/*` and the pins of the
    repository `inputs` are as they were when it finished. `fresh` removes `folder` first. Raises `UserError` at the
    first failing cell.
    """
    paths = notebooks.listed(source)
    busy = f"{folder}: another command is using this run folder. Wait for it, or choose another name with --run."
    with bootstrap.lock(folder.with_name(f".{folder.name}.lock"), busy=busy):
        if fresh and folder.exists():
            shutil.rmtree(folder)
        chain = inputs_hash(inputs)
        done = []
        for number, path in enumerate(paths, 1):
            notebook = notebooks.load(path)
            known = notebooks.defaults(notebook)
            given = {k: v for k, v in parameters.items() if k in known and known[k] != v}
            stamp = _hash(chain, _sources(notebook, ("code", "markdown")), given)
            chain = _hash(chain, _sources(notebook, ("code",)), given)
            done.append(
                _one(path, folder / "notebooks" / path.name, given, stamp, f"[{number}/{len(paths)}] {path.stem}")
            )
        return done


def _one(path: Path, target: Path, given: dict, stamp: str, label: str) -> Done:
    state = _read_state(target.parent)
    entry = state.get(path.stem)
    if entry and entry.get("hash") == stamp and target.exists():
        print(f"{label}: up to date, kept (took {clock(entry['seconds'])})", flush=True)
        return Done(path.stem, entry["seconds"], True)
    begun = time.monotonic()
    _execute(path, target, given, label)
    seconds = round(time.monotonic() - begun, 1)
    # Read again: nothing else may be lost if the file was changed meanwhile.
    write_json(target.parent / _STATE, _read_state(target.parent) | {path.stem: {"hash": stamp, "seconds": seconds}})
    return Done(path.stem, seconds, False)


def _read_state(folder: Path) -> dict:
    try:
        state = read_json(folder / _STATE)
    except UserError:  # absent or damaged: everything is run again
        return {}
    return state if isinstance(state, dict) else {}


def inputs_hash(root: Path = ROOT) -> str:
    """Hash of everything outside the notebooks that decides what they compute: helpers, pins, data."""
    digest = hashlib.sha256()
    data = [p for p in (root / "data").rglob("*") if p.is_file() and not p.name.startswith(".")]
    for path in sorted([*(root / "helpers").rglob("*.py"), *(root / "helpers").glob("pins.txt"), *data]):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _sources(notebook: dict, kinds: tuple[str, ...]) -> list[str]:
    # Badge and setup cells only say where the repository is: setting its address makes no result stale.
    cells = [c for c in notebook["cells"] if c["cell_type"] in kinds and notebooks.role(c) not in ("badge", "setup")]
    return [notebooks.text(c) for c in cells]


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _execute(path: Path, target: Path, given: dict, label: str) -> None:
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    failed = target.with_name(f"{path.stem}.failed.ipynb")
    part = target.with_name(f".{path.stem}.part.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with Status() as status, tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        reporter = _Reporter(status, label)
        try:
            _quiet()
            _papermill(path, part, given, reporter, log)
            os.replace(part, target)
        except (PapermillExecutionError, DeadKernelError) as error:
            os.replace(part, failed)
            if isinstance(error, DeadKernelError):
                log.seek(0)
                sys.stderr.writelines(f"  {line}\n" for line in log.read().splitlines()[-8:] if "WARNING" not in line)
                reason = "its process was ended from outside, most often because memory ran out: close other programs"
            else:
                reason = _reason(error.ename, error.evalue)
            raise UserError(
                f"{path.name}, code cell {reporter.current}: {reason} (traceback: {shown(failed)})"
            ) from error
        finally:
            part.unlink(missing_ok=True)
        failed.unlink(missing_ok=True)
        status.show("")
        status.line(f"{label}: done in {clock(time.monotonic() - begun)}")


def _reason(kind: str, message: str) -> str:
    message = " ".join(message.split())
    # A UserError is written for the reader; of any other error the kind says more than the message.
    own = kind in ("UserError", "RecordError", "SystemExit")
    return cut(message if own else f"{kind}: {message}" if message else kind, 400)


def _papermill(path: Path, part: Path, given: dict, reporter: _Reporter, log: IO[str]) -> None:
    import papermill
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import Engine, papermill_engines

    class Reported(Engine):
        """papermill's own engine, with our progress and the kernel's own log off the terminal."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **_):
            reporter.cells = nb_man.nb.cells
            start, complete = nb_man.cell_start, nb_man.cell_complete

            def cell_start(cell, cell_index=None, **more):
                reporter.start(cell_index)
                return start(cell, cell_index=cell_index, **more)

            def cell_complete(cell, cell_index=None, **more):
                reporter.end(cell_index)
                return complete(cell, cell_index=cell_index, **more)

            nb_man.cell_start, nb_man.cell_complete = cell_start, cell_complete
            files = {"stdout_file": reporter, "stderr_file": reporter}
            client = PapermillNotebookClient(
                nb_man, kernel_name=kernel_name, timeout=None, startup_timeout=300, **files
            )
            return client.execute(stdout=log, stderr=log)

    papermill_engines.register("bonsai", Reported)
    papermill.execute_notebook(
        # Braces in a path are fields to fill in for papermill.
        *(str(p).replace("{", "{{").replace("}", "}}") for p in (path, part)),
        parameters=given,
        engine_name="bonsai",
        kernel_name="python3",
        language="python",
        progress_bar=False,
        cwd=str(path.parent),
    )


class _Reporter:
    """Follows the cells of one notebook; as papermill's stdout file it also shows the last line of output."""

    def __init__(self, status: Status, label: str):
        self.status, self.label = status, label
        self.cells: list = []
        self.current = 0
        self.heading = ""
        self.begun = 0.0

    def _ordinal(self, index: int) -> int:
        return sum(self._counts(c) for c in self.cells[: index + 1])

    @staticmethod
    def _counts(cell: dict) -> bool:
        return cell["cell_type"] == "code" and bool(cell["source"].strip()) and notebooks.role(cell) != "injected"

    def _name(self) -> str:
        total = sum(self._counts(c) for c in self.cells)
        if self.status.live:
            return f"{self.label} {bar(self.current - 1, total)} {self.current}/{total} {self.heading}"
        return f"{self.label} cell {self.current}/{total} {self.heading}"

    def start(self, index: int) -> None:
        if self._counts(self.cells[index]):
            self.current, self.begun = self._ordinal(index), time.monotonic()
            first = self.cells[index]["source"].strip().splitlines()[0]
            self.heading = cut(first.removeprefix("#@title").strip("# "), 60)
            self.status.show(self._name())

    def end(self, index: int) -> None:
        if self._counts(self.cells[index]) and not self.status.live:
            self.status.line(f"{self._name()}  {clock(time.monotonic() - self.begun)}")

    def write(self, text: str) -> None:
        lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
        if lines:
            self.status.show(f"{self._name()} · {lines[-1].strip()}", restart=False)

    def flush(self) -> None:
        pass


def _quiet() -> None:
    """Silence what papermill, the kernel client and asyncio log, to the end of the process: when a kernel is stopped on
    purpose, asyncio complains only once its task is collected."""
    import logging

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for name in ("papermill", "asyncio", "traitlets"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def shown(path: Path) -> str:
    """`path` from the working directory where it lies below it, else whole."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def peak_memory_gb() -> float:
    """Largest resident memory of any ended child process, in GB (10⁹ bytes); 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * scale / 1e9


def times(folder: Path) -> str:
    """Where the time of a run went, a row a code cell that took a second or more, as Markdown; "" where no notebook says."""
    rows, whole = [], 0.0
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        cells = [c for c in notebooks.code_cells(notebooks.load(path)) if notebooks.role(c) != "injected"]
        spent = [float(c["metadata"].get("papermill", {}).get("duration") or 0.0) for c in cells]
        whole += sum(spent)
        rows.append(f"| **{path.stem}** | | **{clock(sum(spent))}** |")
        for number, (cell, seconds) in enumerate(zip(cells, spent, strict=True), 1):
            if seconds >= 1:
                first = notebooks.text(cell).strip().splitlines()[0].removeprefix("#@title").strip("# ")
                rows.append(f"| {number} | {cut(first, 70).replace('|', chr(92) + '|')} | {clock(seconds)} |")
    return "\n".join(["| cell | what it does | time |", "| --- | --- | ---: |", *rows, f"| **all cells** | | **{clock(whole)}** |"]) + "\n" if rows else ""


def summary(folder: Path, done: list[Done], say: Callable[[str], None] = print) -> None:
    """Say the headline numbers of `folder/report/headline.json`, the time per notebook, and where everything is; write `times.md`."""
    headline = folder / "report" / "headline.json"
    if headline.exists():
        found = {str(k): str(v) for k, v in read_object(headline).items()}
        width = max((columns(k) for k in found), default=0)
        say("\nWhat came out")
        for label, value in found.items():
            say(f"  {pad(label, width)}  {value}")
    fresh = [d for d in done if not d.kept]
    say("\nTime")
    width = max(len("peak memory"), *(len(d.name) for d in done))
    for d in done:
        say(f"  {d.name:{width}}  {clock(d.seconds):>8}{'  (kept)' if d.kept else ''}")
    say(f"  {'this run':{width}}  {clock(sum(d.seconds for d in fresh)):>8}")
    if fresh and peak_memory_gb():
        say(f"  {'peak memory':{width}}  {peak_memory_gb():>5.1f} GB")
    if table := times(folder):
        write_text(folder / "times.md", table)
    say("\nWhere")
    for label, place in (
        ("report", folder / "report" / "report.html"),
        ("", folder / "report" / "report.md"),
        ("figures", folder / "report" / "figures"),
        ("notebooks", folder / "notebooks"),
        ("times", folder / "times.md"),
    ):
        say(f"  {label:10}{shown(place)}{'' if place.exists() else '  (not written)'}")
