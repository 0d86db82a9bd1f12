"""The `timepro` command: ask recordings for their events, describe a checkpoint, make data, score, publish.

Nothing heavy is imported before a command needs it, so `timepro --help` answers at once.
"""

import argparse
import contextlib
import inspect
import logging
import sys
from functools import partial

from recipes import DEFAULT_CHECKPOINT
from recipes.cli.answer import add_answer_arguments, answer
from recipes.cli.argument_types import not_negative_int, positive_int, probability
from recipes.conversion.arguments import add_convert_arguments


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="timepro",
        description="When does it sound? Onsets and offsets, in seconds, of the events in recordings.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for name, task, text in (
        ("detect", "detection", "list all events in recordings"),
        ("ground", "grounding", "find events, given in words, in recordings"),
        ("caption", "captioning", "say in words what happens when in recordings"),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_answer_arguments(command, task)
        command.set_defaults(run=partial(answer, plot=_plot))

    info = commands.add_parser(
        "info", help="describe a checkpoint; the first line is its folder",
        description="Describe a checkpoint, without loading it, and list the versions of what is installed: paste this "
        "into reports of bugs. The first line is the folder.",
    )  # fmt: skip
    info.add_argument("model", nargs="?", default=str(DEFAULT_CHECKPOINT), metavar="DIR", help="default: embedded one")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=describe)

    convert = commands.add_parser("convert", help="turn an audio-language backbone into a checkpoint with ticks")
    add_convert_arguments(convert)
    convert.set_defaults(run=make_checkpoint)

    merge = commands.add_parser("merge", help="add an adapter to the checkpoint that it was trained on")
    merge.add_argument("adapter", metavar="ADAPTER", help="folder of a LoRA adapter")
    merge.add_argument("out", metavar="OUT", help="directory to write")
    merge.add_argument("--base", metavar="DIR", help="checkpoint (default: the one that the adapter names)")
    merge.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a weights file (default 5GB)")
    merge.add_argument("--overwrite", action="store_true", help="replace the checkpoint that OUT holds")
    merge.set_defaults(run=merge_adapter)

    synthesize = commands.add_parser("synthesize", help="mix soundscapes with exact annotations from real recordings")
    synthesize.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    synthesize.add_argument("--num-clips", required=True, type=positive_int, metavar="N")
    synthesize.add_argument("--seed", required=True, type=int, metavar="S", help="the same seed gives the same clips")
    synthesize.add_argument(
        "--split", default="train", choices=("train", "validation", "test_seen", "test_unseen"), help="default: train"
    )
    synthesize.add_argument("--sounds", metavar="DIR", help="folder of the recordings; fetched there if absent")
    synthesize.add_argument("--num-workers", type=positive_int, default=1, metavar="K", help="processes (default 1)")
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
    score.add_argument(
        "--batch-size", type=positive_int, default=8, metavar="N", help="recordings at a time (default 8)"
    )
    score.add_argument(
        "--num-absent", type=not_negative_int, default=2, metavar="N", help="absent queries per clip (default 2)"
    )
    score.add_argument(
        "--min-score", type=probability, metavar="P",
        help="detected events of a lower score, 0 to 1, count for PSDS alone (default: the checkpoint's; 0: all count)",
    )  # fmt: skip
    score.add_argument("--unconstrained", action="store_true", help="let the model say anything while it answers")
    score.add_argument("--limit", type=positive_int, metavar="N", help="only the first N recordings")
    score.add_argument("--overwrite", action="store_true", help="answer anew instead of resuming")
    score.set_defaults(run=score_model)

    publish = commands.add_parser(
        "publish", help="check a checkpoint and upload it to the Hugging Face Hub",
        description="Check a checkpoint and upload it to the Hugging Face Hub, all files in one commit: its card and "
        "figures, its code, that no file is a pickle, and that it loads in a fresh process with transformers, torch "
        "and soundfile alone. If a check fails, all failures are listed and nothing is uploaded.",
        epilog="It needs a token that may write: run `hf auth login` once, or set HF_TOKEN. More: docs/publishing.md.",
    )  # fmt: skip
    publish.add_argument("folder", metavar="DIR", help="checkpoint, with its card README.md")
    publish.add_argument("repo_id", metavar="REPO_ID", help="where to, OWNER/NAME; made if it does not exist")
    publish.add_argument("--private", action="store_true", help="visible to its owner alone")
    publish.add_argument(
        "--dry-run", action="store_true", help="only check, and list what would be uploaded; needs no network"
    )
    publish.set_defaults(run=publish_checkpoint)
    return parser


