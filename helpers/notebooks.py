"""Notebook files: reading, writing, parameters, and the badge and setup cells. Standard library alone."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from .files import ROOT, UserError, read_json, write_text

REPOSITORY = "bonsai-reasoning-notebooks"
NOTEBOOKS = ROOT / "notebooks"
_OWNER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?/(?!\.)[A-Za-z0-9._-]{1,100}")
_COLAB = "https://colab.research.google.com"

# One text for all notebooks. It runs before anything of this repository can be imported.
_SETUP = """\
#@title Setup / 準備
# Finds the repository (above this folder, on Drive, or by cloning it) and installs what is missing.
import subprocess
import sys
from pathlib import Path

ADDRESS, NAME = "{address}", "{name}"
base = Path("/content") if Path("/content").is_dir() else Path.cwd()
places = [*(Path.cwd() / NAME).parents, base / "drive/MyDrive" / NAME]
root = next((p for p in places if (p / "helpers/__init__.py").is_file()), base / NAME)
if root == base / NAME and ADDRESS:
    clone = ["git", "clone", "--depth", "1", f"https://github.com/{{ADDRESS}}.git", root]
    subprocess.run(["git", "-C", root, "pull", "--ff-only"] if (root / ".git").exists() else clone)
if not (root / "helpers/__init__.py").is_file():
    raise SystemExit(f"Repository not found. Put the folder {{NAME}} into MyDrive, run in a new cell "
                     "`from google.colab import drive; drive.mount('/content/drive')`, then this cell again "
                     f"(public address: {{ADDRESS or 'not set'}}).")
