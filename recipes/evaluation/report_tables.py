"""Reports as text: a short list for the console, and Markdown."""

from typing import NamedTuple

from recipes.scoring import IOU_THRESHOLDS

# Keys of the report and their names, in the order of the tables.
COUNTINGS = {"": "event-based", "segment_1s": "segments of 1 s", "segment_0.1s": "segments of 0.1 s"}
SEE_NOTES = "not computed, see the notes"
F_SCORES = ("f1", "precision", "recall")
NUM_LABELS_SHOWN = 20
# Figures to show in a comparison, in order; the JSON has all.
COMPARED = {
    "micro_f1": "Eb-F1 micro",
    "macro_f1": "Eb-F1 macro",
    "error_rate": "event-based error rate",
    "segment_1s_micro_f1": "segment F1 micro, 1 s",
    "segment_0.1s_micro_f1": "segment F1 micro, 0.1 s",
    "psds1": "PSDS 1",
    "psds2": "PSDS 2",
    "miou_union": "mIoU (union)",
    "miou_best_match": "mIoU (best match)",
    **{f"R@{threshold:g}": f"R@{threshold:g}" for threshold in IOU_THRESHOLDS},
    "count_accuracy": "count accuracy",
    "true_rejection_rate": "absent queries rejected",
    "false_rejection_rate": "present queries rejected",
    "meteor_text": "METEOR",
    "meteor_matched": "METEOR of pairs",
    "time_only_micro_f1": "Eb-F1, time only",
}


