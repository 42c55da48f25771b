"""QLoRA training of one arm with TRL's SFTTrainer, and the log that notebook 04 reads."""

from __future__ import annotations

import gc
import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from . import checkpoints, fused, models, packing, prompts
from .checkpoints import LOG, last_checkpoint
from .files import UserError, disk_is_full, memory_ran_out, whole_folder, write_json
from .profiles import Profile, Recipe
from .records import Record
from .runtime import Device, device, peak_memory_gb, sharded

# Windows of this many batches are sorted by length: little padding, and still a mixed order.
WINDOW = 8
# Beside the log: whoever trains in other processes asks them with it to pause.
PAUSE = "pause"


@dataclass(frozen=True)
class Plan:
    """What is trained on, in order: (stage, record) pairs, a whole number of optimiser steps in all.

    The first `shared_steps` steps hold sentence pairs only, the same in every arm. With `reasoning_last` a rationale stands after the answer.
    """

    items: tuple[tuple[str, Record], ...]
    shared_steps: int
    batch: int
    reasoning_last: bool = False

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return len(self.items) // self.batch


def plan(recipe: Recipe, pairs: Sequence[Record], questions: Sequence[Record]) -> Plan:
    """The order of training: questions mixed with the last `replay_pairs` of the sentence pairs, the other pairs first (none, if that is `train_pairs`).

    It depends on prompts alone, never on rationales, so that every arm gets the same prompts in the same order. In an
    epoch each question comes once as `multistep`, once as `answer` or `direct`, by turns. What does not fill a
    batch of a phase moves on to the next one or, at the very end, is left out.
    """
    generator = random.Random(recipe.seed)
    batch = recipe.batch_size * recipe.accumulation
    # All of them, where there are more pairs than `train_pairs` too: a user's own are kept.
    mixed = len(pairs) if recipe.replay_pairs >= recipe.train_pairs else recipe.replay_pairs
    alone = max(0, len(pairs) - mixed) // batch * batch
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


def encode(tokenizer, profile: Profile, items: Sequence[tuple[str, Record]], reasoning_last: bool = False) -> list[dict[str, list[int]]]:
    """Token ids and labels of each item. Raises `UserError` for one longer than the profile's `max_length`."""
    encoded = []
    for stage, record in items:
        example = prompts.encode_example(tokenizer, profile.model.prompt_style, stage, record, reasoning_last)
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
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    targets = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=prompts.IGNORED)
    wanted = targets != prompts.IGNORED
    if packing.can_take(causal, ids.shape[1]):
        rows = packing.Rows([row[:count] for row, count in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)])
        places = torch.tensor([mine + [0] * (ids.shape[1] - len(mine)) for mine in rows.places])
        hidden = packing.run(causal, rows)[places[wanted]]
    else:
        hidden = causal.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[wanted]
    head = causal.lm_head
    if getattr(causal.config, "final_logit_softcapping", None):
        raise UserError(f"{causal.config.model_type} caps its logits, which this trainer does not: choose another model.")
    with torch.autocast(hidden.device.type, enabled=False):
        loss = _called(head, lambda x: fused.head_loss()(x, head.weight, getattr(head, "bias", None), targets[wanted]), hidden)
    return loss, wanted.sum()


def _called(module, function: Callable, *args):
    """`function` in place of the module's forward pass, within its hooks: FSDP gathers the module's weights in them."""
    if not sharded():
        return function(*args)
    module.forward = function
    try:
        return module(*args)
    finally:
        del module.forward


def dev_loss(model, examples: Sequence[dict[str, list[int]]], pad_id: int, here: Device, batch: int = 32) -> float:
    """Mean loss per labelled token over `examples`, in nats; leaves the model's training mode as it was.

    `batch` examples at once, half of that where memory runs out.
    """
    import torch

    was_training = model.training
    model.eval()
    total, count, done = 0.0, 0, 0
    ordered = sorted(examples, key=lambda e: len(e["input_ids"]))
    with torch.no_grad(), torch.autocast(here.kind, here.dtype, enabled=here.dtype_name != "float32"):
        while done < len(ordered):
            try:
                inputs = {k: v.to(model.device) for k, v in collate(ordered[done : done + batch], pad_id).items()}
                loss, labelled = model(**inputs) if sharded() else labelled_loss(model, inputs)
            except Exception as error:
                # Processes that share out the weights take the same batches, or wait for each other for ever.
                if batch == 1 or sharded() or not memory_ran_out(error):
                    raise
                batch //= 2
                continue
            total, count, done = total + loss.item(), count + labelled.item(), done + batch
    model.train(was_training)
    return total / max(1, count)


