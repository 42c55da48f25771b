"""Taking a trained model home: merged into its base as safetensors or GGUF, or its adapter with a card on the hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import gguf_export, model_card, models, own_evaluation, pipeline, prompts, runtime
from .assembly import short
from .files import UserError, read_json, whole_folder, write_json
from .profiles import Profile
from .runtime import Run

DTYPES = ("float16", "bfloat16", "float32")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Trained:
    """An arm of a run that has an adapter: the run, the arm's name, which seed, the adapter's folder."""

    run: Run
    arm: str
    seed: int
    adapter: Path

    @property
    def name(self) -> str:
        """Name of what is exported."""
        return model_card.title(self.run, self.arm, self.seed)


def find(run: Run, arm: str, seed: int | None = None) -> Trained:
    """The trained arm of a run, its first seed unless another is given.

    Raises `UserError` when it is not there, not whole, or was made for another base model than the run's profile has.
    """
    there = own_evaluation.trained(run)
    if arm not in there:
        known = "; ".join(f"{a} (seed {', '.join(map(str, s))})" for a, s in there.items())
        rest = f"Trained there: {known}." if known else "No arm is trained there yet (notebook 03, or the commands run and study)."
        raise UserError(f"{short(run.folder)}: no trained adapter of {arm!r}. {rest}")
    seed = there[arm][0] if seed is None else seed
    if seed not in there[arm]:
        raise UserError(f"{short(run.folder)}: {arm} is not trained with seed {seed}. Seeds there: {', '.join(map(str, there[arm]))}.")
    folder = pipeline.arm_folder(run.with_seed(seed), arm) / "adapter"
    if not (folder / ADAPTER_FILES[0]).exists():
        raise UserError(f"{folder}: {ADAPTER_FILES[0]} is missing. Train this arm again (notebook 03).")
    base, wanted = Path(str(read_json(folder / ADAPTER_FILES[0]).get("base_model_name_or_path"))).name, models.local_folder(run.profile)
    if base != Path(wanted).name:
        raise UserError(f"{folder}: made for {base!r}, not for {run.profile.name}. Open the run with the profile that it was trained with.")
    return Trained(run, arm, seed, folder)


@dataclass(frozen=True)
class _In(runtime.Device):
    """This machine's device, with another dtype than it would compute in."""

    wanted: str = "float32"

    @property
    def dtype_name(self) -> str:
        return self.wanted


def merged(profile: Profile, adapter: str | Path, dtype: str, say: Callable[[str], None] = print):
    """The base model, de-quantised from NF4, with the adapter merged into it in `dtype` (one of `DTYPES`).

    With the dtype that a machine computes in, these are the weights that `models.load_for_inference` predicts with there. No check of the
    adapter is made here, see `find`.
    """
    from peft import PeftModel

    here = runtime.device(profile.model.fp16_safe)
    model = models.dense(models.load_base(profile, _In(here.kind, here.name, here.capability, here.fp16_safe, dtype), say))
    model = PeftModel.from_pretrained(model, str(adapter), is_trainable=False).merge_and_unload().eval()
    model.config.use_cache = True
    return model


def save(trained: Trained, folder: str | Path, dtype: str = "auto", gguf: bool = False, say: Callable[[str], None] = print) -> Path:
    """Write the merged model into a new `folder` that `AutoModelForCausalLM.from_pretrained` loads: weights, tokenizer, card, licence.

    `dtype` is one of `DTYPES`, or "auto" for what this machine computes in; with `gguf` a file for llama.cpp in the same dtype lies beside.
    The folder is whole or absent. Raises `UserError` when it is there already, the dtype is another, the disk is full, or llama.cpp does not
    know the tokenizer.
    """
    folder, profile = Path(folder), trained.run.profile
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype: expected one of auto, {', '.join(DTYPES)}, found {dtype!r}.")
    if folder.exists():
        raise UserError(f"{folder}: is there already. Choose another folder (--to), or remove this one.")
    dtype = runtime.device(profile.model.fp16_safe).dtype_name if dtype == "auto" else dtype
    if dtype == "float16" and not profile.model.fp16_safe:
        say("Weights in float16: let it compute in bfloat16 or float32, the activations of this model can exceed what float16 holds.")
    if gguf:
        gguf_export.converter(say)
    tokenizer = models.load_tokenizer(profile, say)
    with whole_folder(folder) as temporary:
        _write_texts(trained, temporary, dtype)
        save_tokenizer(tokenizer, temporary)
        say(f"Merging {trained.name} in {dtype} …")
        model = merged(profile, trained.adapter, dtype, say)
        _set_ends(model, tokenizer, profile)
        model.save_pretrained(temporary)
        del model
        if gguf:
            file = temporary / f"{trained.name}-{gguf_export.TYPES[dtype]}.gguf"
            gguf_export.convert(temporary, file, dtype, trained.name, gguf_export.vocabulary(profile, temporary, say), say)
    return folder


def _write_texts(trained: Trained, folder: Path, weights: str) -> None:
    (folder / "README.md").write_text(model_card.card(trained.run, trained.arm, trained.seed, weights), encoding="utf-8")
    (folder / "LICENSE.txt").write_text(model_card.licence(trained.run, trained.arm), encoding="utf-8")


