"""How cost grows: real processes, slopes that are right where they are known, a figure."""

from __future__ import annotations

import pytest

from helpers import figure_style, growth


def result():
    rows = [{"x": x, "seconds": 0.01 * x**2, "tokens": x, "peak_gb": 1 + x / 500} for x in (10, 20, 40, 80)]
    flat = [{"x": x, "seconds": 0.5, "tokens": x, "peak_gb": 1.0} for x in (1, 4)]
    return {"machine": {"cores": 2, "cpu": "C", "memory_gb": 1, "system": "S", "python": "3", "load": 0}, "profile": "tiny",
            "series": {"length": {"rows": rows, **growth._slopes(rows)}, "batch": {"rows": flat, **growth._slopes(flat)}}}  # fmt: skip


def test_slopes_are_those_that_the_points_were_made_with():
    found = result()["series"]
    assert (found["length"]["power"], found["length"]["gb_per_thousand"]) == (2.0, 2.0)
    assert (found["batch"]["power"], found["batch"]["gb_per_thousand"]) == (0.0, 0.0)


def test_table_and_figure_say_the_slope(tmp_path):
    page = growth.table(result())
    assert "| training step, length | 80 | 64.00 | 1 | 1.16 |" in page and "as its power 2.00" in page
    drawn = growth.figure(result())
    assert "the power 2.00 (training step, length)" in drawn.get_suptitle().replace("\n", " ")
    assert "from 10 to 80: 1.00 to 64.00 s" in figure_style.alt_text(drawn)


@pytest.mark.slow
def test_each_series_is_measured(tmp_path):
    found = growth.measure({"tokens": (192, 768), "length": (64, 256), "size": (3, 12), "batch": (1, 8)}, "tiny", tmp_path, say=lambda text: None)
    for name, series in found["series"].items():
        first, last = series["rows"]
        assert first["seconds"] > 0 and last["tokens"] >= first["tokens"] and last["peak_gb"] > 0.2, name
    assert {p.name for p in tmp_path.iterdir()} == {"growth.json", "growth.md", "growth.png", "growth.svg"}
