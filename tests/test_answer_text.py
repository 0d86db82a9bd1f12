import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processing.answer_text import (
    ANSWER_FORMATS,
    PROMPTS,
    TASKS,
    escape_text,
    format_events,
    parse_events,
    prompt_text,
    snap_event,
)
from processing.events import Event, TimeGrid

TRICKY = ":;,-\\<>| \t\n\r\x1c\x85\u2028.0123456789lgu"
labels = st.one_of(
    st.text(),
    st.text(TRICKY, max_size=12),
    st.sampled_from(
        ["<1.04>", "<|AUDIO|>", "<1.00>-<2.00>", "none", "dog: 1.00-2.00; cat", "\\l1.04\\g", "\\u00000a", "\\"]
    ),
    st.text(st.characters(), max_size=4),  # with lone surrogates
)
times = st.floats(0, 40)
grids = st.sampled_from(
    [TimeGrid(), TimeGrid(12.5, 0.08), TimeGrid(25, 0.125, 10), TimeGrid(7.0, 1 / 3, 20), TimeGrid(25, 0.07)]
)


def make_event(values):
    return Event(min(values[:2]), max(values[:2]), values[2])


def snapped(events, grid, answer_format):
    return sorted(snap_event(event, grid, answer_format) for event in events)


@given(
    st.lists(st.tuples(times, times, labels).map(make_event), max_size=5),
    st.sampled_from(TASKS),
    grids,
    st.sampled_from(ANSWER_FORMATS),
    labels,
    st.booleans(),
)
@example([Event(1, 2, "<1.04>: a;b, \\-")], "detection", TimeGrid(), "ticks", "", False)
def test_parsing_gives_back_the_snapped_events(events, task, grid, answer_format, query, tolerant):
    if task == "grounding":
        events = [Event(event.onset, event.offset, query) for event in events]
    text = format_events(events, task, grid, answer_format)
    assert parse_events(text, task, query, tolerant=tolerant) == snapped(events, grid, answer_format)
    text.encode()  # no lone surrogates are left
    assert text == text.strip()
    assert len(text.splitlines()) == 1
    if answer_format == "digits":
        assert "<" not in text and ">" not in text
    else:
        assert text.count("<") == text.count(">") == 2 * len(events)


def test_canonical_spellings():
    dogs = [Event(5, 6.12, "dog"), Event(1.24, 3.4, "dog")]
    horn = Event(0.2, 0.92, "car horn")
    assert format_events(dogs, "grounding") == "1.24-3.40, 5.00-6.12"
    assert format_events([*dogs, horn]) == "car horn: 0.20-0.92; dog: 1.24-3.40, 5.00-6.12"
    assert format_events([*dogs, horn], answer_format="ticks") == (
        "car horn: <0.20>-<0.92>; dog: <1.24>-<3.40>, <5.00>-<6.12>"
    )
    assert format_events([Event(1.24, 3.4, "a dog barks twice")], "captioning") == "1.24-3.40: a dog barks twice"
    assert [format_events([], task) for task in TASKS] == ["none"] * 3


def test_offsets_past_the_last_tick_clamp_to_it():
    text = format_events([Event(29, 30, "dog")], answer_format="ticks")
    assert text == "dog: <29.00>-<29.96>"
    assert format_events([Event(29, 30, "dog")]) == "dog: 29.00-30.00"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("tolerant", [True, False])
def test_none_is_empty_and_garbage_is_unparseable(task, tolerant):
    assert parse_events("none", task, tolerant=tolerant) == []
    assert parse_events(" none\n", task, tolerant=tolerant) == []
    for text in ("", "   ", "banana", ":", ";", "-", "dog:", "1.2.3", "<1.04>", "\\", "12"):
        assert parse_events(text, task, tolerant=tolerant) is None