@cache
def _trainer_class():
    from torch.utils.data import SequentialSampler
    from trl import SFTTrainer

    class LabelledTrainer(SFTTrainer):
        """SFTTrainer with logits at labelled positions only, the given order of examples, and fp32 adapters."""

        in_step = False

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

        def _save_checkpoint(self, model, trial):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.copy_out(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}", self.folder)

        def save_model(self, output_dir=None, _internal_call=False):
            if not sharded():
                super().save_model(output_dir, _internal_call)
            # Whole, as without FSDP, beside what each process saves of its own.
            elif (state := _gathered(self.model)) and self.args.should_save:
                self._save(output_dir, state_dict=state)

        def training_step(self, *args, **kwargs):
            # Stays set where memory runs out: the weights are then those of the last whole step.
            self.in_step = True
            loss = super().training_step(*args, **kwargs)
            self.in_step = False
            return loss

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            total, labelled = model(**inputs)
            self.counted[0] += int(inputs["attention_mask"].sum())
            self.counted[1] += int(labelled)
            if num_items_in_batch is None:
                loss = total / labelled.clamp(min=1)
            else:
                loss = total / num_items_in_batch
                if self.args.average_tokens_across_devices:
                    loss = loss * self.accelerator.num_processes
            return (loss, None) if return_outputs else loss

    return LabelledTrainer


