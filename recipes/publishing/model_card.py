"""The generated parts of a model card: its tables and `model-index`, from reports alone."""

import re
from collections import Counter

from recipes.evaluation.report_tables import markdown_table, with_interval

# Placeholder for the Hub id, which `timepro publish` fills in.
PLACEHOLDER = "OWNER/timepro-small"
SCORES_URL = f"https://huggingface.co/{PLACEHOLDER}/blob/main/scores.json"
FIGURES_MARKS = ("<!-- figures: written by recipes/small/release.py -->", "<!-- end of figures -->")
RECORDINGS_MARKS = ("<!-- recordings: written by recipes/small/release.py -->", "<!-- end of recordings -->")
FAILURES_MARKS = ("<!-- failures: written by recipes/small/release.py -->", "<!-- end of failures -->")
TASK_TYPE, TASK_NAME = "audio-text-to-text", "Sound event detection and temporal audio grounding"
DATASET_TYPE = "timepro-soundscapes"


def _detection(average):
    return (
        lambda report: report["detection"][average]["f1"],
        lambda report: report["detection"]["intervals"][f"{average}_f1"],
        lambda report: {name: report["detection"][name] for name in ("t_collar", "percentage_of_length")},
    )


def _grounding(metric, **arguments):
    return (
        lambda report: report["grounding"][metric],
        lambda report: report["grounding"]["intervals"][metric],
        lambda report: arguments,
    )


# Column heading: metric type in the metadata, and functions of a report: value, 95 % interval, arguments.
FIGURE_COLUMNS = {
    "Eb-F1 micro": ("f1", *_detection("micro")),
    "Eb-F1 macro": ("f1", *_detection("macro")),
    "R@.5": ("recall", *_grounding("R@0.5", iou_threshold=0.5)),
    "mIoU (union)": ("mean_iou", *_grounding("miou_union")),
    "absent queries rejected": (
        "specificity",
        lambda report: report["rejection"]["true_rejection_rate"],
        lambda report: report["rejection"]["intervals"]["true_rejection_rate"],
        lambda report: {},
    ),
    "unparseable": (
        "parse_failure_rate",
        lambda report: max(report[part]["parse_failure_rate"] for part in ("detection", "grounding")),
        lambda report: None,
        lambda report: {},
    ),
}


def figures_table(scores: dict[str, dict]) -> str:
    """Return the Markdown table of scores, reports of `recipes/evaluation/score.py` by name."""
    rows = [
        [name, *(with_interval(value(report), interval(report)) for _, value, interval, _ in FIGURE_COLUMNS.values())]
        for name, report in scores.items()
    ]
    return markdown_table(["", *FIGURE_COLUMNS], rows)


def eval_results(scores: dict[str, dict], model_name: str) -> list:
    """Return a model's scores as `huggingface_hub.EvalResult`s, one for each cell of the table.

    Args:
        scores: reports by name; those of the model are called `"MODEL_NAME, TEST"`. Other models are skipped, because a
            card's metadata cannot hold them.
    """
    from huggingface_hub import EvalResult

    results = []
    for name, report in scores.items():
        model, _, test = name.rpartition(", ")
        if model != model_name:
            continue
        for heading, (kind, value, interval, arguments) in FIGURE_COLUMNS.items():
            ends = interval(report)
            bounds = {"interval_95": [round(float(end), 4) for end in ends]} if ends else {}
            results.append(
                EvalResult(
                    task_type=TASK_TYPE,
                    task_name=TASK_NAME,
                    dataset_type=DATASET_TYPE,
                    dataset_config=test,
                    dataset_name=f"TimePro soundscapes, {test} recordings",
                    dataset_split=f"test_{test}",
                    dataset_args={"num_clips": report["num_clips"]},
                    metric_type=kind,
                    metric_name=heading,
                    metric_value=round(float(value(report)), 4),
                    metric_args=(bounds | arguments(report)) or None,
                    source_name="scores.json of the checkpoint, written by timepro score",
                    source_url=SCORES_URL,
                )  # fmt: skip
            )
    return results


def failures_list(scores: dict[str, dict], model_name: str) -> str:
    """Return a Markdown list of a model's failures, with an item per report."""
    lines = []
    for name, report in scores.items():
        model, _, test = name.rpartition(", ")
        if model == model_name:
            micro, labels = report["detection"]["micro"], report["detection"]["class_wise"]
            order = sorted(labels, key=lambda label: labels[label]["f1"])
            weakest = [f"{label} (Eb-F1 {labels[label]['f1']:.2f})" for label in order[:4]]
            missed = report["rejection"]["false_rejection_rate"]
            lines.append(
                f"- On the *{test}* test it finds {micro['recall']:.0%} of the events, and {micro['precision']:.0%} of "
                f"what it says is right; {missed:.0%} of the queries that are present are answered `none`. Weakest "
                f"labels: {', '.join(weakest)}.\n"
            )
    return "".join(lines)


def recordings_table(files) -> str:
    """Return the Markdown table of the packages that contain the recordings, with their licences.

    Args:
        files: [`recipes.soundscapes.catalogue.SoundFile`]s.
    """
    counts = Counter((file.package, file.licence, file.split) for file in files)
    rows = [
        [f"{name} ({registry})", licence, *(counts[(registry, name), licence, x] for x in ("train", "heldout"))]
        for (registry, name), licence in sorted({key[:2] for key in counts})
    ]
    return markdown_table(["package", "licence of the recordings", "trained on", "held out"], rows)


def fill(text: str, marks: tuple[str, str], content: str) -> str:
    """Return a page with `content` inserted between two marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    start, end = marks
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no marks for its figures; put {start!r} and {end!r} where they belong.")
    return pattern.sub(lambda _: f"{start}\n{content}{end}", text, count=1)


def fill_card(text: str, scores: dict[str, dict], model_name: str, files) -> str:
    """Return a model card with its tables, failures and `model-index` regenerated.

    Args:
        files: recordings, see [`recordings_table`].

    Raises:
        ValueError: unreadable metadata, or missing marks.
    """
    from huggingface_hub import ModelCard

    text = fill(text, FIGURES_MARKS, figures_table(scores))
    text = fill(
        fill(text, FAILURES_MARKS, failures_list(scores, model_name)), RECORDINGS_MARKS, recordings_table(files)
    )
    card = ModelCard(text)
    card.data.model_name, card.data.eval_results = model_name, eval_results(scores, model_name)
    return str(card)
