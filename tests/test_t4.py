"""What a T4 and the libraries of today do otherwise than one would think, and that this series' code is built around it.

Where a trap is a library's, a test shows that it is still there; when that fails, the way around it can go.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from helpers import files, fused, models, profiles, prompts, runtime, training
from helpers.runtime import Device

T4 = Device("cuda", "Tesla T4", (7, 5))


class Stop(Exception):
    """Raised in place of what follows; carries what was asked for."""


def arguments_of_training(monkeypatch, tmp_path, pairs, here: Device) -> dict:
    """What `training.train` asks of TRL on the device `here`; the model stays on the CPU."""
    import trl

    def stop(**options):
        raise Stop(options)

    load, cpu = models.load_base, runtime.device()
    monkeypatch.setattr(training, "device", lambda fp16_safe=True: here)
    monkeypatch.setattr(models, "load_base", lambda profile, there, say: load(profile, cpu, say))
    monkeypatch.setattr(trl, "SFTConfig", stop)
    profile = profiles.choose("tiny").replace(batch_size=1, accumulation=1, replay_pairs=0)
    plan = training.plan(profile.recipe, pairs[:1], [])
    with pytest.raises(Stop) as asked:
        training.train(profile, plan, {"pairs": [], "questions": []}, tmp_path)
    return asked.value.args[0]


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (T4, {"fp16": True, "bf16": False, "use_cpu": False}),
        (Device("cuda", "Tesla T4", (7, 5), fp16_safe=False), {"fp16": False, "bf16": False, "use_cpu": False}),
        (Device("cuda", "NVIDIA L4", (8, 9)), {"fp16": False, "bf16": True, "use_cpu": False}),
    ],
)
def test_precision_is_always_said_to_trl_which_takes_bf16_otherwise(monkeypatch, tmp_path, pairs, here, expected):
    import trl

    assert trl.SFTConfig(output_dir=str(tmp_path), use_cpu=True).bf16, "the trap is gone: TRL no longer takes bf16 by itself"
    asked = arguments_of_training(monkeypatch, tmp_path, pairs, here)
    assert {k: asked[k] for k in expected} == expected
    assert not asked.get("packing", False), "without FlashAttention the examples of a packed row would see each other"


def test_trl_casts_adapters_to_bf16_and_they_are_put_back(tmp_path, tiny):
    import datasets
    import torch
    import trl

    def dtypes(kind):
        model = models.add_adapter(models.load_base(tiny), tiny)
        tokenizer = models.load_tokenizer(tiny)
        arguments = trl.SFTConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, fp16=False, max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none", remove_unused_columns=False,
        )  # fmt: skip
        rows = datasets.Dataset.from_list([{"input_ids": [2, 5, 1], "labels": [-100, 5, 1]}])
        kind(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, data_collator=lambda batch: batch)
        return {p.dtype for p in model.parameters() if p.requires_grad}

    assert dtypes(trl.SFTTrainer) == {torch.bfloat16}, "the trap is gone: TRL no longer casts adapters"
    assert dtypes(training._trainer_class()) == {torch.float32}


def test_eager_attention_overflows_in_fp16_and_sdpa_does_not(fp32):
    import torch
    from transformers.models.phi.modeling_phi import eager_attention_forward

    # phi-2's heads are 80 wide; 35² · 80 is beyond fp16's 65,504.
    query = key = torch.full((1, 1, 3, 80), 35.0, dtype=torch.float16)
    value = torch.ones_like(query)
    module = types.SimpleNamespace(num_key_value_groups=1, training=False)
    eager, _ = eager_attention_forward(module, query, key, value, None, scaling=80**-0.5)
    sdpa = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert eager.isnan().any() and torch.equal(sdpa, value)
    for name in ("tiny", "tiny-phi", "tiny-phi3"):
        assert models.load_base(profiles.choose(name)).config._attn_implementation == "sdpa"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_training_at_once_and_is_said(monkeypatch, tmp_path, pairs):
    real = training.labelled_loss

    def broken(model, inputs):
        total, count = real(model, inputs)
        return (total * math.nan if model.training else total), count

    monkeypatch.setattr(training, "labelled_loss", broken)
    profile = profiles.choose("tiny").replace(batch_size=2, accumulation=1, replay_pairs=0)
    plan = training.plan(profile.recipe, pairs, [])
    assert plan.steps == 4
    with pytest.raises(files.UserError, match="loss at step 1 is not finite. Lower learning_rate"):
        training.train(profile, plan, {"pairs": pairs[:1], "questions": []}, tmp_path)
    assert not (tmp_path / "adapter").exists()


@pytest.fixture
def with_code(tmp_path) -> Path:
    """A model folder that brings code of its own, as Phi-3's repositories do; executed, it leaves a mark."""
    shutil.copytree(models.local_folder(profiles.choose("tiny-phi3")), tmp_path / "model")
    folder = tmp_path / "model"
    code = f"open({str(tmp_path / 'executed')!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n"
    (folder / "own_code.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own_code.Config", "AutoModelForCausalLM": "own_code.Model", "AutoTokenizer": ["own_code.Config", None]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_a_repository_is_not_executed(with_code):
    profile = profiles.choose("tiny-phi3", model_id=str(with_code))
    models.load_tokenizer(profile)
    assert type(models.load_base(profile)).__module__ == "transformers.models.phi3.modeling_phi3"
    config = json.loads((with_code / "config.json").read_text())
    (with_code / "config.json").write_text(json.dumps(config | {"model_type": "phi3small"}))
    with pytest.raises(files.UserError, match="cannot be loaded: "):
        models.load_base(profile)
    assert not (with_code.parent / "executed").exists()


def test_a_pad_token_that_is_the_end_token_leaves_the_end_supervised(tmp_path, pairs):
    shutil.copytree(models.local_folder(profiles.choose("tiny")), tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "pad_token"}))
    tokenizer = models.load_tokenizer(profiles.choose("tiny", model_id=str(tmp_path / "model")))
    end = tokenizer.eos_token_id
    assert tokenizer.pad_token_id == end == prompts.end_id(tokenizer, "text")
    rows = [prompts.encode_example(tokenizer, "text", "translate", r) for r in pairs[:4]]
    batch = training.collate(rows, tokenizer.pad_token_id)
    assert (batch["input_ids"] == end).sum() > 4, "there is padding"
    assert ((batch["labels"] == end).sum(1) == 1).all() and (batch["labels"][batch["attention_mask"] == 0] == prompts.IGNORED).all()


