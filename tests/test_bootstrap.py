"""The way from a bare checkout into .venv, in a small checkout with a package made here; no network."""

from __future__ import annotations

import ast
import errno
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from helpers import __main__ as cli
from helpers import bootstrap
from helpers.files import ROOT, UserError

STUBS = {
    "notebooks": "NOTEBOOKS = None\n",
    "execution": "import sys\n\n\ndef run(*a):\n    import tiny\n    print('RAN', sys.prefix, tiny.VERSION)\n\n\n"
    "def summary(*a):\n    pass\n",
}


def wheel(folder: Path, version: str) -> None:
    """A package `tiny` of one module, as a wheel in `folder`."""
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as f:
        f.writestr("tiny.py", f"VERSION = {version!r}\n")
        f.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        f.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        f.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout with the real command line and stubs in place of what needs the real packages."""
    root = tmp_path_factory.mktemp("check out")
    (root / "helpers").mkdir()
    for name in ("__init__", "__main__", "bootstrap", "files", "progress", "profiles", "runtime", "studies"):
        shutil.copy(ROOT / "helpers" / f"{name}.py", root / "helpers")
    shutil.copytree(ROOT / "data" / "studies", root / "data" / "studies")
    for name, source in STUBS.items():
        (root / "helpers" / f"{name}.py").write_text(source)
    (root / "wheels").mkdir()
    wheel(root / "wheels", "1.0")
    wheel(root / "wheels", "1.1")
    (root / "requirements.txt").write_text("tiny>=1  # why\n")
    (root / "helpers" / "pins.txt").write_text("tiny==1.0\n")
    return root


def start(root: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    keep = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PIP_", "BONSAI_", "COLAB_", "VIRTUAL_ENV", "PYTHONPATH"))
    }
    keep |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (root / "wheels").as_uri(), "PIP_CONFIG_FILE": os.devnull}
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    command = [str(base) if base.exists() else sys.executable, "-m", "helpers", *arguments]
    return subprocess.Popen(
        command, cwd=root, env=keep | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.slow
def test_two_first_starts_at_once_install_once_and_both_go_on_in_the_venv(checkout):
    both = [finish(p) for p in (start(checkout, "run"), start(checkout, "run"))]
    for code, out, err in both:
        assert code == 0, err
        assert f"RAN {checkout / '.venv'} 1.0" in out
    assert sorted(out.count("[2/2]") for _, out, _ in both) == [0, 1]


@pytest.mark.slow
def test_the_second_start_is_quick_and_silent(checkout):
    begun = time.monotonic()
    code, out, _ = finish(start(checkout, "run"))
    assert (code, out) == (0, f"RAN {checkout / '.venv'} 1.0\n")
    assert time.monotonic() - begun < 2


@pytest.mark.slow
def test_changed_pins_are_installed(checkout):
    (checkout / "helpers" / "pins.txt").write_text("tiny==1.1\n")
    code, out, err = finish(start(checkout, "run"))
    assert code == 0 and "[2/2]" in out and "[1/2]" not in out and out.endswith(" 1.1\n"), err


@pytest.mark.slow
def test_an_interrupted_installation_is_completed(checkout):
    (checkout / ".venv" / "bonsai.json").unlink()
    shutil.rmtree(next((checkout / ".venv").rglob("pip")))  # cut off while the environment itself was being made
    next((checkout / ".venv").rglob("tiny.py")).unlink()
    code, out, err = finish(start(checkout, "run"))
    assert code == 0 and out.endswith(" 1.1\n"), err


@pytest.mark.slow
def test_a_failed_installation_says_why_and_is_not_taken_for_done(checkout):
    (checkout / "helpers" / "pins.txt").write_text("tiny==9\n")
    for _ in range(2):
        code, out, err = finish(start(checkout, "run"))
        assert code == 1 and "RAN" not in out
        assert "tiny" in err and err.splitlines()[-1].startswith("error: pip could not install")
        assert "Traceback" not in err
    assert "tiny" in (checkout / ".venv" / "install.log").read_text()
    (checkout / "helpers" / "pins.txt").write_text("tiny==1.1\n")


@pytest.mark.slow
def test_the_running_python_is_used_on_request_and_must_have_the_packages(checkout):
    code, out, err = finish(start(checkout, "run", BONSAI_NO_VENV="1"))
    assert code == 1 and "RAN" not in out
    assert re.fullmatch(r"error: this Python lacks tiny\. Install: .+ -m pip install -r requirements\.txt\n", err)


@pytest.mark.parametrize(
    ("specifier", "said"),
    [("", ""), (">=5.18,<6", "tiny>=5.18 (it has 5.15.0)"), (">=5.15", ""), ("<5", ""), (">=5.15,<5.15", ""), ("==5.16.0", "tiny==5.16.0 (it has 5.15.0)"), (">=2.11  ", "")],
)
def test_a_version_too_old_is_said_and_one_too_new_is_not(specifier, said, monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.metadata, "version", lambda name: "5.15.0")
    assert bootstrap._lacking("tiny", specifier) == said


def test_what_runs_the_tests_has_all_that_is_required():
    assert bootstrap.missing("run") == []


def test_a_bad_profile_or_run_name_is_one_line():
    for options in (["--profile", "nonesuch"], ["--run", "../x"]):
        done = subprocess.run(
            [sys.executable, "-m", "helpers", "run", *options], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "BONSAI_NO_VENV": "1"},
        )  # fmt: skip
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr


def test_old_python_reads_far_enough_to_say_which_is_needed(monkeypatch, capsys):
    ast.parse((ROOT / "helpers" / "__main__.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "helpers" / "__main__.py"))
    assert stop.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: Python 3.11 or newer is needed, this is 3.10.4. Try: python3.11 -m helpers ...\n"
    )


def test_the_command_line_imports_with_the_standard_library_alone():
    names = ["__main__", "bootstrap", "doctor", "notebooks", "publication", "execution", "progress"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); [__import__('helpers.' + n) for n in {names}]"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a\nb"), 1, "error: a b"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on"),
        (MemoryError(), 1, "error: memory ran out"),
        (OSError(errno.ENOSPC, "full", "x"), 1, "error: the disk is full (x)"),
    ],
)
def test_errors_that_the_user_can_mend_are_one_line(monkeypatch, capsys, error, code, line):
    def fail(options):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "doctor", cli.Command("", cli._no_options, fail, needs=""))
    monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
    monkeypatch.setattr("sys.stderr.reconfigure", lambda **_: None, raising=False)
    assert cli.main(["doctor"]) == code
    err = capsys.readouterr().err
    assert err.startswith(line) and err.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    def fail(options):
        raise ZeroDivisionError

    monkeypatch.setitem(cli.COMMANDS, "doctor", cli.Command("", cli._no_options, fail, needs=""))
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_pytest_arguments_are_passed_on_and_others_are_refused(monkeypatch):
    seen = []
    monkeypatch.setattr(bootstrap, "enter", lambda needs, argv: seen.append(needs))
    monkeypatch.setattr("pytest.main", lambda arguments: seen.append(arguments) or 0)
    for argv in (["test"], ["test", "--slow", "-x"], ["test", "--all", "tests/test_a.py", "-k", "b c"]):
        assert cli.dispatch(argv) == 0
    assert seen[1::2] == [["-m", "not slow"], ["-m", "slow", "-x"], ["tests/test_a.py", "-k", "b c"]]
    assert seen[::2] == ["test"] * 3
    with pytest.raises(SystemExit) as stop:
        cli.dispatch(["doctor", "--al"])
    assert stop.value.code == 2


def test_the_pins_satisfy_the_ranges_and_leave_nothing_open():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {canonicalize_name(n): v for n, v in bootstrap.wanted(ROOT / bootstrap.PINS).items()}
    assert all(re.fullmatch(r"==[\w.]+", v) for v in pins.values())
    ranges = bootstrap.wanted(ROOT / "requirements.txt")
    todo = [Requirement(n + v) for n, v in ranges.items()]
    seen = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = (name, *sorted(requirement.extras))
        if key in seen or name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue
        seen.add(key)
        assert name in pins, f"{name} is needed and not pinned"
        assert requirement.specifier.contains(pins[name][2:], prereleases=True), f"{requirement} against {pins[name]}"
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in needs:
            other = Requirement(line)
            if other.marker is None or any(other.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                todo.append(other)