def _set_ends(model, tokenizer, profile: Profile) -> None:
    """Let `generate` as it comes decode greedily within the budget and stop where `inference.generate` does."""
    from transformers import GenerationConfig

    ends = sorted({prompts.end_id(tokenizer, profile.model.prompt_style), tokenizer.eos_token_id})
    eos = ends[0] if len(ends) == 1 else ends
    recipe, ids = profile.recipe, {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    for name, value in (ids | {"eos_token_id": eos}).items():
        setattr(model.config, name, value)
    budget = max(recipe.translation_budget, recipe.answer_budget, recipe.multistep_budget)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=budget, eos_token_id=eos, **ids)


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Save a tokenizer that gives a prompt the ids it was trained with, the beginning-of-sequence token among them, when called as it comes.

    Raises `UserError` when the saved one does not.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    probe = "Translate into English.\nJapanese: 水と  山\n"
    tokenizer.save_pretrained(folder)
    wanted = prompts.encode_prompt(tokenizer, probe)
    if tokenizer(probe)["input_ids"] != wanted:
        path = folder / "tokenizer.json"
        bos = tokenizer.bos_token
        begun = wanted[0] == tokenizer.bos_token_id
        processor = TemplateProcessing(single=f"{bos} $A" if begun else "$A", special_tokens=[(bos, tokenizer.bos_token_id)] if begun else [])
        fast = json.loads(path.read_text(encoding="utf-8"))
        fast["post_processor"] = json.loads(processor.__getstate__())
        path.write_text(json.dumps(fast, ensure_ascii=False), encoding="utf-8")
        config = read_json(folder / "tokenizer_config.json") | {"add_bos_token": begun}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")
    if AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(probe)["input_ids"] != wanted:
        raise UserError(f"{folder.name}: the saved tokenizer gives other ids than the model was trained with. Export the adapter instead (--push).")


@contextmanager
def adapter_folder(trained: Trained) -> Iterator[Path]:
    """A temporary folder with what goes to the hub: adapter, its configuration with the base's public name, tokenizer, card, licence."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / trained.name
        folder.mkdir()
        for name in ADAPTER_FILES:
            shutil.copy(trained.adapter / name, folder)
        config = read_json(folder / ADAPTER_FILES[0]) | {"base_model_name_or_path": model_card.base_name(trained.run)}
        write_json(folder / ADAPTER_FILES[0], config)
        save_tokenizer(models.load_tokenizer(trained.run.profile), folder)
        _write_texts(trained, folder, "adapter")
        yield folder


def contents(folder: Path) -> str:
    """Every file below `folder`, a line each, with its size in bytes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return "\n".join(f"{p.stat().st_size:>13,}  {p.relative_to(folder).as_posix()}" for p in files)


def push(
    trained: Trained, repository: str, *, public: bool = False, dry_run: bool = False, say: Callable[[str], None] = print, api: Any = None
) -> str:
    """Upload the adapter with its card to the hub's model repository OWNER/NAME, made private unless `public`; returns its address.

    Without a token (HF_TOKEN, `hf auth login`), or with `dry_run`, says exactly what would be uploaded and returns "". Raises `UserError` for
    a bad name, what the hub refuses, and a repository that is public already where a private one is meant.
    """
    from huggingface_hub import HfApi, get_token

    # HTTPError of the client that this version of the package uses (httpx or its successor); a hub that is not reached raises it, too.
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository!r}: not a repository name ({' '.join(str(error).split())[:160]})") from error
    if repository.count("/") != 1:
        raise UserError(f"{repository!r}: expected OWNER/NAME.")
    api = api or HfApi()
    address = f"{api.endpoint}/{repository}"
    with adapter_folder(trained) as folder:
        token = get_token()
        if dry_run or not token:
            why = "dry run" if dry_run else "no token: set HF_TOKEN, or run `hf auth login`"
            say(f"Nothing is uploaded ({why}). To {address} ({'public' if public else 'private'}) would go:\n")
            say(f"{contents(folder)}\n\nREADME.md:\n\n{(folder / 'README.md').read_text(encoding='utf-8')}")
            return ""
        try:
            api.create_repo(repository, token=token, private=not public, repo_type="model", exist_ok=True)
            if not public and not api.repo_info(repository, token=token, repo_type="model").private:
                raise UserError(f"{repository}: is there already, and public. Say --public if that is meant, or choose another name.")
            message = f"Adapter of {trained.arm}, seed {trained.seed}, with its card"
            api.upload_folder(repo_id=repository, folder_path=folder, token=token, repo_type="model", commit_message=message)
        except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
            reason = " ".join(str(error).split()).replace(token, "…")[:300]
            raise UserError(f"{repository}: the hub could not be written to ({reason}). Check name, network and the token's right to write.") from None
        say(f"Uploaded to {address} ({'public' if public else 'private'}):\n{contents(folder)}")
    return address


def default_folder(trained: Trained) -> Path:
    """Where an export goes when no folder is named: `exports` of the run folder."""
    return trained.run.path("exports", f"{trained.arm}-seed{trained.seed}")


def open_run(name: str, study: str = "") -> Run:
    """The run folder that an arm was trained in. Raises `UserError` for one that is not there."""
    if not (runtime.runs_folder() / name / "run.json").exists():
        raise UserError(f"{runtime.runs_folder() / name}: no such run. Give its folder's name with --run.")
    return own_evaluation.open_run(name, study=study)
