"""`python3 -m helpers doctor`: what this machine has, what is missing, and the way out. Installs and fetches nothing.

Standard library alone; what needs packages is asked of the Python that has them, in a process of its own (`probe`).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import bootstrap, corpora, notebooks, profiles, runtime
from .files import ROOT, UserError, cache_folder
from .progress import columns, pad

MEMORY_GB = 8.0
DISK_GB = {"packages": 8.0, "runs": 2.0, "cache": 2.0}


@dataclass
class Findings:
    """`facts` are (label, text) lines; `missing` stop a run, `notes` do not; each says the way out."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def main() -> int:
    """Print the findings; exit code 0 when `run` could go ahead, else 1."""
    found = examine()
    width = max(columns(label) for label, _ in found.facts)
    for label, value in found.facts:
        print(f"{pad(label, width)}  {value}")
    for line in found.notes:
        print(f"note: {line}")
    for line in found.missing:
        print(f"missing: {line}")
    print("A run cannot start yet." if found.missing else "Ready: python3 -m helpers run")
    return 1 if found.missing else 0


def examine() -> Findings:
    """Look at the machine, the packages and what is cached."""
    found = Findings()
    python, beside = _environment(found)
    _machine(found, beside)
    seen = ask(python)
    _packages(found, seen, beside)
    found.facts += list(seen.get("describe", {}).items())
    if "profile auto picks" not in seen.get("describe", {}):
        gpu = shutil.which("nvidia-smi") is not None
        found.facts.append(
            ("profile auto picks", f"{profiles.choose('auto', gpu).name} (guessed: torch is not installed)")
        )
    for label, value in seen.get("cached", {}).items():
        found.facts.append((label, value))
    try:
        found.facts.append(("notebooks", f"{len(notebooks.listed())} in notebooks/"))
    except UserError as error:
        found.missing.append(str(error))
    return found


def _environment(found: Findings) -> tuple[Path, bool]:
    """The Python that `run` would use, and whether that is the running one."""
    running = platform.python_version()
    found.facts.append(("Python", f"{running} ({platform.python_implementation()})"))
    if bootstrap.uses_running_python():
        found.facts.append((".venv", "not used: packages of the running Python"))
        return Path(sys.executable), True
    python = bootstrap.python_of(bootstrap.VENV)
    version = bootstrap.version_of(python)
    if version is None:
        broken = bootstrap.VENV.exists()
        found.facts.append((".venv", "does not start: run makes it anew" if broken else "not there yet: run makes it"))
        if not (_has("venv") and _has("ensurepip")):
            found.missing.append("the venv module. On Debian or Ubuntu: apt-get install python3-venv")
        return Path(sys.executable), False
    step = "in step with the pins" if bootstrap.in_step() else "not in step with the pins: run completes it"
    found.facts.append((".venv", f"Python {version[0]}.{version[1]}, {step}"))
    return python, False


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _machine(found: Findings, beside: bool) -> None:
    found.facts.append(("system", f"{platform.system()} {platform.release()}, {platform.machine()}, {runtime.cores()} cores"))
    total, free = memory_gb()
    if total:
        found.facts.append(("memory", f"{total:.1f} GB" + (f", {free:.1f} GB free" if free else "")))
        if total < MEMORY_GB:
            found.missing.append(
                f"memory: {total:.1f} GB, a run needs {MEMORY_GB:.0f} GB. Use Colab, or --profile tiny for a trial."
            )
        elif free and free < MEMORY_GB:
            found.notes.append(
                f"only {free:.1f} GB of memory are free, a run needs about {MEMORY_GB:.0f} GB: close other programs."
            )
    places = {"runs": runtime.runs_folder(), "cache": cache_folder()}
    if not beside and not bootstrap.in_step():
        places["packages"] = ROOT
    for label, path in places.items():
        above = next(p for p in (path, *path.absolute().parents) if p.exists())
        gigabytes = shutil.disk_usage(above).free / 1e9
        found.facts.append((f"disk for {label}", f"{gigabytes:.0f} GB free"))
        if not os.access(above, os.W_OK):
            found.missing.append(f"permission to write {path}. Choose another folder with BONSAI_RUNS or BONSAI_CACHE.")
        elif gigabytes < DISK_GB[label]:
            found.missing.append(
                f"disk space for {label}: {gigabytes:.1f} GB free in {above}, {DISK_GB[label]:.0f} GB needed."
            )


