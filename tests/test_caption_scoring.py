"""Caption scores against nltk itself, cases by hand, and symmetries; WordNet here is a small one in its file format."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.meteor_score import meteor_score

from processing.events import Event
from recipes.scoring import bootstrap_interval, event_based_f1, meteor_by_clip, meteor_sums, sum_intervals
from recipes.scoring.captions import (
    caption_meteor,
    matched_meteor,
    meteor,
    open_wordnet,
    text_meteor,
)

ROOT = Path(__file__).parents[1]
SYNSETS = (("bark", "woof"), ("car", "auto"), ("rain", "drizzle"))
WORDS = ("a", "dog", "dogs", "bark", "barks", "barking", "woof", "car", "auto", "passes", "rain", "drizzle")
captions = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)


def write_wordnet(folder):
    """Write the noun synsets above as the files of WordNet (manual page wndb(5WN)), the other parts of speech empty."""
    folder.mkdir(exist_ok=True)
    for part in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{part}", f"index.{part}", f"{part}.exc"):
            (folder / name).write_text("  1 WordNet 3.0 Copyright\n" if name == "data.adj" else "", encoding="utf-8")
    data, index = "  1 WordNet 3.0 Copyright\n", []
    for words in SYNSETS:
        offset = len(data)
        data += f"{offset:08d} 04 n {len(words):02x} {' '.join(f'{word} 0' for word in words)} 000 | what it is  \n"
        index += [f"{word} n 1 0 1 0 {offset:08d}  \n" for word in words]
    (folder / "data.noun").write_text(data, encoding="utf-8")
    (folder / "index.noun").write_text("".join(sorted(index)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return write_wordnet(tmp_path_factory.mktemp("data") / "wordnet")


@pytest.fixture(scope="module")
def nltk_reader(wordnet):
    return open_wordnet(wordnet)


def f_mean(matches, num_predicted, num_reference, num_chunks):
    """Lavie and Agarwal 2007: PR / (0.9 P + 0.1 R), less half the cube of chunks per match."""
    precision, recall = matches / num_predicted, matches / num_reference
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (num_chunks / matches) ** 3)


def test_meteor_by_hand():
    # 5 words, all equal, one chunk: 1 - 0.5 / 125.
    assert meteor("a dog barks at night", "A dog barks at night.", synonyms=False) == pytest.approx(0.996)
    # dog, barks = barking by their stem: 2 matches next to each other, of 3 and 4 words. P 2/3, R 1/2, mean
    # (1/3) / (0.6 + 0.05) = 0.51282; one chunk for 2 matches costs 1/16.
    assert meteor("one dog barks loudly", "the dog barking", synonyms=False) == pytest.approx(0.4807692, abs=1e-7)
    # The order is turned round: "a dog" and "barks" are 2 chunks of 3 matches: 1 - 0.5 * 8/27.
    assert meteor("a dog barks", "barks a dog", synonyms=False) == pytest.approx(1 - 4 / 27)
    assert meteor("a dog", "the cat", synonyms=False) == 0.0
    assert meteor("", "a dog", synonyms=False) == meteor("a dog", "", synonyms=False) == 0.0


def test_synonyms_by_hand(wordnet):
    # bark and woof are one synset: 2 matches of 2 words, one chunk, 1 - 0.5 / 8.
    assert meteor("dogs bark", "dogs woof", wordnet_folder=wordnet) == pytest.approx(0.9375)
    # Without synonyms 1 of 2 words: 0.5 less half, for its one chunk is one match.
    assert meteor("dogs bark", "dogs woof", synonyms=False) == pytest.approx(0.25)
    # The synonym step sees stems, as in nltk: "passes" is no word of WordNet, "barks" and "barking" are "bark".
    assert meteor("dogs barking", "dogs woof", wordnet_folder=wordnet) == pytest.approx(0.9375)


def test_words_are_compared_without_case_and_punctuation():
    plain = meteor("a dog barks a car passes", "a car passes a dog barks", synonyms=False)
    assert meteor("A dog barks. A car passes!", "a car passes, a dog barks...", synonyms=False) == plain
    assert meteor("a dog's bark", "the dog barked", synonyms=False) == pytest.approx(f_mean(2, 3, 4, 2))


@given(captions, captions)
def test_equal_to_nltk(wordnet, nltk_reader, reference, prediction):
    theirs = meteor_score([reference.split()], prediction.split(), wordnet=nltk_reader)
    assert meteor(reference, prediction, wordnet_folder=wordnet) == pytest.approx(theirs, abs=1e-12)


def test_sentences_by_hand():
    reference, prediction = "a dog barks as a vehicle passes by", "a dog is barking while a car passes by"
    # a, dog, a, passes, by are equal and barking has the stem of barks: 6 matches of 9 and 8 words, in the chunks
    # "a dog", "barking", "a" and "passes by".
    assert meteor(reference, prediction, synonyms=False) == pytest.approx(f_mean(6, 9, 8, 4))


def test_whole_text_joins_captions_in_order_of_time():
    reference = [Event(5, 6, "a car passes"), Event(0, 1, "a dog barks")]
    prediction = [Event(3, 4, "a car passes"), Event(2, 2.5, "a dog barks")]
    # 6 words in one order, one chunk, whatever the times: 1 - 0.5 / 216.
    assert text_meteor(reference, prediction, synonyms=False) == pytest.approx(1 - 0.5 / 216)
    assert text_meteor([], [], synonyms=False) == 1.0
    assert text_meteor(reference, [], synonyms=False) == text_meteor([], prediction, synonyms=False) == 0.0
    assert text_meteor([], None, synonyms=False) == text_meteor(reference, None, synonyms=False) == 0.0


def test_matched_pairs_by_hand():
    reference = [Event(0, 10, "a dog barks"), Event(20, 30, "a car passes"), Event(40, 50, "rain")]
    prediction = [
        Event(0, 5, "a dog barks"),  # IoU 0.5, the bound: 3 words score 1 - 0.5 / 27
        Event(24, 34, "a car passes"),  # IoU 6 / 14 is too little
    ]
    total = 1 - 0.5 / 27
    expected = (2 * total / 5, total / 2, total / 3)
    assert matched_meteor(reference, prediction, synonyms=False) == pytest.approx(expected)
    expected = (4 * total / 5, 2 * total / 2, 2 * total / 3)
    assert matched_meteor(reference, prediction, 0.4, synonyms=False) == pytest.approx(expected)


def test_pairing_is_optimal():
    # Both events have the same times; only the pairing by words scores 2 * (1 - 0.5 / 27) of 2.
    reference = [Event(0, 10, "a dog barks"), Event(0, 10, "heavy rain falls")]
    prediction = [Event(0, 10, "heavy rain falls"), Event(0, 10, "a dog barks")]
    assert matched_meteor(reference, prediction, synonyms=False) == pytest.approx((1 - 0.5 / 27,) * 3)
    # One prediction cannot serve two references.
    twice = [Event(0, 10, "a dog barks"), Event(1, 10, "a dog barks")]
    total = 1 - 0.5 / 27
    expected = (2 * total / 3, total / 1, total / 2)
    assert matched_meteor(twice, prediction[1:], synonyms=False) == pytest.approx(expected)


events = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 4), captions).map(lambda e: Event(e[0], e[0] + e[1], e[2])), max_size=5
)


@given(events, events, st.randoms())
def test_order_changes_nothing_and_sides_swap(reference, prediction, random_):
    score = matched_meteor(reference, prediction, synonyms=False)
    shuffled = [random_.sample(side, len(side)) for side in (reference, prediction)]
    assert matched_meteor(*shuffled, synonyms=False) == pytest.approx(score)
    assert text_meteor(*shuffled, synonyms=False) == text_meteor(reference, prediction, synonyms=False)
    assert all(0 <= value <= 1 for value in score)
    if reference and prediction:
        assert score[0] == pytest.approx(2 / (1 / score[1] + 1 / score[2]) if score[1] else 0.0)


def test_report():
    references = [[Event(0, 10, "a dog barks")], [], [Event(0, 1, "rain")], [Event(0, 1, "rain")]]
    predictions = [[Event(0, 10, "a dog barks")], [], None, []]
    perfect = 1 - 0.5 / 27
    scores = caption_meteor(references, predictions, synonyms=False)
    assert scores == pytest.approx({
        "meteor_text": (perfect + 1) / 4,
        "meteor_matched": (perfect + 1) / 4,
        "meteor_matched_precision": (perfect + 1) / 4,
        "meteor_matched_recall": (perfect + 1) / 4,
        "parse_failure_rate": 0.25,
        "num_clips": 4,
        "wordnet_synonyms": 0.0,
    })  # fmt: skip


def test_intervals_are_those_of_the_means():
    references = [[Event(0, 10, "a dog barks")], [], [Event(0, 1, "rain")], [Event(0, 1, "rain")]]
    predictions = [[Event(0, 10, "a dog barks"), Event(2, 3, "rain")], [], None, [Event(0, 1, "a car passes")]]
    values = meteor_by_clip(references, predictions, synonyms=False)
    intervals = sum_intervals(meteor_sums(values, predictions), num_resamples=200)
    # By hand: "rain" is a second caption of the first clip, so its precision is half; the others are 1, 0 and 0.
    precisions = np.array([(1 - 0.5 / 27) / 2, 1.0, 0.0, 0.0])
    expected = bootstrap_interval(precisions, np.mean, num_resamples=200)
    assert intervals["meteor_matched_precision"] == pytest.approx(expected)
    failures = bootstrap_interval(np.array([0.0, 0.0, 1.0, 0.0]), np.mean, num_resamples=200)
    assert intervals["parse_failure_rate"] == pytest.approx(failures)
    scores = caption_meteor(references, predictions, synonyms=False)
    assert len(intervals) == 5 and all(low <= scores[name] <= high for name, (low, high) in intervals.items())


def test_event_based_f1_of_captions_is_of_times_alone():
    references, predictions = [[Event(0, 1, "a dog barks")], []], [[Event(0.1, 1, "rain")], None]
    scores = event_based_f1(references, predictions, time_only=True)
    assert (scores["micro"]["f1"], scores["parse_failure_rate"]) == (1.0, 0.5)


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install wordnet-base.*synonyms=False"):
        meteor("a dog", "a dog", wordnet_folder=tmp_path)
    with pytest.raises(ValueError, match="references has 1 entries and predictions 0"):
        caption_meteor([[]], [], synonyms=False)
    with pytest.raises(ValueError, match="references is empty"):
        caption_meteor([], [], synonyms=False)
    with pytest.raises(ValueError, match="iou_threshold is 0"):
        matched_meteor([], [], 0, synonyms=False)


def test_wordnet_is_found_by_nltk_data_and_nothing_is_written(wordnet, tmp_path):
    """In a process of its own, for nltk reads `NLTK_DATA` once; the home folder and the data stay as they were."""
    # As `python -m nltk.downloader wordnet` leaves it.
    shutil.make_archive(tmp_path / "data" / "corpora" / "wordnet", "zip", wordnet.parent, wordnet.name)
    home = tmp_path / "home"
    home.mkdir()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    code = "from recipes.scoring.captions import meteor; print(meteor('dogs bark', 'dogs woof'))"
    environment = {**os.environ, "NLTK_DATA": str(tmp_path / "data"), "HOME": str(home)}
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True)
    assert float(output) == pytest.approx(0.9375)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
