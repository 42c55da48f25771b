"""The figures of the data: filters, lengths, balance, fertility, acceptance, scale; titled with the finding, with alt text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figure_style import (
    BLUE,
    GREEN,
    HEIGHT,
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
    _legend,
    _nothing,
    _order,
    _rows,
    _table,
    _wrap,
    style,
)  # fmt: skip
from .files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

OUTCOME_COLOURS = {
    "accepted": GREEN, "wrong-conclusion": VERMILLION, "wrong-arithmetic": ORANGE, "restates-answer": YELLOW, "not-english": PURPLE,
    "length": SKY, "missing": LINE}  # fmt: skip


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
    texts = [f"{k:,.0f} ({s:.3g} %){d}" for k, s, d in zip(kept, share, drop, strict=True)]
    ax.bar_label(bars, texts, padding=4, fontsize=10)
    ax.set_xlim(0, max(max(kept) * 1.5, 1))
    ax.set_xticks([])
    ax.grid(False)
    ax.spines["bottom"].set_visible(False)
    found = f"{kept[-1]:,.0f} of {kept[0]:,.0f} rows are kept ({share[-1]:.3g} %)"
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
    """Histograms of tokens per character, a row a tokenizer, a column a language. Columns: tokenizer, language, tokens, characters."""
    import numpy as np

    frame = _table(frame, ("tokens", "characters"), ("tokens", "characters"), tokenizer="tokenizer", language="text")
    frame = frame[frame["characters"] > 0].dropna(subset=["tokens"])
    if frame.empty:
        return _nothing(title, alt)
    rate = frame["tokens"] / frame["characters"]
    names, languages = _order(frame["tokenizer"], ()), _order(frame["language"], ("Japanese", "English"))
    figure, axes = _axes(max(HEIGHT, 1.2 + 1.7 * len(names)), len(names), len(languages), sharex="col", sharey=True, squeeze=False)
    overall = {}
    for j, language in enumerate(languages):
        spoken = frame["language"] == language
        bins = np.linspace(0, rate[spoken].quantile(0.995), 31)
        for i, name in enumerate(names):
            here = spoken & (frame["tokenizer"] == name)
            values, ax = rate[here], axes[i, j]
            if not len(values):
                ax.set_axis_off()
                continue
            overall[name, language] = frame.loc[here, "tokens"].sum() / frame.loc[here, "characters"].sum()
            ax.hist(values.clip(upper=bins[-1]), bins=bins, weights=np.full(len(values), 100 / len(values)), color=SKY)
            ax.axvline(overall[name, language], color=BLUE)
            ax.set_title(f"{_wrap(name, 30)} · {language}\n{overall[name, language]:.2f} (|), n = {len(values):,}", fontsize=9.5)
    figure.supxlabel("tokens per character", fontsize=10.5)
    figure.supylabel("share of texts, %", fontsize=10.5)
    first = {language: min((n for n in names if (n, language) in overall), key=lambda n: overall[n, language]) for language in languages}
    finding = "; ".join(f"{language} is cheapest for {n} ({overall[n, language]:.2f} tokens a character)" for language, n in first.items())
    words = "; ".join(f"{name}, {language}: {value:.2f}" for (name, language), value in overall.items())
    return _finish(figure, title or finding, alt or f"Histograms of tokens per character, overall: {words}.")


@style()
def acceptance(rows: Sequence[Mapping[str, Any]], title: str | None = None, alt: str | None = None) -> Figure:
    """What came of each teacher's rationales, a bar a teacher and category: the rows of `gates.acceptance`."""
    import pandas as pd

    frame = pd.DataFrame([dict(row) for row in rows])
    if frame.empty or not frame["n"].sum():
        return _nothing(title, alt)
    frame = frame[frame["n"] > 0].reset_index(drop=True)
    codes = _order([c for c in frame.columns if c not in ("teacher", "category", "n")], OUTCOME_COLOURS)
    table = frame[codes].apply(pd.to_numeric).fillna(0)
    codes = [c for c in codes if table[c].sum()]
    labels = [f"{t} · {c} ({n:,})" for t, c, n in zip(frame["teacher"], frame["category"], frame["n"], strict=True)]
    figure, ax = _rows(labels, "share of the records, %", each=0.25)
    left = pd.Series(0.0, index=frame.index)
    for code, colour in _colours(codes, OUTCOME_COLOURS).items():
        share = 100 * table[code] / frame["n"]
        ax.barh(range(len(frame)), share, left=left, height=0.72, color=colour, label=code)
        left = left + share
    ax.set_xlim(0, 100)
    _legend(figure, *ax.get_legend_handles_labels())
    sums = frame.assign(**{c: table[c] for c in codes}).groupby("teacher", sort=False)[[*codes, "n"]].sum()
    passed = {t: (int(row.get("accepted", 0)), int(row["n"])) for t, row in sums.iterrows()}
    finding = "; ".join(f"{t}: {a:,} of {n:,} rationales pass" for t, (a, n) in passed.items())
    words = "; ".join(f"{t}: " + ", ".join(f"{c} {int(row[c]):,}" for c in codes) for t, row in sums.iterrows())
    return _finish(figure, title or finding, alt or f"Stacked bars of accepted and refused rationales. {words}.")


@style()
def scale(measured: Mapping[str, Any] | str | Path, title: str | None = None, alt: str | None = None) -> Figure:
    """Time and peak memory of curation against rows, as measured: the result of `scale.measure`, or its JSON file."""
    import numpy as np

    found = measured if isinstance(measured, Mapping) else read_json(measured)
    sizes = found["sizes"]
    if not sizes:
        return _nothing(title, alt)
    figure, axes = _axes(2.9, 1, 2)
    rows = [s["rows"] for s in sizes]
    for ax, key, label, form in ((axes[0], "seconds", "seconds", "{:.1f} s"), (axes[1], "peak_gb", "peak memory, GB", "{:.2f} GB")):
        values = [s[key] for s in sizes]
        ax.plot(rows, values, color=BLUE, marker="o")
        for x, y in zip(rows, values, strict=True):
            ax.annotate(form.format(y), (x, y), textcoords="offset points", xytext=(-6, 6), ha="right", fontsize=9.5)
        ax.set_xlim(-0.28 * rows[-1], 1.06 * rows[-1])
        ax.set_xticks(np.linspace(0, rows[-1], 3), [f"{n:,.0f}" for n in np.linspace(0, rows[-1], 3)])
        ax.set_ylim(0, 1.2 * max(values))
        ax.set_xlabel("rows")
        ax.set_ylabel(label)
    last, fit = sizes[-1], found.get("fit") or {}
    finding = f"{last['rows']:,} rows in {last['seconds']:.0f} s with {last['peak_gb']:.2f} GB"
    finding += f"; time grows as rows to the power of {fit['exponent']:.2f}" if fit else ""
    words = "; ".join(f"{s['rows']:,} rows {s['seconds']:.1f} s, {s['peak_gb']:.2f} GB" for s in sizes)
    return _finish(figure, title or finding, alt or f"Time and peak memory of curation: {words}.")
