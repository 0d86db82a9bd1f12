"""METEOR for dense captioning: of the whole text, and of captions paired by their times.

METEOR is that of `nltk.translate.meteor_score` with its defaults (Lavie and Agarwal 2007, "METEOR: An Automatic Metric
for MT Evaluation with High Levels of Correlation with Human Judgments"; alpha 0.9, beta 3, gamma 0.5), as in
`evaluate.load("meteor")`. Words are aligned in three steps: equal words, equal Porter stems (with NLTK's extensions),
WordNet synonyms. Two quirks of that implementation are kept: the synonym step compares stems, so `car` does not match
`automobile` (stem `automobil`), and a text of m words scores `1 - 0.5 / m**3` against itself, not 1. The Java METEOR
1.5 of the COCO tools has other parameters, modules and values: never mix the two.

Words are NLTK's Treebank tokens in lower case without punctuation, which the COCO tools drop as well.
"""

import functools
import io
import re
import types
import warnings
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from processing.events import normalize_label
from recipes.scoring.bootstrap import ClipSums
from recipes.scoring.counts import check_lengths, parse_failure_rate
from recipes.scoring.grounding import IOU_TOLERANCE, union_iou

DEBIAN_WORDNET = "/usr/share/wordnet"
METEOR_NAMES = ("meteor_text", "meteor_matched", "meteor_matched_precision", "meteor_matched_recall")


def meteor(reference: str, prediction: str, synonyms: bool = True, wordnet_folder=None) -> float:
    """Return METEOR of one text against one reference, 0 to just under 1; 0.0 if either has no words.

    Args:
        synonyms: also align WordNet synonyms. `False` is a different metric, of words and stems alone, which needs no
            data; never compare the two.
        wordnet_folder: folder with the files of WordNet 3.0 (`data.noun`, `index.noun` and so on). `None` searches
            `nltk.data.path`, including `NLTK_DATA`, then `/usr/share/wordnet`. Nothing is ever downloaded.

    Raises:
        FileNotFoundError: WordNet is missing.
    """
    nltk_meteor, stemmer = _nltk_meteor()
    wordnet = _wordnet(wordnet_folder) if synonyms else _NO_WORDNET
    return nltk_meteor(_words(reference), _words(prediction), stemmer=stemmer, wordnet=wordnet)


def text_meteor(reference, prediction, synonyms: bool = True, wordnet_folder=None) -> float:
    """Return METEOR between all reference captions and all predicted captions of one clip.

    The captions of a side are joined in order of time. Both sides without events: 1.0. Unparseable (`None`): 0.0.

    Args:
        reference: events whose `event_label` is a caption.
        prediction: the same, or `None`.
    """
    if prediction is None:
        return 0.0
    if not reference and not prediction:
        return 1.0
    return meteor(_joined(reference), _joined(prediction), synonyms, wordnet_folder)