@pytest.mark.parametrize(
    "text",
    [
        "dog: 3.40-1.24",
        "dog: 1.24-3.4",
        "dog: 1.24-3.",
        "dog: 1.24-3.40,",
        "dog: 1.24-3.40;",
        "dog: 1.24-3.40; car ho",
        "dog: 1.24-3.400",
        "dog: <1.24>-3.40",
        "dog: <1.24-3.40>",
        "<dog>: 1.24-3.40",
        "\\q: 1.24-3.40",
        "\\u110000: 1.24-3.40",
        "dog 1.24-3.40",
        "dog: from 1.24 to 3.40",
        "dog: 1-3",
        "None",
        "dog: none",
        "dog: 1.24-3.40\\",
    ],
)
def test_strict_parsing_accepts_the_grammar_only(text):
    assert parse_events(text, tolerant=False) is None


def test_strict_parsing_of_a_cut_answer_never_invents_an_event():
    grid = TimeGrid()
    for answer_format in ANSWER_FORMATS:
        events = [Event(1.24, 3.4, "dog"), Event(5, 6.12, "dog"), Event(10.2, 20.88, "car horn")]
        text = format_events(events, grid=grid, answer_format=answer_format)
        whole = 0
        for end in range(len(text)):
            for tolerant in (False, True):
                parsed = parse_events(text[:end], tolerant=tolerant)
                assert parsed is None or set(parsed) <= set(events)
                whole += parsed is not None and not tolerant
        assert whole == 2  # only cuts right after an interval


def test_tolerant_parsing_keeps_the_complete_events_of_a_cut_answer():
    first = [Event(1.24, 3.4, "dog: <1.04>")]
    text = format_events([*first, Event(5, 6.12, "dog: <1.04>")])
    for end in range(len("dog\\: \\l1.04\\g: 1.24-3.40"), len(text)):
        assert parse_events(text[:end]) == first
    assert parse_events("dog: 1.24-3.40; car ho") == [Event(1.24, 3.4, "dog")]
    assert parse_events("<1.24>-<3.40>, <5.00>-<6.", "grounding", "dog") == [Event(1.24, 3.4, "dog")]
    assert parse_events("1.24-3.40: a dog; 5.0", "captioning") == [Event(1.24, 3.4, "a dog")]
    assert parse_events("dog: 1.24-3.") is None
    assert parse_events("dog: <1.24>-<3.4") is None


PAIR = [(1.2, 3.4)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("from 1.2 to 3.4 seconds", PAIR),
        ("From 1.2s to 3.4s.", PAIR),
        ("[[1.2, 3.4]]", PAIR),
        ("[1.2, 3.4]", PAIR),
        ("(1.2, 3.4)", PAIR),
        ("[1.2, 3.4], [5, 6]", [*PAIR, (5, 6)]),
        ("The intervals are [1.2, 3.4] and [5, 6].", [*PAIR, (5, 6)]),
        ("00:12-00:22", [(12, 22)]),
        ("0:01:12.5 - 0:01:22", [(72.5, 82)]),
        ("00:00:01.5 --> 00:00:02.5", [(1.5, 2.5)]),
        ("1.2s - 3.4s", PAIR),
        ("1.2 - 3.4", PAIR),
        ("1.2 – 3.4", PAIR),
        ("1200 ms - 3400 ms", PAIR),
        ("1200 to 3400 ms", PAIR),
        ("1 to 2 minutes", [(60, 120)]),
        ("between 1.2 and 3.4", PAIR),
        ("It can be heard between 1.2 seconds and 3.4 seconds.", PAIR),
        ("It starts at 1.2 seconds and ends at 3.4 seconds.", PAIR),
        ("Start: 1.2, End: 3.4", PAIR),
        ("<|1.2|> to <|3.4|>", PAIR),
        ("<1.20>-<3.40>", PAIR),
        ("1.2-3.4, 5-6", [*PAIR, (5, 6)]),
        ("5-6 and 1.2-3.4", [*PAIR, (5, 6)]),
        ("From 1.2 to 3.4. Again from 5 to 6 seconds.", [*PAIR, (5, 6)]),
        ("1.20-3.40<|im_end|>", PAIR),
        ('[{"onset": 1.2, "offset": 3.4, "event_label": "dog"}]', PAIR),
        ('{"start": "00:01.2", "end": "3.4s"}', PAIR),
        ("from 3.4 to 1.2, from 5 to 6", [(5, 6)]),
    ],
)
def test_tolerant_grounding(text, expected):
    assert parse_events(text, "grounding", "dog") == [Event(*pair, "dog") for pair in expected]


