"""What the project began with, three claims, each confirmed, refuted or inconclusive on this model, with the number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import scoring, studies
from .results import Results

if TYPE_CHECKING:
    from pandas import DataFrame


def claims(results: Results, log: DataFrame) -> list[dict[str, str]]:
    """Rows of `claim`, `status` ("confirmed", "refuted" or "inconclusive") and `number`, from the tables and the training log of a run."""
    return [_loss(log), _translation(results), _multistep(results)]


def _status(low: float, high: float) -> str:
    """By the 95 % interval of a difference that the claim says is above zero."""
    return "confirmed" if low > 0 else "refuted" if high < 0 else "inconclusive"


def _loss(log: DataFrame) -> dict[str, str]:
    claim = "With Reasoning the training loss gets slightly worse."
    arm = next((a for a in dict.fromkeys(log["arm"]) if studies.reasons(a) and a.startswith("reasoned")), None)
    if arm is None:
        return {"claim": claim, "status": "inconclusive", "number": "No arm with Reasoning was trained."}
    late = log[(log["phase"] == "questions") & log["arm"].isin([arm, studies.BASELINE])]
    # The same step holds the same prompts in both arms, so that its losses pair; early steps say what was known before.
    late = late[late["step"] > late["step"].max() - (late["step"].max() - late["step"].min()) / 2]
    table = late.pivot_table(index="step", columns="arm", values="loss", aggfunc="mean").dropna()
    if len(table) < 2:
        return {"claim": claim, "status": "inconclusive", "number": "Too few steps of training to compare."}
    part = "the question phase" if (log["phase"] == "pairs").any() else "training"
    found = scoring.mean_difference(list(table[arm]), list(table[studies.BASELINE]))
    number = (f"{arm} − plain {found.value:+.2f} nats a token [{found.low:+.2f}, {found.high:+.2f}] over the last half of {part} (n={found.n} steps"
              f"{_by_seed(late, arm)}). The interval covers steps only, the number depends on the mix of tasks, and the two average over other tokens: it says nothing of the answers.")  # fmt: skip
    return {"claim": claim, "status": _status(found.low, found.high), "number": number}


def _by_seed(late: DataFrame, arm: str) -> str:
    """The difference of each seed that both arms have, in words; nothing where there is one."""
    table = late.pivot_table(index=["seed", "step"], columns="arm", values="loss").dropna()
    each = (table[arm] - table[studies.BASELINE]).groupby("seed").mean()
    return f"; by seed {', '.join(f'{d:+.2f}' for d in each)}" if len(each) > 1 else ""


def _translation(results: Results) -> dict[str, str]:
    best = max(results.translation_gain, key=lambda r: r["value"])
    number = f"{best['label']}: {best['value']:+.1f} chrF++ [{best['low']:+.1f}, {best['high']:+.1f}], n={best['n']}."
    return {"claim": "Translation works.", "status": _status(best["low"], best["high"]), "number": number}


def _multistep(results: Results) -> dict[str, str]:
    found = [r for r in results.chain if r["stage"] == "S4"]
    # The claim was made of a model that had learnt both tasks; of the arms the one that does it best is the fairest to ask.
    best = max(found, key=lambda r: r["s4"])
    number = (f"{best['arm']}, authored questions: {best['s4']:.1f} % right in one call (S4) against {best['s2']:.1f} % from the gold English (S2), "
              f"{best['value']:+.1f} points [{best['low']:+.1f}, {best['high']:+.1f}], n={best['n']}.")  # fmt: skip
    return {"claim": "Multistep (translate, then answer) does not work: it loses against answering from the gold English.", "status": _status(-best["high"], -best["low"]), "number": number}
