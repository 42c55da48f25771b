"""From a bare checkout to a Python that has the pinned packages: makes `.venv` and goes on inside it.

Standard library alone: this module runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .files import ROOT, UserError, write_json
from .progress import Status

VENV = ROOT / ".venv"
STAMP = VENV / "bonsai.json"
LOG = VENV / "install.log"
OLDEST = (3, 11)
PINS = "helpers/pins.txt"
REQUIREMENTS = {"run": ("requirements.txt",), "test": ("requirements.txt", "tests/requirements.txt")}


def enter(needs: str, argv: list[str]) -> None:
    """Make sure that the packages for `needs` (`run` or `test`) are installed, and go on in the Python that has them.

    Returns in that Python; otherwise the process is replaced by `.venv`'s, called with `argv` again. With
    `BONSAI_NO_VENV=1` and on Colab the running Python is used. Raises `UserError` when an installation fails.
    """
    again = os.environ.pop("BONSAI_VENV", "")
    if uses_running_python():
        _complete_running_python(needs)
        return
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    if again and not inside:
        raise UserError(
            f"{VENV}: its Python does not start as a virtual environment. Remove this folder and run again."
        )
    install(needs)
    if inside:
        return
    os.environ["BONSAI_VENV"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    command = [str(python_of(VENV)), "-m", "helpers", *argv]
    if os.name == "nt":  # execv there returns to the shell before the command has ended
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def uses_running_python() -> bool:
    """Whether the running Python is used as it is: `BONSAI_NO_VENV=1`, or Colab."""
    return os.environ.get("BONSAI_NO_VENV") == "1" or on_colab()


def on_colab() -> bool:
    """Whether this is a Colab machine, also in a process that is not the kernel."""
    return "COLAB_RELEASE_TAG" in os.environ


def python_of(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def version_of(python: Path) -> tuple[int, int] | None:
    """Major and minor version of an interpreter, None when it does not start. Takes about 20 ms."""
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def wanted(path: Path) -> dict[str, str]:
    """Distribution name → version specifier (`""`: any) of a requirements file."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*([^#;]*)", line.partition("#")[0])
        if match:
            found[match[1]] = match[2].strip()
    return found


def fingerprint(needs: str, version: tuple[int, int] | None) -> str:
    """Hash of the requirement files, the pins and the Python version: what an installation is made from."""
    digest = hashlib.sha256(repr(version).encode())
    for name in (*REQUIREMENTS[needs], PINS):
        digest.update(name.encode() + b"\0" + hashlib.sha256((ROOT / name).read_bytes()).digest())
    return digest.hexdigest()


def in_step(needs: str = "run") -> bool:
    """Whether `.venv` is there and was installed, to the end, from the files as they are now."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get(needs) == fingerprint(needs, version_of(python_of(VENV)))


def install(needs: str = "run") -> None:
    """Bring `.venv` in step with the pins; nothing is done when it is. An interrupted installation is completed.

    Raises `UserError` when the environment cannot be made or pip fails.
    """
    if in_step(needs):
        return
    with lock(ROOT / ".venv.lock", "Another command is installing the packages; waiting for it …"):
        if in_step(needs):
            return
        STAMP.unlink(missing_ok=True)
        version = version_of(python_of(VENV))
        if version is None or version < OLDEST or not _has_pip():
            _make_venv()
            version = version_of(python_of(VENV))
        _pip_install(needs)
        done = ("run", "test") if needs == "test" else ("run",)
        write_json(STAMP, {name: fingerprint(name, version) for name in done})


def _has_pip() -> bool:
    return subprocess.run([python_of(VENV), "-m", "pip", "--version"], capture_output=True).returncode == 0


def _make_venv() -> None:
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise UserError(
            "This Python cannot make virtual environments. On Debian or Ubuntu: apt-get install python3-venv."
        )
    print(f"[1/2] Making .venv with Python {sys.version.split()[0]}", flush=True)
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if done.returncode:
        print(_tail(done.stdout + done.stderr), file=sys.stderr)
        raise UserError(
            f"{VENV}: the virtual environment could not be made (lines above). Is the disk full or read-only?"
        )


def _pip_install(needs: str) -> None:
    lists = [part for name in REQUIREMENTS[needs] for part in ("-r", str(ROOT / name))]
    command = [str(python_of(VENV)), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", *lists, "-c", str(ROOT / PINS)]
    total = len(wanted(ROOT / PINS))
    print(
        f"[2/2] Installing about {total} packages into .venv (some minutes the first time; log: .venv/install.log)",
        flush=True,
    )
    seen = 0
    with open(LOG, "w", encoding="utf-8") as log, Status(every=30) as status:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        pip = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        try:
            for line in pip.stdout:
                log.write(line)
                word, _, rest = line.strip().partition(" ")
                if word == "Collecting":
                    seen += 1
                    status.show(f"fetching {rest.split(' ')[0]} ({seen} of about {total})", restart=False)
                elif line.startswith("Installing collected packages"):
                    status.show(f"unpacking {rest.count(',') + 1} packages", restart=False)
        finally:
            if pip.poll() is None and sys.exc_info()[0]:
                pip.terminate()
            pip.wait()
    if pip.returncode:
        text = LOG.read_text(encoding="utf-8", errors="replace")
        print(_tail(text), file=sys.stderr)
        if "No space left" in text or "Errno 28" in text:
            raise UserError(
                "the disk is full: free about 6 GB and run the same command again; what was installed is kept."
            )
        raise UserError(
            "pip could not install the packages (lines above; whole log: .venv/install.log). Check the network and run "
            "the same command again: what was downloaded is kept."
        )


def _tail(text: str, lines: int = 12) -> str:
    kept = [line for line in text.strip().splitlines() if not line.startswith("WARNING")]
    return "\n".join("  " + line for line in kept[-lines:])


def missing(needs: str) -> list[str]:
    """The requirements that the running Python lacks, or has in a version too old: "scipy", "transformers>=5.15 (it has 5.10.0)". One too new may do: tests/drift.py tries them."""
    ranges = [item for file in REQUIREMENTS[needs] for item in wanted(ROOT / file).items()]
    return [found for name, specifier in ranges if (found := _lacking(name, specifier))]


def _lacking(name: str, specifier: str) -> str:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # comes with transformers and matplotlib; without them there is enough to say
        return ""
    least = ",".join(part for part in specifier.replace(" ", "").split(",") if part.startswith((">", "~", "=")))
    return "" if SpecifierSet(least).contains(version, prereleases=True) else f"{name}{least} (it has {version})"


def _complete_running_python(needs: str) -> None:
    if on_colab() and missing("run"):
        from . import runtime

        runtime.setup()
    lacking = missing(needs)
    if lacking:
        files = " ".join(f"-r {name}" for name in REQUIREMENTS[needs])
        raise UserError(f"this Python lacks {', '.join(lacking)}. Install: {sys.executable} -m pip install {files}")


@contextlib.contextmanager
def lock(path: Path, waiting: str = "", busy: str = "") -> Iterator[None]:
    """Hold a lock file that goes away with the process. When it is taken: wait after saying `waiting`, or raise `busy`.

    Raises `UserError` with the text `busy`, or when the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}). Work in a folder of your own.") from error
    with handle:
        if not _try_lock(handle, wait=False):
            if busy:
                raise UserError(busy)
            print(waiting, flush=True)
            _try_lock(handle, wait=True)
        yield


def _try_lock(handle, wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return _try_lock(handle, wait) if wait else False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks (some network mounts) must not keep anybody from working
    return True
