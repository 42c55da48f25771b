"""The benchmark of the curation: real processes, sizes that add up, a fit that is right, and no name of the machine."""

from __future__ import annotations

import json
import platform

import pytest

from helpers import records, scale
from helpers.files import UserError
from helpers.records import Record


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Records that differ in their numbers only, which near-duplicates may not be, and one copy of each tenth."""
    names = ["駅", "港", "山", "川", "橋", "店", "森", "町"]
    found = []
    for n in range(400):
        ja, en = f"{n}番の{names[n % 8]}までは歩いて{n * 7 % 60}分です。", f"It is {n * 7 % 60} minutes on foot to place number {n}."
        found.append(Record(f"a-{n}", "translate", ja, en))
        if n % 10 == 0:
            found.append(Record(f"b-{n}", "translate", ja.replace("。", "！"), f"A remark of its own, number {n}."))
    return records.write(tmp_path_factory.mktemp("scale") / "rows.jsonl", found)


@pytest.fixture(scope="module")
def result(source):
    return scale.measure((100, 400), compare=400, folder=source.parent, source=source, say=lambda text: None)


def test_each_size_is_measured(result):
    assert [s["rows"] for s in result["sizes"]] == [100, 400]
    for s in result["sizes"]:
        assert 0 < s["seconds"] <= s["wall_seconds"] and 0.02 < s["peak_gb"] < 1
        assert s["kept"] == s["steps"][-1][1] < s["steps"][0][1] == s["rows"]
    assert result["near_duplicates"]["near"]["found"] == 0, "rows with other numbers are no near-duplicates"


def test_datasketch_runs_on_the_same_rows(result):
    near = result["near_duplicates"]
    if "datasketch" not in near:
        pytest.skip("datasketch is not installed")
    assert near["datasketch"]["rows"] == near["near"]["rows"] == 400
    assert near["times_faster"] == pytest.approx(near["datasketch"]["seconds"] / near["near"]["seconds"], abs=0.01)


def test_the_files_say_what_was_measured_and_not_on_whose_machine(result, source):
    text = (source.parent / "curation_scale.md").read_text(encoding="utf-8")
    assert json.loads((source.parent / "curation_scale.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    assert text == scale.table(result) and "| 400 | " in text and "not measured at that size" in text
    assert not platform.node() or platform.node() not in text + json.dumps(result)


@pytest.mark.parametrize(("power", "factor"), [(1, 2e-4), (2, 1e-6)])
def test_the_fit(power, factor):
    found = scale.fit([(n, factor * n**power) for n in (10_000, 50_000, 200_000)])
    assert found["exponent"] == power
    if power == 1:
        assert found["seconds_per_10k"] == 2
    assert scale.fit([(10, 1.0)]) is scale.fit([(10, 1.0), (10, 2.0)]) is None


def test_more_rows_than_there_are(source):
    with pytest.raises(UserError, match="measuring curate with 9999 rows failed: 9999 rows are asked for, the source has 440"):
        scale.measure((9999,), source=source, say=lambda text: None)
