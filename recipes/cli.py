"""The `timepro` command: ask recordings for their events, describe a checkpoint, make data, score.

Nothing heavy is imported before a command needs it, so `timepro --help` answers at once.
"""

import argparse
import contextlib
import json
import logging
import sys
from pathlib import Path

from recipes import DEFAULT_CHECKPOINT


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="timepro",
        description="When does it sound? Onsets and offsets, in seconds, of the events in recordings.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    detect = commands.add_parser("detect", help="list all events in recordings")
    ground = commands.add_parser("ground", help="find one event, given in words, in recordings")
    ground.add_argument("--query", required=True, metavar="TEXT", help='what to look for, e.g. "dog barking"')
    for command in (detect, ground):
        command.add_argument("files", nargs="+", metavar="FILE", help="recording: wav, flac, ogg, mp3")
        _add_model(command)
        command.add_argument("--json", action="store_true", help="print one JSON object per recording, nothing else")
        command.add_argument("--plot", metavar="PNG", help="draw waveform, spectrogram and events of one recording")
        command.set_defaults(run=answer)

    info = commands.add_parser("info", help="describe a checkpoint; the first line is its folder")
    info.add_argument("model", nargs="?", default=str(DEFAULT_CHECKPOINT), metavar="DIR", help="default: embedded one")
    info.set_defaults(run=describe)

    synthesize = commands.add_parser("synthesize", help="mix soundscapes with exact annotations from real recordings")
    synthesize.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    synthesize.add_argument("--num-clips", required=True, type=_positive, metavar="N")
    synthesize.add_argument("--seed", required=True, type=int, metavar="S", help="the same seed gives the same clips")
    synthesize.add_argument(
        "--split", default="train", choices=("train", "validation", "test_seen", "test_unseen"), help="default: train"
    )
    synthesize.add_argument("--sounds", metavar="DIR", help="folder of the recordings; fetched there if absent")
    synthesize.add_argument("--num-workers", type=_positive, default=1, metavar="K", help="processes (default 1)")
    synthesize.set_defaults(run=make_soundscapes)

    score = commands.add_parser("score", help="score a checkpoint, or predictions in a file, on annotated recordings")
    data = score.add_mutually_exclusive_group(required=True)
    # SUPPRESS: an absent positional would else overwrite what --data gave.
    data.add_argument(
        "data", nargs="?", default=argparse.SUPPRESS, metavar="DATA",
        help="annotated recordings: as `timepro synthesize` writes them, or any other format of docs/data-formats.md",
    )  # fmt: skip
    data.add_argument("--data", metavar="DATA", help="the same")
    score.add_argument("--data-format", metavar="NAME", help="desed, csv, ... (default: told from the contents)")
    score.add_argument("--audio-dir", metavar="DIR", help="folder of the recordings (default: that of the data)")
    score.add_argument("--durations", metavar="TABLE", help="filename and duration, where the data do not say")
    score.add_argument("--label-aliases", metavar="JSON", help='other names of labels: {"alias": "label", ...}')
    score.add_argument(
        "--out", required=True, metavar="PATH", help="folder of report.json, report.md, ...; or the report, NAME.json"
    )
    answers = score.add_mutually_exclusive_group()
    _add_model(answers)
    answers.add_argument("--predictions", metavar="JSONL", help="score these answers, without any model")
    score.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="recordings at a time (default 8)")
    score.add_argument(
        "--num-absent", type=_not_negative, default=2, metavar="N", help="absent queries per clip (default 2)"
    )
    score.add_argument("--limit", type=_positive, metavar="N", help="only the first N recordings")
    score.add_argument("--overwrite", action="store_true", help="answer anew instead of resuming")
    score.set_defaults(run=score_model)
    return parser


