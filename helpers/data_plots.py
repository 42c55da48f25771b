"""The figures of the data: filters, lengths, balance, fertility, acceptance, scale; titled with the finding, with alt text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figure_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    HEIGHT,
    INK,
    LINE,
    ORANGE,
    PURPLE,
    SKY,
    SPLIT_COLOURS,
    VERMILLION,
    YELLOW,
    _axes,
    _colours,
    _finish,
    _ink,
    _legend,
    _nothing,
    _order,
    _rows,
    _table,
    _wrap,
    style,
)  # fmt: skip
from .files import UserError, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

# The codes of `gates.REASONS`; one colour each, in the order of the bars.
OUTCOME_COLOURS = {
    "accepted": GREEN, "wrong-conclusion": VERMILLION, "wrong-arithmetic": ORANGE, "restates-answer": YELLOW, "not-english": PURPLE,
    "length": SKY, "held-out-text": BLUE, "near-copy": BLACK, "format": GREY, "missing": LINE}  # fmt: skip


@style()
def funnel(counts: Iterable[tuple[str, int]] | Mapping[str, int], title: str | None = None,
           alt: str | None = None) -> Figure:  # fmt: skip
    """How many rows each filter left: horizontal bars of (label, rows kept), in the order of the filters."""
    given = counts.items() if isinstance(counts, Mapping) else counts
    pairs = [(str(label), float(kept)) for label, kept in given if kept is not None and kept == kept]
    if not pairs:
        return _nothing(title, alt)
    labels, kept = map(list, zip(*pairs, strict=True))
    lost = [0.0, *(before - after for before, after in zip(kept, kept[1:], strict=False))]
    share = [value / kept[0] * 100 if kept[0] else 0.0 for value in kept]
    figure, ax = _rows(labels, "rows kept")
    bars = ax.barh(range(len(kept)), kept, height=0.62, color=[SKY] * (len(kept) - 1) + [BLUE])
    drop = [f"   \N{MINUS SIGN}{value:,.0f}" if value > 0 else "" for value in lost]
    # "100 %" only where nothing was lost.
    part = [f"{s if s == 100 else min(s, 99.9):.3g} %" for s in share]
    texts = [f"{k:,.0f} ({p}){d}" for k, p, d in zip(kept, part, drop, strict=True)]
    ax.bar_label(bars, texts, padding=4, fontsize=10)
    ax.set_xlim(0, max(max(kept) * 1.5, 1))
    ax.set_xticks([])
    ax.grid(False)
    ax.spines["bottom"].set_visible(False)
    found = f"{kept[-1]:,.0f} of {kept[0]:,.0f} rows are kept ({part[-1]})"
    if max(lost) > 0:
        found += f"; most are lost at “{labels[lost.index(max(lost))]}”"
    words = "; ".join(f"{label} {value:,.0f}" for label, value in pairs)
    return _finish(figure, title or found, alt or f"Bars of the rows that each filter left: {words}.")


@style()
def lengths(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """Histograms of token lengths, one small panel for each `kind`, on shared bins. Columns: kind, tokens."""
    import numpy as np

    frame = _table(frame, ("tokens",), ("tokens",), kind="all").dropna(subset="tokens")
    if frame.empty:
        return _nothing(title, alt)
    kinds = _order(frame["kind"], ())
    columns = min(3, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    figure, axes = _axes(max(HEIGHT, 1.0 + 2.2 * rows), rows, columns, sharex=True, sharey=True, squeeze=False)
    top = max(frame.loc[frame["kind"] == kind, "tokens"].quantile(0.995) for kind in kinds)
    bins = np.linspace(0, max(top, 1), 31)
    found = {}
    for ax, kind in zip(axes.flat, kinds, strict=False):
        tokens = frame.loc[frame["kind"] == kind, "tokens"]
        found[kind] = (tokens.median(), tokens.quantile(0.95), len(tokens))
        ax.hist(tokens.clip(upper=bins[-1]), bins=bins, weights=np.full(len(tokens), 100 / len(tokens)), color=SKY)
        ax.axvline(found[kind][0], color=BLUE)
        ax.axvline(found[kind][1], color=BLUE, linestyle=":")
        median, most, count = found[kind]
        words = f"median {median:,.0f} (—), n = {count:,}\n95 % ≤ {most:,.0f} (···)"
        ax.set_title(f"{_wrap(kind, 27)}\n{words}", fontsize=9.5, linespacing=1.3)
    for ax in axes.flat[len(kinds) :]:
        ax.set_axis_off()
        axes[-2, ax.get_subplotspec().colspan.start].xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("tokens (the last bar holds all longer ones)", fontsize=10.5)
    figure.supylabel("share of rows, %", fontsize=10.5)
    longest = max(found, key=lambda kind: found[kind][0])
    median, most, _ = found[longest]
    words = "; ".join(f"{k} median {m:,.0f}, 95 % up to {q:,.0f} (n = {n:,})" for k, (m, q, n) in found.items())
    finding = f"{longest}: half have at most {median:,.0f} tokens, 95 % at most {most:,.0f}"
    return _finish(figure, title or finding, alt or f"Histograms of token lengths: {words}.")


@style()
def composition(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """The question set: bars of category, stacked by split. Columns: category, n; optional: split."""
    frame = _table(frame, ("category", "n"), ("n",), split="all").dropna(subset="n")
    if frame.empty:
        return _nothing(title, alt)
    table = frame.pivot_table(index="category", columns="split", values="n", aggfunc="sum", fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    figure, ax = _rows(list(table.index), "questions")
    left = table.iloc[:, 0] * 0.0
    for split, colour in _colours(table.columns, SPLIT_COLOURS).items():
        bars = ax.barh(range(len(table)), table[split], left=left, height=0.66, color=colour, label=split)
        left = left + table[split]
    ax.bar_label(bars, [f"{total:,.0f}" for total in left], padding=4, fontsize=10)
    ax.set_xlim(0, max(left.max() * 1.1, 1))
    if len(table.columns) > 1:
        _legend(figure, *ax.get_legend_handles_labels())
    kinds = "1 category" if len(table) == 1 else f"{len(table)} categories"
    finding = f"{left.sum():,.0f} questions in {kinds}; “{table.index[0]}” is the largest "
    finding += f"({left.iloc[0] / max(left.sum(), 1) * 100:.0f} %)"
    words = "; ".join(f"{c}: " + ", ".join(f"{s} {n:,.0f}" for s, n in row.items()) for c, row in table.iterrows())
    return _finish(figure, title or finding, alt or f"Stacked bars of questions by category and split. {words}.")


@style()
def fertility(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """Histograms of tokens per character, a row a tokenizer, a column a language: the rows of `fertility.table`.

    Columns: tokens, characters; optional: tokenizer, language. Each language has its own scale.
    """
    import numpy as np

    frame = _table(frame, ("tokens", "characters"), ("tokens", "characters"), tokenizer="tokenizer", language="text")
    frame = frame[frame["characters"] > 0].dropna(subset="tokens")
    if frame.empty:
        return _nothing(title, alt)
    rate = frame["tokens"] / frame["characters"]
    names, languages = _order(frame["tokenizer"], ()), _order(frame["language"], ("Japanese", "English"))
    height = max(HEIGHT, 1.0 + 1.75 * len(names))
    figure, axes = _axes(height, len(names), len(languages), sharex="col", sharey=True, squeeze=False)
    medians: dict[str, dict[str, float]] = {}
    words = []
    for column, language in zip(axes.T, languages, strict=True):
        spoken = frame["language"] == language
        bins = np.linspace(0, max(rate[spoken].quantile(0.995), 0.01), 31)
        for ax, name in zip(column, names, strict=True):
            values = rate[spoken & (frame["tokenizer"] == name)]
            if values.empty:
                ax.set_axis_off()
                continue
            last = ax
            low, middle, high = values.quantile([0.05, 0.5, 0.95])
            medians.setdefault(language, {})[name] = middle
            ax.hist(values.clip(upper=bins[-1]), bins=bins, weights=np.full(len(values), 100 / len(values)), color=SKY)
            ax.axvline(middle, color=BLUE)
            for edge in (low, high):
                ax.axvline(edge, color=BLUE, linestyle=":")
            told = f"median {middle:.2f} (—), n = {len(values):,}\n90 % in {low:.2f} to {high:.2f} (···)"
            ax.set_title(f"{_wrap(f'{name}, {language}', 40)}\n{told}", fontsize=9.5, linespacing=1.3)
            words.append(f"{name}, {language}: median {middle:.2f}, 90 % in {low:.2f} to {high:.2f} (n = {len(values):,})")
        last.set_xlabel(language)
        last.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("tokens per character (the last bar holds all higher ones)", fontsize=10.5)
    figure.supylabel("share of texts, %", fontsize=10.5)
    finding = _costs(medians)
    return _finish(figure, title or finding, alt or f"Histograms of tokens per character. {'; '.join(words)}.")


def _costs(medians: Mapping[str, Mapping[str, float]]) -> str:
    """The widest gap between two tokenizers in words, then what the other languages cost."""
    if len(names := {name for found in medians.values() for name in found}) == 1:
        costs = ", ".join(f"{language} {value:.2f}" for language, found in medians.items() for value in found.values())
        return f"Median tokens per character with {names.pop()}: {costs}"

    def gap(language: str) -> float:
        return max(medians[language].values()) / max(min(medians[language].values()), 1e-9)

    widest = max(medians, key=gap)
    found = medians[widest]
    most, least = max(found, key=found.get), min(found, key=found.get)
    told = [f"{widest} takes {gap(widest):.1f} times as many tokens with {most} as with {least} "
            f"({found[most]:.2f} and {found[least]:.2f} per character)"]  # fmt: skip
    for language in medians:
        if language != widest:
            ends = dict.fromkeys(f"{end(medians[language].values()):.2f}" for end in (min, max))
            told.append(f"{language} {' to '.join(ends)}{' with each' if len(ends) == 1 else ''}")
    return "; ".join(told)


@style()
def acceptance(rows: Sequence[Mapping[str, Any]], title: str | None = None, alt: str | None = None) -> Figure:
    """What came of the records that each teacher was asked about, a bar a teacher and category: the rows of `gates.acceptance`.

    Columns: teacher, category, n, and the number of records for each outcome (accepted, or the gate's code).
    """
    import pandas as pd

    frame = _table(rows, ("teacher", "category", "n"), ("n",))
    frame = frame[frame["n"] > 0].reset_index(drop=True)
    if frame.empty:
        return _nothing(title, alt)
    outcomes = frame.drop(columns=["teacher", "category", "n"]).apply(pd.to_numeric, errors="coerce").fillna(0)
    codes = _order([code for code in outcomes if outcomes[code].sum()], OUTCOME_COLOURS)
    labels = [f"{t} · {c} ({n:,.0f})" for t, c, n in zip(frame["teacher"], frame["category"], frame["n"], strict=True)]
    figure, ax = _rows(labels, "share of the records, % (numbers: records)", each=0.25)
    left = frame["n"] * 0.0
    for code, colour in _colours(codes, OUTCOME_COLOURS).items():
        share = 100 * outcomes[code] / frame["n"]
        bars = ax.barh(range(len(frame)), share, left=left, height=0.78, color=colour, label=code, edgecolor="white", linewidth=0.8)
        shown = [f"{n:,.0f}" if s >= 2 + 1.5 * len(f"{n:,.0f}") else "" for n, s in zip(outcomes[code], share, strict=True)]
        ax.bar_label(bars, shown, label_type="center", color=_ink(colour), fontsize=9)
        left = left + share
    for at in range(1, len(frame)):
        if frame["teacher"][at] != frame["teacher"][at - 1]:
            ax.axhline(at - 0.5, color=INK, linewidth=0.8)
    ax.set_xlim(0, 100)
    ax.grid(False)
    _legend(figure, *ax.get_legend_handles_labels())
    sums = outcomes.assign(n=frame["n"]).groupby(frame["teacher"], sort=False).sum()
    passed = sums["accepted"] if "accepted" in sums else sums["n"] * 0
    finding = "Accepted: " + ", ".join(f"{t} {a:,.0f} of {n:,.0f}" for t, a, n in zip(sums.index, passed, sums["n"], strict=True))
    words = "; ".join(f"{t}: " + ", ".join(f"{c} {row[c]:,.0f}" for c in codes if row[c]) for t, row in sums.iterrows())
    return _finish(figure, title or finding, alt or f"Stacked bars of accepted and refused rationales. {words}.")


@style()
def scale(measured: Mapping[str, Any] | str | Path, title: str | None = None, alt: str | None = None) -> Figure:
    """Seconds and peak memory (GB) of curation against rows, on logarithmic axes: the result of `scale.measure`, or its JSON file.

    A dashed line grows in proportion to the rows. Raises `UserError` for a file that is not of `scale.measure`.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    found = measured if isinstance(measured, Mapping) else read_json(measured)
    if "sizes" not in found:
        raise UserError("This figure needs 'sizes', as helpers.scale.measure writes them; give its result or curation_scale.json.")
    columns = ("rows", "seconds", "peak_gb")
    frame = _table(found["sizes"], columns, columns)
    frame = frame[(frame[list(columns)] > 0).all(axis=1)].sort_values("rows", kind="stable")
    if frame.empty:
        return _nothing(title, alt)
    figure, axes = _axes(3.4, 1, 2)
    rows, most = frame["rows"], frame["rows"].iloc[-1]
    ticks = [n for n, after in zip(rows, [*rows[1:], math.inf], strict=True) if after >= 2.5 * n]
    for ax, key, label, form in ((axes[0], "seconds", "seconds", "{:.3g} s"), (axes[1], "peak_gb", "peak memory, GB", "{:.2g} GB")):
        values, straight = frame[key], frame[key].iloc[-1] * rows / most
        ax.loglog(rows, straight, color=GREY, linestyle="--", linewidth=1.2, label="in proportion to the rows")
        ax.loglog(rows, values, color=BLUE, marker="o")
        for x, y in zip(rows, values, strict=True):
            ax.annotate(form.format(y), (x, y), textcoords="offset points", xytext=(-5, 6), ha="right", fontsize=9.5)
        # Room on the left and above for the numbers.
        ax.set_xlim(rows.iloc[0] / max((most / rows.iloc[0]) ** 0.4, 2), most * 1.3)
        ax.set_ylim(min(values.min(), straight.min()) / 1.3, max(values.max(), straight.max()) * 2)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(ticks, [f"{n:,.0f}" for n in ticks])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("rows")
        ax.set_ylabel(label)
    if len(rows) > 1:
        _legend(figure, *axes[0].get_legend_handles_labels())
    last, fit = frame.iloc[-1], found.get("fit") or {}
    finding = f"{last['rows']:,.0f} rows in {last['seconds']:.3g} s with {last['peak_gb']:.2g} GB"
    finding += f"; CPU time grows as rows^{fit['exponent']:.2f}" if "exponent" in fit else ""
    words = "; ".join(f"{n:,.0f} rows {s:.3g} s, {gb:.2g} GB" for n, s, gb in frame[list(columns)].itertuples(index=False))
    return _finish(figure, title or finding, alt or f"Time and peak memory of curation, both axes logarithmic: {words}.")
