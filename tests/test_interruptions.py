"""Training that runs out of memory, is asked to pause, or is shared by processes comes to what it would have come to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from helpers import checkpoints, distributed, files, profiles, runtime, training
from helpers.records import Record


@pytest.fixture(scope="module")
def setting(questions):
    profile = profiles.choose("tiny").replace(replay_pairs=8, batch_size=4, accumulation=2, evaluations=2, learning_rate=1e-3)
    train = [q for q in questions if q.split == "train"]
    pairs = [Record(f"p{i}", "translate", q.ja, q.en) for i, q in enumerate(train[20:44])]
    dev = {"pairs": pairs[:2], "questions": [q for q in questions if q.split == "dev"][:3]}
    return profile, training.plan(profile.recipe, pairs, train[:12]), dev


def rows_of(folder):
    timing = ("tokens_per_second", "peak_memory_gb")
    return [{k: v for k, v in r.items() if k not in timing} for r in checkpoints.read_log(folder / "log.jsonl")]


def adapter_of(folder):
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    profile, order, dev = setting
    return training.train(profile, order, dev, tmp_path_factory.mktemp("whole"), say=lambda text: None)


def assert_alike(folder, whole):
    """The same log, as far as sums in another order are the same."""
    ours, theirs = rows_of(folder), rows_of(whole)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(len(theirs))), "no gap and no repeat"
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() and all(a[k] == pytest.approx(b[k], rel=1e-2 if k == "grad_norm" else 1e-4) if isinstance(b[k], float) else a[k] == b[k] for k in b), (a, b)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["cuda", "cpu"])
def test_out_of_memory_halves_the_batch_and_goes_on_from_the_last_step(setting, whole, tmp_path, monkeypatch, error):
    """The trainer meets torch's own errors here; on a GPU it is not measured yet."""
    import torch

    profile, order, dev = setting
    real, sizes, said = training.labelled_loss, [], []

    def short_of_memory(model, inputs):
        rows = len(inputs["input_ids"])
        if model.training:
            sizes.append(rows)
            # The second micro-batch of the third step and all that are as large from then on.
            if rows > 2 and len(sizes) >= 6:
                if error == "cuda":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
                torch.empty(1 << 46, dtype=torch.uint8)
        return real(model, inputs)

    monkeypatch.setattr(training, "labelled_loss", short_of_memory)
    folder = training.train(profile, order, dev, tmp_path, say=said.append)
    assert sizes == [4] * 6 + [2] * 16, "two steps of 2 × 4, the third broken off and made again, all with 4 × 2"
    assert any("Memory ran out. Going on from step 2 with 2 at once, accumulated 4 times" in s for s in said)
    assert_alike(folder, whole)
    assert json.loads((folder / "done.json").read_text())["tokens_seen"] == rows_of(whole)[-1]["tokens_seen"]


@pytest.mark.slow
def test_no_memory_for_one_example_is_said_with_what_to_do(setting, tmp_path, monkeypatch):
    import torch

    profile, order, dev = setting

    def none(model, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    real = training.labelled_loss
    monkeypatch.setattr(training, "labelled_loss", lambda model, inputs: none(model, inputs) if model.training else real(model, inputs))
    said = []
    with pytest.raises(files.UserError, match="memory ran out. Lower batch_size or max_length"):
        training.train(profile.replace(batch_size=3, accumulation=1), training.Plan(order.items[:6], 0, 3), dev, tmp_path, say=said.append)
    assert "with 1 at once, accumulated 3 times" in said[-1]


def test_a_dev_loss_that_does_not_fit_is_taken_in_smaller_batches(setting, monkeypatch):
    import torch

    from helpers import models, prompts

    profile, _, dev = setting
    tokenizer, here = models.load_tokenizer(profile), runtime.device()
    model = models.add_adapter(models.load_base(profile), profile)
    examples = [prompts.encode_example(tokenizer, "text", "translate", r) for r in dev["questions"] * 3]
    expected = training.dev_loss(model, examples, 0, here)
    real, sizes = training.labelled_loss, []

    def short_of_memory(model, inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, inputs)

    monkeypatch.setattr(training, "labelled_loss", short_of_memory)
    assert training.dev_loss(model, examples, 0, here, batch=9) == pytest.approx(expected, rel=1e-3)
    assert sizes == [9, 4, 4, 1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_and_saves_and_a_second_run_ends_as_one_that_was_left_alone(setting, whole, tmp_path, number):
    profile, order, dev = setting
    said, before = [], signal.getsignal(number)

    def ask(row):
        if row["step"] == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(files.UserError, match="paused at step 4 of 6, and saved"):
        training.train(profile, order, dev, tmp_path, progress=ask, say=said.append)
    assert any(s.startswith("Pausing") for s in said) and signal.getsignal(number) is before
    assert checkpoints.last_checkpoint(tmp_path).name == "checkpoint-4" and not (tmp_path / "adapter").exists()
    training.train(profile, order, dev, tmp_path, say=said.append)
    assert said[-1] == "Going on from step 4 of 6."
    assert adapter_of(tmp_path) == adapter_of(whole) and rows_of(tmp_path) == rows_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [2, 0])
def test_an_interrupt_while_the_last_step_is_evaluated_stops_what_comes_after(setting, whole, tmp_path, monkeypatch, stop_after):
    """The end of the shared part, or of an arm: what was asked for is done and saved, and the next arm is not begun."""
    profile, order, dev = setting
    real, last, asked = training.dev_loss, stop_after or order.steps, []

    def ask(*args, **kwargs):
        before = checkpoints.read_log(tmp_path / "log.jsonl")
        if before and before[-1]["step"] == last - 1 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGINT))
        return real(*args, **kwargs)

    monkeypatch.setattr(training, "dev_loss", ask)
    with pytest.raises(files.UserError, match="paused after its last step, and saved"):
        training.train(profile, order, dev, tmp_path, stop_after=stop_after, say=lambda text: None)
    assert checkpoints.last_checkpoint(tmp_path).name == f"checkpoint-{stop_after or order.steps}"
    training.train(profile, order, dev, tmp_path, say=lambda text: None)
    assert adapter_of(tmp_path) == adapter_of(whole) and rows_of(tmp_path) == rows_of(whole)


