"""Training on several GPUs, or nodes, through accelerate's launcher; on one GPU or a CPU just `training.train`.

The launcher starts processes of its own, from a notebook too: accelerate's `notebook_launcher` refuses to once CUDA was used in the kernel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import checkpoints, profiles, records
from .files import ROOT, UserError, read_json, write_json
from .profiles import Profile, Recipe
from .records import Record

PROCESSES, CONFIGURATION, PARENT = "BONSAI_PROCESSES", "BONSAI_ACCELERATE", "BONSAI_PARENT"
JOB, OUTPUT = "job.json", "processes.log"


def processes(recipe: Recipe) -> int:
    """How many processes train together: `BONSAI_PROCESSES`, else one a GPU, as far as a step divides. Raises `UserError`."""
    wanted = os.environ.get(PROCESSES, "")
    if wanted and not (wanted.isascii() and wanted.isdigit() and int(wanted)):
        raise UserError(f"{PROCESSES}: expected a number of processes from 1, found {wanted!r}.")
    import torch

    whole = recipe.batch_size * recipe.accumulation
    return int(wanted) if wanted else next(n for n in range(max(1, torch.cuda.device_count()), 0, -1) if whole % n == 0)


def train(
    profile: Profile,
    order,
    dev: dict[str, Sequence[Record]],
    folder: str | Path,
    *,
    stop_after: int = 0,
    progress: Callable[[dict], None] = lambda row: None,
    say: Callable[[str], None] = print,
) -> Path:
    """`training.train` with the same arguments, in as many processes as `processes` says; each does its share of every step.

    `BONSAI_ACCELERATE` names a configuration of accelerate's (`accelerate config`) for several nodes, or for FSDP (data/fsdp.yaml). Raises
    `UserError`, with what the processes said last in `processes.log` of the folder.
    """
    from . import training

    if (count := processes(profile.recipe)) == 1 and not os.environ.get(CONFIGURATION):
        return training.train(profile, order, dev, folder, stop_after=stop_after, progress=progress, say=say)
    folder = Path(folder)
    training.share(profile.recipe, count)
    job = {
        "profile": dataclasses.asdict(profile),
        "items": [[stage, r.to_dict()] for stage, r in order.items],
        "order": {"shared_steps": order.shared_steps, "batch": order.batch, "reasoning_last": order.reasoning_last},
        "dev": {name: [r.to_dict() for r in rows] for name, rows in dev.items()},
        "stop_after": stop_after,
    }
    write_json(folder / JOB, job)
    (folder / training.PAUSE).unlink(missing_ok=True)
    reached = checkpoints.step_of(checkpoints.last_checkpoint(folder) or folder)
    if (folder / checkpoints.LOG).exists():
        # As the processes do when they begin: rows after the checkpoint come again.
        checkpoints.begin_log(folder / checkpoints.LOG, reached)
    configuration = os.environ.get(CONFIGURATION)
    say(f"Training in {f'the processes of {configuration}' if configuration else f'{count} processes'} that share each step (accelerate).")
    with (folder / OUTPUT).open("w", encoding="utf-8") as output:
        # A session of its own: an interrupt goes to this process alone, which asks for a pause.
        process = subprocess.Popen(_command(folder, count), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=os.environ | {PARENT: str(os.getpid())})
        try:
            _wait(process, folder, reached, progress, say)
        finally:
            if process.poll() is None:
                _end(process)
    if process.returncode:
        raise UserError(f"{_reason(folder)} All that was said: {folder / OUTPUT}")
    return folder


def _command(folder: Path, count: int) -> list[str]:
    import torch

    work = ["-m", f"{__package__}.distributed", str(folder.absolute())]
    if configuration := os.environ.get(CONFIGURATION):
        asked = ["--num_processes", os.environ[PROCESSES]] if os.environ.get(PROCESSES) else []
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration, *asked, *work]
    if not torch.cuda.is_available():
        # accelerate's own wants MPI for processors; this is what it calls for GPUs.
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), *work]
    # Port 0: any that is free.
    options = ["--multi_gpu", "--num_processes", str(count), "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *work]


def _end(process: subprocess.Popen, seconds: float = 60.0) -> None:
    """End all processes, and only return when they have: others would begin to write where they still save."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen, folder: Path, last: int, progress: Callable[[dict], None], say: Callable[[str], None]) -> None:
    """Show the log's rows after step `last` as they come, until the processes have ended; an interrupt asks them to pause."""
    from . import training

    paused, ended = False, False
    while True:
        try:
            ended = process.poll() is not None
            for row in checkpoints.read_log(folder / checkpoints.LOG, partial=True):
                if row["step"] > last:
                    last = row["step"]
                    progress(row)
            if ended:
                return
            time.sleep(0.5)
        except KeyboardInterrupt:
            if paused:
                raise
            (folder / training.PAUSE).touch()
            paused = True
            say("Pausing: this step is finished and saved first. Interrupt again to stop at once; what is saved stays.")


def _reason(folder: Path) -> str:
    lines = [line for line in (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    known = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    return known.removeprefix("error: ") or f"{folder}: the processes ended ({lines[-1][:300] if lines else 'without a word'})."


def _work(folder: Path) -> None:
    """What each process does."""
    from . import runtime, training

    runtime.quiet()
    job = read_json(folder / JOB)
    threading.Thread(target=pause_when_gone, args=(int(os.environ[PARENT]),), daemon=True).start()
    profile = profiles.parse(job["profile"])
    items = tuple((stage, records.parse(record, JOB)) for stage, record in job["items"])
    dev = {name: [records.parse(r, JOB) for r in rows] for name, rows in job["dev"].items()}
    training.train(profile, training.Plan(items, **job["order"]), dev, folder, stop_after=job["stop_after"])


def pause_when_gone(parent: int) -> None:
    """Ask for a pause once the process that started the training is gone: nobody would know of it, and another run would write here too."""
    # Not by the file `pause`: a new start removes it, and while the model is loaded nobody looks at it, but a signal then ends the process.
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    try:
        _work(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
