"""Shared parts of the tests: a tiny random model and a few sentence pairs written for the tests."""

from __future__ import annotations

import signal

import pytest

from helpers import corpora, profiles
from helpers.records import Record

PAIRS = [
    ("駅前の本屋は九時に開きます。", "The bookshop by the station opens at nine."),
    ("庭の柿の木に鳥が三羽とまっている。", "Three birds are sitting in the persimmon tree in the garden."),
    ("祖母は毎朝みそ汁を作ってくれた。", "My grandmother made miso soup for me every morning."),
    ("雨がやんだら散歩に行こう。", "Let's go for a walk when the rain stops."),
    ("この橋は去年かけ直されました。", "This bridge was rebuilt last year."),
    ("窓をあけると海の匂いがした。", "When I opened the window I could smell the sea."),
    ("弟は虫の図鑑に夢中だ。", "My little brother is absorbed in a book about insects."),
    ("会議は来週の木曜日に延期された。", "The meeting was put off until Thursday next week."),
]


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell's background job is started with Ctrl-C ignored, and so would be every process that the tests start and interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries():
    from helpers import runtime

    runtime.quiet()


@pytest.fixture
def t4():
    """The GPU held to a T4's limits; afterwards it is what it was."""
    import gc

    import torch

    from helpers import runtime

    gc.collect()
    torch.cuda.empty_cache()
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    runtime.as_t4()
    torch.cuda.reset_peak_memory_stats()
    yield
    runtime._as_t4 = False
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.backends.cuda.enable_flash_sdp(before[0])
    torch.backends.cuda.enable_cudnn_sdp(before[1])


@pytest.fixture
def fp32(monkeypatch):
    """Compute in fp32 whatever the processor: in bf16 two orders of summation already differ in the second digit."""
    from helpers import runtime

    monkeypatch.setattr(runtime, "_cpu_has_bf16", lambda: False)


@pytest.fixture
def pairs() -> list[Record]:
    return [Record(f"pair-{i}", "translate", ja, en) for i, (ja, en) in enumerate(PAIRS)]


@pytest.fixture(scope="session")
def questions() -> list[Record]:
    return corpora.questions()


@pytest.fixture(scope="session")
def tiny():
    return profiles.choose("tiny")
