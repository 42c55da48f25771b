"""QLoRA training of one arm with TRL's SFTTrainer, and the log that notebook 04 reads."""

from __future__ import annotations

import gc
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import fused, models, prompts
from .files import UserError, whole_file, whole_folder, write_json
from .profiles import Profile, Recipe
from .records import Record
from .runtime import Device, device, peak_memory_gb

# Windows of this many batches are sorted by length: little padding, and still a mixed order.
WINDOW = 8
LOG_FIELDS = (
    "step", "phase", "loss", "learning_rate", "grad_norm", "tokens_seen", "target_tokens_seen", "tokens_per_second",
    "peak_memory_gb", "dev_answer_loss", "dev_translation_loss",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is trained on, in order: (stage, record) pairs, a whole number of optimiser steps in all.

    The first `shared_steps` steps hold sentence pairs only, the same in every arm.
    """

    items: tuple[tuple[str, Record], ...]
    shared_steps: int
    batch: int

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return len(self.items) // self.batch


def plan(recipe: Recipe, pairs: Sequence[Record], questions: Sequence[Record]) -> Plan:
    """The order of training: sentence pairs first, then questions with the last `replay_pairs` of the pairs mixed in.

    It depends on prompts alone, never on rationales, so that every arm gets the same prompts in the same order. In an
    epoch each question comes once as `multistep`, once as `answer` or `direct`, by turns. What does not fill a
    batch of a phase moves on to the next one or, at the very end, is left out.
    """
    generator = random.Random(recipe.seed)
    batch = recipe.batch_size * recipe.accumulation
    alone = max(0, len(pairs) - recipe.replay_pairs) // batch * batch
    first = _arrange([("translate", r) for r in pairs[:alone]], batch, generator)
    replay = list(pairs[alone:])
    second: list[tuple[str, Record]] = []
    for epoch in range(recipe.question_epochs):
        items = [("multistep", r) for r in questions]
        items += [(("answer", "direct")[(i + epoch) % 2], r) for i, r in enumerate(questions)]
        items += [("translate", r) for r in replay[epoch :: recipe.question_epochs]]
        second += _arrange(items, batch, generator)
    second = second[: len(second) // batch * batch]
    return Plan(tuple(first + second), len(first) // batch, batch)


def _arrange(items: list[tuple[str, Record]], batch: int, generator: random.Random) -> list[tuple[str, Record]]:
    generator.shuffle(items)
    arranged = []
    for start in range(0, len(items), batch * WINDOW):
        window = sorted(items[start : start + batch * WINDOW], key=_length)
        whole = len(window) // batch * batch
        batches = [window[i : i + batch] for i in range(0, whole, batch)]
        generator.shuffle(batches)
        arranged += [item for b in batches for item in b] + window[whole:]
    return arranged


# Tokens of the fixed text of each stage, roughly; a Japanese character costs about 0.7 tokens, an English one 0.25.
_FIXED = {"translate": 11, "multistep": 16, "answer": 12, "direct": 12}


def _length(item: tuple[str, Record]) -> float:
    stage, record = item
    return _FIXED[stage] + 0.7 * len(record.ja) * (stage != "answer") + 0.25 * len(record.en) * (stage != "direct")


def encode(tokenizer, profile: Profile, items: Sequence[tuple[str, Record]]) -> list[dict[str, list[int]]]:
    """Token ids and labels of each item. Raises `UserError` for one longer than the profile's `max_length`."""
    encoded = []
    for stage, record in items:
        example = prompts.encode_example(tokenizer, profile.model.prompt_style, stage, record)
        if len(example["input_ids"]) > profile.recipe.max_length:
            raise UserError(
                f"Record {record.id!r} ({stage}) has {len(example['input_ids'])} tokens, more than max_length="
                f"{profile.recipe.max_length}. Shorten it or raise max_length."
            )
        encoded.append(example)
    return encoded


def sort_steps(examples: list[dict[str, list[int]]], batch: int) -> list[dict[str, list[int]]]:
    """The same examples in the same steps, by length within each step: micro-batches of like length pad less."""
    steps = (examples[i : i + batch] for i in range(0, len(examples), batch))
    return [e for step in steps for e in sorted(step, key=lambda e: len(e["input_ids"]))]


def collate(examples: Sequence[dict[str, list[int]]], pad_id: int) -> dict:
    """Right-padded `input_ids`, `attention_mask`, `labels` (batch × longest); padding is masked by position, not by id."""
    import torch

    longest = max(len(e["input_ids"]) for e in examples)

    def rows(key: str, filler: int):
        return torch.tensor([e[key] + [filler] * (longest - len(e[key])) for e in examples])

    mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (longest - len(e["input_ids"])) for e in examples])
    return {"input_ids": rows("input_ids", pad_id), "attention_mask": mask, "labels": rows("labels", prompts.IGNORED)}


