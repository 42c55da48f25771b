"""GGUF files for llama.cpp, written by llama.cpp's own converter, which is fetched and verified on first use.

The converter is not a package of its own; it lies in the source distribution of llama-cpp-python (MIT), in `vendor/llama.cpp`.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import corpora
from .files import ROOT, UserError, cache_folder, read_json, sha256, whole_folder
from .profiles import Profile

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TYPES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32"}
_SCRIPT = "convert_hf_to_gguf.py"
_KEPT = (_SCRIPT, "conversion/", "gguf-py/gguf/", "LICENSE")


def source_archive(folder: Path, say: Callable[[str], None] = print) -> Path:
    """Download the verified source distribution of llama-cpp-python into `folder` (77 MB). Raises `UserError`."""
    say(f"Fetching llama.cpp's converter (in llama-cpp-python {VERSION}, MIT; 77 MB, once) …")
    wanted = folder / "requirements.txt"
    # With the hash in a requirements file, pip verifies the archive before it runs anything in it.
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "-d", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or len(found) != 1:
        raise UserError(f"llama-cpp-python {VERSION} cannot be fetched ({_last(done.stderr, 'ERROR')}). Check the network and run again.")
    if sha256(found[0]) != SHA256:
        raise UserError(f"{found[0].name}: SHA-256 differs from the pinned one. Run again; if it stays so, do not use it.")
    return found[0]


def converter(say: Callable[[str], None] = print) -> Path:
    """Folder of llama.cpp's converter in the cache; fetched on first use. Raises `UserError`."""
    target = cache_folder() / f"llama.cpp-converter-{VERSION}-{SHA256[:8]}"
    if not (target / _SCRIPT).exists():
        top = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
        with tempfile.TemporaryDirectory() as downloads, whole_folder(target) as folder:
            with tarfile.open(source_archive(Path(downloads), say)) as archive:
                for member in archive:
                    name = member.name.removeprefix(top)
                    if name != member.name and name.startswith(_KEPT):
                        archive.extract(member.replace(name=name), folder, filter="data")
    return target


def vocabulary(profile: Profile, folder: Path, say: Callable[[str], None] = print) -> Path | None:
    """A GGUF file whose tokenizer the exported one takes over as it is, or None where the converter makes it from `folder`.

    The embedded model came as GGUF: its tokenizer, with scores that the safetensors folder has no place for, is taken from there. For a model
    of the hub the converter wants its SentencePiece file where there is one; it is put into `folder`.
    """
    model = profile.model
    if model.source == "package":
        return corpora.fetch(corpora.GEMMA, say)
    if model.source == "hub":
        found = _sentencepiece(model.identifier)
        if found:
            shutil.copy(found, folder / found.name)
            _name_added_tokens(folder)
    return None


def _name_added_tokens(folder: Path) -> None:
    """Say in tokenizer_config.json, where the converter looks, which pieces are special or matched whole; transformers 5 leaves that out."""
    added = read_json(folder / "tokenizer.json")["added_tokens"]
    config = read_json(folder / "tokenizer_config.json")
    config["added_tokens_decoder"] = {str(t["id"]): {name: value for name, value in t.items() if name != "id"} for t in added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def _sentencepiece(identifier: str) -> Path | None:
    name = "tokenizer.model"
    if Path(identifier).is_dir():
        return Path(identifier) / name if (Path(identifier) / name).exists() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(identifier, name))
    except RemoteEntryNotFoundError:
        return None
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(f"{identifier}: {name} cannot be fetched ({' '.join(str(error).split())[:200]}). Check the network and run again.") from error


def convert(folder: Path, file: Path, dtype: str, name: str, tokenizer: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Write the model in `folder` (safetensors) as a GGUF `file`, weights in `dtype` (see `TYPES`), `name` in its metadata.

    With `tokenizer` (see `vocabulary`), the file takes its tokenizer from that GGUF. In a process of its own, because the converter brings
    its own version of the gguf package. Raises `UserError` with the converter's last words.
    """
    where = converter(say)
    say(f"Writing {file.name} …")
    command = [sys.executable, "-m", "helpers.gguf_export", str(where), str(tokenizer or ""), str(folder), str(file), TYPES[dtype], name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment | {"HF_HUB_OFFLINE": "1"})
    if done.returncode or not file.exists():
        raise UserError(_explained(done.stderr, file))
    return file


def _explained(words: str, file: Path) -> str:
    if os.strerror(28) in words:  # ENOSPC
        return f"{file.name}: the disk is full. Free some space and run again."
    if "pre-tokenizer was not recognized" in words:
        return "llama.cpp's converter does not know the tokenizer of this model, so there is no GGUF of it. Export it without --gguf."
    if "No module named 'sentencepiece'" in words:
        return "The tokenizer of this model wants a package more: python -m pip install sentencepiece; then run again."
    return f"llama.cpp's converter failed: {_last(words)}. Export it without --gguf, or report this."


def _last(words: str, begin: str = "") -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()] or ["it gives no reason"]
    return ([line for line in lines if line.startswith(begin)] or lines)[-1][:200]


def _run_converter(where: str, tokenizer: str, folder: str, file: str, kind: str, name: str) -> None:
    sys.path[:0] = [str(Path(where) / "gguf-py"), where]
    if tokenizer:
        from conversion import get_model_class

        architecture = read_json(Path(folder) / "config.json")["architectures"][0]
        get_model_class(architecture).set_vocab = lambda model: _copy_tokenizer(Path(tokenizer), model.gguf_writer)
    sys.argv = [_SCRIPT, folder, "--outfile", file, "--outtype", kind, "--model-name", name]
    runpy.run_path(str(Path(where) / _SCRIPT), run_name="__main__")


def _copy_tokenizer(source: Path, writer) -> None:
    from gguf import GGUFReader, GGUFValueType

    for field in GGUFReader(source).fields.values():
        if field.name.startswith("tokenizer."):
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)


if __name__ == "__main__":
    _run_converter(*sys.argv[1:])