def answer(args) -> int:
    """Run `detect` or `ground`; return 1 if any recording failed."""
    query = getattr(args, "query", None)
    task = "detection" if query is None else "grounding"
    from recipes.checkpoint_folder import load_pipeline

    with contextlib.redirect_stdout(sys.stderr):
        pipe = load_pipeline(args.model)
    failures = []
    for file in args.files:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                result = pipe(file, task=task, query=query)
            if result["events"] is None:
                raise ValueError(f"the model's answer {result['text']!r} names no events that could be read")
        except (OSError, ValueError) as error:
            failures.append(file)
            print(f"timepro: {file}: {error}", file=sys.stderr)
            continue
        if args.json:
            row = {"file": file, "duration": result["duration"], "events": result["events"]}
            print(json.dumps(row, ensure_ascii=False, allow_nan=False), flush=True)
        else:
            print(format_table(file, result["duration"], result["events"], query), flush=True)
        if args.plot:
            _plot(file, result["events"], query, args.plot)
    if failures:
        failed = ", ".join(failures)
        print(f"timepro: {len(failures)} of {len(args.files)} recordings failed: {failed}", file=sys.stderr)
    return 1 if failures else 0


def format_table(file: str, duration: float, events: list[dict], query: str | None = None) -> str:
    """Return the events of one recording as an aligned table; times are in seconds."""
    heading = f"{file}  ({duration:.2f} s)"
    if not events:
        return f"{heading}\n  " + (f"no events match '{query}'" if query else "no events")
    lines = [heading, f"  {'onset':>8}  {'offset':>8}  event"]
    lines += [f"  {event['onset']:>8.2f}  {event['offset']:>8.2f}  {event['event_label']}" for event in events]
    return "\n".join(lines)


def describe(args) -> int:
    """Run `info`."""
    from recipes.checkpoint_folder import describe_checkpoint

    rows = describe_checkpoint(args.model)
    print(Path(args.model).resolve())
    for name, value in rows.items():
        print(f"{name:<12}  {value}")
    return 0


def make_soundscapes(args) -> int:
    """Run `synthesize`."""
    logging.getLogger().setLevel(logging.INFO)
    from recipes.data.synthesize import synthesize

    names = ("out", "num_clips", "seed", "split", "sounds", "num_workers")
    try:
        synthesize(**{name: getattr(args, name) for name in names})
    except RuntimeError as error:  # recordings that are not installed, with the way to get them
        print(f"timepro: {error}", file=sys.stderr)
        return 1
    return 0


def score_model(args) -> int:
    """Run `score` and print the report; return 1 if any recording failed."""
    from recipes.report_files import report_paths
    from recipes.report_tables import format_report

    common = ("data", "out", "limit", "data_format", "audio_dir", "durations", "label_aliases")
    common = {name: getattr(args, name) for name in common}
    if args.predictions:
        from recipes.score_predictions import score_predictions

        report = score_predictions(args.predictions, **common)
    else:
        from recipes.score_checkpoint import score

        names = ("model", "batch_size", "num_absent", "overwrite")
        with contextlib.redirect_stdout(sys.stderr):
            report = score(**common, **{name: getattr(args, name) for name in names})
    print(format_report(report))
    if failures := report["failures"]:
        print(
            f"timepro: {len(failures)} of {report['num_clips']} recordings failed and were not scored, for instance "
            f"{failures[0]['id']!r}: {failures[0]['error']} All are listed in {report_paths(args.out)['json']}; mend "
            "them and run the command again, which asks about these only.",
            file=sys.stderr,
        )
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 1 after an error, or 2 for wrong arguments."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if getattr(args, "plot", None):
        if len(args.files) > 1:
            parser.error(f"--plot draws one recording, but {len(args.files)} are given; run the command for each.")
        if not Path(args.plot).parent.is_dir():
            parser.error(f"--plot is {args.plot!r}, but the folder {str(Path(args.plot).parent)!r} does not exist.")
    if getattr(args, "query", None) is not None and not args.query.strip():
        parser.error("--query is empty; describe the event to look for.")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        return args.run(args)
    except (OSError, ValueError) as error:
        print(f"timepro: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from importlib.metadata import version

        print(f"timepro {version('timepro')}")
        parser.exit()


def _add_model(parser):
    parser.add_argument(
        "--model", default=str(DEFAULT_CHECKPOINT), metavar="DIR", help="checkpoint (default: the embedded one)"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} given; give 1 or more")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} given; give 0 or more")
    return value


def _plot(file: str, events: list[dict], query: str | None, path: str):
    from processing.audio_io import load_audio
    from processing.events import Event
    from space_app.plots import plot_events

    title = Path(file).name + (f": '{query}'" if query else "")
    plot_events(load_audio(file), 16000, [Event.from_dict(event) for event in events], path=path, title=title)
    print(f"timepro: wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
