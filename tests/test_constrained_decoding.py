"""Whatever a model would say: what it may say parses, and says no event twice."""

import itertools
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from answer_tokenizers import COARSE, EOS, GRID, LABELS, nasty_tokenizer, sentencepiece_tokenizer
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from processing import constrained_decoding
from processing.answer_grammar import AnswerGrammar, step_tail
from processing.answer_text import ANSWER_FORMATS, TASKS, escape_label, format_events, parse_events
from processing.constrained_decoding import AnswerConstraint
from processing.events import Event, TimeGrid, normalize_label
from processing.token_masks import AnswerMasks
from recipes.conversion.checkpoint import load_processor

SMALL = "recipes/checkpoints/timepro-small"


@pytest.fixture(scope="module")
def tokenizers():
    return {
        "small": (load_processor(SMALL).tokenizer, GRID),
        "nasty": (nasty_tokenizer(COARSE), COARSE),
        "sentencepiece": (sentencepiece_tokenizer(COARSE), COARSE),
    }


def random_model(tokenizer, seed=0):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + 13, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=16, initializer_range=0.6, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def whole_part(text, task):
    """Return the longest beginning of an answer that ran out of room, and was held to the grammar, that is whole."""
    parts = [text] if task == "grounding" else _items(text)
    last = parts.pop()
    label, colon, times = last.rpartition(": ") if task == "detection" else ("", "", last)
    ends = [match.end() for match in re.finditer(r"-<?[0-9]+\.[0-9]+>?(?=,|$)", times)] if task != "captioning" else []
    if ends and ends[-1] == len(times) and times[-1] != ">" and _decimals(times) < _decimals(times.partition("-")[0]):
        ends.pop()
    if ends and (colon or task == "grounding"):
        parts.append(label + colon + times[: ends[-1]])
    return "; ".join(parts) or "none"


def _decimals(text):
    return len(text.rpartition(".")[2])


def problem_of(text, task, grid, duration, labels=None, max_events=None):
    """Return what is wrong with an answer, `None` if nothing is; read from the text alone."""
    events = parse_events(text, task, "query", tolerant=False)
    if events is None:
        return "does not parse"
    if max_events is not None and len(events) > max_events:
        return "too many events"
    for event in events:
        if event.duration <= 0 or event.offset >= duration + grid.time_step - 1e-9:
            return "a time that cannot be"
        if any(abs(time - grid.snap(time)) > 1e-9 for time in (event.onset, event.offset)):
            return "a time off the grid"
    for first, second in itertools.combinations(events, 2):
        if first.event_label == second.event_label and second.onset < first.offset:
            return "an event twice"
    names = [event.event_label for event in events]
    if labels is not None and not set(names) <= set(labels) or "" in names:
        return "a label that cannot be"
    answer_format = "ticks" if "<" in text else "digits"
    if task == "grounding":
        return None if format_events(events, task, grid, answer_format) == text else "times out of order"
    onsets = {}
    for part in _items(text) if events else []:
        mine = parse_events(part, task, tolerant=False)
        # Written again in order, its times are the same; so they came in order. Labels may escape more than they need.
        again = format_events(mine, task, grid, answer_format)
        if task == "detection" and again.rpartition(": ")[2] != part.rpartition(": ")[2]:
            return "times out of order"
        name = mine[0].event_label if task == "detection" else ""
        if labels is not None and name in onsets:
            return "a label twice"
        onsets.setdefault(name, []).extend(event.onset for event in mine)
    return None if all(times == sorted(times) for times in onsets.values()) else "times out of order"


def _items(text):
    parts, part = [], ""
    for index, character in enumerate(text):
        if character == ";" and (len(part) - len(part.rstrip("\\"))) % 2 == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    return [*parts, part.strip()]


MODES = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 3.0, "top_k": 0},
    "several": {"do_sample": True, "temperature": 1.0, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "beam samples": {"do_sample": True, "num_beams": 2, "temperature": 2.0},
}


def answers(tokenizer, grid, task, answer_format, mode, durations, seed, max_new_tokens, **limits):
    model = random_model(tokenizer, seed)
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(0, 200, (len(durations), 5), generator=generator)
    mask = torch.ones_like(prompt)
    # Prompts of different lengths, padded on the left.
    prompt[0, :2], mask[0, :2] = tokenizer.pad_token_id, 0
    constraint = AnswerConstraint(tokenizer, grid, answer_format, task, durations, 5, tokenizer.eos_token_id, **limits)
    torch.manual_seed(seed)
    output = model.generate(
        input_ids=prompt, attention_mask=mask, logits_processor=[constraint], max_new_tokens=max_new_tokens,
        suppress_tokens=[3], **MODES[mode],
    )  # fmt: skip
    rows = output[:, 5:]
    is_whole = (rows == tokenizer.eos_token_id).any(-1).tolist()
    assert all(is_whole) or rows.shape[1] == max_new_tokens
    return list(zip(tokenizer.batch_decode(rows, skip_special_tokens=True), is_whole, strict=True))