DOG, CAR = Event(1.2, 3.4, "dog"), Event(5, 6, "car horn")


@pytest.mark.parametrize(
    "text",
    [
        "dog (1.2-3.4), car horn (5-6)",
        "dog [1.2, 3.4], car horn [5, 6]",
        "dog 1.2-3.4, car horn 5-6",
        "1. dog: 1.2s - 3.4s\n2. car horn: 5s - 6s",
        "- **dog**: 1.2 to 3.4 seconds\n- **car horn**: 5 to 6 seconds",
        "dog:\n- 1.2-3.4\n\ncar horn:\n- 5-6",
        "1.2 - 3.4: dog\n5 - 6: car horn",
        "[1.2, 3.4] dog; [5, 6] car horn",
        "The dog can be heard from 1.2 to 3.4 seconds. Then a car horn occurs between 5 and 6 seconds.",
        "There is a dog from 1.2 to 3.4 seconds, followed by a car horn from 5.0 to 6.0 seconds.",
        '[{"onset": 1.2, "offset": 3.4, "event_label": "dog"}, {"start": 5, "end": 6, "label": "car horn"}]',
        '```json\n{"events": [{"onset": 1.2, "end": 3.4, "name": "dog"}, {"from": 5, "to": 6, "name": "car horn"}]}```',
        "Here you are: [{'start': 1.2, 'end': 3.4, 'label': 'dog'}, {'start': 5, 'end': 6, 'label': 'car horn'}]",
        '{"dog": [[1.2, 3.4]], "car horn": [[5, 6]]}',
        '[["dog", 1.2, 3.4], [5, 6, "car horn"]]',
        '[{"label": "dog", "timestamp": [1.2, 3.4]}, {"label": "car horn", "timestamp": [5, 6]}]',
        '[{"onset": 1.2, "offset": 3.4, "label": "dog"}, {"onset": 5, "offset": 6, "label": "car horn"}, {"onset": 7',
    ],
)
def test_tolerant_detection(text):
    assert parse_events(text) == [DOG, CAR]


def test_tolerant_detection_carries_labels_on_and_falls_back_to_the_given_one():
    assert parse_events("Speech: 3.0s to 4.0s and 5.0s to 6.0s") == [Event(3, 4, "Speech"), Event(5, 6, "Speech")]
    assert parse_events("1.2-3.4", event_label="sound") == [Event(1.2, 3.4, "sound")]


def test_tolerant_captioning():
    assert parse_events("From 1.2 to 3.4 seconds, a dog barks twice. From 5 to 6, rain.", "captioning") == [
        Event(1.2, 3.4, "dog barks twice"),
        Event(5, 6, "rain"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "None.", "no events", "No events were detected.", "nothing", "[]", "```json\n[]\n```", '{"events": []}',
        "Nothing matches.", "There are no matching sounds in the audio.", "The sound is not present.", "dog: none",
        "It cannot be heard.", "A dog barking isn't present in this recording.", "There is no such sound.",
    ],
)  # fmt: skip
def test_rejections_are_empty_not_unparseable(text):
    assert parse_events(text, "grounding", "dog") == []
    assert parse_events(text, "grounding", "dog", tolerant=False) is None


@pytest.mark.parametrize(
    "text", ["3.4 to 1.2", "1.2", "at 1.2 seconds", "I hear a dog.", '{"onset": 1.2}', "[[3.4, 1.2]]", "NaN - NaN"]
)
def test_unreadable_answers_are_none(text):
    assert parse_events(text) is None


ANSWER_LIKE = st.text("0123456789.:;,-–<>|[]{}()\"'\\ \nseondtfromlbg")


