"""Suggest labels for a query that a checkpoint was not trained on: the nearest in meaning or spelling."""

import difflib
import functools
import re

from recipes.data.label_phrases import heldout_paraphrases, paraphrases

# Words that do not describe a sound; WordNet handles verb forms.
FILLERS = {"a", "an", "the", "of", "sound", "sounds", "noise", "someone", "something", "is", "are", "being", "to"}
NUM_SYNSETS = 2
# Below this fraction of shared hypernyms two nouns have little in common.
LEAST = 0.6


def is_taught(query: str, labels) -> bool:
    """Return whether a query is one of the labels or a known paraphrase of one."""
    said = _words(query)
    return any(
        said == _words(words) for label in labels for words in (*paraphrases(label), *heldout_paraphrases(label))
    )


def nearest_labels(query: str, labels, num=3) -> list[str]:
    """Return up to `num` labels similar to a query, the most similar first; none if no label is similar.

    Similarity is the fraction of shared hypernyms in WordNet (similar to that of Wu and Palmer 1994), if WordNet and
    nltk are installed, or similarity of spelling.
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
    """Return the similarity function of two words; it is 0 if WordNet is not available."""
    try:
        from recipes.scoring import open_wordnet

        reader = open_wordnet(None)
    except (ImportError, FileNotFoundError):
        return lambda one, other: 0.0

    @functools.cache
    def kinds(word):
        """Return the set of hypernyms of each meaning of a noun, including itself."""
        return [
            {synset, *(above for path in synset.hypernym_paths() for above in path)}
            for synset in reader.synsets(word, pos="n")[:NUM_SYNSETS]
        ]

    def similarity(one, other):
        shares = [2 * len(a & b) / (len(a) + len(b)) for a in kinds(one) for b in kinds(other)]
        return max(shares, default=0.0)

    return similarity