@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(setting, tmp_path):
    profile, order, dev = setting

    def ask(row):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        training.train(profile, order, dev, tmp_path, progress=ask, say=lambda text: None)
    assert checkpoints.last_checkpoint(tmp_path).name == "checkpoint-2"


@pytest.mark.slow
def test_on_drive_a_checkpoint_comes_whole_or_not_at_all(setting, whole, tmp_path, monkeypatch):
    """It is saved on the machine's own disk, copied out, and renamed into place; a VM that goes meanwhile leaves the one before."""
    profile, order, dev = setting
    drive = tmp_path / "drive"
    monkeypatch.setattr(checkpoints, "DRIVE", drive)
    folder, real, saved = drive / "MyDrive" / "arm", checkpoints.copy_out, []

    def gone(source, target):
        saved.append((source, sorted(p.name for p in target.iterdir())))
        if len(saved) == 3:
            with monkeypatch.context() as patch:
                patch.setattr("shutil.copytree", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
                real(source, target)
        real(source, target)

    monkeypatch.setattr(checkpoints, "copy_out", gone)
    with pytest.raises(KeyboardInterrupt):
        training.train(profile.replace(evaluations=6), order, dev, folder, say=lambda text: None)
    assert all(not source.is_relative_to(drive) and names == sorted({"log.jsonl", *(f"checkpoint-{n}" for n in range(1, i))}) for i, (source, names) in enumerate(saved, 1)), saved
    assert checkpoints.last_checkpoint(folder).name == "checkpoint-2" and not saved[0][0].parent.exists()
    said = []
    training.train(profile.replace(evaluations=6), order, dev, folder, say=said.append)
    assert said[0] == "Going on from step 2 of 6." and adapter_of(folder) == adapter_of(whole)


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one_and_write_once(setting, tmp_path, monkeypatch):
    """gloo on the CPU; as on Kaggle's two T4s, where it is not measured. Sixty steps, so that they are not done before they are asked to pause."""
    profile, order, dev = setting
    order = training.Plan(order.items * 10, order.shared_steps, order.batch)
    one = training.train(profile, order, dev, tmp_path / "one", say=lambda text: None)
    tmp_path = tmp_path / "two"
    monkeypatch.setenv(distributed.PROCESSES, "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said, seen = [], []

    def ask(row):
        seen.append(row["step"])
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(files.UserError, match=r"paused at step \d+ of 60, and saved"):
        distributed.train(profile, order, dev, tmp_path, progress=ask, say=said.append)
    paused = checkpoints.step_of(checkpoints.last_checkpoint(tmp_path))
    assert 2 <= paused < 60 and not (tmp_path / "adapter").exists() and seen == list(range(paused + 1))
    # What a killed run may leave: steps that no checkpoint has come again, and are shown when they do.
    checkpoints.add_row(tmp_path / checkpoints.LOG, {"step": paused + 1, "tokens_seen": 0})
    distributed.train(profile, order, dev, tmp_path, progress=lambda row: seen.append(row["step"]), say=said.append)
    assert_alike(tmp_path, one)
    assert f"Going on from step {paused} of 60." in (tmp_path / distributed.OUTPUT).read_text()
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists() and seen == list(range(61))


@pytest.mark.slow
def test_two_processes_that_share_out_the_weights_train_as_one(setting, tmp_path, monkeypatch):
    """QLoRA with FSDP2, by gloo on the CPU, stopped and gone on with; on GPUs it is not measured."""
    from helpers import fused, models

    _, order, dev = setting
    # Its output head is a weight of its own, as that of models large enough to need this.
    profile = profiles.choose("tiny-phi").replace(replay_pairs=8, batch_size=2, accumulation=4, evaluations=2, learning_rate=1e-3, gradient_checkpointing=True)
    # The layers of peft and bitsandbytes, as on a GPU.
    monkeypatch.setattr(fused, "install", lambda model, here: 0)
    one = training.train(profile, order, dev, tmp_path / "one", say=lambda text: None)
    folder, command = tmp_path / "two", distributed._command
    monkeypatch.setenv(distributed.PROCESSES, "2")
    monkeypatch.setenv(distributed.CONFIGURATION, str(files.ROOT / "data" / "fsdp.yaml"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(distributed, "_command", lambda *args: ["tests.fsdp_on_cpu" if a == "helpers.distributed" else a for a in command(*args)])
    distributed.train(profile, order, dev, folder, stop_after=3, say=lambda text: None)
    assert not (folder / "adapter").exists() and (folder / "checkpoint-3" / "pytorch_model_fsdp_0").is_dir()
    with pytest.raises(files.UserError, match="checkpoint-3: saved with FSDP"):
        training.train(profile, order, dev, folder, say=lambda text: None)
    distributed.train(profile, order, dev, folder, say=lambda text: None)
    assert "Going on from step 3 of 6." in (folder / distributed.OUTPUT).read_text()
    assert_alike(folder, one)
    ours, theirs = (models.load_for_inference(profile, f / "adapter", merge=False).state_dict() for f in (folder, one))
    assert ours.keys() == theirs.keys() and all(ours[k].float().allclose(theirs[k].float(), atol=2e-4) for k in ours if "lora_" in k)


def test_fsdp_without_gpus_is_refused(setting, tmp_path, monkeypatch):
    profile, order, dev = setting
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(files.UserError, match="FSDP needs GPUs and `fsdp_version: 2`"):
        training.train(profile, order, dev, tmp_path, say=lambda text: None)


@pytest.mark.slow
def test_processes_whose_starter_is_killed_save_and_end(setting, tmp_path):
    """As when a kernel is killed: nobody would know of them any more, and the next run would write beside them."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom helpers import corpora, distributed, profiles, runtime, training\nruntime.quiet()\n"
        "profile = profiles.choose('tiny').replace(batch_size=2, accumulation=1, question_epochs=60, replay_pairs=0)\n"
        "questions = [q for q in corpora.questions() if q.split == 'train'][:12]\norder = training.plan(profile.recipe, [], questions)\n"
        "def killed(row):\n    if row['step'] >= 2:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "distributed.train(profile, order, {'pairs': [], 'questions': questions[:1]}, sys.argv[1], progress=killed)"
    )
    environment = os.environ | {distributed.PROCESSES: "2", "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=files.ROOT, env=environment).returncode == -signal.SIGKILL
    end = time.monotonic() + 90
    while (left := [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in (p.info["cmdline"] or [])]) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left and not (tmp_path / "adapter").exists()
    assert 2 <= checkpoints.step_of(checkpoints.last_checkpoint(tmp_path)) < 720
    assert "and saved. Run this again" in (tmp_path / distributed.OUTPUT).read_text()


def test_what_a_process_says_last_is_the_error(setting, tmp_path, monkeypatch):
    profile, order, dev = setting
    monkeypatch.setenv(distributed.PROCESSES, "2")
    with pytest.raises(files.UserError, match="'p.*max_length=10. Shorten it or raise max_length. All that was said: "):
        distributed.train(profile.replace(max_length=10), order, dev, tmp_path, say=lambda text: None)


@pytest.mark.parametrize(("batch", "accumulation", "processes", "expected"), [(4, 4, 1, (4, 4)), (4, 4, 2, (4, 2)), (16, 1, 2, (8, 1)), (4, 4, 8, (2, 1)), (3, 4, 2, (3, 2)), (6, 2, 3, (4, 1))])  # fmt: skip
def test_a_step_is_shared_whole(batch, accumulation, processes, expected):
    recipe = profiles.choose("tiny").replace(batch_size=batch, accumulation=accumulation).recipe
    assert training.share(recipe, processes) == expected
    with pytest.raises(files.UserError, match="cannot be shared by 7 processes: choose a number that divides"):
        training.share(recipe, 7)


@pytest.mark.parametrize("wrong", ["0", "two", "-1"])
def test_a_wrong_number_of_processes_is_said(setting, monkeypatch, wrong):
    monkeypatch.setenv(distributed.PROCESSES, wrong)
    with pytest.raises(files.UserError, match=f"BONSAI_PROCESSES: expected a number of processes from 1, found '{wrong}'"):
        distributed.processes(setting[0].recipe)
