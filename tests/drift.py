"""What breaks at the ends of the supported range: python tests/drift.py [--end newest|oldest] [--packages …] [pytest arguments].

Makes an environment beside the running Python's packages, with the newest releases of transformers, trl, peft and datasets (also beyond the
ranges of requirements.txt), or the oldest that the ranges allow, runs the quick tests in it, and says which versions and which tests broke.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import bootstrap
from helpers.files import ROOT

PACKAGES = ("transformers", "trl", "peft", "datasets")
EMBEDDED = "tests/test_models_inference.py::test_the_embedded_tokenizer_is_gemma_s"


def oldest(specifier: str) -> str:
    """The lower bound of a range such as ">=5.15,<6"."""
    found = re.search(r">=\s*([\w.]+)", specifier)
    if not found:
        raise SystemExit(f"{specifier!r} has no lower bound to try.")
    return found[1]


def make(folder: Path) -> Path:
    """An environment that falls back on the packages of the running Python: torch is not fetched again."""
    venv.create(folder, with_pip=True)
    python = bootstrap.python_of(folder)
    inside = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True).stdout.strip()
    Path(inside, "behind.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def versions(python: Path | str, names: list[str]) -> dict[str, str]:
    """The version of each distribution that an interpreter would import."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return json.loads(subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout)


def main() -> int:
    """Install, run the tests, say what broke; the exit code of the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--end", choices=["newest", "oldest"], default="newest")
    parser.add_argument("--packages", nargs="+", default=list(PACKAGES))
    options, tests = parser.parse_known_args()
    ranges = bootstrap.wanted(ROOT / "requirements.txt")
    wanted = [name if options.end == "newest" else f"{name}=={oldest(ranges[name])}" for name in options.packages]
    with tempfile.TemporaryDirectory() as folder:
        python = make(Path(folder) / "venv")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", *wanted]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            print(f"pip cannot install {' '.join(wanted)}:\n{done.stderr[-1500:]}")
            return done.returncode
        before, now = versions(sys.executable, options.packages), versions(python, options.packages)
        for name in options.packages:
            print(f"{name:14} {before[name]:>10} → {now[name]:10} range {ranges[name]}")
        command = [python, "-m", "pytest", "-q", "-p", "no:warnings", "-p", "no:cacheprovider", "--tb=line", "-m", "not slow", *tests]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        # Of the slow ones the one that a version has broken without a word: the tokenizer that is read from the embedded model's file.
        if "transformers" in options.packages and not tests:
            embedded = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", EMBEDDED], cwd=ROOT, capture_output=True, text=True)
            if embedded.returncode:
                print("broken:", EMBEDDED, (embedded.stdout + embedded.stderr).strip().splitlines()[-1])
            done.returncode = done.returncode or embedded.returncode
    broken = re.findall(r"^(?:FAILED|ERROR) (\S+)(?: - (.*))?", done.stdout, re.MULTILINE)
    for test, reason in broken:
        print(f"broken: {test} {reason}")
    print(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-1500:])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