def describe(args) -> int:
    """Run `info`."""
    import json

    from recipes.cli.info import describe_checkpoint, description_lines

    description = describe_checkpoint(args.model)
    print(json.dumps(description) if args.json else "\n".join(description_lines(description)))
    return 0


def make_checkpoint(args) -> int:
    """Run `convert`."""
    logging.getLogger().setLevel(logging.INFO)
    with contextlib.redirect_stdout(sys.stderr):
        from recipes.conversion.convert import convert

        convert(**{name: getattr(args, name) for name in inspect.signature(convert).parameters})
    return 0


def merge_adapter(args) -> int:
    """Run `merge`."""
    logging.getLogger().setLevel(logging.INFO)
    from recipes.conversion.merge import merge

    merge(**{name: getattr(args, name) for name in inspect.signature(merge).parameters})
    return 0


def make_soundscapes(args) -> int:
    """Run `synthesize`."""
    logging.getLogger().setLevel(logging.INFO)
    from recipes.soundscapes.synthesize import synthesize

    names = ("out", "num_clips", "seed", "split", "sounds", "num_workers")
    try:
        synthesize(**{name: getattr(args, name) for name in names})
    except RuntimeError as error:  # recordings that are not installed, with the way to get them
        print(f"timepro: {error}", file=sys.stderr)
        return 1
    return 0


def score_model(args) -> int:
    """Run `score` and print the report; return 1 if any recording failed."""
    from recipes.evaluation.report_files import report_paths
    from recipes.evaluation.report_tables import format_report

    common = ("data", "out", "limit", "data_format", "audio_dir", "durations", "label_aliases", "min_score")
    common = {name: getattr(args, name) for name in common}
    if args.predictions:
        if args.unconstrained:
            raise argparse.ArgumentError(None, "--unconstrained given with --predictions, whose answers are there.")
        from recipes.evaluation.predictions import score_predictions

        report = score_predictions(args.predictions, **common)
    else:
        from recipes.evaluation.score_checkpoint import score

        names = ("model", "batch_size", "num_absent", "overwrite")
        with contextlib.redirect_stdout(sys.stderr):
            options = {name: getattr(args, name) for name in names}
            report = score(**common, **options, constrained=not args.unconstrained)
    print(format_report(report))
    if failures := report["failures"]:
        print(
            f"timepro: {len(failures)} of {report['num_clips']} recordings failed and were not scored, for instance "
            f"{failures[0]['id']!r}: {failures[0]['error']} All are listed in {report_paths(args.out)['json']}; mend "
            "them and run the command again, which asks about these only.",
            file=sys.stderr,
        )
    return 1 if failures else 0


def publish_checkpoint(args) -> int:
    """Run `publish`."""
    from recipes.publishing.publish import publish

    publish(args.folder, args.repo_id, private=args.private, dry_run=args.dry_run)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 1 after an error, or 2 for wrong arguments."""
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        return args.run(args)
    except argparse.ArgumentError as error:
        parser.error(str(error))
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


def _plot(file: str, events: list[dict], title: str, path: str):
    from processing.audio_io import load_audio
    from processing.events import Event
    from space_app.plots import plot_events

    plot_events(load_audio(file), 16000, [Event.from_dict(event) for event in events], path=path, title=title)
    print(f"timepro: wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