class Line(NamedTuple):
    """One figure of a table.

    Args:
        value: `None` if there is none.
        note: its components, or why there is none.
        meaning: explanation of the metric, for Markdown.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""
    meaning: str = ""


def markdown_table(header, rows, alignment: str = "") -> str:
    """Return a table in Markdown.

    Args:
        header: names of the columns.
        rows: cells.
        alignment: one letter per column, `r` for right-aligned, anything else for left-aligned.
    """
    lines = ["|" + "|".join(map(_cell, line)) + "|\n" for line in (header, *rows)]
    sides = "|".join("---:" if side == "r" else "---" for side in alignment.ljust(len(header)))
    return "".join([lines[0], f"|{sides}|\n", *lines[1:]])


def format_report(report) -> str:
    """Return a report as a list of figures for the console."""
    lines = [f"{report['data']}: {_number(report['num_clips'], 'clip')}, {_source(report)}"]
    for heading, figures in _sections(report):
        lines.append(heading)
        for line in figures:
            interval = "[{:.3f}, {:.3f}]".format(*line.interval) if line.interval else ""
            lines.append(f"  {line.name:<26}{_figure(line.value):>7}  {interval:<14}  {line.note}".rstrip())
    if rows := _comparison(report):
        lines.append(f"against {report['against']['predictions']}: difference, 95 % interval, p")
        lines += [f"  {name:<26}{difference:>7}  {interval:<16}  p {p}" for name, _, _, difference, interval, p in rows]
    return "\n".join(lines + [f"note: {note}" for note in _notes(report)])


def format_markdown(report, plot=None) -> str:
    """Return a report as Markdown: headline figures, then detection in full and by label, and the worst clips.

    Args:
        report: from [`~recipes.evaluation.report.write_report`].
        plot: file name of the plot of the worst clips.
    """
    notes = "".join(f"- {note}\n" for note in _notes(report))
    parts = [
        f"# Scores of {_source(report)}\n\nData: {report['data']}, {_number(report['num_clips'], 'clip')}. "
        "In brackets: 95 % intervals, bootstrap over clips.\n",
        notes,
    ]
    for heading, figures in _sections(report):
        rows = [
            [line.name, with_interval(line.value, line.interval), "; ".join(filter(None, (line.meaning, line.note)))]
            for line in figures
        ]
        header = ["metric", "value", "what it is"]
        parts += [f"## {heading[0].upper()}{heading[1:]}\n", markdown_table(header, rows, "lrl")]
    if rows := _comparison(report):
        header = ["metric", "this", "other", "difference", "95 % interval", "p"]
        parts += [
            f"## Against {report['against']['predictions']}\n\nBootstrap over clips, the same clips drawn for both.\n",
            markdown_table(header, rows, "lrrrrr"),
        ]
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
        parts += ["## Worst clips\n", markdown_table(header, worst, "lrrrr")]
        parts += [f"![Reference and prediction of the worst clips]({plot})\n"] if plot else []
    if report["failures"]:
        failures = [[failure["id"], failure["error"]] for failure in report["failures"]]
        parts += ["## Failures\n\nThese clips were not scored.\n", markdown_table(["clip", "error"], failures)]
    return "\n".join(filter(None, parts))


def _sections(report) -> list[tuple[str, list[Line]]]:
    """Return headings and figures, the most important ones first."""
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
        *_tolerant_lines(part),
        Line("event-based error rate", errors["error_rate"], intervals["error_rate"], counts, "per reference event"),
    ]
    for key, resolution in (("segment_1s", "1 s"), ("segment_0.1s", "0.1 s")):
        scores, theirs = part[key], part[key]["sed_eval"]
        for average in ("micro", "macro"):
            interval = intervals[f"{key}_{average}_f1"]
            note = f"by sed_eval's rounding {theirs[average]['f1']:.3f}" if theirs else ""
            lines.append(Line(f"segment F1 {average}, {resolution}", scores[average]["f1"], interval, note))
        rate, interval = scores["micro_errors"]["error_rate"], intervals[f"{key}_error_rate"]
        note = f"by sed_eval's rounding {theirs['micro_errors']['error_rate']:.3f}" if theirs else ""
        lines.append(Line(f"segment error rate, {resolution}", rate, interval, note))
    for key, name, meaning in (("psds1", "PSDS 1", "exact times"), ("psds2", "PSDS 2", "no confusion of labels")):
        lines.append(Line(name, part["psds"][key], intervals.get(key), SEE_NOTES if reason else "", meaning))
    for number, found in part["false_alarms_by_number"].items():
        note = _number(found["num_clips"], "clip")
        meaning = "predicted events that match none"
        name = f"false alarms per clip, {number} in the reference"
        lines.append(Line(name, found["false_alarms_per_clip"], None, note, meaning))
    lines.append(_unreadable(part, intervals))
    return f"detection: {_number(part['num_clips'], 'clip')}, {_events(part)}", lines


def _tolerant_lines(part) -> list[Line]:
    edges = part["collar_edges"]
    if not edges["num_matches_on_collar"]:
        return []
    meaning = f"the same with collars {1e6 * edges['tolerance']:g} µs wider, see the notes"
    return [Line(f"Eb-F1 {a}, tolerant", edges[a]["f1"], meaning=meaning) for a in ("micro", "macro")]


def _grounding_lines(part) -> tuple[str, list[Line]]:
    meanings = {
        "miou_union": ("mIoU (union)", "all intervals of an answer against all of the reference"),
        "miou_best_match": ("mIoU (best match)", "each interval of the reference against the best one of the answer"),
        **{f"R@{t:g}": (f"R@{t:g}", f"queries whose IoU (union) is {t:g} or more") for t in IOU_THRESHOLDS},
        "count_accuracy": ("count accuracy", "queries answered with the right number of intervals"),
    }
    intervals = part["intervals"]
    lines = [Line(name, part[key], intervals[key], meaning=meaning) for key, (name, meaning) in meanings.items()]
    for number, found in part["count_accuracy_by_number"].items():
        note = _number(found["num_pairs"], "query", "queries")
        lines.append(Line(f"count accuracy, {number} in the reference", found["count_accuracy"], None, note))
    lines.append(_unreadable(part, intervals))
    return f"grounding: {_number(part['num_pairs'], 'query', 'queries')} for sounds that are present", lines


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
        *_tolerant_lines(times)[:1],
        _unreadable(part, intervals),
    ]
    return f"captioning: {_number(part['num_clips'], 'clip')}, {_events(times)}", lines


def _unreadable(part, intervals) -> Line:
    meaning = "find nothing and reject nothing"
    return Line("unreadable answers", part["parse_failure_rate"], intervals["parse_failure_rate"], meaning=meaning)


def _comparison(report) -> list[list[str]]:
    """Return name, both values, difference, interval and p of each compared figure."""
    rows = []
    for part in ("detection", "grounding", "rejection", "captioning"):
        found = report.get("against", {}).get(part, {})
        for key, name in COMPARED.items():
            if key in found:
                pair = found[key]
                interval, p = "[{:+.3f}, {:+.3f}]".format(*pair["interval"]), f"{pair['p']:.3f}"
                values = f"{pair['value']:.3f}", f"{pair['other']:.3f}", f"{pair['difference']:+.3f}"
                rows.append([name, *values, interval, p])
    return rows


def _full_table(detection) -> str:
    """Return the table of event-based and segment-based scores; macro averages have no substitutions."""
    rows, intervals = [], detection["intervals"]
    for key, name in COUNTINGS.items():
        scores, prefix = (detection[key], f"{key}_") if key else (detection, "")
        for average in ("micro", "macro"):
            figures = [with_interval(scores[average][f], intervals[f"{prefix}{average}_{f}"]) for f in F_SCORES]
            errors = scores[f"{average}_errors"]
            interval = intervals[f"{prefix}error_rate"] if average == "micro" else None
            rates = [_figure(errors.get(f"{kind}_rate")) for kind in ("substitution", "deletion", "insertion")]
            rows.append([f"{name}, {average}", *figures, with_interval(errors["error_rate"], interval), *rates])
    header = ["counted by", "F1", *F_SCORES[1:], "error rate", "substitutions", "deletions", "insertions"]
    return markdown_table(header, rows, "lrrrrrrr")


def _label_table(detection) -> list[str]:
    """Return a table of the reference labels, and a sentence about other predicted labels."""
    known = {label: scores for label, scores in detection["class_wise"].items() if scores["num_references"]}
    segments = detection["segment_1s"]["class_wise"]
    rows = [
        [
            label or "(no label)",
            *(f"{scores[name]:.3f}" for name in F_SCORES),
            _figure(segments[label]["f1"]),
            scores["num_references"],
            scores["num_predictions"],
        ]
        for label, scores in known.items()
    ]
    header = ["label", "Eb-F1", *F_SCORES[1:], "segment F1, 1 s", "references", "predictions"]
    parts = [markdown_table(header, rows, "lrrrrrr")] if rows else ["The reference has no events.\n"]
    others = [scores["num_predictions"] for label, scores in detection["class_wise"].items() if label not in known]
    if others:
        parts.append(
            f"In addition, {_number(sum(others), 'event')} of {_number(len(others), 'label')} that the reference lacks "
            "were predicted.\n"
        )
    return parts


def _notes(report) -> list[str]:
    """Return what a reader must know about how answers were scored."""
    notes, clipping, absent = [], report.get("clipping", {}), report.get("absent_queries", {})
    if report["failures"]:
        notes.append(f"{_number(len(report['failures']), 'clip')} could not be answered and are not scored.")
    if number := report.get("num_truncated_answers"):
        notes.append(f"{_number(number, 'answer')} ran out of room; what was said whole counts.")
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
    if detection := report.get("detection"):
        notes += [*_label_notes(detection["unmatched_labels"]), *_edge_notes("", detection["collar_edges"])]
        if any(detection[key]["sed_eval"] for key in ("segment_1s", "segment_0.1s")):
            notes.append("Some segment figures differ from sed_eval's, where rounding may fill one segment too many.")
        if reason := detection["psds"]["not_computed"]:
            notes.append(f"PSDS is not computed: {reason}.")
    if captioning := report.get("captioning"):
        notes += _edge_notes("of captions ", captioning["time_only"]["collar_edges"])
        notes.append(
            f"METEOR is not computed: {captioning['meteor_not_computed']}"
            if captioning["meteor_not_computed"]
            else "METEOR is that of nltk with WordNet synonyms; a text of m words scores 1 - 0.5 / m^3 against itself."
        )
    return notes


def _label_notes(unmatched) -> list[str]:
    notes = []
    for key, text in (("only_in_references", "never predicted"), ("only_in_predictions", "not in the references")):
        if counts := unmatched[key]:
            shown = [f"{label or '(no label)'} ({number})" for label, number in list(counts.items())[:NUM_LABELS_SHOWN]]
            rest = f", and {len(counts) - NUM_LABELS_SHOWN} more" if len(counts) > NUM_LABELS_SHOWN else ""
            notes.append(f"{_number(len(counts), 'label')} {text}: {', '.join(shown)}{rest}.")
    return notes


def _edge_notes(what, edges) -> list[str]:
    if not edges["num_matches_on_collar"]:
        return []
    f1 = ", ".join(f"{edges[average]['f1']:.3f} ({average})" for average in ("micro", "macro"))
    return [
        f"{_number(edges['num_matches_on_collar'], 'match', 'matches')} {what}lie exactly on a collar; the rounding of "
        f"float64, as in sed_eval, refuses {edges['num_refused']} of them. With all of them Eb-F1 is {f1}."
    ]


def _collars(part) -> str:
    collar, fraction = part["t_collar"], part["percentage_of_length"]
    return f"onsets within {collar:g} s, offsets within {collar:g} s or {100 * fraction:g} % of the length"


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


def with_interval(value, interval) -> str:
    """Return a figure and its interval, `0.500 [0.400, 0.600]`."""
    return _figure(value) + (" [{:.3f}, {:.3f}]".format(*interval) if interval else "")


def _cell(value) -> str:
    # A vertical bar would end the cell, a line break the row.
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f" {text} " if text else " "