def _recorder(folder: Path, shared_steps: int, evaluate: Callable[[], dict[str, float]], every: int, progress: Callable[[dict], None]):
    """A callback that writes one line of the log a step, and saves and stops where the plan says, or where it is asked to pause."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        trainer = None
        stop_at = 0
        pause = paused = False

        def on_train_begin(self, args, state, control, **kwargs):
            log, self.writes = folder / LOG, state.is_world_process_zero
            if self.writes:
                last = checkpoints.begin_log(log, state.global_step if state.global_step else -1)
            else:
                last = next((r for r in reversed(checkpoints.read_log(log, partial=True)) if r["step"] <= state.global_step), {})
            self.trainer.counted = [0, 0]
            self.trainer.tokens_seen, self.trainer.target_tokens_seen = last.get("tokens_seen", 0), last.get("target_tokens_seen", 0)
            if not state.global_step:
                self._write({"step": 0, "phase": "start", "tokens_seen": 0, "target_tokens_seen": 0, **evaluate()})
            self.clock, self.tokens = time.perf_counter(), self.trainer.tokens_seen

        def _write(self, row: dict) -> None:
            if self.writes:
                row["peak_memory_gb"] = round(peak_memory_gb(), 3)
                checkpoints.add_row(folder / LOG, row)
                progress(row)

        def _planned(self, state) -> bool:
            return state.global_step in (shared_steps, state.max_steps, self.stop_at) or state.global_step % every == 0

        def on_step_end(self, args, state, control, **kwargs):
            control.should_log = True
            tokens, targets, asked = self._everywhere(*self.trainer.counted, int(self.pause or (folder / PAUSE).exists()))
            self.trainer.tokens_seen += tokens
            self.trainer.target_tokens_seen += targets
            self.trainer.counted = [0, 0]
            self.paused = bool(asked) and state.global_step < state.max_steps
            if self._planned(state) or self.paused:
                control.should_save = True
            if state.global_step == self.stop_at or self.paused:
                control.should_training_stop = True

        def _everywhere(self, *counts: int) -> Sequence[int]:
            """The sums of `counts` over all processes."""
            accelerator = self.trainer.accelerator
            if accelerator.num_processes == 1:
                return counts
            import torch

            return accelerator.reduce(torch.tensor(counts, device=accelerator.device), "sum").tolist()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if not logs or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise UserError(
                    f"{folder}: the loss at step {state.global_step} is not finite. Lower learning_rate, or train in bf16 or fp32; "
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
            if self._planned(state):
                row |= evaluate()
            self._write(row)
            self.clock, self.tokens = time.perf_counter(), self.trainer.tokens_seen

        def on_save(self, args, state, control, **kwargs):
            if self.writes:
                checkpoints.prune(folder)
            self.clock = time.perf_counter()

    return Recorder()


@contextmanager
def _pause_by_signal(recorder, say: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, an interrupt (■, Ctrl-C) or SIGTERM asks for a pause after the step; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number, frame):
        if recorder.pause:
            raise KeyboardInterrupt
        recorder.pause = True
        # Whoever listened may be gone; the step is saved all the same.
        with suppress(OSError):
            say("Pausing: this step is finished and saved first. Interrupt again to stop at once; what is saved stays.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def share(recipe: Recipe, processes: int) -> tuple[int, int]:
    """Examples at once, and accumulation, of each of so many processes: together the recipe's step. Raises `UserError`."""
    whole = recipe.batch_size * recipe.accumulation
    if whole % processes:
        raise UserError(f"A step of {recipe.batch_size} × {recipe.accumulation} examples cannot be shared by {processes} processes: choose a number that divides {whole}.")
    each = whole // processes
    batch = next(n for n in range(min(recipe.batch_size, each), 0, -1) if each % n == 0)
    return batch, each // batch


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
    adapter. `progress` gets each row of the log. Where memory runs out, the batch is halved and accumulated twice as often, from the last step.
    Under accelerate's launcher the processes share each step. Raises `UserError` when the loss is not finite, when memory does not do for one
    example, and when it was interrupted: saved then.
    """
    folder, recipe, here = Path(folder), profile.recipe, device(profile.model.fp16_safe)
    tokenizer = models.load_tokenizer(profile, say)
    pad, style = tokenizer.pad_token_id, profile.model.prompt_style
    dev_answers = [prompts.encode_answer_only(tokenizer, style, r) for r in dev["questions"]]
    dev_pairs = [prompts.encode_example(tokenizer, style, "translate", r) for r in dev["pairs"]]
    examples = sort_steps(encode(tokenizer, profile, order.items, order.reasoning_last), order.batch)
    every = max(1, -(-order.steps // recipe.evaluations))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    batch, accumulation = share(recipe, processes)
    if processes == 1:
        # Left by processes of an earlier run.
        (folder / PAUSE).unlink(missing_ok=True)

    def begin(place: Path):
        """A trainer whose model is loaded anew."""
        model = models.add_adapter(models.load_base(profile, here, say), profile)
        fused.install(model, here)

        def evaluate() -> dict[str, float]:
            return {
                "dev_answer_loss": dev_loss(model, dev_answers, pad, here),
                "dev_translation_loss": dev_loss(model, dev_pairs, pad, here),
            }

        recorder = _recorder(folder, order.shared_steps, evaluate, every, progress)
        recorder.stop_at, recorder.pause = stop_after, pause
        arguments = _arguments(place, profile, order.steps, here, batch, accumulation)
        trainer = _trainer(model, arguments, examples, tokenizer, recorder)
        trainer.folder = folder
        return trainer, recorder

    pause = False
    while True:
        _free()
        with checkpoints.saving_place(folder, processes > 1) as place:
            trainer, recorder = begin(place)
            if _goes_through(trainer, recorder, folder, order.steps, say):
                break
        reached = checkpoints.step_of(last_checkpoint(folder) or folder)
        batch, accumulation = (batch // 2, accumulation * 2) if batch % 2 == 0 else (1, accumulation * batch)
        say(f"Memory ran out. Going on from step {max(0, reached)} with {batch} at once, accumulated {accumulation} times: the same step, a little slower.")
        pause = recorder.pause
        # They hold each other and the model, whose memory is needed for the next.
        del trainer, recorder
    if recorder.paused:
        raise UserError(f"{folder}: paused at step {trainer.state.global_step} of {order.steps}, and saved. Run this again and it goes on from there.")
    if not stop_after:
        _finish(trainer, profile, folder, order.steps, here)
    if recorder.pause and processes == 1:
        raise UserError(f"{folder}: paused after its last step, and saved. Run this again and it goes on from there.")
    recorder.trainer = None
    return folder


def _free() -> None:
    """Give back what earlier trainers, callbacks and closures hold: their memory is needed now."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _arguments(place: Path, profile: Profile, steps: int, here: Device, batch: int, accumulation: int):
    from trl import SFTConfig

    recipe = profile.recipe
    arguments = SFTConfig(
        output_dir=str(place),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(recipe.warmup_ratio * steps)),
        max_grad_norm=1.0,
        optim="adamw_torch",
        fp16=here.dtype_name == "float16",
        bf16=here.dtype_name == "bfloat16",
        use_cpu=here.kind == "cpu",
        gradient_checkpointing=recipe.gradient_checkpointing,
        logging_strategy="no",
        save_strategy="no",
        # The recorder removes old checkpoints.
        save_total_limit=None,
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
    return arguments


