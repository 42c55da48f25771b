"""The tables of a study, scored from its predictions: what the figures and the report are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from . import agreement, answers, evaluation, pipeline, scoring, seeds, studies
from .evaluation import System
from .files import UserError
from .inference import PRIMARY
from .records import Record
from .runtime import Run

ANSWER_STAGES = ("S2", "S3", "S4", "S5")
LEAD = "reasoned-33"  # the arm that the question is about
CONTROLS = ("shuffled-33", "plain-token-matched")
SETS = ("all", "authored", "control")
DECODINGS = {False: "free", True: "asked"}


@dataclass(frozen=True)
class Results:
    """The tables of a run, as lists of plain rows (one dictionary each), ready for `pandas.DataFrame`.

    Accuracies and rates are percent, differences and chrF++ points, intervals 95 %. `set` is "authored" or "control" (the generated positive
    control) questions or "all" of them; `decoding` "free" (the model writes what it likes) or "asked" (its Reasoning is begun for
    it). An arm's own decoding, which `paired`, `groups`, `broken` and `examples` are about, is "asked" where it learnt from Reasoning.

    In `paired`, `controls` (the lead arm against the controls of length) and `left_alone` (arms with Reasoning decoded freely, against
    plain; and asked, against themselves left alone) `p_holm` is corrected over the comparisons of a set and opponent (of `controls`: of a set), and `outcome` is by it;
    `p_arms`, and `outcome_arms`, over those of one stage alone.
    """

    translation: list[dict]
    translation_gain: list[dict]
    translation_paired: list[dict]
    question_translation: list[dict]
    stages: list[dict]
    by_seed: list[dict]
    groups: list[dict]
    broken: list[dict]
    paired: list[dict]
    controls: list[dict]
    left_alone: list[dict]
    chain: list[dict]
    dose: list[dict]
    examples: list[dict]
    broken_examples: list[dict]
    signatures: dict[str, str]
    agreement: dict[str, object] = field(default_factory=dict)
    older: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Scored:
    """Outcomes of one system: rows and exact matches by (stage, asked), in the order of the questions that were asked."""

    system: System
    rows: dict[tuple[str, bool], list[dict]]
    right: dict[tuple[str, bool], list[bool]]
    lenient: dict[tuple[str, bool], list[bool]]
    own: bool

    def of(self, stage: str, asked: bool, ids: set[str]) -> list[bool]:
        """Exact matches of a stage on the questions of `ids`; what was not asked for Reasoning counts as it is."""
        key = (stage, asked and (stage, True) in self.rows)
        return [ok for row, ok in zip(self.rows[key], self.right[key], strict=True) if row["id"] in ids]


def results(run: Run, data: pipeline.Data) -> Results:
    """Score the predictions of a run; systems of the study that have none yet are left out.

    Raises `UserError` when the base model or `plain` is among them.
    """
    done = [s for s in evaluation.systems(run) if (s.folder / "done.json").exists()]
    if not {"base", studies.BASELINE} <= {s.name for s in done}:
        raise UserError(f"{run.path('predictions')}: no predictions of base and plain yet. Run notebook 05 first, or `helpers study`.")
    gold = {r.id: r for r in data.questions["test"]}
    scored = [_score(s, gold) for s in done]
    ids = {
        "all": set(gold),
        "authored": {i for i, r in gold.items() if not evaluation.is_control(r)},
        "control": {i for i, r in gold.items() if evaluation.is_control(r)},
    }
    sets = {name: found for name, found in ids.items() if found and (name == "authored" or ids["control"])}
    arms: dict[str, list[_Scored]] = {}
    for one in scored:
        arms.setdefault(one.system.name, []).append(one)
    translation, gain, paired, signatures = _translation(done, data)
    return Results(
        translation, gain, paired, _question_translation(arms, gold), list(_stages(arms, sets)), list(_by_seed(scored, sets)),
        list(_groups(arms, gold)), list(_broken(arms, ids["authored"])), _paired(arms, sets), _controls(arms, sets), _left_alone(arms, sets),
        list(_chain(arms, ids["authored"])), list(_dose(arms, sets)),
        _examples(arms, gold), _broken_examples(arms, gold, ids["authored"]), signatures, agreement.of(run, data), evaluation.older(run, data),
    )  # fmt: skip


def _score(system: System, gold: dict[str, Record]) -> _Scored:
    rows: dict[tuple[str, bool], list[dict]] = {}
    for row in evaluation.read(system.folder / "questions.jsonl"):
        rows.setdefault((row["stage"], row["asked"]), []).append(row)
    right, lenient = (
        {
            key: [match(p["answer"], gold[p["id"]].answer, gold[p["id"]].aliases) for p in found]
            for key, found in rows.items()
            if key[0] in ANSWER_STAGES
        }
        for match in (answers.exact_match, answers.lenient_match)
    )
    return _Scored(system, rows, right, lenient, studies.reasons(system.name))


def _estimate(estimate: scoring.Estimate) -> dict:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _share(rows: Sequence[dict], field: str) -> float:
    return round(100 * sum(bool(r[field]) for r in rows) / max(1, len(rows)), 1)


def _translation(done: Sequence[System], data: pipeline.Data) -> tuple[list[dict], list[dict], list[dict], dict[str, str]]:
    references = [r.en for r in data.pairs["test"]]
    outputs: dict[str, dict[int, list[dict]]] = {}
    for system in done:
        found: dict[str, list[dict]] = {}
        for row in evaluation.read(system.folder / "translation.jsonl"):
            found.setdefault(row["system"], []).append(row)
        for name, rows in found.items():
            outputs.setdefault(name, {})[system.seed] = rows
    by_seed = {name: {seed: [r["english"] for r in rows] for seed, rows in each.items()} for name, each in outputs.items()}
    english = {name: list(each.values()) for name, each in by_seed.items()}
    table, signatures = [], {}
    for name, each in outputs.items():
        scores = [scoring.corpus_scores(e, references) for e in english[name]]
        signatures = {"chrF++": scores[0]["chrf_signature"], "BLEU": scores[0]["bleu_signature"]}
        table.append({"system": name, **_estimate(scoring.chrf_over_seeds(english[name], references)),
                      "bleu": sum(s["bleu"] for s in scores) / len(scores), "seeds": len(each),
                      "truncated": _share([r for rows in each.values() for r in rows], "truncated")})  # fmt: skip
    best = max((t for t in table if t["system"].startswith("base")), key=lambda t: t["value"])["system"]
    gain = []
    for name in [n for n in outputs if not n.startswith("base")]:
        found = scoring.chrf_gain(english[name], english[best][0], references)
        gain.append({"label": f"{name} − {best}", "value": found.value, "low": found.low, "high": found.high, "p": found.p_value,
                     "n": found.n, "seeds": len(english[name])})  # fmt: skip
    return table, gain, _translation_paired(by_seed, references), signatures


def _translation_paired(by_seed: dict[str, dict[int, list[str]]], references: list[str]) -> list[dict]:
    """chrF++ of each arm minus that of plain, over the seeds that both have; Holm over the arms."""
    plain, rows = by_seed[studies.BASELINE], []
    for name, each in by_seed.items():
        shared = [seed for seed in each if seed in plain]
        if name != studies.BASELINE and not name.startswith("base") and shared:
            found = scoring.chrf_difference([each[s] for s in shared], [plain[s] for s in shared], references)
            rows.append({"label": f"{name} − {studies.BASELINE}", "a": name, "value": found.value, "low": found.low, "high": found.high,
                         "p": found.p_value, "n": found.n, "seeds": len(shared)})  # fmt: skip
    adjusted = scoring.holm({r["a"]: r["p"] for r in rows}) if rows else {}
    return [r | {"p_holm": adjusted[r["a"]]} for r in rows]


def _question_translation(arms: dict[str, list[_Scored]], gold: dict[str, Record]) -> list[dict]:
    rows = []
    for name, each in arms.items():
        first = [one.rows["S1", False] for one in each]
        references = [gold[p["id"]].en for p in first[0]]
        english = [[p["english"] for p in f] for f in first]
        bleu = [scoring.corpus_scores(e, references)["bleu"] for e in english]
        rows.append({"system": name, **_estimate(scoring.chrf_over_seeds(english, references)), "bleu": sum(bleu) / len(bleu), "seeds": len(each)})
    return rows


def _stages(arms: dict[str, list[_Scored]], sets: dict[str, set[str]]) -> Iterable[dict]:
    """A row for each arm, decoding, stage and set, over all seeds."""
    for name, each in arms.items():
        for stage in ANSWER_STAGES:
            for asked in (False, True):
                for which, ids in sets.items():
                    found = [r for one in each for r in one.rows.get((stage, asked), []) if r["id"] in ids]
                    if not found or (which != "authored" and stage not in PRIMARY):
                        continue
                    outcomes = [one.of(stage, asked, ids) for one in each]
                    lenient = [ok for one in each for ok in one.lenient[stage, asked]]
                    lenient = [ok for row, ok in zip((r for one in each for r in one.rows[stage, asked]), lenient, strict=True) if row["id"] in ids]
                    yield {"arm": name, "decoding": DECODINGS[asked], "set": which, "stage": stage,
                           **_estimate(seeds.rate_over_seeds(outcomes)), "seeds": len(each), "own": asked == each[0].own or stage == "S5",
                           "lenient": 100 * sum(lenient) / len(lenient), "well_formed": _share(found, "well_formed"),
                           "truncated": _share(found, "truncated"), "looped": _looped(found), "reasoned": _share(found, "reasoning")}  # fmt: skip


def _looped(rows: Sequence[dict]) -> float:
    """Percent of the rows that were cut off while they repeated themselves, so that a larger budget would hardly have helped."""
    return round(100 * sum(r["truncated"] and answers.ends_in_a_loop(r["text"]) for r in rows) / max(1, len(rows)), 1)


def _by_seed(scored: Sequence[_Scored], sets: dict[str, set[str]]) -> Iterable[dict]:
    for one in scored:
        for stage, asked in one.right:
            for which, ids in sets.items():
                if which == "authored" or stage in PRIMARY:
                    found = scoring.accuracy(one.of(stage, asked, ids))
                    yield {"arm": one.system.name, "seed": one.system.seed, "decoding": DECODINGS[asked], "set": which, "stage": stage,
                           **_estimate(found)}  # fmt: skip


def _groups(arms: dict[str, list[_Scored]], gold: dict[str, Record]) -> Iterable[dict]:
    """Accuracy at the primary stages by category, and by difficulty (authored questions), each arm in its own decoding."""
    # The control has as many steps as it was generated with: beside the authored questions it would be the whole of a difficulty.
    for by, some in (("category", gold), ("difficulty", {i: r for i, r in gold.items() if not evaluation.is_control(r)})):
        for value in dict.fromkeys(getattr(r, by) for r in some.values()):
            ids = {i for i, r in some.items() if getattr(r, by) == value}
            for name, each in arms.items():
                for stage in PRIMARY:
                    found = seeds.rate_over_seeds([one.of(stage, one.own, ids) for one in each])
                    yield {"arm": name, "stage": stage, "by": by, "group": value, **_estimate(found)}


def _broken(arms: dict[str, list[_Scored]], ids: set[str]) -> Iterable[dict]:
    """The first broken step of each S4 answer to the authored questions, counted over all seeds."""
    for name, each in arms.items():
        steps = []
        for one in each:
            steps += [answers.first_broken_step(*t) for t in zip(*(one.of(s, one.own, ids) for s in ("S2", "S3", "S4")), strict=True)]
        for step in ("", "chaining", "translation", "knowledge/reasoning"):
            yield {"arm": name, "step": step or "right", "n": steps.count(step)}


def _paired(arms: dict[str, list[_Scored]], sets: dict[str, set[str]]) -> list[dict]:
    """Each arm against plain and against base, a row a set and stage; Holm over the arms and primary stages of a set and opponent."""
    rows = []
    for against in (studies.BASELINE, "base"):
        for which, ids in sets.items():
            for stages in (PRIMARY, ("S3", "S5") if which == "authored" else ()):
                rows += _family({(a, against, s): _compare(arms, a, against, s, ids) for a in arms if a not in (against, "base") for s in stages}, which)
    return rows


def _controls(arms: dict[str, list[_Scored]], sets: dict[str, set[str]]) -> list[dict]:
    """The lead arm against the controls of length at the primary stages; Holm over the controls and stages of a set."""
    rows = []
    for which, ids in sets.items():
        pairs = [(LEAD, b, s) for b in CONTROLS for s in PRIMARY if LEAD in arms and b in arms and _shared(arms, LEAD, b)]
        rows += _family({(a, b, s): _compare(arms, a, b, s, ids) for a, b, s in pairs}, which)
    return rows


def _left_alone(arms: dict[str, list[_Scored]], sets: dict[str, set[str]]) -> list[dict]:
    """Each reasoned arm, not asked for Reasoning, against plain at the primary stages, and asked against left alone; Holm over the arms and
    stages of a set and opponent.
    """
    rows, plain = [], studies.BASELINE
    reasoned = {a: each for a, each in arms.items() if a.startswith("reasoned-")}
    for which, ids in sets.items():
        found = {(a, plain, s): _compare(arms, a, plain, s, ids, asked=False) for a in reasoned for s in PRIMARY}
        rows += _family(found, which, " left alone")
        found = {(a, a, s): seeds.over_seeds(*([one.of(s, asked, ids) for one in each] for asked in (True, False))) for a, each in reasoned.items() for s in PRIMARY}
        rows += _family(found, which, " asked", " left alone")
    return rows


def _family(found: dict[tuple[str, str, str], seeds.SeedDifference], which: str, manner: str = "", other: str = "") -> list[dict]:
    """A row for each comparison (a, b, stage), corrected by Holm over all of them and (`p_arms`) over those of its stage.

    `manner` and `other` say how a and b were decoded, where that is not their own way.
    """
    p_values = {" ".join(key): d.p_value for key, d in found.items()}
    p_holm, p_arms = scoring.holm(p_values) if found else {}, {}
    for stage in {stage for _, _, stage in found}:
        p_arms |= scoring.holm({" ".join(key): d.p_value for key, d in found.items() if key[2] == stage})
    rows = []
    for (a, b, stage), d in found.items():
        names, key = (a + manner, b + other), f"{a} {b} {stage}"
        verdict, within = (seeds.verdict_over_seeds(d, p_value=p[key], names=names) for p in (p_holm, p_arms))
        rows.append({"label": f"{' − '.join(names)}, {stage}, {which}", "stage": stage, "set": which, "a": a, "b": b, "value": d.value, "low": d.low,
                     "high": d.high, "n": d.n, "seeds": d.seeds, "by_seed": list(d.by_seed), "only_a": d.only_a, "only_b": d.only_b,
                     "p": d.p_value, "p_holm": p_holm[key], "p_arms": p_arms[key], "outcome": verdict.outcome, "outcome_arms": within.outcome,
                     "verdict": f"{stage}, {which}: {verdict.text}", "mde": verdict.mde})  # fmt: skip
    return rows


def _shared(arms: dict[str, list[_Scored]], a: str, b: str) -> list[int]:
    """The seeds that both arms have."""
    others = {one.system.seed for one in arms[b]}
    return [one.system.seed for one in arms[a] if one.system.seed in others]


def _compare(arms: dict[str, list[_Scored]], a: str, b: str, stage: str, ids: set[str], asked: bool | None = None) -> seeds.SeedDifference:
    """Over the seeds that both have, `a` in its own decoding or (`asked`) in another. The base model, which has one seed, stands for all,
    in whichever decoding it does better.
    """
    ones, others = ({one.system.seed: one for one in arms[name]} for name in (a, b))
    shared = list(ones) if b == "base" else _shared(arms, a, b)
    mine = [ones[seed].of(stage, ones[seed].own if asked is None else asked, ids) for seed in shared]
    if b == "base":
        base = others[-1]
        best = max((base.of(stage, asked, ids) for asked in (False, True)), key=sum)
        return seeds.over_seeds(mine, [best] * len(shared))
    return seeds.over_seeds(mine, [others[seed].of(stage, others[seed].own, ids) for seed in shared])


def _chain(arms: dict[str, list[_Scored]], ids: set[str]) -> Iterable[dict]:
    """What the chain loses: each trained arm's S3 and S4 against its own S2 on the authored questions, in points."""
    for name, each in arms.items():
        if name == "base":
            continue
        of = {s: [one.of(s, one.own, ids) for one in each] for s in ("S2", "S3", "S4")}
        for stage in ("S3", "S4"):
            d = seeds.over_seeds(of[stage], of["S2"])
            yield {"arm": name, "stage": stage, "value": d.value, "low": d.low, "high": d.high, "n": d.n, "p": d.p_value,
                   "s2": seeds.rate_over_seeds(of["S2"]).value, stage.lower(): seeds.rate_over_seeds(of[stage]).value}  # fmt: skip


