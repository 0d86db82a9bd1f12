"""A score per event, from the tokens that say it; expected values by hand."""

import math

import pytest

from processing.answer_text import format_events
from processing.event_scores import event_parts, score_events
from processing.events import Event, TimeGrid
from recipes.conversion.checkpoint import load_processor

GRID = TimeGrid(12.5, 0.08, 30.0)


@pytest.fixture(scope="module")
def tokenizer():
    return load_processor("recipes/checkpoints/timepro-small").tokenizer


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


def test_every_token_counts_where_it_belongs(tokenizer):
    ids = encode(tokenizer, "dog bark: <0.80>-<1.04>, <2.00>-<2.08>; siren: <0.08>-<4.00>")
    tokens = [tokenizer.decode([i]) for i in ids]
    # Half for each token of a label, 0.8 for onsets, 0.9 for offsets; all else must not matter.
    onsets, offsets = {"<0.80>", "<2.00>", "<0.08>"}, {"<1.04>", "<2.08>", "<4.00>"}
    words = {"dog": 0, "siren": 0}
    logs, current = [], None
    for token in tokens:
        if token in onsets | offsets:
            logs.append(math.log(0.8 if token in onsets else 0.9))
        elif any(c.isalpha() for c in token) and token not in tokenizer.all_special_tokens:
            if token.startswith("d"):
                current = "dog"
            elif current is None or "s" in token and current == "dog" and len(logs) > 6:
                current = "siren"
            words[current] += 1
            logs.append(math.log(0.5))
        else:
            logs.append(-7.0)
    parts = event_parts(tokenizer, ids, logs, "detection")
    assert [part.event for part in parts] == sorted(
        [Event(0.8, 1.04, "dog bark"), Event(2.0, 2.08, "dog bark"), Event(0.08, 4.0, "siren")]
    )
    assert [math.exp(part.onset) for part in parts] == pytest.approx([0.8] * 3)
    assert [math.exp(part.offset) for part in parts] == pytest.approx([0.9] * 3)
    scores = score_events(tokenizer, ids, logs, "detection")
    assert scores[1].score == pytest.approx(0.5 ** words["dog"] * 0.72)
    assert scores[0].score == pytest.approx(0.5 ** words["siren"] * 0.72)


def test_neighbours_within_the_tolerance_count(tokenizer):
    ids = encode(tokenizer, "<0.80>-<1.04>")
    # Tick 10 is 0.80 s; 0.2 s are two and a half steps, so ticks 8 to 12 count: 0.1 + 0.2 + 0.3 = 0.6, not 0.4.
    row = [math.log(1e-12)] * GRID.num_ticks
    row[8], row[10], row[12], row[13] = (math.log(p) for p in (0.1, 0.2, 0.3, 0.4))
    end = [math.log(1e-12)] * GRID.num_ticks
    end[13] = math.log(0.5)
    logs = [math.log(0.2), 0.0, math.log(0.5), 0.0]
    rows = [row, row, end, row]
    (event,) = score_events(tokenizer, ids, logs, "grounding", "dog", rows, GRID)
    assert event == Event(0.8, 1.04, "dog") and event.score == pytest.approx(0.6 * 0.5)
    (event,) = score_events(tokenizer, ids, logs, "grounding", "dog")
    assert event.score == pytest.approx(0.2 * 0.5)
    # Of an event of 4 s the offset may differ by 0.8 s, ten steps: ticks 50 to 70 count, not 71.
    end[50], end[71] = math.log(0.25), math.log(0.125)
    ids = encode(tokenizer, "<0.80>-<4.80>")
    (event,) = score_events(tokenizer, ids, logs, "grounding", "dog", rows, GRID)
    assert event.score == pytest.approx(0.6 * 0.25)


def test_digits_have_the_product_of_their_tokens(tokenizer):
    ids = encode(tokenizer, "1.24-3.40")
    tokens = [tokenizer.decode([i]) for i in ids]
    assert tokens[:-1] == list("1.24-3.40")
    logs = [math.log(0.9)] * 4 + [-5.0] + [math.log(0.8)] * 4 + [0.0]
    (event,) = score_events(tokenizer, ids, logs, "grounding", "dog")
    assert event.score == pytest.approx(0.9**4 * 0.8**4)


def test_halves_of_a_character_belong_to_the_caption_they_are_in(tokenizer):
    events = [Event(0.8, 1.6, "犬 a"), Event(2.0, 4.0, "b")]
    ids = encode(tokenizer, format_events(events, "captioning", GRID, "ticks"))
    logs = [0.0] * len(ids)
    # The first token of the character in bytes, and its last.
    halves = [place for place, i in enumerate(ids) if "\ufffd" in tokenizer.decode([i])]
    assert len(halves) >= 2
    logs[halves[0]], logs[halves[-1]] = math.log(0.5), math.log(0.25)
    first, second = score_events(tokenizer, ids, logs, "captioning")
    assert (first.event_label, first.score, second.score) == ("犬 a", pytest.approx(0.125), 1.0)


def test_none_has_no_events_and_prose_no_answer(tokenizer):
    ids = encode(tokenizer, "none")
    assert score_events(tokenizer, ids, [-1.0] * len(ids), "detection") == []
    ids = encode(tokenizer, "the dog barks")
    assert score_events(tokenizer, ids, [-1.0] * len(ids), "detection") is None


@pytest.mark.parametrize(
    "logs, options, message",
    [
        ([0.0], {}, "token_ids has"),
        ([0.5] * 4, {}, "log_probs holds"),
        ([float("nan")] * 4, {}, "log_probs holds"),
        ([0.0] * 4, {"grid": GRID}, "belong together"),
        ([0.0] * 4, {"task": "naming"}, "task is"),
    ],
)
def test_refusals(tokenizer, logs, options, message):
    with pytest.raises(ValueError, match=message):
        score_events(tokenizer, encode(tokenizer, "<0.80>-<1.04>"), logs, **{"task": "grounding"} | options)