def _trainer(model, arguments, examples: list[dict[str, list[int]]], tokenizer, recorder):
    import datasets
    from transformers import PrinterCallback

    trainer = _trainer_class()(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(examples),
        data_collator=lambda batch: collate(batch, tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    # As the model's forward pass, so that what accelerate wraps around it (autocast, gradients of all processes) holds for it too.
    trainer.model.forward = partial(_forward, trainer.model)
    if sharded():
        plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
        if plugin is None or plugin.fsdp_version != 2:
            raise UserError("FSDP needs GPUs and `fsdp_version: 2` in accelerate's configuration, as in data/fsdp.yaml.")
        # accelerate's policy would cast adapters, gradients and losses to bf16 or fp16. With autocast it is computed as without FSDP.
        plugin.mixed_precision_policy = None
        trainer.model.forward = trainer.accelerator.autocast()(trainer.model.forward)
    recorder.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    return trainer


def _forward(model, **inputs):
    return labelled_loss(model, inputs)


def _goes_through(trainer, recorder, folder: Path, steps: int, say: Callable[[str], None]) -> bool:
    """Train from the last checkpoint to the end; False where memory ran out, with the steps before saved. Raises `UserError`."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        if any(checkpoint.glob("pytorch_model_fsdp*")) != sharded():
            raise UserError(f"{checkpoint}: saved {'without' if sharded() else 'with'} FSDP. Go on as it was begun, or remove the checkpoints here and in arms/shared to begin anew.")
        say(f"Going on from step {checkpoints.step_of(checkpoint)} of {steps}.")
    try:
        with fused.freed_memory_kept(), _pause_by_signal(recorder, say):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return True
    except Exception as error:
        if isinstance(error, UserError):
            raise
        # torch.save reports a full disk in words of its own.
        if disk_is_full(error) or (isinstance(error, OSError | RuntimeError) and shutil.disk_usage(folder).free < 64e6):
            raise UserError(f"{folder}: the disk is full. Free some space and run again: it goes on from the last checkpoint.") from error
        if not memory_ran_out(error):
            raise
        if trainer.args.per_device_train_batch_size == 1 or trainer.args.world_size > 1:
            raise UserError(
                f"{folder}: memory ran out. Lower batch_size or max_length, turn gradient_checkpointing on, or choose a smaller model "
                "(python3 -m helpers plan says what fits); it goes on from the last checkpoint."
                + (" Several processes do not halve the batch by themselves, as one does (BONSAI_PROCESSES=1)." if trainer.args.world_size > 1 else "")
            ) from error
    # Not in the except clause: the traceback there holds the tensors of the step.
    if trainer.in_step and trainer.state.global_step > max(0, checkpoints.step_of(checkpoint or folder)):
        _free()
        trainer._save_checkpoint(trainer.model, trial=None)
    return False


def _gathered(model) -> dict:
    """The adapter's weights of a model that is sharded, whole, in the first process; {} in the others, which take part."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True))


def _finish(trainer, profile: Profile, folder: Path, steps: int, here: Device) -> None:
    """Write `adapter/` and `done.json`, one process for all."""
    accelerator = trainer.accelerator
    if sharded():
        state = _gathered(trainer.model)
    else:
        state = accelerator.get_state_dict(trainer.model_wrapped) if accelerator.num_processes > 1 else None
    if trainer.is_world_process_zero():
        if profile.model.source != "hub":
            # An absolute folder of this machine would say nothing to whoever gets the adapter.
            adapter = trainer.model.peft_config["default"]
            adapter.base_model_name_or_path = Path(adapter.base_model_name_or_path or "").name
        with whole_folder(folder / "adapter") as temporary:
            trainer.model.save_pretrained(temporary, state_dict=state)
            # peft's empty card, which names the model's folder on this machine; `export` writes a real one.
            (temporary / "README.md").unlink(missing_ok=True)
        facts = {"steps": steps, "tokens_seen": trainer.tokens_seen, "peak_memory_gb": peak_memory_gb()}
        facts["model_class"] = type(trainer.model.get_base_model()).__name__
        write_json(folder / "done.json", facts | {"device": here.name if here.kind == "cuda" else "CPU", "precision": here.dtype_name})
    accelerator.wait_for_everyone()