def matched_meteor(
    reference, prediction, iou_threshold=0.5, synonyms: bool = True, wordnet_folder=None
) -> tuple[float, float, float]:
    """Return F-measure, precision and recall of METEOR over the events of one clip paired one to one.

    Only events whose IoU reaches the threshold can be paired; the pairing with the greatest sum of METEOR is used, so
    the order of events is irrelevant. Precision is that sum divided by the number of predictions, where an unpaired
    prediction counts 0 as in the ActivityNet dense captioning evaluation (Krishna et al. 2017); recall is the sum
    divided by the number of references. The F-measure combines them as SODA does (Fujita et al. 2020, "SODA: Story
    Oriented Dense Video Captioning Evaluation Framework"), so neither a flood of captions nor silence pays off.

    Both sides without events: 1.0. One side without: 0.0. Unparseable (`None`): 0.0.

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}; give a number above 0 and at most 1, for instance 0.5.")
    if prediction is None:
        return 0.0, 0.0, 0.0
    if not reference or not prediction:
        both = float(len(reference) == len(prediction))
        return both, both, both
    scores = np.zeros((len(reference), len(prediction)))
    for i, event in enumerate(reference):
        for j, other in enumerate(prediction):
            if union_iou([event], [other]) >= iou_threshold - IOU_TOLERANCE:
                scores[i, j] = meteor(event.event_label, other.event_label, synonyms, wordnet_folder)
    total = scores[linear_sum_assignment(scores, maximize=True)].sum()
    return (
        float(2 * total / (len(reference) + len(prediction))),
        float(total / len(prediction)),
        float(total / len(reference)),
    )


def caption_meteor(
    references, predictions, iou_threshold=0.5, synonyms: bool = True, wordnet_folder=None
) -> dict[str, float]:
    """Return the means over clips of [`text_meteor`] and [`matched_meteor`].

    Returns:
        `meteor_text`; `meteor_matched` (the F-measure), `meteor_matched_precision`, `meteor_matched_recall`;
        `parse_failure_rate`, `num_clips`, and `wordnet_synonyms`, 1.0 with the synonym step and 0.0 without.

    Raises:
        ValueError: no clips, or different numbers of references and predictions.
        FileNotFoundError: WordNet is missing.
    """
    return mean_meteor(
        meteor_by_clip(references, predictions, iou_threshold, synonyms, wordnet_folder), predictions, synonyms
    )


def mean_meteor(values, predictions, synonyms: bool = True) -> dict[str, float]:
    """Return what [`caption_meteor`] returns, from the values of [`meteor_by_clip`] for these predictions."""
    return {
        **{name: float(value) for name, value in zip(METEOR_NAMES, values.mean(axis=0), strict=True)},
        "parse_failure_rate": parse_failure_rate(predictions),
        "num_clips": len(predictions),
        "wordnet_synonyms": float(synonyms),
    }


def meteor_sums(values, predictions) -> ClipSums:
    """Return the four METEORs and `parse_failure_rate` as means over clips.

    Args:
        values: of [`meteor_by_clip`], for these predictions.
    """
    values = np.column_stack([values, [prediction is None for prediction in predictions]])
    names = (*METEOR_NAMES, "parse_failure_rate")
    return ClipSums(values, lambda sums: dict(zip(names, sums.T / len(predictions), strict=True)))


def meteor_by_clip(
    references, predictions, iou_threshold=0.5, synonyms: bool = True, wordnet_folder=None
) -> np.ndarray:
    """Return the scores that [`caption_meteor`] averages, `(num_clips, 4)`, in the order of [`METEOR_NAMES`].

    Raises:
        ValueError, FileNotFoundError: as [`caption_meteor`].
    """
    check_lengths(references, predictions, empty=False)
    options, pairs = (synonyms, wordnet_folder), zip(references, predictions, strict=True)
    return np.array([(text_meteor(*p, *options), *matched_meteor(*p, iou_threshold, *options)) for p in pairs])


def _joined(events) -> str:
    in_order = sorted(events, key=lambda event: (event.onset, event.offset, event.event_label))
    return ". ".join(event.event_label for event in in_order)


@functools.lru_cache(maxsize=1 << 14)
def _words(text: str) -> tuple[str, ...]:
    # The Treebank rules split off a full stop only at the end of a text, so tokenize sentence by sentence.
    sentences = re.split(r"(?<=[.!?])\s+", normalize_label(text).lower())
    tokens = [token for sentence in sentences for token in _tokenizer().tokenize(sentence)]
    return tuple(token for token in tokens if any(character.isalnum() for character in token))


@functools.cache
def _tokenizer():
    from nltk.tokenize import NLTKWordTokenizer  # nltk takes seconds to import

    return NLTKWordTokenizer()


@functools.cache
def _nltk_meteor():
    from nltk.stem.porter import PorterStemmer
    from nltk.translate.meteor_score import single_meteor_score

    stem = functools.lru_cache(maxsize=1 << 16)(PorterStemmer().stem)
    return single_meteor_score, types.SimpleNamespace(stem=stem)


class _Name(str):
    def name(self) -> str:
        return str(self)


# The interface that nltk's METEOR expects of a WordNet reader: synsets of a word, their lemmas, and their names.
_NO_WORDNET = types.SimpleNamespace(synsets=lambda word: ())


@functools.cache
def _wordnet(folder):
    """Return WordNet as `single_meteor_score` needs it: one cached synset of all synonyms of a word."""
    reader = open_wordnet(folder)

    @functools.lru_cache(maxsize=1 << 16)
    def synsets(word):
        names = [_Name(name) for synset in reader.synsets(word) for name in synset.lemma_names()]
        return (types.SimpleNamespace(lemmas=lambda: names),)

    return types.SimpleNamespace(synsets=synsets)


def open_wordnet(folder):
    """Return nltk's reader of WordNet 3.0; for `None` see [`meteor`].

    Raises:
        ImportError: nltk is not installed.
        FileNotFoundError: WordNet is missing.
    """
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):
        def open(self, file):
            # Debian omits this list of 45 topics, which synonyms do not need.
            if file == "lexnames":
                return io.StringIO("".join(f"{i:02d} topic 0\n" for i in range(45)))
            return super().open(file)

        def map_wn(self, version="wordnet"):
            return None  # mappings to other versions and languages, which are not needed here

    root = _wordnet_root(folder)
    if isinstance(root, str) and root not in nltk.data.path:
        nltk.data.path.append(root)  # nltk opens no file outside the folders named there
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return Reader(root, None)


def _wordnet_root(folder):
    import nltk

    if folder is None:
        for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
            try:
                return nltk.data.find(name)
            except LookupError:
                continue
    root = Path(DEBIAN_WORDNET if folder is None else folder)
    if not (root / "data.noun").is_file():
        raise FileNotFoundError(
            f"wordnet_folder is {folder}: no WordNet in {root if folder else f'nltk.data.path or {root}'}. Run "
            "`apt-get install wordnet-base`, or `python -m nltk.downloader wordnet` where there is a network, or name "
            "the folder that holds data.noun, or ask for the metric without synonyms (synonyms=False)."
        )
    return str(root.resolve())
