"""The `evaluate` modules: equal to the functions, whatever the batches; `None` anywhere; every input checked."""

import math
import random
from pathlib import Path

import datasets
import evaluate
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.events import Event
from recipes.scoring import (
    PSDS1,
    PSDS2,
    caption_meteor,
    collar_edges,
    count_accuracy,
    detection_intervals,
    event_based_f1,
    grounding_sums,
    meteor_by_clip,
    meteor_sums,
    psds,
    psds_statistics,
    psds_sums,
    recall_at_iou,
    rejection_rates,
    segment_based_f1,
    sum_intervals,
    unmatched_labels,
)

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes" / "metrics"
NAMES = ("caption_meteor", "event_based_f1", "psds", "segment_based_f1", "temporal_grounding")
DETECTION = ("event_based_f1", "segment_based_f1")
DOG, CAT = ({"onset": 1.0, "offset": 2.0, "event_label": label} for label in ("dog", "cat"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def load(cache):
    return lambda name, **kwargs: evaluate.load(str(FOLDER / name), **{"cache_dir": str(cache), **kwargs})


@pytest.fixture(scope="module")
def in_memory(load):
    return load("event_based_f1", keep_in_memory=True)


def some_clips(num_clips=12, seed=0):
    """References, predictions (the first is None) and durations, as dicts."""
    generator = random.Random(seed)

    def event(onset):
        label = generator.choice(["a dog barks", "a cat", "rain falls"])
        return {"onset": onset, "offset": onset + generator.uniform(0, 2), "event_label": label}

    references = [[event(generator.uniform(0, 8)) for _ in range(generator.randint(0, 4))] for _ in range(num_clips)]
    references[-1] = [{"onset": float(i), "offset": i + 0.9, "event_label": label}
                      for i, label in enumerate(["a dog barks", "a cat", "rain falls"])]  # fmt: skip
    predictions = [
        [{**e, "onset": e["onset"] + 0.01, "offset": e["offset"] + 0.02, "score": generator.random()} for e in clip]
        for clip in references
    ]
    predictions[1].append({**event(3.0), "score": 0.5})
    predictions[0] = predictions[5] = None
    predictions[6] = []
    return references, predictions, [10.0 + i for i in range(num_clips)]


def inputs_of(name, clips):
    references, predictions, durations = clips
    inputs = {"references": references, "predictions": predictions}
    return {**inputs, "durations": durations} if name == "psds" else inputs


def options_of(name):
    return {"synonyms": False} if name == "caption_meteor" else {}


def as_events(clips):
    return [None if clip is None else [Event(**event) for event in clip] for clip in clips]


def flat(report):
    """The scores of a detection report under the names that the modules give them."""
    scores = {f"{part}_{name}": value for part in ("micro", "macro") for name, value in report[part].items()}
    scores |= {**report["micro_errors"], **{f"macro_{name}": value for name, value in report["macro_errors"].items()}}
    return scores | {name: report[name] for name in ("time_resolution", "parse_failure_rate", "num_clips")
                     if name in report}  # fmt: skip


def with_more(scores, references, predictions):
    """Return scores with the numbers of labels of one side, as all modules that compare labels give them."""
    unmatched = unmatched_labels(references, predictions)
    return scores | {f"num_labels_{key}": len(labels) for key, labels in unmatched.items()}


def event_based(references, predictions):
    edges = collar_edges(references, predictions)
    scores = {f"{part}_f1_with_tolerance": edges[part]["f1"] for part in ("micro", "macro")}
    scores |= {key: edges[key] for key in ("num_matches_on_collar", "num_refused")}
    return with_more(flat(event_based_f1(references, predictions)) | scores, references, predictions)


def expected_scores(name, references, predictions, durations):
    if name == "event_based_f1":
        return event_based(references, predictions)
    if name == "segment_based_f1":
        return with_more(flat(segment_based_f1(references, predictions)), references, predictions)
    if name == "caption_meteor":
        return caption_meteor(references, predictions, synonyms=False)
    if name == "psds":
        reports = [psds(references, predictions, durations, scenario) for scenario in (PSDS1, PSDS2)]
        rest = ("num_other_labels", "parse_failure_rate", "num_clips")
        scores = {"psds1": reports[0]["psds"], "psds2": reports[1]["psds"]} | {key: reports[0][key] for key in rest}
        return with_more(scores, references, predictions)
    accuracy = {"count_accuracy": count_accuracy(references, predictions)}
    return {**recall_at_iou(references, predictions), **accuracy, **rejection_rates(references, predictions)}


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_functions(load, name):
    clips = some_clips()
    results = load(name).compute(**inputs_of(name, clips), **options_of(name))
    assert results == expected_scores(name, as_events(clips[0]), as_events(clips[1]), clips[2])
    assert all(type(value) is float for value in results.values())
    assert results["parse_failure_rate"] == 2 / 12


@pytest.mark.parametrize("name", NAMES)
def test_batches_change_nothing(load, name):
    clips = some_clips()
    inputs, options = inputs_of(name, clips), options_of(name)
    metric = load(name)
    whole = metric.compute(**inputs, **options)
    # None alone, None first, nothing at all, one by one, and the rest with compute itself.
    for start, end in ((0, 1), (1, 5), (5, 8), (8, 8)):
        metric.add_batch(**{key: values[start:end] for key, values in inputs.items()})
    singular = {"references": "reference", "predictions": "prediction"}
    metric.add(**{singular.get(key, key): values[8] for key, values in inputs.items()})
    last = {key: values[9:] for key, values in inputs.items()}
    assert metric.compute(**last, **options) == whole
    # Nothing is left over from before.
    metric.add_batch(**inputs)
    assert metric.compute(**options) == whole


@pytest.mark.parametrize("name", NAMES)
def test_in_memory_and_from_columns_of_a_data_set(load, name, tmp_path):
    clips = some_clips()
    inputs = inputs_of(name, clips)
    if name != "psds":
        inputs["predictions"] = [clip and [{k: e[k] for k in DOG} for e in clip] for clip in inputs["predictions"]]
    rows = datasets.Dataset.from_dict(inputs)
    metric = load(name, keep_in_memory=True, cache_dir=str(tmp_path))
    results = metric.compute(**{key: rows[key] for key in inputs}, **options_of(name))
    assert results == load(name).compute(**inputs, **options_of(name))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_two_modules_at_once(load):
    references, predictions, _ = some_clips()
    both = evaluate.combine([load(name) for name in DETECTION])
    for reference, prediction in zip(references[:3], predictions[:3], strict=True):
        both.add(reference=reference, prediction=prediction)
    both.add_batch(references=references[3:], predictions=predictions[3:])
    results = [metric.compute() for metric in both.evaluation_modules]
    assert results == [load(name).compute(references=references, predictions=predictions) for name in DETECTION]
    assert both.compute(references=references, predictions=predictions)["event_based_f1_micro_f1"] > 0


TIMES = st.integers(0, 12).map(lambda i: i * 0.1) | st.floats(0, 10)
EVENT = st.tuples(TIMES, TIMES, st.sampled_from(["dog", "überholt", ""])).map(
    lambda event: {"onset": min(event[:2]), "offset": max(event[:2]), "event_label": event[2]}
)
SIDE = st.lists(EVENT, max_size=4)


@given(st.lists(st.tuples(SIDE, st.none() | SIDE), min_size=1, max_size=4))
def test_events_survive_to_the_last_digit(in_memory, pairs):
    references, predictions = map(list, zip(*pairs, strict=True))
    results = in_memory.compute(references=references, predictions=predictions)
    assert results == event_based(as_events(references), as_events(predictions))


def test_golden_cases(load):
    # An onset 0.1 s late is within a collar of 0.1 s (in float32 it were 0.10000000149): 1 of 1. The cat is called a
    # dog: one substitution. 2 references and 2 predictions, 1 match: F1 2 / 4, error rate 1 / 2.
    dog, cat, called = {**DOG, "onset": 0.0}, {**CAT, "onset": 5.0, "offset": 6.0}, {**DOG, "onset": 5.0, "offset": 6.0}
    results = load("event_based_f1").compute(
        references=[[dog, cat]], predictions=[[{**dog, "onset": 0.1}, called]], t_collar=0.1, percentage_of_length=0.0
    )
    assert (results["micro_f1"], results["error_rate"], results["num_substitutions"]) == (0.5, 0.5, 1.0)
    # dog: 1 match, 1 reference, 2 predictions: F1 2 / 3; cat: 0. The mean is 1 / 3.
    assert results["macro_f1"] == pytest.approx(1 / 3)
    results = load("event_based_f1").compute(references=[[dog, cat]], predictions=[[dog, called]], time_only=True)
    assert results["micro_f1"] == 1.0

    # Segments 0 to 9 of 0.1 s against 5 to 9: 5 matches, 10 references, 5 predictions: F1 10 / 15, 5 deletions.
    results = load("segment_based_f1").compute(
        references=[[{**DOG, "onset": 0.0, "offset": 1.0}]],
        predictions=[[{**DOG, "onset": 0.5, "offset": 1.0}]],
        time_resolution=0.1,
    )
    assert results["micro_f1"] == pytest.approx(2 / 3) and results["deletion_rate"] == 0.5
    assert results["time_resolution"] == 0.1

    # Pair 1: 3 s of 10 s, IoU 0.3, reaches R@0.3 alone. Pair 2: absent and rejected, 1. Pair 3: absent, unparseable, 0.
    references = [[{"onset": 0.0, "offset": 10.0}], [], []]
    results = load("temporal_grounding").compute(
        references=references, predictions=[[{"onset": 0.1, "offset": 3.1}], [], None]
    )
    assert (results["R@0.3"], results["R@0.5"]) == (2 / 3, 1 / 3)
    assert results["miou_union"] == pytest.approx(1.3 / 3)
    assert (results["true_rejection_rate"], results["false_rejection_rate"], results["num_absent"]) == (0.5, 0.0, 2.0)
    assert results["count_accuracy"] == 2 / 3
    results = load("temporal_grounding").compute(references=references[:1], predictions=[[]])
    assert math.isnan(results["true_rejection_rate"]) and results["false_rejection_rate"] == 1.0

    # Three words in one run: 1 - 0.5 / 27; the second caption has no partner: F 2 s / 3, precision s, recall s / 2.
    bark, cat = {**DOG, "event_label": "a dog barks"}, {**CAT, "onset": 5.0, "offset": 7.0}
    results = load("caption_meteor").compute(references=[[bark, cat]], predictions=[[bark]], synonyms=False)
    score = 1 - 0.5 / 27
    assert results["meteor_matched"] == pytest.approx(2 * score / 3)
    assert results["meteor_matched_precision"] == pytest.approx(score)
    assert results["meteor_matched_recall"] == pytest.approx(score / 2)
    assert results["wordnet_synonyms"] == 0.0

    # In 36 s one false alarm makes 100 an hour, the end of the curve: it costs nothing below its score and comes after
    # the dog. The cat is never found: mean 1 / 2, deviation 1 / 2, so PSDS 1 is 0, and 1 of the dog alone.
    clips = {
        "references": [[DOG, {**CAT, "onset": 5.0, "offset": 6.0}]],
        "predictions": [[{**DOG, "score": 0.9}, {**DOG, "onset": 8.0, "offset": 9.0, "score": 0.1}]],
        "durations": [36.0],
    }
    assert load("psds").compute(**clips)["psds1"] == 0.0
    results = load("psds").compute(**clips, labels=["dog"])
    assert (results["psds1"], results["psds2"], results["num_other_labels"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("predictions", [[None], [None, None], [[], None], [None, []]], ids=str)
def test_unparseable_predictions(load, name, predictions):
    references = [[DOG], []][: len(predictions)]
    clips = references, predictions, [10.0, 10.0][: len(predictions)]
    results = load(name).compute(**inputs_of(name, clips), **options_of(name))
    assert results["parse_failure_rate"] == predictions.count(None) / len(predictions)
    for key in ("micro_f1", "macro_f1", "meteor_matched", "psds1", "R@0.9"):
        if key in results:
            # Nothing was found; where it is per clip, an empty answer to an empty clip is right.
            per_clip = key in ("meteor_matched", "R@0.9") and predictions == [None, []]
            assert results[key] == 0.5 * per_clip


def test_intervals(load):
    clips = some_clips()
    references, predictions = map(as_events, clips[:2])
    settings = {"bootstrap": True, "confidence": 0.8, "num_resamples": 40, "seed": 3}
    again = {key: value for key, value in settings.items() if key != "bootstrap"}
    detection = detection_intervals(references, predictions, **again)
    segments = {key.removeprefix("segment_0.1s_"): value for key, value in detection.items() if "segment_0.1s" in key}
    events = {key: value for key, value in detection.items() if not key.startswith("segment")}
    segments["parse_failure_rate"] = events["parse_failure_rate"]
    psds_intervals = {}
    for name, scenario in (("psds1", PSDS1), ("psds2", PSDS2)):
        statistics = psds_statistics(references, predictions, clips[2], scenario)
        psds_intervals |= sum_intervals(psds_sums(statistics, scenario, name), **again)
    grounding = sum_intervals(grounding_sums(references, predictions, ["a", *"abcdefghijk"]), **again)
    captions = meteor_sums(meteor_by_clip(references, predictions, synonyms=False), predictions)
    for name, options, expected in (
        ("event_based_f1", {}, events),
        ("segment_based_f1", {"time_resolution": 0.1}, segments),
        ("temporal_grounding", {"clips": ["a", *"abcdefghijk"]}, grounding),
        ("caption_meteor", {"synonyms": False}, sum_intervals(captions, **again)),
        ("psds", {}, psds_intervals),
    ):
        inputs = inputs_of(name, clips)
        results = load(name).compute(**inputs, **options, **settings)
        plain = load(name).compute(**inputs, **options)
        ends = {f"{key}_{end}": value for key, pair in expected.items()
                for end, value in zip(("low", "high"), pair, strict=True)}  # fmt: skip
        assert results == {**plain, **ends}
        assert all(results[f"{key}_low"] <= plain[key] <= results[f"{key}_high"] for key in expected if key != "psds2")
        assert load(name).compute(**inputs, **options, **{**settings, "seed": 4}) != results
    results = load("temporal_grounding").compute(references=[[DOG]], predictions=[[DOG]], bootstrap=True)
    assert math.isnan(results["true_rejection_rate_low"]) and results["miou_union_low"] == 1.0
    # With time alone all events are of one label, so that macro is micro.
    timed = load("event_based_f1").compute(**inputs_of("", clips), time_only=True, **settings)
    assert timed["micro_f1_low"] == timed["macro_f1_low"] <= timed["micro_f1"] <= timed["micro_f1_high"]


def test_aliases(load, tmp_path):
    path = tmp_path / "aliases.json"
    path.write_text('{"puppy": "dog"}', encoding="utf-8")
    puppy = {**DOG, "event_label": "puppy", "score": 0.5}
    for name in ("event_based_f1", "segment_based_f1", "psds"):
        inputs = inputs_of(name, ([[DOG]], [[puppy]], [10.0]))
        key = "psds1" if name == "psds" else "micro_f1"
        assert load(name).compute(**inputs)[key] == 0.0
        for aliases in ({"puppy": "dog"}, path, str(path)):
            assert load(name).compute(**inputs, label_aliases=aliases)[key] == 1.0
        # Labels of references stay as they are.
        inputs = inputs_of(name, ([[{**DOG, "event_label": "puppy"}]], [[puppy]], [10.0]))
        assert load(name).compute(**inputs, label_aliases=path)[key] == 0.0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"predictions": [[{**DOG, "onset": 3.0}]]}, r"predictions\[0\]\[0\] is .*offset is 2.0 s, before the onset"),
        ({"predictions": [[DOG, {**DOG, "offset": math.nan}]]}, r"predictions\[0\]\[1\] .*offset is nan; give a"),
        ({"references": [[{**DOG, "onset": -1}]]}, r"references\[0\]\[0\] .*onset is -1.0 s; an event starts at 0 s"),
        ({"predictions": [[{**DOG, "onset": "1.0"}]]}, r"onset is '1.0' \(str\); give a number of seconds"),
        ({"predictions": [[{**DOG, "onset": True}]]}, r"onset is True \(bool\)"),
        ({"predictions": [[{**DOG, "end": 2.0}]]}, r"predictions\[0\]\[0\] .*unknown \['end'\]; give onset"),
        ({"predictions": [[{"onset": 1.0, "event_label": "dog"}]]}, r"missing \['offset'\]"),
        ({"predictions": [[{"onset": 1.0, "offset": 2.0}]]}, r"predictions\[0\]\[0\] .*add event_label"),
        ({"predictions": [[{**DOG, "event_label": 3}]]}, "event_label is 3; give a string"),
        ({"predictions": [[{**DOG, "event_label": None}]]}, "event_label is None; give a string"),
        ({"predictions": [[(1.0, 2.0, "dog")]]}, r"predictions\[0\]\[0\] .*give a dict with onset"),
        ({"predictions": [DOG]}, r"predictions\[0\] is .*\(dict\); give the list of the clip's events.*or None"),
        ({"predictions": ["none"]}, r"predictions\[0\] is 'none' \(str\); give the list"),
        ({"predictions": DOG}, r"predictions is .*\(dict\); give a list with one entry per clip"),
        ({"references": [None]}, r"references\[0\] is None .*give the list of the clip's events, \[\] for none\."),
        ({"references": None}, "references is missing; give one entry for each clip"),
        ({"predictions": [[DOG], []]}, "references has 1 entries and predictions 2; give one prediction"),
        ({"predictions": [], "references": []}, "references is empty"),
        ({"t_collar": -1.0}, "t_collar is -1.0; give seconds"),
        ({"percentage_of_length": 20}, "percentage_of_length is 20; give a fraction"),
        ({"label_aliases": "gone.json"}, "gone.json"),
        ({"label_aliases": ["dog"]}, r"label_aliases is \['dog'\]; give a mapping"),
        ({"bootstrap": True, "confidence": 95}, "confidence is 95; give a probability"),
        ({"bootstrap": True, "num_resamples": 0}, "num_resamples is 0; give a whole number"),
        ({"collar": 0.5}, "collar"),
    ],
)  # fmt: skip
def test_wrong_input(load, cache, inputs, message):
    metric = load("event_based_f1")
    given = {"predictions": [[DOG]], "references": [[DOG]], **inputs}
    with pytest.raises((ValueError, OSError, TypeError), match=message):
        metric.compute(**given)
    # Nothing is left over: neither files nor half a batch.
    assert metric.compute(predictions=[[DOG]], references=[[CAT]])["micro_f1"] == 0.0
    assert not list(cache.rglob("*.arrow"))


