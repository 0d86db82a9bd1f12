"""A report of scores as text: a short list for the console, and Markdown with everything that a person reads."""

from typing import NamedTuple

from recipes.scoring import IOU_THRESHOLDS

# Keys of the report and how they are called, in the order of the tables.
COUNTINGS = {"": "event-based", "segment_1s": "segments of 1 s", "segment_0.1s": "segments of 0.1 s"}
SEE_NOTES = "not computed, see the notes"
FIGURES = ("f1", "precision", "recall")


class Line(NamedTuple):
    """Hold one figure of a table.

    Args:
        value: `None` where there is none.
        note: what belongs to the figure: what it consists of, or why there is none.
        meaning: what the metric is, for Markdown.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""
    meaning: str = ""


def format_report(report) -> str:
    """Return a report as a list of figures for the console."""
    lines = [f"{report['data']}: {_number(report['num_clips'], 'clip')}, {_source(report)}"]
    for heading, figures in _sections(report):
        lines.append(heading)
        for line in figures:
            interval = "[{:.3f}, {:.3f}]".format(*line.interval) if line.interval else ""
            lines.append(f"  {line.name:<26}{_figure(line.value):>7}  {interval:<14}  {line.note}".rstrip())
    return "\n".join(lines + [f"note: {note}" for note in _notes(report)])


def format_markdown(report, plot=None) -> str:
    """Return a report as Markdown: headline figures, then detection by counting and by label, and the worst clips.

    Args:
        report: what [`~recipes.evaluation.report_files.write_report`] returns.
        plot: name of the picture of the worst clips.
    """
    notes = "".join(f"- {note}\n" for note in _notes(report))
    parts = [
        f"# Scores of {_source(report)}\n\nData: {report['data']}, {_number(report['num_clips'], 'clip')}. "
        "In brackets: 95 % intervals, bootstrap over clips.\n",
        notes,
    ]
    for heading, figures in _sections(report):
        rows = [
            [line.name, _with_interval(line.value, line.interval), "; ".join(filter(None, (line.meaning, line.note)))]
            for line in figures
        ]
        header = ["metric", "value", "what it is"]
        parts += [f"## {heading[0].upper()}{heading[1:]}\n", _table(header, rows, "lrl")]
    if detection := report.get("detection"):
        parts += [
            "## Detection in full\n\nErrors per reference event or segment.\n",
            _full_table(detection),
            "## Detection by label\n",
            *_label_table(detection),
        ]
    if report["worst_clips"]:
        worst = [[f"{v:.3f}" if k == "f1" else v for k, v in clip.items()] for clip in report["worst_clips"]]
        header = ["clip", "Eb-F1", "missed", "false alarms", "unreadable answers"]
        parts += ["## Worst clips\n", _table(header, worst, "lrrrr")]
        parts += [f"![Reference and prediction of the worst clips]({plot})\n"] if plot else []
    if report["failures"]:
        failures = [[failure["id"], failure["error"]] for failure in report["failures"]]
        parts += ["## Failures\n\nThese clips were not scored.\n", _table(["clip", "error"], failures, "ll")]
    return "\n".join(filter(None, parts))


def _sections(report) -> list[tuple[str, list[Line]]]:
    """Return headings and figures, the ones that are looked at first before the others."""
    makers = {
        "detection": _detection_lines,
        "grounding": _grounding_lines,
        "rejection": _rejection_lines,
        "captioning": _captioning_lines,
    }
    return [make(report[part]) for part, make in makers.items() if part in report]


def _detection_lines(part) -> tuple[str, list[Line]]:
    intervals, errors, reason = part["intervals"], part["micro_errors"], part["psds"]["not_computed"]
    all_events, by_label = f"over all events, {_collars(part)}", "mean over the labels of the reference"
    counts = ", ".join(_number(errors[f"num_{kind}s"], kind) for kind in ("substitution", "deletion", "insertion"))
    lines = [
        Line("Eb-F1 micro", part["micro"]["f1"], intervals["micro_f1"], meaning=all_events),
        Line("Eb-F1 macro", part["macro"]["f1"], intervals["macro_f1"], meaning=by_label),
        Line("event-based error rate", errors["error_rate"], intervals["error_rate"], counts, "per reference event"),
    ]
    for key, resolution in (("segment_1s", "1 s"), ("segment_0.1s", "0.1 s")):
        scores = part[key]
        for average in ("micro", "macro"):
            interval = intervals[f"{key}_{average}_f1"]
            lines.append(Line(f"segment F1 {average}, {resolution}", scores[average]["f1"], interval))
        rate, interval = scores["micro_errors"]["error_rate"], intervals[f"{key}_error_rate"]
        lines.append(Line(f"segment error rate, {resolution}", rate, interval))
    for key, name, meaning in (("psds1", "PSDS 1", "exact times"), ("psds2", "PSDS 2", "no confusion of labels")):
        lines.append(Line(name, part["psds"][key], intervals.get(key), SEE_NOTES if reason else "", meaning))
    lines.append(_unreadable(part, intervals))
    return f"detection: {_number(part['num_clips'], 'clip')}, {_events(part)}", lines


def _grounding_lines(part) -> tuple[str, list[Line]]:
    meanings = {
        "miou_union": ("mIoU (union)", "all intervals of an answer against all of the reference"),
        "miou_best_match": ("mIoU (best match)", "each interval of the reference against the best one of the answer"),
        **{f"R@{t:g}": (f"R@{t:g}", f"queries whose IoU (union) is {t:g} or more") for t in IOU_THRESHOLDS},
        "count_accuracy": ("count accuracy", "queries answered with the right number of intervals"),
    }
    intervals = part["intervals"]
    lines = [Line(name, part[key], intervals[key], meaning=meaning) for key, (name, meaning) in meanings.items()]
    lines.append(_unreadable(part, intervals))
    return f"grounding: {_number(part['num_pairs'], 'query', 'queries')} for what is heard", lines


def _rejection_lines(part) -> tuple[str, list[Line]]:
    lines = []
    for name, key, meaning in (
        ("absent queries rejected", "true_rejection_rate", "true positives of rejection"),
        ("present queries rejected", "false_rejection_rate", "false positives of rejection"),
    ):
        note = "there are none" if part[key] is None else ""
        lines.append(Line(name, part[key], part["intervals"].get(key), note, meaning))
    lines.append(_unreadable(part, part["intervals"]))
    num_absent = _number(part["num_absent"], "absent query", "absent queries")
    return f"rejection: {num_absent}, {part['num_present']} present", lines


def _captioning_lines(part) -> tuple[str, list[Line]]:
    intervals, times = part["intervals"], part["time_only"]
    note = SEE_NOTES if part["meteor_not_computed"] else ""
    pairs = "of captions paired by an IoU of 0.5 or more, F-measure"
    lines = [
        Line("METEOR", part.get("meteor_text"), intervals.get("meteor_text"), note, "of the whole text"),
        Line("METEOR of pairs", part.get("meteor_matched"), intervals.get("meteor_matched"), note, pairs),
        Line("Eb-F1, time only", times["micro"]["f1"], intervals["time_only_micro_f1"], meaning=_collars(times)),
        _unreadable(part, intervals),
    ]
    return f"captioning: {_number(part['num_clips'], 'clip')}, {_events(times)}", lines


def _unreadable(part, intervals) -> Line:
    meaning = "find nothing and reject nothing"
    return Line("unreadable answers", part["parse_failure_rate"], intervals["parse_failure_rate"], meaning=meaning)


def _full_table(detection) -> str:
    """Return every way of counting as a table; averages over labels know no substitutions."""
    rows, intervals = [], detection["intervals"]
    for key, name in COUNTINGS.items():
        scores, prefix = (detection[key], f"{key}_") if key else (detection, "")
        for average in ("micro", "macro"):
            figures = [_with_interval(scores[average][f], intervals[f"{prefix}{average}_{f}"]) for f in FIGURES]
            errors = scores[f"{average}_errors"]
            interval = intervals[f"{prefix}error_rate"] if average == "micro" else None
            rates = [_figure(errors.get(f"{kind}_rate")) for kind in ("substitution", "deletion", "insertion")]
            rows.append([f"{name}, {average}", *figures, _with_interval(errors["error_rate"], interval), *rates])
    header = ["counted by", "F1", *FIGURES[1:], "error rate", "substitutions", "deletions", "insertions"]
    return _table(header, rows, "lrrrrrrr")


def _label_table(detection) -> list[str]:
    """Return the labels of the reference as a table, and what was predicted besides as a sentence."""
    known = {label: scores for label, scores in detection["class_wise"].items() if scores["num_references"]}
    segments = detection["segment_1s"]["class_wise"]
    rows = [
        [
            label or "(no label)",
            *(f"{scores[name]:.3f}" for name in FIGURES),
            _figure(segments[label]["f1"]),
            scores["num_references"],
            scores["num_predictions"],
        ]
        for label, scores in known.items()
    ]
    header = ["label", "Eb-F1", *FIGURES[1:], "segment F1, 1 s", "references", "predictions"]
    parts = [_table(header, rows, "lrrrrrr")] if rows else ["The reference has no events.\n"]
    others = [scores["num_predictions"] for label, scores in detection["class_wise"].items() if label not in known]
    if others:
        labels = _number(len(others), "label", "labels")
        parts.append(
            f"Beside these, {_number(sum(others), 'event')} of {labels} that the reference lacks were predicted.\n"
        )
    return parts


def _notes(report) -> list[str]:
    """Return what a reader must know about how answers were made comparable."""
    notes, clipping, absent = [], report.get("clipping", {}), report.get("absent_queries", {})
    if report["failures"]:
        notes.append(f"{_number(len(report['failures']), 'clip')} could not be asked about and are not scored.")
    late = clipping.get("num_cut_events", 0), clipping.get("num_dropped_events", 0)
    if any(late):
        notes.append(f"Predicted past the end of the clip: {late[0]} events were cut there, {late[1]} were dropped.")
    if number := clipping.get("num_clips_with_later_references"):
        notes.append(f"The reference of {_number(number, 'clip')} passes its duration; answers are cut after it there.")
    if number := clipping.get("num_clips_of_unknown_duration"):
        notes.append(f"The duration of {_number(number, 'clip')} is unknown; answers are not cut there.")
    if absent.get("source") == "drawn" and absent["num_queries"]:
        queries = _number(absent["num_queries"], "absent query", "absent queries")
        notes.append(f"{queries} asked for labels of the data ({absent['num_labels']}) that the clip lacks.")
    if report.get("label_aliases"):
        notes.append(f"Labels are read with the aliases of {report['label_aliases']}.")
    if "detection" in report and (reason := report["detection"]["psds"]["not_computed"]):
        notes.append(f"PSDS is not computed: {reason}.")
    if "captioning" in report and (reason := report["captioning"]["meteor_not_computed"]):
        notes.append(f"METEOR is not computed: {reason}")
    elif "captioning" in report:
        notes.append(
            "METEOR is that of nltk with WordNet synonyms; a text of m words scores 1 - 0.5 / m^3 against itself."
        )
    return notes


def _collars(part) -> str:
    collar, share = part["t_collar"], part["percentage_of_length"]
    return f"onsets within {collar:g} s, offsets within {collar:g} s or {100 * share:g} % of the length"


def _events(scores) -> str:
    counts = scores["class_wise"].values()
    num_references, num_predictions = (sum(c[f"num_{side}"] for c in counts) for side in ("references", "predictions"))
    return f"{_number(num_references, 'reference event')}, {num_predictions} predicted"


def _source(report) -> str:
    return report["model"] or report["predictions"]


def _number(count, singular, plural=None) -> str:
    return f"{count} {singular if count == 1 else plural or singular + 's'}"


def _figure(value) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_interval(value, interval) -> str:
    return _figure(value) + (" [{:.3f}, {:.3f}]".format(*interval) if interval else "")


def _table(header, rows, alignment) -> str:
    """Return a table in Markdown; `alignment` has an `l` or `r` for each column."""
    lines = [header, ["---:" if side == "r" else "---" for side in alignment], *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value) -> str:
    # A bar would end the cell, a line break the row.
    return " ".join(str(value).split()).replace("|", "\\|")


__all__ = ["format_markdown", "format_report"]