@given(
    st.one_of(st.text(), st.binary().map(lambda data: data.decode("latin-1")), ANSWER_LIKE),
    st.sampled_from(TASKS),
    st.booleans(),
)
@example('{"onset": 1e400, "offset": NaN}', "detection", True)
@example("[[1, 1" + "0" * 5000 + "]]", "detection", True)
@example("\u0661-\u0662", "grounding", True)
@example("²-³", "grounding", True)
def test_no_text_makes_the_parser_raise(text, task, tolerant):
    parsed = parse_events(text, task, "dog", tolerant=tolerant)
    assert parsed is None or all(isinstance(event, Event) for event in parsed)


@pytest.mark.parametrize(
    "unit",
    [
        "1", "1.", "1.1", "1:", "1-", "1.00-2.00, ", "a: 1.00-2.00; ", "a: 1-2; ", "[", "{", "[1,2],", "[1,2]", "{'a':",
        '{"a":1}', "<", "<1.00>-", "from ", "1 to ", "1 to 2 ", "between 1 and ", "between ", "\\", "\\u", ":", ";",
        ". ", "-", " ", "1 ", "1s ", "no ", "such ", "(1, 2)", "a:\n", "not ", "n't be ", "1 and it ", '"', "'",
        "start 1 end ", "dog (1.2-3.4 s). ",
    ],
)  # fmt: skip
def test_time_is_linear_in_the_length(unit):
    # Quadratic parsing of 50,000 characters would take far longer.
    start = time.process_time()
    for task in TASKS:
        parse_events(unit * (50_000 // len(unit)), task)
        parse_events("1.00-2.00" + unit * (50_000 // len(unit)) + "x", task)
    assert time.process_time() - start < 8


def test_prompts():
    assert (
        prompt_text("grounding", "dog barking") == "What are the start and end times of audio matching 'dog barking'?"
    )
    assert prompt_text("detection") == ("What events can you detect in the sound with the start and end timestamps?")
    every = [prompt_text(task, "a {query} {0}" if task == "grounding" else None, i) for task in TASKS for i in range(4)]
    assert len(set(every)) == 12
    assert all("a {query} {0}" in text for text in every[:4])
    assert {len(prompts) for prompts in PROMPTS.values()} == {4}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("tagging",), "task is 'tagging'; choose one of grounding, detection, captioning"),
        (("grounding",), "query is None; grounding needs"),
        (("grounding", "  "), "query is '  '; grounding needs"),
        (("detection", "dog"), "query is 'dog' but task 'detection' takes none"),
        (("detection", None, 4), "wording is 4; give an integer from 0 to 3"),
        (("detection", None, -1), "wording is -1"),
    ],
)
def test_wrong_prompts_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        prompt_text(*arguments)


def test_wrong_answers_are_named():
    with pytest.raises(ValueError, match="answer_format is 'words'; choose one of digits, ticks"):
        format_events([], answer_format="words")
    with pytest.raises(ValueError, match=r"events\[1\] is \(1, 2\)"):
        format_events([Event(1, 2), (1, 2)])
    with pytest.raises(ValueError, match=r"labels \['cat', 'dog'\]; grounding answers one query"):
        format_events([Event(1, 2, "dog"), Event(1, 2, "cat")], "grounding")
    with pytest.raises(ValueError, match="text is None"):
        parse_events(None)
    with pytest.raises(ValueError, match="task is 'x'"):
        parse_events("none", "x")


def test_escaped_text_cannot_spell_special_tokens():
    assert escape_text("<1.04>") == "< 1.04>"
    assert escape_text("<|AUDIO|> a < b") == "< |AUDIO|> a < b"
    assert "<1.04>" not in prompt_text("grounding", "<1.04>")


@given(st.lists(st.text("<>|1.04 A\n"), max_size=4))
def test_escaping_is_idempotent_and_survives_joining(parts):
    escaped = [escape_text(part) for part in parts]
    joined = "".join(escaped)
    assert [escape_text(part) for part in escaped] == escaped
    assert escape_text(joined) == joined
    assert not any(token in joined for token in ("<1", "<|", "<0", "<."))