def test_wrong_input_of_the_other_modules(load):
    clips = {"predictions": [[{**DOG, "score": 0.5}]], "references": [[DOG]]}
    for name, inputs, message in (
        ("segment_based_f1", {"time_resolution": 0}, "time_resolution is 0; give the length"),
        ("temporal_grounding", {"clips": ["a", "b"], "bootstrap": True}, "clips has 2 entries for 1 references"),
        ("caption_meteor", {"iou_threshold": 0, "synonyms": False}, "iou_threshold is 0; give a number above 0"),
        ("psds", {}, "durations"),
        ("psds", {"durations": [10.0, 10.0]}, "durations has 2 entries and references 1"),
        ("psds", {"durations": ["10"]}, r"durations\[0\] is '10' \(str\); give a number"),
        ("psds", {"durations": [0.0]}, r"durations\[0\] is 0.0; give the length"),
        ("psds", {"durations": [math.nan]}, r"durations\[0\] is nan"),
        ("psds", {"durations": [10.0], "predictions": [[DOG]]}, r"predictions\[0\]\[0\] is .*, without a score"),
        ("psds", {"durations": [10.0], "labels": ["dog", "cat"]}, r"labels has no reference events for \['cat'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            load(name).compute(**{**clips, **inputs})
    metric = load("psds")
    with pytest.raises(ValueError, match="durations is missing; give one entry for each clip"):
        metric.add_batch(**clips)
    with pytest.raises(ValueError, match="lengths is not an input of psds; give predictions, references, durations"):
        metric.add_batch(**clips, durations=[10.0], lengths=[10.0])


def test_a_wrong_batch_leaves_the_others(load):
    metric = load("event_based_f1")
    metric.add_batch(predictions=[[DOG]], references=[[DOG]])
    with pytest.raises(ValueError, match="before the onset"):
        metric.add_batch(predictions=[[DOG], [{**DOG, "onset": 3.0}]], references=[[DOG], [DOG]])
    metric.add_batch(predictions=[[CAT]], references=[[DOG]])
    results = metric.compute()
    assert (results["num_clips"], results["micro_f1"]) == (2.0, 0.5)
