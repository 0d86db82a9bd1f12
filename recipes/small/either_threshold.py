"""Choose when frames add to the text in detection, and make answers by `either` a checkpoint's default.

    python -m recipes.small.either_threshold --checkpoint DIR --data a.jsonl b.jsonl --out DIR

It takes the threshold with the highest mean of event-based F1 over the data sets. These are validation clips: some with
only labels that the text was taught, in which all that frames add is wrong, and some with every label of the head.
"""

import logging

from tqdm import tqdm

from processing.events import Event
from processing.frame_decoding import frame_answers, frame_options
from recipes.arguments import script_parser
from recipes.conversion.checkpoint import load_checkpoint, save_checkpoint
from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.data.loading import load_clips
from recipes.scoring import event_based_f1

logger = logging.getLogger(__name__)

# The last adds nothing.
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def detection_f1_by_threshold(pipe, clips, thresholds=THRESHOLDS):
    """Return the micro-averaged event-based F1 of detection by `either`, one for each threshold."""
    options = frame_options(pipe.model.config, "detection", "either")
    references, answers = [], {threshold: [] for threshold in thresholds}
    for clip in tqdm(clips, desc="detection"):
        result = pipe(str(clip.audio), decode="text", return_frame_scores=True)
        references.append(clip.events)
        written = [(result["text"], [Event(**event) for event in result["events"]], False)]
        row = {"task": "detection", "query": None, "duration": result["duration"]}
        scores = dict(zip(result["frame_scores"]["labels"], result["frame_scores"]["scores"], strict=True))
        for threshold, found in answers.items():
            changed = options | {"decoder": options["decoder"] | {"threshold": threshold}}
            ((_, events, _),) = frame_answers(pipe.processor, [row], [(scores, None)], changed, written)
            found.append(events)
    return [event_based_f1(references, found)["micro"]["f1"] for found in answers.values()]


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint with a frame grounder that has labels")
    parser.add_argument("--data", required=True, nargs="+", help="annotations of validation clips")
    parser.add_argument("--out", required=True, help="directory to write")
    arguments = parser.parse_args(argv)
    pipe = load_pipeline(arguments.checkpoint)
    table = [detection_f1_by_threshold(pipe, list(load_clips(data))) for data in arguments.data]
    means = [sum(scores) / len(scores) for scores in zip(*table, strict=True)]
    for data, scores in zip([*arguments.data, "mean"], [*table, means], strict=True):
        logger.info("Eb-F1 by threshold on %s: %s", data, dict(zip(THRESHOLDS, (round(f1, 3) for f1 in scores))))
    threshold = min(THRESHOLDS[means.index(max(means))], 0.99)
    model, processor = load_checkpoint(arguments.checkpoint, dtype="float32")
    model.config.frame_grounder |= {"decode": "either", "query_decode": "either", "either_threshold": threshold}
    save_checkpoint(model, processor, arguments.out)


if __name__ == "__main__":
    main()