def _dose(arms: dict[str, list[_Scored]], sets: dict[str, set[str]]) -> Iterable[dict]:
    """Accuracy against the share of training questions with Reasoning (percent); none is the plain arm. The seeds that all doses have."""
    doses = {0: arms[studies.BASELINE]} | {int(n.split("-")[1]): each for n, each in arms.items() if n.startswith("reasoned-")}
    shared = set.intersection(*({one.system.seed for one in each} for each in doses.values()))
    for percent in sorted(doses):
        each = [one for one in doses[percent] if one.system.seed in shared]
        for stage in PRIMARY:
            for which, ids in sets.items():
                if each:
                    found = seeds.rate_over_seeds([one.of(stage, one.own, ids) for one in each])
                    yield {"percent": percent, "stage": stage, "set": which, **_estimate(found), "seeds": len(each)}


def _examples(arms: dict[str, list[_Scored]], gold: dict[str, Record], each: int = 2) -> list[dict]:
    """A few S4 outputs, a row a question and system: some that the third with Reasoning got right, some that it got wrong."""
    first = {name: found[0] for name, found in arms.items() if name in ("base", studies.BASELINE, LEAD)}
    lead = list(first.values())[-1]
    outputs = {name: {row["id"]: row for row in one.rows["S4", one.own]} for name, one in first.items()}
    right = {name: dict(zip(outputs[name], one.right["S4", one.own], strict=True)) for name, one in first.items()}
    rows = []
    for wanted in (True, False):
        for kind in (False, True):
            found = [i for i, ok in right[lead.system.name].items() if ok == wanted and evaluation.is_control(gold[i]) == kind]
            for record_id in found[:: max(1, len(found) // each)][:each]:
                for name in first:
                    out, record = outputs[name][record_id], gold[record_id]
                    rows.append({"id": record.id, "question": record.ja, "gold": record.answer, "system": name,
                                 "english": out["english"], "reasoning": out["reasoning"], "answer": out["answer"],
                                 "right": right[name][record_id]})  # fmt: skip
    return rows


def _broken_examples(arms: dict[str, list[_Scored]], gold: dict[str, Record], ids: set[str], each: int = 2) -> list[dict]:
    """A few wrong one-call answers of the lead arm for each first broken step, with what it said at every stage."""
    found: dict[str, list[tuple[_Scored, str]]] = {}
    for one in arms.get(LEAD, arms[studies.BASELINE]):
        asked = [row["id"] for row in one.rows["S4", one.own] if row["id"] in ids]
        for record_id, *right in zip(asked, *(one.of(s, one.own, ids) for s in ("S2", "S3", "S4")), strict=True):
            found.setdefault(answers.first_broken_step(*right), []).append((one, record_id))
    rows = []
    for step in agreement.STEPS:
        failed = found.get(step, [])
        for one, record_id in failed[:: max(1, len(failed) // each)][:each]:
            said = {s: next(r for r in one.rows[s, s != "S1" and one.own] if r["id"] == record_id) for s in ("S1", "S2", "S3", "S4")}
            record = gold[record_id]
            rows.append({"step": step, "arm": one.system.name, "seed": one.system.seed, "id": record_id, "question": record.ja, "en": record.en,
                         "gold": record.answer, "english": said["S1"]["english"], "reasoning": said["S4"]["reasoning"],
                         **{s: said[s]["answer"] for s in ("S2", "S3", "S4")}})  # fmt: skip
    return rows
