"""Sound that is still coming in: the same events whatever the chunks, by the windows of a recording; saved states."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_backbones import MAKERS, make_stock, save_stock
from transformers import LogitsProcessorList

from modeling_timepro.yamnet_encoder import TimeProYamnetConfig, TimeProYamnetEncoder
from processing.answer_text import prompt_text
from processing.audio_mixing import StreamResampler
from processing.constrained_decoding import generate_from_draft, generation_settings
from processing.events import Event
from processing.live_state import LiveReport, LiveState
from processing.pipeline_timepro import TemporalAudioGroundingPipeline
from processing.prefix_cache import prefill_questions
from processing.windowing import EventMerger, Window, merge_windows, shift_to_recording
from recipes.conversion.checkpoint import load_checkpoint
from recipes.conversion.convert import convert

RATE = 16000
NOTHING = np.zeros(0, dtype=np.float32)
# Of few labels, so that what the tiny model answers differs from window to window.
OPTIONS = {"min_score": 0.0, "event_labels": ["dog", "cat", "siren"], "max_events": 3}
LIVE = OPTIONS | {"look_every_s": 1.0}


@pytest.fixture(scope="module")
def pipe(lively_checkpoint):
    model, processor = lively_checkpoint
    return TemporalAudioGroundingPipeline(model=model, processor=processor)


@pytest.fixture(scope="module")
def sound():
    """Return 11.3 s in which tones of several pitches start and cease."""
    rng = np.random.default_rng(3)
    times = np.arange(round(11.3 * RATE)) / RATE
    sound = 0.003 * rng.standard_normal(len(times))
    for onset, offset, pitch in (
        (0.4, 1.1, 300),
        (2.1, 2.7, 500),
        (3.5, 4.8, 2500),
        (5.1, 5.9, 300),
        (6.7, 7.8, 500),
        (8.5, 9.7, 300),
        (10.4, 10.8, 2500),
    ):
        sound += 0.3 * np.sin(2 * np.pi * pitch * times) * ((times >= onset) & (times < offset))
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def reports(pipe, sound):
    """Return what is told of the sound in chunks of half a second."""
    return list(pipe.stream(cut(sound, [8000] * 30), RATE, **LIVE))


def cut(sound, lengths):
    ends = np.cumsum(lengths)
    return [part for part in np.split(sound, ends[ends < len(sound)])]


def named(events):
    return sorted((event["onset"], event["offset"], event["event_label"]) for event in events)


@pytest.mark.parametrize("mel_per_frame", [4, 8])
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5))
@settings(max_examples=3)
def test_a_streamed_stem_equals_that_of_the_whole_clip(mel_per_frame, lengths):
    encoder = TimeProYamnetEncoder(TimeProYamnetConfig(mel_per_frame=mel_per_frame, num_hidden_layers=1)).eval()
    columns = 3 * torch.randn(1, 64, sum(lengths) + 9, generator=torch.Generator().manual_seed(0)) - 3
    stem = encoder.streaming_stem()
    for part in columns[..., :-9].split(lengths, -1):
        stem.push(part)
    expected = encoder.stem(columns)
    assert expected.std() > 0.1
    torch.testing.assert_close(stem.frames(columns[..., -9:]), expected, rtol=0, atol=1e-4)
    # What comes only after the frames were asked for does not count twice.
    other = encoder.streaming_stem()
    other.load_state_dict(stem.state_dict())
    other.push(columns[..., -9:])
    torch.testing.assert_close(other.frames(), expected, rtol=0, atol=1e-4)


def test_a_state_of_another_stem_is_refused():
    small, large = (TimeProYamnetEncoder(TimeProYamnetConfig(stem_layers=layers)) for layers in ([3], [3, 5]))
    state = small.streaming_stem().state_dict()
    with pytest.raises(ValueError, match=r"missing \['outputs.1'"):
        large.streaming_stem().load_state_dict(state)
    with pytest.raises(ValueError, match="unknown"):
        small.streaming_stem().load_state_dict(state | {"more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"tails\.0 of shape"):
        small.streaming_stem().load_state_dict(state | {"tails.0": torch.zeros(1, 1, 1, 3)})


def test_the_sound_is_told_of_more_than_at_the_ends_of_windows(pipe, reports):
    plan = pipe.plan_windows()
    ends = {plan.window(index).end for index in range(9)}
    assert {report["state"] for report in reports} > {"closed"}
    assert len({report["heard"] for report in reports} - ends) >= 2


def test_looks_as_frequent_as_hops_are_taken_at_every_hop_and_tell_each_end_at_the_next_one(pipe, sound):
    stream, told = pipe.live(RATE, **OPTIONS, look_every_s=0.5), []
    for chunk in cut(sound, [1600] * 120):
        told += stream.push(chunk)
    assert stream.hop == 0.48 * RATE
    window = pipe.plan_windows().window(0)
    in_first = [report["heard"] for report in told if report["heard"] < window.end]
    assert stream.num_looks >= (len(sound) / RATE - 4) / 0.48 - 3
    assert all(round(heard / 0.48, 6).is_integer() for heard in in_first)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
def test_any_chunks_give_the_same_events(pipe, sound, reports, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, 7, 160, 1600, 8001, 40000], size=400)
    assert list(pipe.stream(cut(sound, lengths), RATE, **LIVE)) == reports


@pytest.mark.parametrize("queries", [None, ["dog", "bird"]])
def test_exact_events_are_those_of_a_recording(pipe, sound, queries):
    options = OPTIONS if queries is None else {"min_score": 0.0}
    found = list(pipe.stream(cut(sound, [3000] * 70), RATE, queries=queries, exact=True, **options))
    question = {} if queries is None else {"task": "grounding", "query": queries}
    expected = pipe(sound, **question, **options)
    expected = [event for result in ([expected] if queries is None else expected) for event in result["events"]]
    assert named(found) == named(expected) and len(expected) > 3
    assert {event["state"] for event in found} == {"closed"}
    assert [event["id"] for event in found] == list(range(len(found)))


def test_exact_events_of_short_streams_are_those_of_a_recording(pipe, sound):
    for length in (0.05, 0.5, 3.0, 4.0, 6.64):
        part = sound[: round(length * RATE)]
        expected = [] if length < 0.07 else pipe(part, **OPTIONS)["events"]
        assert named(pipe.stream([part], RATE, exact=True, **LIVE)) == named(expected)
    assert list(pipe.stream([], RATE, **LIVE)) == []


def test_what_is_closed_early_is_what_the_windows_up_to_then_say(pipe, sound, reports):
    plan, step = pipe.plan_windows(), pipe.processor.time_step
    num_early = 0
    for heard in sorted({report["heard"] for report in reports}):
        closed = [report for report in reports if report["heard"] == heard and report["state"] == "closed"]
        answers, index = [], 0
        while plan.window(index).end <= heard:
            answers.append(plan.window(index))
            index += 1
        full = plan.window(index)
        if answers[-1:] and answers[-1].end == heard:
            pass
        elif heard == len(sound) / RATE:
            answers.append(plan.last_window(index, heard))
        else:
            answers.append(Window(full.start, heard, full.core_start, heard, is_last=True))
            num_early += len(closed)
        merged = merge_windows([(window, heard_in(pipe, sound, window)) for window in answers], step)
        assert set(named(closed)) <= set(named(event.as_dict() for event in merged)), heard
    assert num_early


def heard_in(pipe, sound, window):
    part = sound[round(window.start * RATE) : round(window.end * RATE)]
    events = pipe(part, chunk_length_s=4.0, **OPTIONS)["windows"][0]["events"]
    return shift_to_recording([Event.from_dict(event) for event in events], window)


@pytest.mark.parametrize(
    "draft",
    [
        "",
        "none",
        "dog: <0.08>-<1.20>",
        "the answer itself",
        "the answer, at other times",
        "the answer in part",
        "the answer and more",
    ],
)
def test_answers_from_drafts_are_those_without(pipe, sound, draft):
    model, processor = pipe.model, pipe.processor
    questions = [[prompt_text("detection")]]

    def inputs():
        return prefill_questions(model, processor, [sound[: 4 * RATE]], questions)

    config, _ = generation_settings(model, {"max_new_tokens": 20})
    eos = [processor.tokenizer.eos_token_id]
    config.eos_token_id, config.return_dict_in_generate, config.output_logits = eos, True, True
    expected = model.generate(**inputs(), generation_config=config)
    width = inputs()["input_ids"].shape[1]
    ids = processor.tokenizer(draft, add_special_tokens=False)["input_ids"]
    if draft.startswith("the answer"):
        ids = expected.sequences[0, width:-1].tolist()
    ticks = model.config.time_token_ids
    if draft.endswith("times"):
        ids = [ticks[(token - ticks.start + 5) % len(ticks)] if token in ticks else token for token in ids]
    if draft.endswith("part"):
        ids = ids[:3] + ids[7:]
    if draft.endswith("more"):
        ids = ids[:5] + ids[2:]
    found = generate_from_draft(model, inputs(), config, LogitsProcessorList(), ids, eos)
    assert found.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(torch.cat(found.logits), torch.cat(expected.logits), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_stream_goes_on_from_its_saved_state(pipe, sound, rate, tmp_path):
    sound = (
        np.concatenate(list(StreamResampler(16000, rate, NOTHING).push(part) for part in [sound]))
        if rate > RATE
        else sound
    )
    parts = cut(sound, [rate // 3] * 40)
    expected = list(pipe.stream(parts, rate, **LIVE))
    stream, found = pipe.live(rate, **LIVE), []
    for index, part in enumerate(parts):
        found += stream.push(part)
        if index % 9 == 4:
            stream.save(tmp_path / "state.safetensors")
            stream = pipe.live(rate, **LIVE)
            stream.load(tmp_path / "state.safetensors")
    found += stream.finish()
    # A resampler that starts again differs in the last digits.
    same = [[{**report, "score": None} for report in reports] for reports in (found, expected)]
    assert same[0] == same[1]
    assert (tmp_path / "state.safetensors").stat().st_size < 20e6


def test_states_that_do_not_fit_are_refused(pipe, sound, tmp_path):
    stream = pipe.live(RATE, **LIVE)
    stream.push(sound[:60000])
    state = stream.state_dict()
    for change, message in (
        ({"version": 2}, "version 2, but this code reads 1"),
        ({"more": 1}, r"unknown \['more'\]"),
        ({"heard": "soon"}, "heard 'soon'; give a int"),
        ({"settings": state["settings"] | {"hop_s": 0.08}}, "other hop_s"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.live(RATE, **LIVE).load_state_dict(state | change)
    del state["credit"]
    with pytest.raises(ValueError, match=r"missing \['credit'\]"):
        pipe.live(RATE, **LIVE).load_state_dict(state)
    with pytest.raises(ValueError, match="other sampling_rate"):
        pipe.live(8000, **LIVE).load_state_dict(stream.state_dict())
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="without the state of a live stream"):
        stream.load(tmp_path / "other.safetensors")
    json.dumps({name: value for name, value in LiveState({}).state_dict().items() if not torch.is_tensor(value)})


def test_wrong_arguments_and_chunks_are_refused(pipe, sound):
    for arguments, message in (
        ({"sampling_rate": 16000.5}, "sampling_rate is 16000.5"),
        ({"sampling_rate": 0}, "sampling_rate is 0"),
        ({"sampling_rate": RATE, "hop_s": 0.01}, "hop_s is 0.01; give seconds, from 0.08"),
        ({"sampling_rate": RATE, "queries": []}, "queries is"),
        ({"sampling_rate": RATE, "queries": ["dog", "dog"]}, "each once"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.live(**arguments)
    stream = pipe.live(RATE)
    for chunk, message in ((np.full(10, np.nan, np.float32), "NaN"), (np.full(10, 3000.0), "peak of 3000")):
        with pytest.raises(ValueError, match=message):
            stream.push(chunk)
    # What was refused was not heard.
    assert stream.position == 0
    stream.finish()
    with pytest.raises(ValueError, match="over"):
        stream.push(sound)


def test_chunks_are_arrays_tensors_or_integers_of_any_channels(pipe, sound):
    part, positions = (32000 * sound[:12000]).astype(np.int16), []
    stereo = np.stack([part, part], 1)
    for chunks in (
        [part],
        [stereo],
        [torch.from_numpy(stereo.T.copy())],
        [stereo[:8000], stereo[8000:8001], stereo[8001:]],
    ):
        stream = pipe.live(RATE)
        for chunk in chunks:
            stream.push(chunk)
        positions.append((stream.position, stream.state.samples.tolist()))
    assert all(position == positions[0] for position in positions)


@given(lengths=st.lists(st.integers(0, 9000), min_size=1, max_size=6))
@settings(max_examples=8)
def test_resampling_piece_by_piece_is_resampling(lengths):
    sound = np.random.default_rng(0).standard_normal(sum(lengths) + 1).astype(np.float32)
    whole = StreamResampler(44100, 16000, NOTHING).push(sound, is_last=True)
    resampler, parts = StreamResampler(44100, 16000, NOTHING), []
    for part in cut(sound, lengths):
        parts.append(resampler.push(part))
    parts.append(resampler.push(NOTHING, is_last=True))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_mergers_go_on_from_their_state():
    events = [Event(0.5, 9.0, "siren", 0.5), Event(8.0, 8.5, "dog", 0.25)]
    merger, other = EventMerger(0.08), EventMerger(0.08)
    assert merger.add(Window(0.0, 10.0, 0.0, 8.32), events) == []
    other.load_state_dict(json.loads(json.dumps(merger.state_dict())))
    later = Window(6.64, 16.64, 8.32, 14.96), [Event(6.64, 9.0, "siren", 0.7)]
    assert other.add(*later) == merger.add(*later)
    assert [event.as_dict() for event in other.finish()] == [event.as_dict() for event in merger.finish()]


def test_events_are_open_then_closed_and_told_once():
    report = LiveReport([])
    assert report.update([Event(1.0, 1.2, "dog")], 1.2) == []
    (opened,) = report.update([Event(1.0, 2.0, "dog", 0.5)], 2.0)
    assert opened == {
        "state": "open",
        "id": 0,
        "onset": 1.0,
        "offset": None,
        "event_label": "dog",
        "score": 0.5,
        "heard": 2.0,
    }
    assert report.update([Event(1.08, 2.5, "dog", 0.6)], 2.5) == []
    (closed,) = report.update([Event(1.08, 2.56, "dog", 0.7)], 3.0)
    assert closed == {**opened, "state": "closed", "onset": 1.08, "offset": 2.56, "score": 0.7, "heard": 3.0}
    # Later answers see it otherwise, or twice; and another one of the label begins.
    later = report.update([Event(1.0, 1.6, "dog"), Event(1.8, 2.6, "dog"), Event(3.0, 3.5, "dog")], 3.5)
    assert [(one["state"], one["id"], one["onset"]) for one in later] == [("open", 1, 3.0)]
    assert report.reported[0]["id"] == 0
    report.forget(3.0)
    assert [one["id"] for one in report.reported] == [1]


def test_open_events_that_answers_no_longer_name_are_withdrawn():
    report = LiveReport([])
    report.update([Event(1.0, 2.0, "dog")], 2.0)
    ((withdrawn),) = report.update([Event(1.0, 2.0, "cat")], 3.0)[1:]
    assert (withdrawn["state"], withdrawn["id"], withdrawn["offset"]) == ("withdrawn", 0, None)
    assert [one["event_label"] for one in report.reported] == ["cat"]
    # Another event of the label, much later, is not the one that was open.
    report = LiveReport([])
    report.update([Event(1.0, 2.0, "dog")], 2.0)
    states = [(one["state"], one["id"]) for one in report.update([Event(7.0, 8.0, "dog")], 9.0)]
    assert sorted(states) == [("closed", 1), ("withdrawn", 0)]


def test_at_the_end_all_is_closed():
    report = LiveReport([])
    report.update([Event(1.0, 2.0, "dog")], 2.0)
    assert [one["state"] for one in report.update([Event(1.0, 2.3, "dog")], 2.3, is_last=True)] == ["closed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_encoders_without_a_streaming_stem_hear_windows_whole(kind, tokenizer_folder, sound, tmp_path):
    save_stock(*make_stock(kind, tokenizer_folder), tmp_path / "stock")
    convert(tmp_path / "stock", tmp_path / "checkpoint", time_init="place", answer_format="ticks")
    model, processor = load_checkpoint(tmp_path / "checkpoint")
    pipe, options = TemporalAudioGroundingPipeline(model=model.eval(), processor=processor), {"chunk_length_s": 4.0}
    expected = pipe(sound, **OPTIONS, **options)["events"]
    assert named(pipe.stream(cut(sound, [5000] * 40), RATE, exact=True, **OPTIONS, **options)) == named(expected)
    stream, told = pipe.live(RATE, **LIVE, **options), []
    for chunk in cut(sound, [3000] * 40):
        told += stream.push(chunk)
        stream.save(tmp_path / "state")
        stream = pipe.live(RATE, **LIVE, **options)
        stream.load(tmp_path / "state")
    assert told + stream.finish() == list(pipe.stream([sound], RATE, **LIVE, **options))
    # The other random models name no event.
    assert stream.stem is None and bool(told) == bool(expected) == (kind == "qwen2_audio")