def check_clips(tokenizers, num_clips, batch_size=8):
    """Answer about so many clips in every way there is; return the number of answers and of those with events."""
    kinds = list(itertools.product(tokenizers, TASKS, ANSWER_FORMATS, MODES))
    counts = [0, 0, 0]
    for batch in range(num_clips // batch_size):
        name, task, answer_format, mode = kinds[7 * batch % len(kinds)]
        tokenizer, grid = tokenizers[name]
        generator = torch.Generator().manual_seed(batch)
        durations = (torch.rand(batch_size, generator=generator) * grid.max_time).tolist()
        durations[0] = (grid.max_time, 1.0, 1.5 * grid.time_step)[batch % 3]
        limits = {"max_events": (None, 3)[batch % 2]}
        if task == "detection":
            limits["event_labels"] = (None, LABELS[:5])[batch // 2 % 2]
        max_new_tokens = (24, 60)[batch // 3 % 2]
        texts = answers(tokenizer, grid, task, answer_format, mode, durations, batch, max_new_tokens, **limits)
        for index, (text, is_whole) in enumerate(texts):
            duration = durations[index // (len(texts) // batch_size)]
            if not is_whole:
                part = whole_part(text, task)
                found = parse_events(text, task, "query", tolerant=False, truncated=True)
                assert found == parse_events(part, task, "query", tolerant=False), (text, part, name, batch)
                text = part
                counts[2] += 1
            wrong = problem_of(text, task, grid, duration, limits.get("event_labels"), limits["max_events"])
            assert wrong is None, (wrong, text, name, task, answer_format, mode, duration, batch)
            counts[0] += 1
            counts[1] += text != "none"
    return counts


def test_answers_of_random_models_are_valid(tokenizers):
    num_answers, num_with_events, num_truncated = check_clips(tokenizers, 50, batch_size=1)
    assert num_answers >= 50 and num_with_events > num_answers / 3 and 5 < num_truncated < num_answers


@pytest.mark.slow
def test_answers_about_a_thousand_clips_are_valid(tokenizers):
    num_answers, num_with_events, num_truncated = check_clips(tokenizers, 1000)
    print(num_answers, num_with_events, num_truncated)
    assert num_answers >= 1000 and num_with_events > num_answers / 3


MASKS = {}
free_labels = st.one_of(
    st.sampled_from(LABELS),
    st.text(min_size=1, max_size=8),
    st.text(" \t\n:;\\<>,-noe1.\u3000é犬", min_size=1, max_size=6),
)
free_labels = free_labels.map(normalize_label).filter(lambda label: label and "\\u" not in escape_label(label))


@given(st.data())
def test_every_canonical_answer_is_allowed(tokenizers, data):
    name = data.draw(st.sampled_from(["small", "nasty"]))
    tokenizer, grid = tokenizers[name]
    task, answer_format = data.draw(st.sampled_from(TASKS)), data.draw(st.sampled_from(ANSWER_FORMATS))
    closed = task == "detection" and data.draw(st.booleans())
    duration = data.draw(st.floats(0.5, grid.max_time))
    last = min(-int(-duration // grid.time_step), grid.num_ticks - 1)
    events = []
    for label in data.draw(st.lists(st.sampled_from(LABELS) if closed else free_labels, max_size=4, unique=True)):
        if task == "grounding":
            label = "query"
        size = {"min_size": 2, "max_size": 6, "unique": True}
        times = sorted(data.draw(st.lists(st.integers(0, last), **size)))
        pairs = list(zip(times[::2], times[1::2]))
        events += [Event(on * grid.time_step, off * grid.time_step, label) for on, off in pairs]
        if task == "grounding":
            break
    text = format_events(events, task, grid, answer_format)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assume(tokenizer.decode(tokens) == text)
    key = (name, task, answer_format, closed)
    if key not in MASKS:
        grammar = AnswerGrammar(grid, answer_format, task, LABELS if closed else None, None)
        MASKS[key] = AnswerMasks(tokenizer, grammar, [tokenizer.eos_token_id])
    masks, grammar = MASKS[key], MASKS[key].grammar
    state = grammar.start(duration)
    for index, token in enumerate(tokens):
        assert token in allowed_ids(masks, state, index == 0), (text, tokenizer.decode(tokens[:index]))
        state = masks.advance(state, token, index == 0)
    assert tokenizer.eos_token_id in allowed_ids(masks, state)


# Digits alone stand for times. A label that lasts to the end may not return, one that only starts like it may.
BEGUN = {
    "detection": ["", "dog: 0-1; ", "dog: 0-8; ", "Ж: 0-2; Д: 0-8; "],
    "captioning": ["", "0-8: dog; 1-8: ", "0-8: dog; 1-8: do", "0-1: a; 2-3: Ж", "0-8: Ж; 1-8: "],
}


def allowed_ids(masks, state, is_first=False):
    ids, kind = masks.allowed(state, is_first)
    return {*ids, *(masks.ids_of_kind(kind) if kind else ())}


@given(st.data())
def test_what_is_allowed_is_what_the_grammar_goes_on_with(tokenizers, data):
    """Go into open labels, some of which returned, and compare with each token of the vocabulary tried by itself."""
    tokenizer, grid = tokenizers["nasty"]
    task, answer_format = data.draw(st.sampled_from(sorted(BEGUN))), data.draw(st.sampled_from(ANSWER_FORMATS))
    key = ("nasty", task, answer_format, False)
    if key not in MASKS:
        MASKS[key] = AnswerMasks(tokenizer, AnswerGrammar(grid, answer_format, task), [tokenizer.eos_token_id])
    masks = MASKS[key]
    state = masks.grammar.start(data.draw(st.sampled_from([0.3, 1.0, 10.0])))
    time = grid.tick_text if answer_format == "ticks" else grid.seconds_to_text
    begun = data.draw(st.sampled_from(BEGUN[task]))
    for part in re.split(r"(?<![\w])([0-9])(?![\w])", begun):
        if part.isdigit():
            value = int(part) if answer_format == "ticks" else int(part) * grid.time_step
            part = time(value)
        for token in tokenizer(part, add_special_tokens=False)["input_ids"] if part else ():
            after = masks.advance(state, token)
            assume(after is not None)
            state = after
    for _ in range(data.draw(st.integers(0, 6))):
        found = sorted(allowed_ids(masks, state) - {tokenizer.eos_token_id})
        assume(found)
        state = masks.advance(state, data.draw(st.sampled_from(found)))
    expected = {token for token in range(len(tokenizer)) if masks.advance(state, token) is not None}
    expected |= {tokenizer.eos_token_id} if masks.grammar.is_complete(state) else set()
    assert allowed_ids(masks, state) == expected


def constraint(tokenizers, name="small", task="detection", answer_format="ticks", duration=10.0, **limits):
    tokenizer, grid = tokenizers[name]
    return AnswerConstraint(tokenizer, grid, answer_format, task, [duration], 0, tokenizer.eos_token_id, **limits)


def allowed_after(tokenizers, text, **options):
    made = constraint(tokenizers, **options)
    tokenizer = tokenizers[options.get("name", "small")][0]
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]], dtype=torch.long)
    scores = made(ids, torch.zeros(1, len(tokenizer)))
    return {tokenizer.decode([i]) for i in torch.nonzero(scores[0] == 0)[:, 0].tolist()}


def test_times_end_with_the_clip(tokenizers):
    # 1.00 s is twelve and a half steps of 0.08 s, so the last time is that of the 13th: 1.04.
    found = allowed_after(tokenizers, "dog bark: <0.80>-", duration=1.0)
    assert found == {"<0.88>", "<0.96>", "<1.04>"}
    assert max(allowed_after(tokenizers, "dog bark: ", duration=1.0)) == "<0.96>"


def test_an_event_is_not_said_twice(tokenizers):
    found = allowed_after(tokenizers, "dog bark: <0.80>-<0.88>, ", duration=1.0)
    assert found == {"<0.88>", "<0.96>"}
    # Nothing starts after the last time but another label.
    found = allowed_after(tokenizers, "dog bark: <0.80>-<1.04>", duration=1.0, event_labels=["dog bark", "siren"])
    assert found == {";", EOS}
    found = allowed_after(tokenizers, "dog bark: <0.80>-<1.04>", duration=1.0, event_labels=["dog bark"])
    assert found == {EOS}
    # A label of no set returns for what comes after.
    found = allowed_after(tokenizers, "dog bark: <0.16>-<0.80>; dog bark: ", duration=1.0)
    assert found == {"<0.80>", "<0.88>", "<0.96>"}
    text = "<0.80>-<1.04>: dog; <0.88>-<0.96>: dog"
    assert EOS not in allowed_after(tokenizers, text, task="captioning")
    assert EOS in allowed_after(tokenizers, text + "s", task="captioning")


def test_max_events_ends_the_answer(tokenizers):
    assert allowed_after(tokenizers, "<0.80>-<1.04>", task="grounding", max_events=1) == {EOS}
    assert allowed_after(tokenizers, "<0.80>-<1.04>", task="grounding", max_events=2) == {EOS, ","}


def test_a_clip_shorter_than_a_step_has_no_events(tokenizers):
    assert all("none".startswith(token) for token in allowed_after(tokenizers, "", duration=0.0))


def test_what_others_ban_is_allowed_where_nothing_else_is(tokenizers):
    made = constraint(tokenizers, max_events=1)
    tokenizer = tokenizers["small"][0]
    ids = torch.tensor([tokenizer("dog: <0.80>-<1.04>")["input_ids"]])
    scores = made(ids, torch.full((1, len(tokenizer)), -torch.inf))
    assert torch.nonzero(scores[0] > -torch.inf)[:, 0].tolist() == [tokenizer.eos_token_id]


def test_threads_may_share_a_tokenizer(tokenizers, monkeypatch):
    # Room for few masks, so that they are forgotten while others are asked for.
    monkeypatch.setattr(constrained_decoding, "_MASK_BYTES", 12 * 1024)
    monkeypatch.setattr(constrained_decoding, "_TABLES", {})
    tokenizer, grid = tokenizers["nasty"]
    models = [random_model(tokenizer, seed) for seed in range(3)]
    prompt = torch.randint(0, 200, (2, 5), generator=torch.Generator().manual_seed(0))

    def ask(model):
        held = AnswerConstraint(tokenizer, grid, "digits", "detection", [9.0, 3.0], 5, tokenizer.eos_token_id)
        options = {"attention_mask": torch.ones_like(prompt), "logits_processor": [held], "max_new_tokens": 40}
        return model.generate(input_ids=prompt, do_sample=False, **options).tolist()

    expected = [ask(model) for model in models]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(ask, models * 4))
    finally:
        sys.setswitchinterval(switch)
    assert found == expected * 4
    assert [ask(model) for model in models] == expected


def test_few_label_sets_are_remembered(tokenizers):
    tokenizer = tokenizers["small"][0]
    for index in range(40):
        constraint(tokenizers, event_labels=[f"label {index}"])
    assert len(constrained_decoding._KNOWN[tokenizer]) <= 16
    # What is in use is kept by its user.
    assert allowed_after(tokenizers, "dog bark: <0.80>-<0.88>", event_labels=["dog bark"])


@pytest.mark.parametrize("text", ["\\u00000a", " a", "a  b", "a\u00a0b", "a\u200bb", "a\nb", "a\x85b", "a<", "a\\n"])
def test_labels_that_events_cannot_have_are_not_written(text):
    tail = b""
    for byte in text.encode():
        tail = step_tail(tail, byte)
        if tail is None:
            break
    assert tail is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"duration": 31.0}, "duration is 31.0 s"),
        ({"duration": float("nan")}, "duration is nan s"),
        ({"task": "grounding", "event_labels": ["dog"]}, "event_labels is"),
        ({"event_labels": ["dog", "dog"]}, "event_labels holds 'dog'"),
        ({"event_labels": []}, "event_labels is empty"),
        ({"max_events": 0}, "max_events is 0"),
        ({"task": "naming"}, "task is 'naming'"),
        ({"answer_format": "words"}, "answer_format is 'words'"),
    ],
)
def test_refusals(tokenizers, options, message):
    with pytest.raises(ValueError, match=message):
        constraint(tokenizers, **options)


def test_refuses_a_tokenizer_without_time_tokens(tokenizers):
    tokenizer = tokenizers["small"][0]
    with pytest.raises(ValueError, match="lacks time tokens"):
        AnswerConstraint(tokenizer, TimeGrid(25, 0.04), "ticks", "detection", [1.0], 0, tokenizer.eos_token_id)


def test_refuses_rows_that_are_no_multiple_of_the_clips(tokenizers):
    made = constraint(tokenizers)
    made.starts *= 2
    with pytest.raises(ValueError, match="3 rows for 2 durations"):
        made(torch.zeros(3, 0, dtype=torch.long), torch.zeros(3, 1399))