def labelled_loss(model, inputs: dict):
    """Summed cross-entropy over the labelled positions and their number; equals the library's loss (tests).

    Logits are computed at labelled positions only.
    """
    import torch

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state
    targets = inputs["labels"][:, 1:]
    wanted = targets != prompts.IGNORED
    hidden, head = hidden[:, :-1][wanted], causal.lm_head
    if getattr(causal.config, "final_logit_softcapping", None):
        raise UserError(f"{causal.config.model_type} caps its logits, which this trainer does not: choose another model.")
    with torch.autocast(hidden.device.type, enabled=False):
        loss = fused.head_loss()(hidden, head.weight, getattr(head, "bias", None), targets[wanted])
    return loss, wanted.sum()


def dev_loss(model, examples: Sequence[dict[str, list[int]]], pad_id: int, here: Device, batch: int = 32) -> float:
    """Mean loss per labelled token over `examples`, in nats; leaves the model's training mode as it was."""
    import torch

    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    ordered = sorted(examples, key=lambda e: len(e["input_ids"]))
    with torch.no_grad(), torch.autocast(here.kind, here.dtype, enabled=here.dtype_name != "float32"):
        for i in range(0, len(ordered), batch):
            inputs = {k: v.to(model.device) for k, v in collate(ordered[i : i + batch], pad_id).items()}
            loss, labelled = labelled_loss(model, inputs)
            total, count = total + loss.item(), count + labelled.item()
    model.train(was_training)
    return total / max(1, count)


@cache
def _trainer_class():
    from torch.utils.data import SequentialSampler
    from trl import SFTTrainer

    class LabelledTrainer(SFTTrainer):
        """SFTTrainer with logits at labelled positions only, the given order of examples, and fp32 adapters."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            # TRL casts QLoRA adapters to bf16; with fp16 the gradient scaler then fails, on the CPU it costs quality.
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()

        def _get_train_sampler(self, *args, **kwargs):
            return SequentialSampler(self.train_dataset)

        def create_model_card(self, *args, **kwargs):
            """None: the run folder's report describes the arm, and TRL's card would name this machine's folders."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # The trainer's own autocast wraps the outermost forward, which is not called here.
            with self.accelerator.autocast():
                total, labelled = labelled_loss(self.accelerator.unwrap_model(model), inputs)
            self.tokens_seen = getattr(self, "tokens_seen", 0) + int(inputs["attention_mask"].sum())
            self.target_tokens_seen = getattr(self, "target_tokens_seen", 0) + int(labelled)
            if num_items_in_batch is None:
                loss = total / labelled.clamp(min=1)
            else:
                loss = total / num_items_in_batch
                if self.args.average_tokens_across_devices:
                    loss = loss * self.accelerator.num_processes
            return (loss, None) if return_outputs else loss

    return LabelledTrainer