def memory_gb() -> tuple[float, float]:
    """Total and free memory in GB (10⁹ bytes), 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8")
        sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", lines, re.M))
        return int(sizes["MemTotal"]) * 1024 / 1e9, int(sizes.get("MemAvailable", 0)) * 1024 / 1e9
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 0.0
    except (AttributeError, OSError, ValueError):
        return 0.0, 0.0


def _packages(found: Findings, seen: dict[str, Any], beside: bool) -> None:
    have = seen.get("versions", {})
    ranges = bootstrap.wanted(ROOT / "requirements.txt")
    pins = bootstrap.wanted(ROOT / bootstrap.PINS)
    if not beside and bootstrap.version_of(bootstrap.python_of(bootstrap.VENV)) is None:
        found.facts.append(("packages", f"run installs {len(pins)} into .venv"))
        return
    right = [name for name in pins if _public(have.get(name)) == pins[name].removeprefix("==")]
    found.facts.append(
        ("packages", f"{len(right)} of {len(pins)} as pinned" if not beside else "ranges of requirements.txt")
    )
    for name in sorted({*ranges, *(n for n in pins if n in have and n not in right)}, key=str.lower):
        want = ranges.get(name, "") if beside else pins.get(name, "")
        found.facts.append((f"  {name}", f"{have.get(name) or 'not installed'} (wanted {want.removeprefix('==')})"))
    if beside:
        lacking = [name for name in ranges if name not in have]
        if lacking and not bootstrap.on_colab():
            found.missing.append(
                f"packages {', '.join(lacking)}. Install: {sys.executable} -m pip install -r requirements.txt"
            )
        for name in seen.get("outside", []):
            found.notes.append(f"{name} {have[name]} is outside of {ranges[name]}: pip install '{name}{ranges[name]}'")


def _public(version: str | None) -> str:
    return (version or "").partition("+")[0]


def ask(python: Path) -> dict[str, Any]:
    """What `probe` finds under another Python; {} when that does not answer."""
    command = [str(python), "-m", "helpers.doctor"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=180)
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return {}


def probe() -> dict[str, Any]:
    """Versions of the wanted packages, those outside of the ranges, `runtime.describe()`, and what is cached."""
    ranges = bootstrap.wanted(ROOT / "requirements.txt")
    versions = {}
    for name in {*ranges, *bootstrap.wanted(ROOT / bootstrap.PINS)}:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {"versions": versions, "outside": _outside(ranges, versions)}
    try:
        found["describe"] = runtime.describe()
    except ImportError:
        found["describe"] = {}
    profile = profiles.choose(found["describe"].get("profile auto picks", "auto"))
    found["cached"] = {"model": _model(profile), "corpus": _cached(cache_folder() / corpora.TATOEBA.name)}
    return found


def _outside(ranges: dict[str, str], versions: dict[str, str]) -> list[str]:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return []
    return [n for n, v in versions.items() if n in ranges and not SpecifierSet(ranges[n]).contains(v, prereleases=True)]


def _cached(path: Path) -> str:
    return "cached" if path.exists() else "not cached: the first run fetches it"


def _model(profile: profiles.Profile) -> str:
    if profile.model.source != "hub":
        return f"{profile.model.identifier}, {_cached(cache_folder() / f'{profile.name}-safetensors' / 'config.json')}"
    try:
        from huggingface_hub import try_to_load_from_cache

        there = isinstance(try_to_load_from_cache(profile.model.identifier, "config.json"), str)
    except ImportError:
        there = False
    return f"{profile.model.identifier}, {'cached' if there else 'not cached: the first run fetches it'}"


if __name__ == "__main__":
    print(json.dumps(probe()))
