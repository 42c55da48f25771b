"""Decoding: lines begun for the model are the very tokens that training used; which rows are written together, and ties, change nothing."""

from __future__ import annotations

import pytest

from helpers import decoding, inference, models, packing, profiles, prompts

FAMILIES = ["tiny", "tiny-phi", "tiny-phi3"]


@pytest.fixture(params=["padded", "without padding"])
def way(request, monkeypatch):
    """How new rows are computed: as on a GPU and where they are long, or as on a CPU."""
    if request.param == "padded":
        monkeypatch.setattr(packing, "can_take", lambda model, longest: False)
    return request.param


def write(writer, tokens):
    """Feed tokens until the writer says stop; what it did not take is returned."""
    rest = list(tokens)
    for _ in range(200):
        if writer.take(rest[0] if rest else 0):
            return rest
        if not writer._forced and rest:
            rest.pop(0)
    raise AssertionError("never done")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stage", ["multistep", "answer"])
def test_the_lines_begun_for_the_model_are_the_tokens_of_training(name, stage, questions):
    """A model that writes a training completion line by line ends with exactly the ids that it was trained on."""
    profile = profiles.choose(name)
    tokenizer = models.load_tokenizer(profile)
    record = next(q for q in questions if q.reasoning)
    style = profile.model.prompt_style
    example = prompts.encode_example(tokenizer, style, stage, record)
    trained = [t for t in example["labels"] if t != prompts.IGNORED]
    begun, cues = prompts.lines(stage)
    opening = tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else []
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    end = prompts.end_id(tokenizer, style)
    writer = decoding.LineWriter(tokenizer, [end], 600, cues=cues, budgets=(200,) * (len(cues) + 1))
    lines = prompts.completion(stage, record).split("\n")
    bodies = [lines[0].removeprefix(begun), *(line.removeprefix(cue) for line, cue in zip(lines[1:], cues, strict=True))]
    for body in bodies[:-1]:
        for token in [*tokenizer(body, add_special_tokens=False)["input_ids"], newline]:
            assert not writer.take(token)
        while writer._forced:
            assert not writer.take(0)
    for token in tokenizer(bodies[-1], add_special_tokens=False)["input_ids"]:
        assert not writer.take(token)
    assert writer.take(end) and not writer.cut
    assert opening + writer.tokens == trained


def test_an_end_token_or_an_overlong_line_begins_the_next_line(tiny):
    tokenizer = models.load_tokenizer(tiny)
    end, newline = tokenizer.eos_token_id, tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    a, b = (tokenizer(x, add_special_tokens=False)["input_ids"][0] for x in "ab")

    def run(tokens):
        writer = decoding.LineWriter(tokenizer, [end], 9, cues=("Reasoning:", "Answer:"), budgets=(3, 3, 3))
        feed = iter([*tokens, *[a] * 40])
        while not writer.take(0 if writer._forced else next(feed)):
            assert len(writer.tokens) < writer.longest
        assert len(writer.tokens) <= writer.longest
        return writer.text, writer.cut

    assert run([a, newline, b, newline, a, end]) == ("a\nReasoning:b\nAnswer:a", False)
    assert run([a, end, b, end, a, end]) == ("a\nReasoning:b\nAnswer:a", False), "an end token ends its line only"
    assert run([newline, a, newline, b, newline, a, end])[0] == "\na\nReasoning:b\nAnswer:a", "a line break alone ends nothing"
    assert run([a, a, a, b, newline, a, end]) == ("aaa\nReasoning:b\nAnswer:a", True)
    assert run([]) == ("aaa\nReasoning:aaa\nAnswer:aaa", True)


@pytest.mark.parametrize("asked", [False, True])
def test_rows_that_come_go_and_move_up_change_no_token(way, asked, tiny, questions, fp32):
    """27 rows, 8 at once; alone they are the same."""
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    profile = tiny.replace(generation_batch=8, reasoning_budget=9, translation_budget=7)
    texts = [prompts.prompt("text", "multistep", ja=q.ja) for q in questions[:27]]
    counted = []
    together = inference.generate(model, tokenizer, profile, texts, 24, instruction="multistep", asked=asked, progress=counted.append)
    alone = [inference.generate(model, tokenizer, profile, [t], 24, instruction="multistep", asked=asked)[0] for t in texts]
    assert together == alone and sum(counted) == 27
    if asked:
        assert all(c.text.count("Reasoning:") == c.text.count("Answer:") == 1 for c in together)


