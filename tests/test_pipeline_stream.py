"""`pipe.stream`: results so far while a long recording is being heard; and what else the pipeline carries."""

import numpy as np
import pytest
from transformers import pipeline

from space_app.exchange import EXCHANGE_FORMATS

DOG = "dog: <1.20>-<3.44>"

SUBTITLES = "1\n00:00:01,200 --> 00:00:03,440\ndog\n"


@pytest.fixture(scope="module")
def pipe(scripted_checkpoint):
    folder = str(scripted_checkpoint(DOG))
    return pipeline("temporal-audio-grounding", model=folder, trust_remote_code=True, return_scores=False)


def test_results_grow_window_by_window(pipe):
    noise = 0.1 * np.random.default_rng(0).normal(size=16000 * 25).astype(np.float32)
    options = {"chunk_length_s": 10.0, "stride_length_s": 0.0}
    results = list(pipe.results_so_far(noise, **options))
    # Windows of 10 s side by side; the last, which ends with the recording, starts at 15 s, in which it hears its dog.
    assert [result["duration"] for result in results] == [10.0, 20.0, 25.0]
    onsets = [[event["onset"] for event in result["events"]] for result in results]
    assert onsets[:2] == [[1.2], [1.2, 11.2]]
    assert [len(result["windows"]) for result in results] == [1, 2, 3]
    assert results[-1] == pipe(noise, **options)
    assert [result["duration"] for result in pipe.results_so_far(noise, batch_size=2, **options)] == [20.0, 25.0]


def test_several_queries_have_a_list_of_results(pipe):
    noise = np.random.default_rng(0).normal(size=16000 * 12).astype(np.float32).clip(-1, 1)
    options = {"task": "grounding", "query": ["dog", "cat"], "chunk_length_s": 10.0}
    results = list(pipe.results_so_far(noise, **options))
    assert [[one["duration"] for one in result] for result in results] == [[10.0, 10.0], [12.0, 12.0]]
    assert results[-1] == pipe(noise, **options)


def test_wrong_arguments_are_refused_at_once(pipe):
    with pytest.raises(ValueError, match="query is None for task 'grounding'"):
        pipe.results_so_far(np.zeros(16000), task="grounding")


def test_the_pipeline_writes_and_reads_annotations(pipe, tmp_path):
    result = {"file": "a.wav", "duration": 4.0, "events": [{"onset": 1.2, "offset": 3.44, "event_label": "dog"}]}
    for name, format, text in (("a.txt", "audacity", "1.200\t3.440\tdog\n"), ("a.srt", "srt", SUBTITLES)):
        assert pipe.format_annotations(result, format) == text
        (tmp_path / name).write_text(text)
    for name, format in (("a.txt", None), ("a.srt", EXCHANGE_FORMATS["srt"])):
        (read,) = pipe.read_annotations(tmp_path / name, format)
        assert [tuple(event.values())[:3] for event in read["events"]] == [(1.2, 3.44, "dog")]
    with pytest.raises(ValueError, match="format is 'srt', which a checkpoint only writes"):
        pipe.read_annotations(tmp_path / "a.srt")
