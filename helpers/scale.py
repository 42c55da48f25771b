"""How long the curation of sentence pairs takes and how much memory, by the number of rows; each size in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import corpora, curation, filters, models, profiles, records, runtime, similarity
from .files import ROOT, UserError, write_json, write_text
from .records import Record

ROWS = (10_000, 50_000, 203_308)
# What the whole of notebook 01 may take at 203,308 rows on two cores.
LIMIT_SECONDS, LIMIT_GB = 180, 2.0


def measure(
    rows: Sequence[int] = ROWS,
    compare: int = 50_000,
    folder: str | Path | None = None,
    source: str | Path = "",
    say: Callable[[str], None] = print,
) -> dict:
    """Seconds and peak memory (GB = 10⁹ bytes) of `curate_pairs` at each number of `rows`, and the near-duplicate step alone, with
    `compare` rows, next to datasketch on the same rows.

    The rows are a sample of the Tatoeba pairs, or of the records of `source` (JSONL). With `folder`, `curation_scale.json` and
    `curation_scale.md` are written there. Raises `UserError`.
    """
    sizes = []
    for n in rows:
        sizes.append(_process("curate", n, source))
        say(f"{n:,} rows: {sizes[-1]['seconds']:.1f} s, {sizes[-1]['peak_gb']:.2f} GB")
    near = {"near": _process("near", compare, source)}
    if importlib.util.find_spec("datasketch"):
        near["datasketch"] = _process("datasketch", compare, source)
        near["times_faster"] = round(near["datasketch"]["seconds"] / near["near"]["seconds"], 2)
        say(
            f"Near-duplicates of {compare:,} rows: {near['near']['seconds']:.1f} s, datasketch {near['datasketch']['seconds']:.1f} s"
        )
    # By the processor's seconds, which other programs on the machine do not stretch.
    result = {
        "machine": machine(),
        "sizes": sizes,
        "fit": fit([(s["rows"], s["cpu_seconds"]) for s in sizes]),
        "near_duplicates": near,
    }
    if folder:
        write_json(Path(folder) / "curation_scale.json", result)
        write_text(Path(folder) / "curation_scale.md", table(result))
    return result


def fit(points: Sequence[tuple[int, float]]) -> dict[str, float] | None:
    """Least squares over (rows, seconds): `seconds_per_10k` more rows, and the `exponent` of rows (1 = linear); None for one size."""
    if len({n for n, _ in points}) < 2:
        return None
    return {
        "seconds_per_10k": round(1e4 * slope(points), 3),
        "exponent": round(slope([(math.log(n), math.log(s)) for n, s in points]), 3),
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the least-squares line through (x, y)."""
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def table(result: dict) -> str:
    """The result of `measure` as Markdown."""
    machine = result["machine"]
    lines = [
        f"Curation of sentence pairs on {described(machine)}, so not alone on the machine where it is above 0.",
        "",
        "| rows | kept | seconds | of these on the CPU | rows/s | seconds with start and loading | peak memory (GB) |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for s in result["sizes"]:
        cells = f"{s['seconds']:.1f} | {s['cpu_seconds']:.1f} | {s['rows_per_second']:,} | {s['wall_seconds']:.1f} | {s['peak_gb']:.2f}"
        lines.append(f"| {s['rows']:,} | {s['kept']:,} | {cells} |")
    if result["fit"]:
        lines += ["", f"{result['fit']['seconds_per_10k']:.2f} CPU seconds for each 10,000 rows more; they grow as rows to the power "
                  f"of {result['fit']['exponent']:.2f} (1 = linear)."]  # fmt: skip
    last = result["sizes"][-1]
    met = "kept" if last["wall_seconds"] < LIMIT_SECONDS and last["peak_gb"] < LIMIT_GB else "not kept"
    met = met if last["rows"] >= ROWS[-1] else "not measured at that size"
    lines += ["", f"Limit for {ROWS[-1]:,} rows: {LIMIT_SECONDS} s and {LIMIT_GB:g} GB: {met}."]
    near = result["near_duplicates"]
    lines += [
        "",
        f"The near-duplicate step alone, both sides of {near['near']['rows']:,} rows:",
        "",
        "| library | seconds | peak memory of the process (GB) | rows found |",
        "| --- | ---: | ---: | ---: |",
    ]
    names = {
        "near": f"rensa {machine['rensa']}, candidates verified",
        "datasketch": f"datasketch {machine['datasketch']}, not verified",
    }
    for name in names:
        if name not in near:
            continue
        n = near[name]
        lines.append(f"| {names[name]} | {n['seconds']:.1f} | {n['peak_gb']:.2f} | {n['found']:,} |")
    if "times_faster" in near:
        lines += ["", f"datasketch takes {near['times_faster']:.1f} times as long."]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """Cores, CPU, memory, system, versions; no name of the machine or of its user."""
    import psutil

    def version(name: str) -> str:
        return importlib.metadata.version(name) if importlib.util.find_spec(name) else ""

    try:
        named = [
            line.split(":", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
    except OSError:
        named = []
    return {
        "cores": runtime.cores(),
        "cpu": " ".join((named or [platform.processor() or platform.machine()])[0].split()),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": round(psutil.getloadavg()[0], 2),
        **{name: version(name) for name in ("rensa", "datasketch", "py3langid")},
    }


def described(machine: dict[str, Any]) -> str:
    """What `machine` found, for the head of a table."""
    return (
        f"{machine['cores']} cores ({machine['cpu']}, {machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}); "
        f"load average {machine['load']} at the start"
    )


def apart(module: str, *words: object, what: str = "") -> dict:
    """The JSON object that `python -m helpers.MODULE WORDS` prints last: memory is measured in a process of its own. Raises `UserError`."""
    done = subprocess.run([sys.executable, "-m", f"{__package__}.{module}", *map(str, words)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise UserError(f"measuring {what or words[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:300]}")
    return json.loads(done.stdout.splitlines()[-1])


def _process(task: str, rows: int, source: str | Path) -> dict:
    begun = time.perf_counter()
    found = apart("scale", task, rows, source and Path(source).resolve(), what=f"{task} with {rows} rows")
    return found | {"wall_seconds": round(time.perf_counter() - begun, 2)}


def peak_gb() -> float:
    """Most memory that this process held at once."""
    import psutil

    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which begins with what the parent held when it started this process.
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.peak_wset / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


def _sample(rows: int, source: str) -> list[Record]:
    pairs = records.read(source) if source else corpora.tatoeba(lambda text: None)
    if rows > len(pairs):
        raise UserError(f"{rows} rows are asked for, the source has {len(pairs)}. Ask for fewer.")
    return [pairs[i] for i in sorted(random.Random(0).sample(range(len(pairs)), rows))]


def _task(task: str, rows: int, source: str) -> dict:
    """What one process does; only the curation is timed, and for the near-duplicates only that step."""
    pairs = _sample(rows, source)
    if task == "curate":
        held = [r for r in corpora.questions() if r.split in ("dev", "test")]
        count = filters.token_counter(models.load_tokenizer(profiles.choose("tiny" if source else "gemma3-270m"), lambda text: None))
        sizes = {"train": None, "dev": min(1000, rows // 20), "test": min(1000, rows // 20)}
        begun, busy = time.perf_counter(), time.process_time()
        splits, funnel = curation.curate_pairs(pairs, held, sizes, count_tokens=count)
        seconds, busy = time.perf_counter() - begun, time.process_time() - busy
        more = {"kept": sum(map(len, splits.values())), "steps": funnel.steps, "cpu_seconds": round(busy, 3)}
        more["rows_per_second"] = round(rows / seconds)
    else:
        pairs = [r.replace(ja=filters.clean(r.ja), en=filters.clean(r.en)) for r in pairs]
        pairs = curation.deduplicate(pairs, curation.Funnel())
        begun = time.perf_counter()
        found = similarity.near_duplicates(pairs) if task == "near" else _datasketch(pairs)
        seconds, more = time.perf_counter() - begun, {"found": len(found)}
    return {"rows": rows, "seconds": round(seconds, 3), "peak_gb": round(peak_gb(), 3), **more}


def _datasketch(pairs: Sequence[Record], threshold: float = 0.8) -> set[int]:
    """The usual recipe: signatures of 128 permutations in bulk, MinHashLSH with the bands that it chooses; the same shingles as ours."""
    from datasketch import MinHash, MinHashLSH

    found: set[int] = set()
    for side in similarity.SIDES:
        index = MinHashLSH(threshold=threshold, num_perm=128)
        grams = ([g.encode() for g in similarity.shingles(getattr(r, side), side)] for r in pairs)
        for i, signature in enumerate(MinHash.generator(grams, num_perm=128)):
            if index.query(signature):
                found.add(i)
            else:
                index.insert(i, signature)
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(_task(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
    except UserError as error:
        sys.exit(str(error))
