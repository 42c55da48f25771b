"""A study: which arms are trained with which seeds, and what differs from the profile's recipe; read from one TOML file."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from .files import ROOT, UserError, read_toml
from .profiles import PROFILES, Recipe

FOLDER = ROOT / "data" / "studies"
BASELINE = "plain"
MAY_BE_ZERO = (
    "pool_pairs", "questions", "test_questions", "control_train", "control_dev", "control_test", "replay_pairs", "few_shot", "warmup_ratio",
    "reasoning_fraction",
)  # fmt: skip
ARMS = "plain, reasoned-P or explained-P (P from 1 to 100), shuffled-33 or plain-token-matched"
_ARM = re.compile(r"plain|plain-token-matched|shuffled-33|(?:reasoned|explained)-(?:[1-9]\d?|100)")


@dataclass(frozen=True)
class Study:
    """`seeds` are (arm, its seeds) in the order of the file, `recipe` the (field, value) that differ from the profile's recipe."""

    name: str
    about: str
    profile: str
    seeds: tuple[tuple[str, tuple[int, ...]], ...]
    recipe: tuple[tuple[str, int | float | str], ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """The trained arms."""
        return tuple(arm for arm, _ in self.seeds)

    @property
    def jobs(self) -> tuple[tuple[str, int], ...]:
        """(arm, seed) in the order of work: all arms with the first seed, then all with the next."""
        every = sorted({seed for _, seeds in self.seeds for seed in seeds})
        return tuple((arm, seed) for seed in every for arm, seeds in self.seeds if seed in seeds)


def reasons(arm: str) -> bool:
    """Whether an arm learns from completions with Reasoning, so that it can be asked for it."""
    return arm.startswith(("reasoned-", "shuffled-"))


def explains(arm: str) -> bool:
    """Whether the rationale stands after the answer in what an arm learns from: it can shape the weights, but no answer is reached by it."""
    return arm.startswith("explained-")


def has_rationales(arm: str) -> bool:
    """Whether an arm learns from rationales, wherever they stand."""
    return reasons(arm) or explains(arm)


def is_arm(name: str) -> bool:
    """Whether an arm is called so: one of `ARMS`. A name that is one is also a plain name of a folder."""
    return bool(_ARM.fullmatch(name))


def load(name: str | Path) -> Study:
    """The study `name` of `data/studies`, or that of a TOML file. Raises `UserError` with the file, the field and what was expected."""
    path, found = read_toml(name, FOLDER, "study")

    def bad(field: str, expected: str) -> UserError:
        return UserError(f"{path}, {field}: expected {expected}.")

    unknown = sorted(found.keys() - {"about", "profile", "seeds", "recipe"})
    if unknown:
        raise bad(repr(unknown[0]), "only about, profile, [seeds] and [recipe]")
    profile, about, seeds, recipe = (found.get(k, d) for k, d in (("profile", "auto"), ("about", ""), ("seeds", {}), ("recipe", {})))
    if not isinstance(about, str):
        raise bad("about", "a text")
    if profile not in ("auto", *PROFILES):
        raise bad("profile", "auto or one of " + ", ".join(PROFILES))
    _check_seeds(seeds, bad)
    check_recipe(recipe, bad)
    return Study(path.stem, about, profile, tuple((arm, tuple(s)) for arm, s in seeds.items()), tuple(recipe.items()))


def _check_seeds(seeds, bad) -> None:
    if not isinstance(seeds, dict) or BASELINE not in seeds:
        raise bad("[seeds]", f"a list of seeds for each arm, {BASELINE} among them")
    for arm, values in seeds.items():
        if not is_arm(arm):
            raise bad(f"[seeds] {arm!r}", ARMS)
        if not isinstance(values, list) or not values or any(type(v) is not int or not 0 <= v < 2**31 for v in values):
            raise bad(f"[seeds] {arm}", "a list of whole numbers from 0, such as [0, 1, 2]")
        if len(set(values)) < len(values):
            raise bad(f"[seeds] {arm}", "each seed once")
        if not set(values) <= set(seeds[BASELINE]):
            raise bad(f"[seeds] {arm}", f"seeds that {BASELINE} has too, or there is nothing to compare with")


def check_recipe(recipe, bad) -> None:
    """Raise what `bad(field, expected)` makes of the first setting that no recipe has, or not with this value."""
    fields = {f.name: type(f.default) for f in dataclasses.fields(Recipe)}
    if not isinstance(recipe, dict):
        raise bad("[recipe]", "field = value lines")
    for name, value in recipe.items():
        if name not in fields or name == "seed":
            raise bad(f"[recipe] {name!r}", "a field of the recipe other than seed: " + ", ".join(f for f in fields if f != "seed"))
        wanted = fields[name]
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise bad(f"[recipe] {name}", f"a value like {getattr(Recipe, name)!r}, found {value!r}")
        if wanted in (int, float) and value < 0:
            raise bad(f"[recipe] {name}", "a value that is not negative")
        if value == 0 and wanted is not bool and name not in MAY_BE_ZERO:
            raise bad(f"[recipe] {name}", "a value above zero")
