"""What to offer for a query that a checkpoint was not taught: its labels that are nearest in meaning or in spelling."""

import difflib
import functools
import re

from recipes.data.label_phrases import paraphrases
from recipes.data.paraphrases import heldout_paraphrases

# Words that say nothing about a sound; verb forms are left to WordNet.
FILLERS = {"a", "an", "the", "of", "sound", "sounds", "noise", "someone", "something", "is", "are", "being", "to"}
NUM_SYNSETS = 2
# Fraction of shared hypernyms below which two nouns have little in common.
LEAST = 0.6


def is_taught(query: str, labels) -> bool:
    """Return whether a query is one of the labels, or known other words for one."""
    said = _words(query)
    return any(
        said == _words(words) for label in labels for words in (*paraphrases(label), *heldout_paraphrases(label))
    )


def nearest_labels(query: str, labels, num=3) -> list[str]:
    """Return up to `num` labels near to a query, the nearest first; none where nothing is near.

    Near are nouns that are kinds of the same in WordNet, where that is installed with nltk, and words that are spelt
    alike. (The measure is the fraction of shared hypernyms, near to that of Wu and Palmer 1994.)
    """
    nouns = _noun_similarity()

    def nearness(label):
        pairs = [(one, other) for one in _words(query) for other in _words(label)]
        alike = [difflib.SequenceMatcher(None, one, other).ratio() for one, other in pairs]
        meant = [nouns(one, other) for one, other in pairs]
        return max([*meant, *(ratio for ratio in alike if ratio > 0.75)], default=0.0)

    near = {label: nearness(label) for label in labels}
    return sorted((label for label in labels if near[label] >= LEAST), key=near.get, reverse=True)[:num]


def _words(text):
    return [word for word in re.findall(r"\w+", text.casefold()) if word not in FILLERS]


@functools.cache
def _noun_similarity():
    """Return a function of two words, always 0 where WordNet is not to be had."""
    try:
        from recipes.scoring import open_wordnet

        reader = open_wordnet(None)
    except (ImportError, FileNotFoundError):
        return lambda one, other: 0.0

    @functools.cache
    def kinds(word):
        """Return for each meaning of a noun the set of what it is a kind of, itself included."""
        return [
            {synset, *(above for path in synset.hypernym_paths() for above in path)}
            for synset in reader.synsets(word, pos="n")[:NUM_SYNSETS]
        ]

    def similarity(one, other):
        shares = [2 * len(a & b) / (len(a) + len(b)) for a in kinds(one) for b in kinds(other)]
        return max(shares, default=0.0)

    return similarity