def test_logits_are_never_held_for_more_than_a_few_positions(tiny, pairs, monkeypatch, fp32):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                wide = isinstance(leaf, torch.Tensor) and leaf.ndim and models.TINY_VOCABULARY in (leaf.shape[0], leaf.shape[-1])
                if wide and leaf.untyped_storage().data_ptr() != head:
                    self.rows = max(self.rows, leaf.numel() // models.TINY_VOCABULARY)
            return out

    monkeypatch.setattr(fused, "LOGIT_ROWS", 16)
    tokenizer = models.load_tokenizer(tiny)
    model = models.add_adapter(models.load_base(tiny), tiny)
    head = model.get_output_embeddings().weight.untyped_storage().data_ptr()
    inputs = training.collate([prompts.encode_example(tokenizer, "text", "translate", r) for r in pairs], tokenizer.pad_token_id)
    with Largest() as ours:
        total, count = training.labelled_loss(model, inputs)
        total.backward()
    with Largest() as library:
        model(**inputs).loss.backward()
    assert ours.rows <= 16 < count < library.rows == inputs["input_ids"].numel()


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A runtime that says it is Colab's; the pip that the setup cell calls is recorded and not run."""
    calls = []

    def run(command, **options):
        calls.append((command, Path(command[command.index("-c") + 1]).read_text()))
        return subprocess.CompletedProcess(command, calls.code, "", calls.words)

    calls = type("Calls", (list,), {"code": 0, "words": ""})()
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    monkeypatch.setattr(runtime.subprocess, "run", run)
    there = {"torch": "2.11.0+cu128", "numpy": "2.1.3", "ipywidgets": "7.7.1", "pyarrow": "18.1.0+local"}

    def version(name):
        if name not in there:
            raise runtime.importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(runtime.importlib.metadata, "version", version)
    return calls


def test_setup_on_colab_pins_what_the_kernel_has_and_installs_the_rest(colab):
    modules = set(sys.modules)
    runtime.setup()
    [(command, pinned)] = colab
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and "--upgrade" not in command and "-U" not in command
    assert command[command.index("-r") + 1] == str(files.ROOT / "requirements.txt")
    # torch's local label says which CUDA it is for; others' labels are on no index.
    assert sorted(pinned.split()) == ["ipywidgets==7.7.1", "numpy==2.1.3", "pyarrow==18.1.0", "torch==2.11.0+cu128"]
    assert "google.colab" not in set(sys.modules) - modules, "Drive is mounted when it is asked for, not by the setup"


def test_a_pip_that_fails_is_told_in_one_line(colab):
    colab.code, colab.words = 1, "WARNING: x\nERROR: Cannot install a and b\nERROR: ResolutionImpossible\n"
    with pytest.raises(files.UserError, match=r"pip could not install requirements.txt \(ResolutionImpossible\)"):
        runtime.setup()


def test_drive_is_mounted_only_if_it_is_asked_for(monkeypatch):
    mounted = []
    drive = types.SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=drive))
    monkeypatch.delenv("BONSAI_RUNS", raising=False)
    assert runtime.runs_folder() == files.ROOT / "runs" and not mounted
    assert runtime.runs_folder(drive=True) == Path("/content/drive/MyDrive/bonsai-runs") and mounted == ["/content/drive"]
