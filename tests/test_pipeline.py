"""The pipeline over long recordings, many recordings and many queries."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline

from processing.audio_io import load_audio
from processing.events import Event
from processing.windowing import RecordingAnswers, Window, merge_windows, plan_windows
from recipes import DEFAULT_CHECKPOINT
from recipes.conversion.checkpoint_folder import TASK, load_pipeline

ROOT = DEFAULT_CHECKPOINT.parents[2]


@pytest.fixture(scope="module")
def detector(scripted_checkpoint):
    """Return a pipeline that hears a dog from 1.20 s to 3.44 s of every window."""
    return load_pipeline(scripted_checkpoint("dog: <1.20>-<3.44>"))


@pytest.fixture(scope="module")
def grounder(scripted_checkpoint):
    return load_pipeline(scripted_checkpoint("<1.20>-<3.44>"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Return the paths of recordings of 25 s and 4 s."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for seconds in (25, 4):
        soundfile.write(folder / f"{seconds}.wav", 0.1 * rng.normal(size=seconds * 8000).clip(-1, 1), 8000)
    return [str(folder / "25.wav"), str(folder / "4.wav")]


def spans(result):
    return [(event["onset"], event["offset"]) for event in result["events"]]


def test_times_are_those_of_the_file(detector, paths):
    whole, windowed = detector(paths[0]), detector(paths[0], chunk_length_s=10.0)
    assert spans(whole) == [(1.2, 3.44)] and len(whole["windows"]) == 1 and whole["duration"] == 25.0
    # 10 / 6 s is nearly 1.68 s on the grid, so windows start 10 - 2 * 1.68 = 6.64 s apart; the last starts at the first
    # multiple of 0.08 s from 25 - 10 on, at 15.04 s.
    starts = [0.0, 6.64, 13.28, 15.04]
    assert [(window["start"], window["end"]) for window in windowed["windows"]] == [
        (0.0, 10.0), (6.64, 16.64), (13.28, 23.28), (15.04, 25.0)
    ]  # fmt: skip
    for window, start in zip(windowed["windows"], starts):
        assert window["text"] == "dog: <1.20>-<3.44>"
        assert spans(window) == [(round(start + 1.2, 2), round(start + 3.44, 2))]
    # The last two, 14.48-16.72 and 16.24-18.48, overlap and are one. The cores meet later, at 21.6 s, so the earlier
    # window is trusted with both times.
    assert spans(windowed) == [(1.2, 3.44), (7.84, 10.08), (14.48, 16.72)]
    assert windowed["duration"] == 25.0 and windowed["text"].split("\n") == ["dog: <1.20>-<3.44>"] * 4
    assert detector(paths[0], chunk_length_s=10.0, batch_size=3) == windowed


def test_more_than_max_time_is_heard_in_windows_of_ten_seconds(detector):
    samples = np.zeros(31 * 16000, dtype=np.float32)
    windows = [Window(w["start"], w["end"], 0, 0) for w in detector(samples, batch_size=8)["windows"]]
    expected = plan_windows(None, None, 30.0, 0.08).split(31.0)
    assert windows == [Window(window.start, window.end, 0, 0) for window in expected]


def test_windows_can_be_set_for_all_calls(scripted_checkpoint, paths):
    model = str(scripted_checkpoint("dog: <1.20>-<3.44>"))
    pipe = pipeline(TASK, model=model, trust_remote_code=True, chunk_length_s=12.5, stride_length_s=0, batch_size=2)
    # On the grid, 12.5 s are 12.48 s.
    starts = [window["start"] for window in pipe(paths[0])["windows"]]
    assert starts == [0.0, 12.48, 12.56]
    assert len(pipe(paths[0], chunk_length_s=5.0)["windows"]) == 6
    with pytest.raises(ValueError, match="chunk_length_s is 31; give seconds, more than 0 and at most max_time, 30"):
        pipe(paths[0], chunk_length_s=31)


def test_one_or_many_queries(grounder, paths):
    def labels(result):
        return [event["event_label"] for event in result["events"]]

    ask = {"task": "grounding", "batch_size": 4}
    assert labels(grounder(paths[1], query="dog", **ask)) == ["dog"]
    assert [labels(result) for result in grounder(paths[1], query=["dog", "a cat"], **ask)] == [["dog"], ["a cat"]]
    assert [labels(result) for result in grounder(paths[1], query=["dog"], **ask)] == [["dog"]]
    assert [labels(result) for result in grounder(paths, query="dog", chunk_length_s=10.0, **ask)] == [
        ["dog"] * 3,
        ["dog"],
    ]
    first, (second, third) = grounder(paths, query=["dog", ["a", "b"]], **ask)
    assert (labels(first), labels(second), labels(third)) == (["dog"], ["a"], ["b"])
    with pytest.raises(ValueError, match="query has 1 entries for 2 recordings; give one for each"):
        grounder(paths, query=["dog"], **ask)
    with pytest.raises(ValueError, match="query is an empty list"):
        grounder(paths, query=["dog", []], **ask)
    with pytest.raises(ValueError, match="num_return_sequences is 2"):
        grounder(paths[1], query="dog", num_return_sequences=2, do_sample=True, **ask)


def test_sound_is_encoded_once_however_many_are_asked(grounder, paths, monkeypatch):
    encoded, encode = [], grounder.model.get_audio_features

    def count(input_features, **kwargs):
        encoded.append(len(input_features))
        return encode(input_features=input_features, **kwargs)

    monkeypatch.setattr(grounder.model, "get_audio_features", count)
    results = grounder(paths[0], task="grounding", query=list("abcdefgh"), chunk_length_s=10.0, batch_size=16)
    assert len(results) == 8 and sum(encoded) == len(results[0]["windows"]) == 4


def test_generators_are_answered_as_they_come(detector, paths):
    taken = []

    def recordings():
        for path in (paths[1], paths[0], "missing.wav", paths[1]):
            taken.append(path)
            yield path

    results = detector(recordings(), chunk_length_s=10.0)
    assert not taken
    assert next(results)["duration"] == 4.0 and taken == [paths[1]]
    assert next(results)["duration"] == 25.0 and taken == paths[::-1]
    with pytest.raises(FileNotFoundError, match="missing.wav"):
        next(results)
    # With a large batch too, what comes before the broken one is answered.
    results = detector(recordings(), batch_size=8)
    assert [next(results)["duration"], next(results)["duration"]] == [4.0, 25.0]
    with pytest.raises(FileNotFoundError, match="missing.wav"):
        next(results)


def test_queries_may_come_one_by_one(grounder, paths):
    results = grounder(iter(paths), task="grounding", query=iter(["dog", ["a", "b"]]))
    assert next(results)["events"][0]["event_label"] == "dog"
    assert [result["events"][0]["event_label"] for result in next(results)] == ["a", "b"]
    with pytest.raises(ValueError, match="shorter"):
        list(grounder(iter(paths), task="grounding", query=iter(["dog"])))


def test_columns_of_datasets(detector, paths):
    from datasets import Audio, Dataset

    column = Dataset.from_dict({"audio": paths}).cast_column("audio", Audio(decode=False))["audio"]
    expected = detector(paths)
    assert list(detector(column)) == detector(list(column)) == expected
    with open(paths[1], "rb") as file:
        assert detector({"bytes": file.read(), "path": None}) == expected[1]


@pytest.mark.parametrize("source, message", [(5, "source is of type int"), ([0.5, 0.25], "source is of type float")])
def test_what_is_no_recording_is_refused(detector, source, message):
    with pytest.raises(ValueError, match=message):
        detector(source)


def test_long_recordings_show_how_far_they_are(detector, paths, capsys):
    detector(paths[0], chunk_length_s=5.0, disable_tqdm=False)
    captured = capsys.readouterr()
    assert captured.out == "" and "25.wav" in captured.err and "100%" in captured.err
    detector(paths[1], disable_tqdm=False)
    detector(paths[0], chunk_length_s=5.0, disable_tqdm=True)
    assert capsys.readouterr().err == ""


def test_unreadable_windows_are_named(caplog):
    windows = list(plan_windows(10.0, 0.0).split(30.0))
    dog = Event(1.0, 2.0, "dog")
    recording = RecordingAnswers("street.wav", "grounding", ["dog", "cat"], 0.08)
    for window, events in zip(windows, ([dog], None, [dog])):
        recording.add(window, [("well" if events is None else "1.00-2.00", events, False), ("well", None, False)])
    with caplog.at_level(logging.WARNING):
        first, second = recording.results()
    assert spans(first) == [(1.0, 2.0), (21.0, 22.0)] and second["events"] is None
    assert [window["events"] is None for window in first["windows"]] == [False, True, False]
    assert first["text"] == "1.00-2.00\nwell\n1.00-2.00" and first["duration"] == 30.0
    assert [record.getMessage() for record in caplog.records] == [
        "street.wav: 1 of 3 answers about 'dog' cannot be parsed, for instance 'well'; the events of 10-20 s are "
        "unknown.",
        "street.wav: 3 of 3 answers about 'cat' cannot be parsed, for instance 'well'; the events of 0-10 s, 10-20 s, "
        "20-30 s are unknown.",
    ]


@pytest.mark.skipif(not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy")
def test_a_long_recording_has_the_events_of_its_windows(tmp_path):
    examples = sorted((ROOT / "space_app" / "examples").glob("*.flac"))
    samples = np.concatenate([load_audio(path) for path in examples])
    samples = np.resize(samples, 36 * 16000)
    soundfile.write(tmp_path / "long.flac", samples, 16000)
    samples = load_audio(tmp_path / "long.flac")
    pipe = load_pipeline()
    result = pipe(tmp_path / "long.flac", batch_size=4)
    windows = list(plan_windows(None, None, pipe.processor.max_time, pipe.processor.time_step).split(36.0))
    alone = pipe([samples[round(w.start * 16000) : round(w.end * 16000)] for w in windows], batch_size=4)
    assert [window["text"] for window in result["windows"]] == [answer["text"] for answer in alone]
    answers = []
    for window, answer in zip(windows, alone):
        events = [Event.from_dict(event) for event in answer["events"]]
        answers.append(
            [
                Event(
                    round(e.onset + window.start, 9), min(round(e.offset + window.start, 9), window.end), e.event_label
                )
                for e in events
            ]
        )
    found = [Event.from_dict(event) for event in result["events"]]
    assert result["duration"] == 36.0 and all(0 <= event.onset <= event.offset <= 36.0 for event in found)
    assert found == sorted(merge_windows(zip(windows, answers), pipe.processor.time_step))
    # What only one window has heard is there as it said.
    inner = []
    for index, (window, events) in enumerate(zip(windows, answers)):
        start = windows[index - 1].end if index else 0.0
        end = 36.0 if window.is_last else windows[index + 1].start
        inner += [event for event in events if start < event.onset and event.offset < end]
    assert inner and set(inner) <= set(found)


def test_scores_that_are_too_low_are_left_out(detector, paths, monkeypatch):
    result = detector(paths[1])
    (found,) = result["events"]
    assert 0 < found["score"] < 1
    assert detector(paths[1], min_score=found["score"] + 0.001) == {**result, "events": []}
    # The checkpoint may say what is too low, in detection.
    monkeypatch.setattr(detector.processor, "min_score", found["score"] + 0.001)
    assert detector(paths[1])["events"] == [] and detector(paths[1], min_score=0.0) == result
    unscored = detector(paths[1], return_scores=False)["events"]
    assert unscored == [{**found, "score": None}]
    with pytest.raises(ValueError, match="min_score is 0.5 with return_scores=False"):
        detector(paths[1], min_score=0.5, return_scores=False)
    with pytest.raises(ValueError, match="max_events given with constrained=False"):
        detector(paths[1], constrained=False, max_events=2)


def test_labels_and_events_can_be_limited(detector, paths):
    result = detector(paths[1], event_labels=["gong", "horn"], max_events=1)
    assert len(result["events"]) <= 1 and {event["event_label"] for event in result["events"]} <= {"gong", "horn"}
    for task, query in (("grounding", "dog"), ("captioning", None)):
        with pytest.raises(ValueError, match=rf"event_labels is \['gong'\] for task '{task}'; only detection names"):
            detector(paths[1], task=task, query=query, event_labels=["gong"])


def test_labels_for_all_calls_are_those_of_detection(grounder, paths, monkeypatch):
    monkeypatch.setattr(grounder, "_preprocess_params", {"event_labels": ["gong"]})
    assert {event["event_label"] for event in grounder(paths[1])["events"]} <= {"gong"}
    found = grounder(paths[1], task="grounding", query="dog")
    assert found["events"] and {event["event_label"] for event in found["events"]} == {"dog"}


def test_beams_bear_the_scores_of_their_own_tokens(detector, paths):
    (alone,) = detector(paths[1])["events"]
    (found,) = detector(paths[1], num_beams=2)["events"]
    # What is said is the same, and so is its probability.
    assert found == {**alone, "score": pytest.approx(alone["score"], rel=1e-4)}


def test_a_checkpoint_without_ticks_scores_what_it_says_in_digits(tokenizer_folder):
    import torch
    from transformers import AutoTokenizer

    from modeling_timepro import TimeProAudioConfig, TimeProAudioForCausalLM
    from processing import TemporalAudioGroundingPipeline, TimeProAudioProcessor, TimeProYamnetFeatureExtractor

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = TimeProAudioConfig(
        audio_config={"model_type": "timepro_yamnet", "num_hidden_layers": 1, "hidden_size": 32},
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"), time_prompt=False, frame_rate=12.5,
    )  # fmt: skip
    model = TimeProAudioForCausalLM(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    processor = TimeProAudioProcessor(
        TimeProYamnetFeatureExtractor(), tokenizer, time_prompt=False, time_step=0.08, frame_rate=12.5
    )
    pipe = TemporalAudioGroundingPipeline(model=model, processor=processor)
    noise = (0.1 * np.random.default_rng(0).normal(size=32000)).astype(np.float32)
    # At random, until it has said some times.
    torch.manual_seed(1)
    results = [pipe(noise, task="grounding", query="dog", max_new_tokens=60, do_sample=True) for _ in range(8)]
    events = [event for result in results for event in result["events"]]
    assert events and all(0 <= event["score"] <= 1 for event in events)


def test_a_bad_recording_is_named_and_may_be_skipped(detector, grounder, paths, tmp_path, caplog):
    bad = str(tmp_path / "bad.wav")
    open(bad, "w").write("this is no audio")
    good = detector(paths[1])
    with pytest.raises(ValueError, match="bad.wav' is not audio"):
        detector([paths[1], bad])
    with pytest.raises(ValueError, match=r"inputs\[1\]: source holds 1 NaN"):
        detector([paths[1], np.array([0.0, np.nan, 0.0])])
    for batch_size in (1, 3, 8):
        caplog.clear()
        # The last is too short for the model, which a whole batch would end in.
        found = detector([paths[1], bad, paths[1], tmp_path / "no.wav", np.zeros(10)], on_error="skip",
                         batch_size=batch_size)  # fmt: skip
        assert [result.get("error") is None for result in found] == [True, False, True, False, False]
        assert found[0] == found[2] == good
        assert found[1]["events"] is None and "bad.wav' is not audio" in found[1]["error"]
        assert "bad.wav is skipped" in caplog.text and "no.wav is skipped" in caplog.text and "inputs[4]" in caplog.text
    many = grounder([bad, paths[1]], task="grounding", query=[["dog", "cat"]] * 2, on_error="skip")
    assert [[result["events"] is None for result in results] for results in many] == [[True, True], [False, False]]
    with pytest.raises(ValueError, match="on_error is 'ignore'; choose 'raise' or 'skip'"):
        detector(paths[1], on_error="ignore")


def test_tensors_bytes_and_file_objects_are_recordings(detector, paths):
    samples, rate = soundfile.read(paths[1], dtype="float32")
    expected = detector({"array": samples, "sampling_rate": rate})
    assert detector({"array": torch.from_numpy(samples), "sampling_rate": rate}) == expected
    sixteen = torch.zeros(2, 64000)
    assert detector(sixteen)["duration"] == 4.0 and [r["duration"] for r in detector([sixteen, sixteen])] == [4.0, 4.0]
    with open(paths[1], "rb") as file:
        assert detector(file) == detector(memoryview(file.read())) == detector(paths[1])


def test_a_channel_may_be_chosen_for_all_calls(scripted_checkpoint, tmp_path, caplog):
    stereo = 0.1 * np.random.default_rng(0).normal(size=(16000, 1)) * [1, -1]
    soundfile.write(tmp_path / "opposite.wav", stereo, 16000)
    pipe = load_pipeline(scripted_checkpoint("none"))
    pipe(tmp_path / "opposite.wav")
    assert "cancel each other out" in caplog.text
    caplog.clear()
    pipe(tmp_path / "opposite.wav", channel=0, strict=True)
    assert not caplog.records