def test_calls_with_other_examples_in_one_batch_change_no_token(way, tiny, questions, fp32):
    """Prefixes of three lengths, none among them, and both ways of asking, in batches of 5."""
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    profile = tiny.replace(generation_batch=5)
    examples = [prompts.few_shot("answer", questions[40 : 40 + n]) if n else "" for n in (0, 1, 3)]
    texts = [prompts.prompt("text", "answer", en=q.en) for q in questions[:4]]
    calls = [inference._Call(texts, 12, "answer", asked, prefix) for prefix in examples for asked in (False, True)]
    counted = []
    together = inference._together(model, tokenizer, profile, calls, decoding.GREEDY, counted.append)
    alone = [inference.generate(model, tokenizer, tiny, [t], 12, instruction="answer", asked=c.asked, prefix=c.prefix)[0] for c in calls for t in texts]
    assert [completion for call in together for completion in call] == alone and sum(counted) == len(alone)
    assert len({c.text for c in together[0] + together[2] + together[4]}) > 4, "the examples make a difference"


@pytest.mark.parametrize("window", [16, 512])
def test_a_sliding_window_sees_no_padding(window, tiny, questions, fp32, monkeypatch):
    """Rows of other lengths in a batch, with prefixes longer, shorter and none, come to what they come to alone."""
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    assert "sliding_attention" in model.config.layer_types
    model.config.sliding_window = window
    for part in model.modules():
        if getattr(part, "sliding_window", None):
            part.sliding_window = window
    by_length = sorted(questions, key=lambda q: len(q.en))
    texts = [prompts.prompt("text", "answer", en=q.en) for q in (by_length[0], by_length[-1], by_length[len(by_length) // 2])]
    calls = [inference._Call(texts, 9, "", False, prompts.few_shot("answer", questions[40 : 40 + n]) if n else "") for n in (0, 1, 4)]
    with monkeypatch.context() as padded:
        padded.setattr(packing, "can_take", lambda model, longest: False)
        alone = [[inference.generate(model, tokenizer, tiny, [t], 9, prefix=c.prefix)[0] for t in texts] for c in calls]
    # All at once, and as places become free.
    for at_once in (128, 3):
        assert inference._together(model, tokenizer, tiny.replace(generation_batch=at_once), calls, decoding.GREEDY, lambda n: None) == alone


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("window", [0, 30, 26])
def test_a_prefix_held_once_is_seen_as_if_it_stood_in_each_lane(name, window, questions, fp32, monkeypatch):
    """Also from where a sliding window has left it in part; rows that leave and come take what they follow on with them."""
    import torch

    profile = profiles.choose(name)
    tokenizer, model = models.load_tokenizer(profile), models.load_for_inference(profile)
    if window and hasattr(model.config, "sliding_window"):
        model.config.sliding_window = window
        for part in model.modules():
            if getattr(part, "sliding_window", None):
                part.sliding_window = window
    texts = [q.en[: 5 + 3 * n] for n, q in enumerate(questions[:4])]
    before = [decoding.prefix(model, ids) for ids in ([7] * 17, list(range(3, 9)), [])]
    rows = [(prefix, tokenizer(t, add_special_tokens=False)["input_ids"][:9]) for prefix in before for t in texts]
    seen, forward = [], decoding.attention.Before.attend
    monkeypatch.setattr(decoding.attention.Before, "attend", lambda self, *a: seen.append(a[-1] is None) or forward(self, *a))
    found = {}
    for way in ("padded", "once"):
        with monkeypatch.context() as patched:
            if way == "padded":
                patched.setattr(packing, "can_take", lambda model, longest: False)
            writers = [decoding.Writer(tokenizer, [-1], 6 + 5 * (n % 3)) for n in range(len(rows))]
            decoding.decode(model, rows, writers, 0, 5, lambda n: None)
            found[way] = [w.tokens for w in writers]
        assert bool(seen) == (way == "once")
    assert found["once"] == found["padded"] and len({len(t) for t in found["once"]}) == 3
    for (prefix, ids), tokens in zip(rows, found["once"], strict=True):
        alone = model.generate(torch.tensor([[*prefix.ids, *ids]]), max_new_tokens=len(tokens), do_sample=False, eos_token_id=None)
        assert alone[0, -len(tokens) :].tolist() == tokens


def test_rows_at_once_follow_the_memory_of_a_gpu_but_not_for_samples(tiny, questions, monkeypatch):
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    rows, writers = [(decoding.Prefix(), [1] * 20)] * 3, [decoding.Writer(tokenizer, [1], 30)]
    # 2 layers × (keys, values) × 2 heads × 32 × bytes a number; 20 + 30 tokens, a quarter more, and those of two looks; the prompt's 20 beside them.
    each = 2 * 2 * 2 * 32 * model.dtype.itemsize * (62 + 2 * decoding.LOOK_EVERY + 20)

    def found(gib, sampling=decoding.GREEDY):
        monkeypatch.setattr(inference, "gpu_gib", lambda: gib)
        return inference._at_once(model, tiny.replace(generation_batch=8), rows, writers, sampling)

    assert found(0) == 8 and found(2 * each * 50.5 / 2**30) == 50 and found(2 * each * 3 / 2**30) == 8
    assert found(80) == inference.MOST_AT_ONCE and found(80, decoding.Sampling(temperature=0.7)) == 8


def test_a_row_that_is_done_gives_its_place_to_one_that_waits(way, monkeypatch, tiny, questions, fp32):
    """Never more at once than a batch; the long ones begin, and no step is on a few rows while others wait."""
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    admitted, stepped, admit, step = [], [], decoding._Lanes.admit, decoding._Lanes.step
    monkeypatch.setattr(decoding._Lanes, "admit", lambda self, numbers, rows: admitted.append(numbers) or admit(self, numbers, rows))
    monkeypatch.setattr(decoding._Lanes, "step", lambda self: stepped.append(len(self.rows)) or step(self))
    text = prompts.prompt("text", "direct", ja=questions[0].ja)
    calls = [call for _ in range(20) for call in (inference._Call([text] * 7, 5), inference._Call([text], 60))]
    counted = []
    found = inference._together(model, tokenizer, tiny.replace(generation_batch=8), calls, decoding.GREEDY, counted.append)
    assert [c.tokens for call in found for c in call] == ([5] * 7 + [60]) * 20 and sum(counted) == 160
    assert all(n % 8 == 7 for part in admitted[:2] for n in part), "rows 7, 15, 23 … are those that come to most tokens"
    assert sorted(n for part in admitted for n in part) == list(range(160)) and max(stepped) == 8
    # 20 rows of 60 tokens in lanes of 8 and 140 of 5 beside them: the long ones alone would be 3 × 59 steps.
    assert len(stepped) < 260 and sum(n < 6 for n in stepped) < 60


def test_lanes_that_run_out_of_room_are_moved(way, monkeypatch, tiny, questions, fp32):
    """To the left, when the last token is reached, and to the right, for a prompt longer than what is held."""
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    slid, slide = [], decoding._Lanes._slide
    monkeypatch.setattr(decoding._Lanes, "_slide", lambda self, by: slid.append(by) or slide(self, by))
    short, long = (prompts.prompt("text", "direct", ja=q.ja) for q in sorted(questions, key=lambda q: len(q.ja))[:: len(questions) - 1])
    calls = [inference._Call([short] * 9, 40), inference._Call([long] * 9, 6), inference._Call([short] * 40, 30)]
    profile = tiny.replace(generation_batch=4)
    together = inference._together(model, tokenizer, profile, calls, decoding.GREEDY, lambda n: None)
    assert min(slid) < 0 < max(slid)
    for call, done in zip(calls, together, strict=True):
        assert {c.text for c in done} == {inference.generate(model, tokenizer, profile, [call.texts[0]], call.budget)[0].text}


def test_lanes_hold_what_is_needed(way, monkeypatch, tiny, questions):
    """One cache and no slack where no row waits; the rows that come later are computed beside it and given up."""
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    made, make = [], decoding._cache
    monkeypatch.setattr(decoding, "_cache", lambda model, lanes, room: made.append((lanes, room)) or make(model, lanes, room))
    text = prompts.prompt("text", "direct", ja=questions[0].ja)
    width = len(prompts.encode_prompt(tokenizer, text))
    inference.generate(model, tokenizer, tiny, [text] * 8, 20)
    assert made == [(8, width + 20 + 2 * decoding.LOOK_EVERY)]
    made.clear()
    calls = [inference._Call([text] * 4, 40), inference._Call([text] * 20, 6)]
    inference._together(model, tokenizer, tiny.replace(generation_batch=8), calls, decoding.GREEDY, lambda n: None)
    assert made[0] == (8, (width + 40) * 5 // 4 + 2 * decoding.LOOK_EVERY)
    assert len(made) > 2 if way == "padded" else len(made) == 1
    assert all(count <= 4 and room == width for count, room in made[1:])


def test_what_loops_is_cut_off(tiny):
    """Neither what is said three times (a short thing: for fewer than 32 tokens), nor what is said often but not in a row, nor what has come out of it."""
    for unit in range(1, 17):
        loop = list(range(10, 10 + unit))
        assert decoding.in_a_loop([1, 2, *loop * (-(-32 // unit) if unit < 8 else 4)])
        assert not decoding.in_a_loop([1, 2, *loop * (31 // unit if unit < 8 else 3)])
    assert not decoding.in_a_loop(list(range(17)) * 4) and not decoding.in_a_loop([*[7] * 60, 8]) and not decoding.in_a_loop([])
    tokenizer = models.load_tokenizer(tiny)
    a, b = (tokenizer(x, add_special_tokens=False)["input_ids"][0] for x in "ab")
    writer = decoding.Writer(tokenizer, [tokenizer.eos_token_id], 100, "answer")
    assert [writer.take(t) for t in [b, *[a] * 32]] == [False] * 32 + [True] and writer.cut
    writer = decoding.LineWriter(tokenizer, [tokenizer.eos_token_id], 200, cues=("Answer:",), budgets=(100, 100))
    assert not any(writer.take(t) for t in [b, *[a] * 32]) and writer.cut and writer._forced, "the next line is begun"


@pytest.mark.parametrize("instruction", ["translate", "multistep", "answer", ""])
def test_looking_for_the_end_at_line_breaks_alone_misses_none(instruction, tiny, questions):
    """Token by token, a writer stops where one stops that looks at the whole text after every token."""
    tokenizer = models.load_tokenizer(tiny)
    for text in ("\n\nGood.\nmore", "Where?\nAnswer: Here\nJapanese", "a\n \nb", "Answer: 12\nx", "Reasoning: a.\n\nAnswer: b\n", "no end"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        writer = decoding.Writer(tokenizer, [tokenizer.eos_token_id], 99, instruction)
        while not writer.take(ids[len(writer.tokens)]):
            pass
        firsts = (n for n in range(1, len(ids)) if instruction and decoding.ended(instruction, tokenizer.decode(ids[:n])) >= 0)
        assert len(writer.tokens) == next(firsts, len(ids)), text


def test_rows_move_up_into_the_places_of_those_that_are_done():
    assert decoding._move_up([5, 6, 7, 8, 9], {5, 8}) == ([(4, 0)], [9, 6, 7])
    assert decoding._move_up([1, 2, 3], {1, 2}) == ([(2, 0)], [3])
    assert decoding._move_up([1, 2, 3], {3}) == ([], [1, 2])


@pytest.mark.parametrize("size", [1024, 1000, 30])
def test_the_likeliest_token_is_argmax_with_ties_to_the_first(size):
    import torch

    class Causal:
        def get_output_embeddings(self):
            return layer

    layer = torch.nn.Linear(8, size)
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.weight[[3, size - 1]] = 10
        layer.bias[:] = 0
        hidden[0] = 1
        assert torch.equal(decoding._picker(Causal())(hidden), (hidden @ layer.weight.T + layer.bias).argmax(-1))
        assert decoding._picker(Causal())(hidden)[0] == 3


def test_sampling_is_seeded_and_stays_among_the_likeliest(tiny, questions):
    tokenizer, model = models.load_tokenizer(tiny), models.load_for_inference(tiny)
    texts = [prompts.prompt("text", "answer", en=q.en) for q in questions[:4]]

    def sample(**options):
        return [c.text for c in inference.generate(model, tokenizer, tiny, texts, 12, sampling=decoding.Sampling(**options))]

    greedy = [c.text for c in inference.generate(model, tokenizer, tiny, texts, 12)]
    assert sample(temperature=1.0, seed=1) == sample(temperature=1.0, seed=1) != sample(temperature=1.0, seed=2)
    assert sample(temperature=1.0, top_k=1) == greedy != sample(temperature=1.0)