sys.path.insert(0, str(root))
from helpers import runtime
runtime.setup()
"""


def setup_source(address: str) -> str:
    """Source of the setup cell for the public address `OWNER/NAME` ("" while there is none)."""
    return _SETUP.format(address=address, name=REPOSITORY).rstrip("\n")


def badge_source(name: str, address: str) -> str:
    """Markdown of the badges that open the notebook `name` in Colab and Kaggle; a hint while there is no address."""
    if not address:
        return (
            f"Colab: put the folder `{REPOSITORY}` into MyDrive and open this notebook from there; *Runtime → Change runtime type → T4 GPU*; run "
            "`from google.colab import drive; drive.mount('/content/drive')` in a new cell above *Setup*, then all cells. / "
            f"Colab で使うには、フォルダー `{REPOSITORY}` を Google ドライブの「マイドライブ」に置き、そこからこのノートブックを開いて、"
            "「ランタイム → ランタイムのタイプを変更」で T4 GPU を選びます。「準備」（Setup）のセルの上に新しいセルを作り、"
            "`from google.colab import drive; drive.mount('/content/drive')` を実行してから、すべてのセルを実行してください。"
        )
    page = f"{address}/blob/main/notebooks/{name}"
    return (
        f"[![Open In Colab]({_COLAB}/assets/colab-badge.svg)]({_COLAB}/github/{page}) "
        "[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src=https://github.com/{page})"
    )


def text(cell: dict) -> str:
    """Source of a cell as one string, whichever way the file stores it."""
    return "".join(cell["source"])


def role(cell: dict) -> str:
    """`badge`, `setup`, `parameters`, `injected` or "": what the tools of this repository do with a cell."""
    tags = cell.get("metadata", {}).get("tags", [])
    if "injected-parameters" in tags:
        return "injected"
    for name in ("badge", "setup", "parameters"):
        if name in tags:
            return name
    if cell["cell_type"] == "code":
        return "setup" if text(cell).startswith("#@title Setup / ") else ""
    return "badge" if "/assets/colab-badge.svg" in text(cell) else ""


def code_cells(notebook: dict) -> list[dict]:
    """The code cells that have something to run."""
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and text(c).strip()]


def title(notebook: dict, default: str) -> str:
    """The first heading of a notebook."""
    for cell in notebook["cells"]:
        match = re.search(r"^# +(.+)$", text(cell), re.M) if cell["cell_type"] == "markdown" else None
        if match:
            return match[1].strip()
    return default


def defaults(notebook: dict) -> dict[str, Any]:
    """Names and default values of the literals in the cell tagged `parameters`."""
    found = {}
    for cell in notebook["cells"]:
        if role(cell) == "parameters":
            for node in ast.parse(text(cell)).body:
                target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
                if isinstance(target, ast.Name) and getattr(node, "value", None) is not None:
                    try:
                        found[target.id] = ast.literal_eval(node.value)
                    except ValueError:
                        continue
    return found


def listed(folder: Path = NOTEBOOKS) -> list[Path]:
    """The numbered notebooks of a folder, in order. Raises `UserError` when there are none."""
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise UserError(f"{folder}: no notebooks (01_….ipynb). Restore the folder: git checkout -- notebooks")
    return found


def load(path: Path) -> dict:
    """Read a notebook file. Raises `UserError` when it is not one."""
    notebook = read_json(path)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise UserError(f"{path}: not a notebook (no list of cells). Restore it: git checkout -- {path.name}")
    return notebook


def save(path: Path, notebook: dict) -> bool:
    """Write a notebook as nbformat does, whole; False when the file has these bytes already."""
    for cell in notebook["cells"]:
        cell["source"] = text(cell).splitlines(keepends=True)
    content = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return False
    write_text(path, content)
    return True


def address(root: Path = ROOT) -> str:
    """The public address `OWNER/NAME` in pyproject.toml, "" while there is none. Raises `UserError` if malformed."""
    path = root / "pyproject.toml"
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["bonsai"]["repository"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: no repository under [tool.bonsai] ({error}). Restore the file from git.") from error
    return _checked(value)


def _checked(value: str) -> str:
    if value and not _OWNER_NAME.fullmatch(value):
        raise UserError(f"address {value!r}: write it as OWNER/NAME, such as hanako/{REPOSITORY}.")
    return value


def badges(new: str | None = None, root: Path = ROOT) -> list[Path]:
    """Write the public address into pyproject.toml (if `new` is given), all notebooks and the README's badge table.

    Returns the files that changed; a second call changes none. Raises `UserError` for a malformed address.
    """
    changed = []
    if new is not None:
        path = root / "pyproject.toml"
        new = _checked(new)
        before = path.read_text(encoding="utf-8")
        after, found = re.subn(r'(?m)(^\[tool\.bonsai\][^\[]*?^repository = )"[^"\n]*"', rf'\1"{new}"', before)
        if not found:
            raise UserError(f'{path}: no line repository = "…" under [tool.bonsai]. Restore the file from git.')
        if after != before:
            changed.append(write_text(path, after))
    here = address(root)
    rows = ["| | |", "| --- | --- |"]
    for path in listed(root / "notebooks"):
        notebook = load(path)
        _put(notebook, "badge", badge_source(path.name, here))
        _put(notebook, "setup", setup_source(here))
        if save(path, notebook):
            changed.append(path)
        badge = badge_source(path.name, here) if here else ""
        rows.append(f"| [{title(notebook, path.stem)}](notebooks/{path.name}) | {badge} |")
    path = root / "README.md"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    table = "<!-- badges -->\n" + "\n".join(rows) + "\n<!-- /badges -->"
    after = re.sub(r"<!-- badges -->.*?<!-- /badges -->", lambda _: table, before, flags=re.S)
    if table not in after:
        print(
            f"note: {path.name} has no line <!-- badges --> with a line <!-- /badges --> below: no table written there."
        )
    elif after != before:
        changed.append(write_text(path, after))
    return changed


def _put(notebook: dict, name: str, source: str) -> None:
    cells = notebook["cells"]
    cell = next((c for c in cells if role(c) == name), None)
    if cell is None:
        new: dict[str, Any] = {"cell_type": "markdown", "id": name, "metadata": {}}
        at = 1
        if name == "setup":
            new |= {"cell_type": "code", "execution_count": None, "outputs": []}
            at = next((i for i, c in enumerate(cells) if c["cell_type"] == "code"), len(cells))
        cells.insert(at, cell := new)
    tags = cell["metadata"].setdefault("tags", [])
    if name not in tags:
        tags.append(name)
    cell["source"] = source
