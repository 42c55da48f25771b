"""Publication: the outputs of a finished run go over the committed notebooks. Standard library alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from .files import ROOT, UserError, cache_folder
from .notebooks import NOTEBOOKS, code_cells, listed, load, role, save, text
from .runtime import runs_folder

_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
_WIDGET = "application/vnd.jupyter.widget-view+json"
_FORM = "(A form: run the notebook to use it. / フォームです。ノートブックを実行すると使えます。)"


def publish(run_folder: Path, folder: Path = NOTEBOOKS, root: Path = ROOT) -> list[Path]:
    """Copy the outputs of a finished run's notebooks over the committed ones; returns the files that changed.

    Everything but outputs and execution counts stays as committed. Left out: what went to stderr (progress bars,
    warnings), execution times, memory addresses, absolute paths. Nothing is written unless every notebook can be:
    raises `UserError` when one is missing, was run from other sources or parameters (RUN may differ), has an error,
    or was not run from top to bottom.
    """
    done = [(path, _merged(load(path), run_folder / "notebooks" / path.name, root)) for path in listed(folder)]
    return [path for path, notebook in done if save(path, notebook)]


def _merged(committed: dict, copy: Path, root: Path) -> dict:
    if not copy.exists():
        raise UserError(
            f"{copy}: not there. Finish the run first: python3 -m helpers run --run {copy.parent.parent.name}"
        )
    executed = load(copy)
    for cell in executed["cells"]:
        if role(cell) == "injected" and (other := re.findall(r"^(?!RUN\b)(\w+) *=", text(cell), re.M)):
            raise UserError(
                f"{copy}: run with another {', '.join(other)} than the notebook says. Publish one with the defaults."
            )
    cells = [c for c in executed["cells"] if role(c) != "injected"]
    ours = committed["cells"]
    if [(c["cell_type"], _comparable(c)) for c in cells] != [(c["cell_type"], _comparable(c)) for c in ours]:
        raise UserError(f"{copy}: run from other sources than notebooks/{copy.name} has now. Run again, then publish.")
    counts = [c.get("execution_count") or 0 for c in code_cells(executed)]
    if counts != list(range(1, len(counts) + 1)):
        raise UserError(f"{copy}: its cells were not run 1 to {len(counts)} in order. Run again with --fresh.")
    places = _places(root)
    for mine, theirs in zip(ours, cells, strict=True):
        if mine["cell_type"] == "code":
            if any(o["output_type"] == "error" for o in theirs["outputs"]):
                raise UserError(f"{copy}: a cell ended with an error. Mend it and run again.")
            outputs = [_clean(o, places) for o in theirs["outputs"] if not _noise(o)]
            mine["outputs"] = [o for o in outputs if o.get("text") != []]
            mine["execution_count"] = None
    for number, cell in enumerate(code_cells(committed), 1):
        cell["execution_count"] = number
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = number
    committed["metadata"] = {**committed["metadata"], "kernelspec": _KERNELSPEC}
    committed["metadata"].pop("widgets", None)
    widgets = executed.get("metadata", {}).get("widgets")
    if widgets and any(_WIDGET in o.get("data", {}) for c in code_cells(committed) for o in c["outputs"]):
        committed["metadata"]["widgets"] = _scrubbed(widgets, places)
    return committed


def _comparable(cell: dict) -> str:
    return role(cell) if role(cell) in ("badge", "setup") else text(cell).strip()


def _noise(output: dict) -> bool:
    plain = "".join(output.get("data", {}).get("text/plain", ""))
    bar = _WIDGET in output.get("data", {}) and bool(re.search(r"\d+%\||it/s\]", plain))
    return bar or (output["output_type"] == "stream" and output["name"] == "stderr")


def _clean(output: dict, places: list[tuple[str, str]]) -> dict:
    if output["output_type"] == "stream":
        # A carriage return draws a line anew: only its last state is for the reader.
        lines = "".join(output["text"]).split("\n")
        shown = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
        return {**output, "text": _scrubbed(shown, places).splitlines(keepends=True)}
    data = {}
    form = _WIDGET in output.get("data", {})
    for kind, value in output.get("data", {}).items():
        if form and kind == "text/plain":
            value = _FORM
        if not kind.endswith("json") and isinstance(value, list):
            value = "".join(value)  # a path may straddle two of the lines that nbformat cuts a text into
        if not kind.startswith("image/") or kind == "image/svg+xml":
            value = _scrubbed(value, places)
            value = value.splitlines(keepends=True) if isinstance(value, str) else value
        data[kind] = value
    return {**output, "data": data}


def _places(root: Path) -> list[tuple[str, str]]:
    """Absolute paths of this machine and what stands for each, longest first."""
    found = {
        str(runs_folder()): "runs",
        str(root): ".",
        str(cache_folder()): "~/.cache/bonsai-reasoning",
        str(Path.home()): "~",
    }
    if sys.prefix != sys.base_prefix:
        found[sys.prefix] = ".venv"
    return sorted(found.items(), key=lambda pair: -len(pair[0]))


def _scrubbed(value: Any, places: list[tuple[str, str]]) -> Any:
    if isinstance(value, dict):
        return {k: _scrubbed(v, places) for k, v in value.items()}
    if isinstance(value, list):
        return [_scrubbed(v, places) for v in value]
    if isinstance(value, str):
        for old, new in places:
            value = re.sub(re.escape(old) + r"(?![\w-])", lambda _, new=new: new, value)
        return re.sub(r" at 0x[0-9a-f]{6,}", "", value)
    return value
