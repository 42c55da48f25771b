"""Where the program runs, on what device, in what precision, and into which run folder it writes."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from . import studies
from .files import ROOT, UserError, read_json, write_json
from .profiles import PROFILES, Profile, choose

# What a Colab kernel has imported before the first cell, or what its front end depends on: pip must not replace these.
UNTOUCHED = (
    "torch", "torchvision", "torchaudio", "numpy", "pandas", "scipy", "matplotlib", "ipywidgets", "ipykernel", "ipython",
    "protobuf", "pyarrow", "pillow", "requests", "tornado", "jupyter-client", "notebook", "google-colab",
)  # fmt: skip


def where() -> str:
    """`colab`, `kaggle`, `jupyter` or `terminal`."""
    if "google.colab" in sys.modules or os.environ.get("COLAB_RELEASE_TAG"):
        return "colab"
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return "kaggle"
    return "jupyter" if "ipykernel" in sys.modules else "terminal"


def setup(upgrade_nothing: tuple[str, ...] = UNTOUCHED) -> None:
    """Make the packages of requirements.txt importable; on Colab and Kaggle install what is missing.

    What the running kernel depends on is pinned to what is there, so no restart is ever needed. Raises `UserError` with
    pip's last words when the installation fails. Call it before the first import of transformers.
    """
    if where() in ("colab", "kaggle"):
        pins = []
        for name in upgrade_nothing:
            try:
                pins.append(f"{name}=={importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                continue
        # Local version labels (+cu128) name no release on an index; the installed one satisfies the public version.
        pins = [re.sub(r"\+.*", "", p) if not p.startswith("torch") else p for p in pins]
        with tempfile.TemporaryDirectory() as folder:
            pinned = Path(folder) / "pinned.txt"
            pinned.write_text("\n".join(pins) + "\n", encoding="utf-8")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "-r", str(ROOT / "requirements.txt"), "-c", str(pinned)]
            print("Installing what the runtime lacks (about a minute the first time) …", flush=True)
            result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            words = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["ERROR: no reason given"]
            raise UserError(f"pip could not install requirements.txt ({words[-1][7:300]}). Check the network and run this cell again.")
        importlib.invalidate_caches()
    missing = [n for n in ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "sacrebleu") if not _has(n)]
    if missing:
        raise UserError(
            f"Not installed for this kernel: {', '.join(missing)}. Choose the project's .venv as kernel (`python -m helpers run` makes it), or "
            "pip install -r requirements.txt here."
        )
    quiet()


def quiet() -> None:
    """Silence progress and advice of libraries that a reader cannot act on; errors still show."""
    import logging
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    for name in ("transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("peft", "trl", "bitsandbytes", "torch", "transformers"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")


def _has(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Device:
    """The device of this machine: `kind` (`cuda` or `cpu`), its name, compute capability ((0, 0) on the CPU)."""

    kind: str
    name: str
    capability: tuple[int, int] = (0, 0)
    fp16_safe: bool = True

    @property
    def dtype_name(self) -> str:
        """`bfloat16`, `float16` or `float32`: what matrices are multiplied in.

        By compute capability, because `torch.cuda.is_bf16_supported()` says True on a T4, which emulates it. A CPU
        without bf16 instructions is several times slower in bf16 than in fp32. A model that is not `fp16_safe` is computed in
        fp32 where there is no bf16.
        """
        if self.kind == "cuda":
            return "bfloat16" if self.capability >= (8, 0) else "float16" if self.fp16_safe else "float32"
        return "bfloat16" if _cpu_has_bf16() else "float32"

    @cached_property
    def dtype(self):
        """The torch dtype of `dtype_name`."""
        import torch

        return getattr(torch, self.dtype_name)


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", flags))


def device(fp16_safe: bool = True) -> Device:
    """The device that this process would compute on, for a model that is `fp16_safe` or not."""
    import torch

    if torch.cuda.is_available():
        capability = (7, 5) if _as_t4 else torch.cuda.get_device_capability(0)
        return Device("cuda", torch.cuda.get_device_name(0), capability, fp16_safe)
    return Device("cpu", platform.processor() or platform.machine())


def sharded() -> bool:
    """Whether this process is one of several that hold the weights between them (FSDP, by accelerate's launcher)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


# How many processes share the GPU.
GPU_JOBS = "BONSAI_GPU_JOBS"
T4_GIB = 14.74  # torch.cuda.get_device_properties(0).total_memory, as Colab's T4 reports it
CONTEXT_GIB = 0.45  # assumed: the CUDA context with its kernels and cuBLAS workspaces
_as_t4 = False


def as_t4(flash: bool = False) -> None:
    """From here on this process takes a larger GPU for a T4: its precisions, its memory, and (but for `flash`) no flash attention, which it has no kernels for. Without a GPU nothing changes."""
    global _as_t4
    import torch

    _as_t4 = True
    if torch.cuda.is_available():
        # What is limited is the allocator: of a T4's memory the CUDA context is taken off.
        torch.cuda.set_per_process_memory_fraction(min(1.0, (T4_GIB - CONTEXT_GIB) * 2**30 / torch.cuda.get_device_properties(0).total_memory))
        torch.backends.cuda.enable_flash_sdp(flash)
        torch.backends.cuda.enable_cudnn_sdp(flash)


def gpu_gib() -> float:
    """Memory of the GPU in GiB that this process may count on, a T4's after `as_t4`; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    whole = T4_GIB if _as_t4 else torch.cuda.get_device_properties(0).total_memory / 2**30
    # Others may be at the same GPU.
    free = (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / 2**30
    return min(free, whole / int(os.environ.get(GPU_JOBS, 1)))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_gb() -> float:
    """Peak memory so far in GB (10⁹ bytes): of the CUDA device where there is one, else resident memory of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


def gflops(here: Device, size: int = 1024, times: int = 6) -> float:
    """GFLOP/s at which `here` multiplies `size` × `size` matrices in the precision that it trains in: the best of so many `times`."""
    import torch

    # Not ones: on a GPU equal numbers take less power, and run faster than any real ones.
    matrix = torch.randn(size, size, device=here.kind).to(here.dtype)
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best / 1e9


def describe() -> dict[str, str]:
    """What `python -m helpers doctor` and the notebooks print about this machine."""
    import torch

    here = device()
    return {
        "runs on": where(),
        "torch": torch.__version__,
        "device": here.name if here.kind == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "compute capability": ".".join(map(str, here.capability)) if here.kind == "cuda" else "none",
        "precision": here.dtype_name,
        "profile auto picks": choose("auto", here.kind == "cuda").name,
    }


@dataclass(frozen=True)
class Run:
    """A run folder with the profile and the study it was begun with."""

    folder: Path
    profile: Profile
    study: studies.Study

    @property
    def recipe(self):
        """The profile's recipe."""
        return self.profile.recipe

    def path(self, *parts: str) -> Path:
        """A path inside the run folder."""
        return self.folder.joinpath(*parts)

    def with_seed(self, seed: int) -> Run:
        """The same run for training and predicting with another seed; its data stay those of the run's own seed."""
        return Run(self.folder, self.profile.replace(seed=seed), self.study)


def runs_folder(drive: bool = False) -> Path:
    """Where run folders live: Drive if asked for and mounted, else `BONSAI_RUNS`, else `runs` in the repository.

    Raises `UserError` when Drive is asked for where there is none.
    """
    if drive:
        if where() != "colab":
            raise UserError("Google Drive can only be mounted on Colab: untick USE_DRIVE.")
        from google.colab import drive as mount  # type: ignore[import-not-found]

        mount.mount("/content/drive")
        return Path("/content/drive/MyDrive/bonsai-runs")
    return Path(os.environ.get("BONSAI_RUNS") or ROOT / "runs")


def open_run(
    name: str = "default", profile: str = "auto", *, study: str = "quick", drive: bool = False, model_id: str = "", **changes
) -> Run:
    """Open or begin the run folder `name` for a study (see `studies.load`). `changes` replace fields of the recipe after the study's.

    A folder keeps the profile it was begun with: `auto` takes that one up again. Raises `UserError` for a bad name, an unknown
    profile or study, or a folder begun with other settings.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UserError(f"Run name {name!r}: use letters, digits, '.', '_' and '-' only, up to 64 of them.")
    folder = runs_folder(drive) / name
    marker = folder / "run.json"
    begun = read_settings(marker) if marker.exists() else None
    if profile == "auto" and begun and model_id in ("", begun["model_id"]):
        profile, model_id = begun["profile"], begun["model_id"]
    chosen_study = studies.load(study)
    profile = chosen_study.profile if profile == "auto" else profile
    # The profile's own name, not that of `model_id`: it is looked up again when the folder is reopened.
    profile = choose("auto", device().kind == "cuda").name if profile == "auto" else profile
    chosen = choose(profile, model_id=model_id).replace(**dict(chosen_study.recipe) | changes)
    settings = {"profile": profile, "model_id": model_id, "study": chosen_study.name, "changes": changes}
    if begun is None:
        write_json(marker, settings)
    elif {"study": "quick"} | begun != settings:
        raise UserError(
            f"{folder} was begun with {_words(begun)}, not {_words(settings)}. "
            "Choose another RUN name, or remove that folder to begin again."
        )
    return Run(folder, chosen, chosen_study)


def read_settings(marker: Path) -> dict:
    """What a run was begun with (`run.json`). Raises `UserError` where the file does not hold that."""
    begun = read_json(marker)
    kinds = {"profile": str, "model_id": str, "changes": dict, "study": str}
    known = isinstance(begun, dict) and all(isinstance({"study": "quick", **begun}.get(name), kind) for name, kind in kinds.items())
    if not known or begun["profile"] not in PROFILES:
        raise UserError(f"{marker}: not the settings of a run. Choose another RUN name, or remove that folder to begin again.")
    try:
        studies.check_recipe(begun["changes"], lambda field, expected: UserError(f"{marker}, field 'changes': expected {expected}."))
    except UserError as error:
        raise UserError(f"{error} Choose another RUN name, or remove that folder to begin again.") from error
    return begun


def _words(settings: dict) -> str:
    words = [settings["profile"], settings["model_id"]]
    words += [f"study {settings['study']}"] if settings.get("study", "quick") != "quick" else []
    return ", ".join(w for w in [*words, *(f"{name}={value}" for name, value in settings["changes"].items())] if w)
