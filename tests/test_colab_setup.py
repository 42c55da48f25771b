"""requirements.txt on a Colab runtime: what is installed there stays, above all what a fresh kernel has imported.

The resolver reads metadata alone; nothing is downloaded or installed. Not tried on Colab itself.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import runtime
from helpers.files import ROOT

CONSTRAINTS = ROOT / "tests" / "constraints-colab.txt"
# What the torch that Colab has installed needs: its CUDA 12.8 build, not the CUDA 13 one that PyPI has under the same version.
TORCH = """[[dependency-metadata]]
name = "torch"
version = "2.11.0"
requires-dist = ["filelock", "typing-extensions", "setuptools", "sympy", "networkx", "jinja2", "fsspec", "triton"]
"""
# Not on a runtime, and installed by the setup cell.
ADDED = {"bitsandbytes", "gguf", "matplotlib-fontja", "papermill", "py3langid", "pycountry", "rensa", "sacrebleu", "trl"}
ADDED_WITH_THEM = {"colorama", "jedi", "portalocker"}


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text.strip()).lower()


def pins(text: str) -> dict[str, str]:
    """Normalised name → version of every `name==version` line."""
    found = (line.split("#")[0].split("==") for line in text.splitlines() if "==" in line.split("#")[0])
    return {name_of(name): version.strip() for name, version in found}


@pytest.fixture(scope="module")
def runtime_pins() -> tuple[dict[str, str], dict[str, str]]:
    """What must stay, and everything that is there."""
    text = CONSTRAINTS.read_text(encoding="utf-8")
    must, present = text.split("# Present,")
    return pins(must), pins(must) | pins(present)


def resolve(folder: Path, requirements: str, constraints: dict[str, str], present: dict[str, str]) -> subprocess.CompletedProcess:
    """Resolve as pip would on a runtime that has `present`: a version that satisfies is kept. The result is `folder/resolved.txt`."""
    uv = shutil.which("uv") or (importlib.util.find_spec("uv") and [sys.executable, "-m", "uv"])
    if not uv:
        pytest.skip("uv is not installed: pip install -r tests/requirements.txt")
    (folder / "uv.toml").write_text(TORCH)
    (folder / "requirements.txt").write_text(requirements)
    (folder / "constraints.txt").write_text("".join(f"{n}=={v}\n" for n, v in constraints.items()))
    resolved = folder / "resolved.txt"
    # Versions in the output file of an earlier run are preferred to newer ones.
    resolved.write_text("".join(f"{n}=={v}\n" for n, v in present.items()))
    command = [*([uv] if isinstance(uv, str) else uv), "pip", "compile", "requirements.txt", "-c", "constraints.txt", "-o", "resolved.txt"]
    command += ["--config-file", "uv.toml", "--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--no-header", "--no-annotate", "-q"], cwd=folder, capture_output=True, text=True, timeout=300)
    unreachable = re.search(r"(?i)failed to fetch|dns error|error sending request|client error|network|timed out", done.stderr)
    if done.returncode and unreachable and "No solution" not in done.stderr:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1][:200]}")
    return done


def test_what_the_setup_cell_pins_is_what_must_stay(runtime_pins):
    must, present = runtime_pins
    assert {name_of(n) for n in runtime.UNTOUCHED} - {"google-colab"} <= must.keys()
    assert present.keys() >= must.keys() and present["ipywidgets"] == "7.7.1" and present["torch"] == "2.11.0"


@pytest.mark.slow
def test_requirements_resolve_and_replace_nothing_that_a_kernel_has_imported(tmp_path, runtime_pins):
    must, present = runtime_pins
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    only_untouched = {n: v for n, v in must.items() if n in {name_of(u) for u in runtime.UNTOUCHED}}
    done = resolve(tmp_path, requirements, only_untouched, present)
    assert done.returncode == 0, done.stderr
    found = pins((tmp_path / "resolved.txt").read_text())
    changed = {n: (present[n], v) for n, v in found.items() if n in present and present[n] != v}
    added = found.keys() - present.keys()
    print(f"{len(found)} packages; replaced: {changed or 'none'}; added: {', '.join(f'{n} {found[n]}' for n in sorted(added))}")
    for name in ("torch", "numpy", "pandas", "scipy", "matplotlib", "ipywidgets", "ipykernel", "ipython"):
        assert found[name] == must[name]
    assert not changed.keys() & must.keys(), changed
    assert not {n for n in found if n.startswith(("nvidia-", "cuda-"))}, "torch stays, and so does its CUDA"
    assert ADDED <= added <= ADDED | ADDED_WITH_THEM


@pytest.mark.slow
def test_the_check_sees_a_conflict_and_a_replacement(tmp_path, runtime_pins):
    must, present = runtime_pins
    done = resolve(tmp_path, "pandas>=3\n", {"pandas": must["pandas"]}, present)
    assert done.returncode and "pandas" in done.stderr
    assert resolve(tmp_path, "psutil>=7\nnumpy\n", {}, present).returncode == 0
    found = pins((tmp_path / "resolved.txt").read_text())
    assert found["psutil"] != present["psutil"] and found["numpy"] == present["numpy"]
