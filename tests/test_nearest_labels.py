"""Queries that a checkpoint was not taught: they are told, and the nearest labels offered."""

import pytest

from recipes.cli.answer import _untaught
from recipes.data.label_phrases import PARAPHRASES, heldout_paraphrases, taught_paraphrases
from recipes.data.nearest_labels import is_taught, nearest_labels
from recipes.soundscapes.catalogue import event_labels

LABELS = ["dog bark", "drum", "guitar", "siren", "whistle"]


def test_a_label_in_other_words_is_taught_and_another_sound_is_not():
    for query in ("dog bark", "Dog Bark", "the sound of barking", "a dog is barking", "police siren"):
        assert is_taught(query, LABELS) and _untaught(query, LABELS) is None, query
    assert not is_taught("violin", LABELS) and not is_taught("dog", LABELS) and not is_taught("", LABELS)
    assert _untaught("violin", None) is None and _untaught(None, LABELS) is None


def test_words_that_are_misspelt_are_near():
    assert nearest_labels("whistel", LABELS)[0] == "whistle"
    assert "not trained on 'whistel'; the nearest of its labels are whistle" in _untaught("whistel", LABELS)


def test_instruments_are_near_to_an_instrument():
    if not nearest_labels("puppy", ["dog bark"]):
        pytest.skip("WordNet is not installed")
    assert nearest_labels("violin", LABELS)[0] == "guitar" and "drum" in nearest_labels("violin", LABELS)


def test_where_nothing_is_near_all_labels_are_listed():
    assert _untaught("qqqq", LABELS).endswith("its labels are dog bark, drum, guitar, siren, whistle.")


def test_every_label_has_paraphrases_of_which_a_third_is_kept_from_training():
    assert sorted(PARAPHRASES) == event_labels("field_train")
    taught = [words for label in PARAPHRASES for words in taught_paraphrases(label)]
    heldout = [words for label in PARAPHRASES for words in heldout_paraphrases(label)]
    assert len(taught) == 2 * len(heldout) >= 90 and not set(taught) & set(heldout)
    assert len(set(taught)) == len(taught) and len(set(heldout)) == len(heldout)
    assert taught_paraphrases("violin") == heldout_paraphrases("violin") == ()