def _recorder(log: Path, shared_steps: int, evaluate: Callable[[], dict[str, float]], every: int, progress: Callable[[dict], None]):
    """A callback that writes one line of `LOG_FIELDS` a step, and saves and stops where the plan says."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        trainer = None
        stop_at = 0

        def on_train_begin(self, args, state, control, **kwargs):
            kept = [row for row in read_log(log, partial=True) if row["step"] <= state.global_step]
            with whole_file(log) as f:
                f.writelines(json.dumps(row) + "\n" for row in kept)
            if kept:
                self.trainer.tokens_seen = kept[-1]["tokens_seen"]
                self.trainer.target_tokens_seen = kept[-1]["target_tokens_seen"]
            else:
                self.trainer.tokens_seen = self.trainer.target_tokens_seen = 0
                self._write({"step": 0, "phase": "start", "tokens_seen": 0, "target_tokens_seen": 0, **evaluate()})
            self.clock, self.tokens = time.perf_counter(), self.trainer.tokens_seen

        def _write(self, row: dict) -> None:
            row["peak_memory_gb"] = round(peak_memory_gb(), 3)
            with log.open("a", encoding="utf-8") as f:
                f.write(json.dumps({k: row[k] for k in LOG_FIELDS if k in row}) + "\n")
            progress(row)

        def on_step_end(self, args, state, control, **kwargs):
            control.should_log = True
            if state.global_step in (shared_steps, state.max_steps, self.stop_at) or state.global_step % every == 0:
                control.should_save = True
            if state.global_step == self.stop_at:
                control.should_training_stop = True

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise UserError(
                    f"{log.parent}: the loss at step {state.global_step} is not finite. Lower learning_rate, or train in bf16 or fp32; "
                    "checkpoints up to here are kept."
                )
            seconds = time.perf_counter() - self.clock
            row = {
                "step": state.global_step,
                "phase": "pairs" if state.global_step <= shared_steps else "questions",
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
                "grad_norm": float(logs.get("grad_norm", float("nan"))),
                "tokens_seen": self.trainer.tokens_seen,
                "target_tokens_seen": self.trainer.target_tokens_seen,
                "tokens_per_second": round((self.trainer.tokens_seen - self.tokens) / max(seconds, 1e-9), 1),
            }
            if control.should_save:
                row |= evaluate()
            self._write(row)
            self.clock, self.tokens = time.perf_counter(), self.trainer.tokens_seen

        def on_save(self, args, state, control, **kwargs):
            self.clock = time.perf_counter()

    return Recorder()


def read_log(path: str | Path, partial: bool = False) -> list[dict]:
    """Rows of a training log, one a step; none for no file. With `partial`, a last line that was cut off is left out.

    Raises `UserError` with the line for a malformed one.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate((text[: text.rfind("\n") + 1] if partial else text).splitlines(), 1):
        try:
            row = json.loads(line)
            row["step"], row["tokens_seen"] = int(row["step"]), int(row["tokens_seen"])
            rows.append(row)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: expected one JSON object a step with step and tokens_seen ({error}).") from error
    return rows


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`: one whose trainer state, which is written last, is there."""
    found = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").exists()]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


def begin_from(shared: Path, folder: Path) -> None:
    """Give a new arm the shared part of training: its checkpoint and log. The steps are the same in every arm."""
    source = last_checkpoint(shared)
    if source is None or last_checkpoint(folder) is not None:
        return
    # The log first: a checkpoint without one would count its tokens from zero.
    with whole_file(folder / "log.jsonl") as f:
        f.write((shared / "log.jsonl").read_text(encoding="utf-8"))
    with whole_folder(folder / source.name) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)


def train(
    profile: Profile,
    order: Plan,
    dev: dict[str, Sequence[Record]],
    folder: str | Path,
    *,
    stop_after: int = 0,
    progress: Callable[[dict], None] = lambda row: None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train one arm into `folder`: checkpoints, `log.jsonl`, at the end `adapter/`; goes on from the last checkpoint.

    `dev` holds `pairs` and `questions` for the two dev losses. `stop_after` > 0 stops and saves at that step, without an
    adapter. `progress` gets each row of the log. Raises `UserError` when the loss is not finite.
    """
    import datasets
    import torch
    from transformers import PrinterCallback
    from trl import SFTConfig

    # Trainer, callbacks and closures of an earlier arm hold each other; their memory is needed now.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    folder = Path(folder)
    recipe, here = profile.recipe, device(profile.model.fp16_safe)
    tokenizer = models.load_tokenizer(profile, say)
    pad, style = tokenizer.pad_token_id, profile.model.prompt_style
    dev_answers = [prompts.encode_answer_only(tokenizer, style, r) for r in dev["questions"]]
    dev_pairs = [prompts.encode_example(tokenizer, style, "translate", r) for r in dev["pairs"]]
    examples = sort_steps(encode(tokenizer, profile, order.items), order.batch)
    model = models.add_adapter(models.load_base(profile, here, say), profile)
    fused.install(model, here)

    def evaluate() -> dict[str, float]:
        return {
            "dev_answer_loss": dev_loss(model, dev_answers, pad, here),
            "dev_translation_loss": dev_loss(model, dev_pairs, pad, here),
        }

    every = max(1, -(-order.steps // recipe.evaluations))
    recorder = _recorder(folder / "log.jsonl", order.shared_steps, evaluate, every, progress)
    recorder.stop_at = stop_after
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        max_steps=order.steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(recipe.warmup_ratio * order.steps)),
        max_grad_norm=1.0,
        optim="adamw_torch",
        fp16=here.dtype_name == "float16",
        bf16=here.dtype_name == "bfloat16",
        use_cpu=here.kind == "cpu",
        gradient_checkpointing=recipe.gradient_checkpointing,
        logging_strategy="no",
        save_strategy="no",
        save_total_limit=2,
        report_to="none",
        logging_nan_inf_filter=False,
        seed=recipe.seed,
        data_seed=recipe.seed,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=here.kind == "cuda",
        disable_tqdm=True,
    )
    # Data parallelism inside one process would double the micro-batch: one GPU a process.
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = _trainer_class()(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(examples),
        data_collator=lambda batch: collate(batch, pad),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    recorder.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        say(f"Going on from step {checkpoint.name.split('-')[1]} of {order.steps}.")
    try:
        with fused.freed_memory_kept():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its own.
        if not isinstance(error, UserError) and shutil.disk_usage(folder).free < 64e6:
            raise UserError(f"{folder}: the disk is full. Free some space and run again: it goes on from the last checkpoint.") from error
        raise
    if not stop_after:
        if profile.model.source != "hub":
            # An absolute folder of this machine would say nothing to whoever gets the adapter.
            adapter = trainer.model.peft_config["default"]
            adapter.base_model_name_or_path = Path(adapter.base_model_name_or_path or "").name
        with whole_folder(folder / "adapter") as temporary:
            trainer.model.save_pretrained(temporary)
        facts = {"steps": order.steps, "tokens_seen": trainer.tokens_seen, "peak_memory_gb": peak_memory_gb()}
        write_json(folder / "done.json", facts | {"device": here.name if here.kind == "cuda" else "CPU", "precision": here.dtype_name})
    recorder.trainer = None
    return folder
