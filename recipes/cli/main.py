"""The `timepro` command: find events in recordings, describe a checkpoint, make data, score, publish.

Heavy packages are imported only when a command needs them, so that `timepro --help` is fast.
"""

import argparse
import contextlib
import importlib
import inspect
import logging
import sys
from dataclasses import replace
from functools import partial

from recipes.arguments import (
    ArgumentParser,
    add_decode,
    add_hearing,
    add_model,
    not_negative_int,
    positive_int,
    probability,
)
from recipes.cli.annotate import add_annotate_arguments
from recipes.cli.answer import add_answer_arguments, answer
from recipes.cli.listen import add_listen_arguments, listen
from recipes.cli.output import LineFormatter, name_first
from recipes.evaluation.runner import Unavailable


def build_parser() -> ArgumentParser:
    """Return the parser of all commands."""
    parser = ArgumentParser(
        prog="timepro", description="Find sound events in recordings: their onsets and offsets, in seconds."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, task, text in (
        ("detect", "detection", "list all events in recordings"),
        ("ground", "grounding", "find events, described in words, in recordings"),
        ("caption", "captioning", "describe what happens in recordings, and when, in words"),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_answer_arguments(command, task)
        command.set_defaults(run=partial(answer, plot=_plot))
    annotate = commands.add_parser(
        "annotate", help="run on very many recordings, in processes or on a Ray cluster, into Parquet files",
        description="Run a checkpoint on very many recordings, into Parquet files for training. An interrupted run "
        "resumes; every recording ends up exactly once in the annotations or the failures.",
    )  # fmt: skip
    add_annotate_arguments(annotate)
    for add_command in (_add_listen, _add_info, _add_convert, _add_merge, _add_synthesize, _add_score, _add_publish):
        add_command(commands)
    return parser


def _add_listen(commands):
    text = "print events from a microphone or piped audio as they end"
    command = commands.add_parser("listen", help=text, description=text[0].upper() + text[1:] + ", as JSON Lines.")
    add_listen_arguments(command)
    command.set_defaults(run=listen)


def _add_info(commands):
    info = commands.add_parser(
        "info", help="describe a checkpoint",
        description="Describe a checkpoint without loading it, and list the versions of installed packages: include "
        "this in bug reports. The first line is the checkpoint's folder.",
    )  # fmt: skip
    add_model(info, "model", nargs="?")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=describe)


def _add_convert(commands):
    convert = commands.add_parser(
        "convert", help="turn an audio language model into a checkpoint with time tokens",
        description="Turn an audio language model into a TimePro checkpoint: add a token for every time step (a tick), "
        "initialise its embedding, and copy all other weights as they are.",
    )  # fmt: skip
    add = convert.add_argument
    add("--backbone", required=True, metavar="DIR_OR_HUB_ID", help="the audio language model: a folder or Hub id")
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--time-step", type=float, default=0.04, metavar="S", help="seconds between ticks (default 0.04)")
    add("--max-time", type=float, default=30.0, metavar="S", help="latest time that has a tick, seconds (default 30)")
    add("--time-stride", type=int, default=1, metavar="N", help="put every Nth tick into the prompt (default 1)")
    add(
        "--no-time-prompt", dest="time_prompt", action="store_false",
        help="put no ticks into the prompt; answers may still use them",
    )  # fmt: skip
    add(
        "--time-init", choices=("mean", "place", "centred_mean", "centred_place", "random"), default="mean",
        help="initial tick embeddings: the mean of the number's tokens, a mean weighted by decimal place, either of "
        "them less what all ticks have in common, or random (default mean)",
    )  # fmt: skip
    add(
        "--answer-format", choices=("digits", "ticks"), default="digits",
        help="write times in answers as decimal numbers or as ticks (default digits)",
    )  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="random seed of --time-init random (default 0)")
    add("--max-shard-size", default="5GB", metavar="SIZE", help="largest file of weights (default 5GB)")
    add("--overwrite", action="store_true", help="replace a checkpoint that is already in --out")
    convert.set_defaults(run=partial(_run, "recipes.conversion.convert", ()))


def _add_merge(commands):
    merge = commands.add_parser(
        "merge", help="merge a LoRA adapter into the checkpoint that it was trained on",
        description="Merge a LoRA adapter into the checkpoint that it was trained on, one file of weights at a time.",
    )  # fmt: skip
    merge.add_argument("adapter", metavar="ADAPTER", help="folder of the LoRA adapter")
    merge.add_argument("out", metavar="OUT", help="folder to write")
    merge.add_argument("--base", metavar="DIR", help="checkpoint (default: the one that the adapter names)")
    merge.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest file of weights (default 5GB)")
    merge.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is already in OUT")
    merge.set_defaults(run=partial(_run, "recipes.conversion.merge", ()))


def _add_synthesize(commands):
    synthesize = commands.add_parser(
        "synthesize", help="mix real recordings into soundscapes with exact annotations",
        description="Mix real recordings into soundscapes with exact annotations. Missing recordings are downloaded.",
    )  # fmt: skip
    add = synthesize.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--num-clips", required=True, type=positive_int, metavar="N", help="number of clips")
    add("--seed", required=True, type=int, metavar="N", help="random seed; the same seed gives the same clips")
    splits = (
        "train", "validation", "test_seen", "test_unseen", "train_field", "validation_field", "test_field", "train_all"
    )  # fmt: skip
    add("--split", default="train", choices=splits, help="which recordings to mix (default train)")
    add("--sounds", metavar="DIR", help="folder of the source recordings (default: a cache folder)")
    add("--num-workers", type=positive_int, default=1, metavar="N", help="number of processes (default 1)")
    synthesize.set_defaults(run=partial(_run, "recipes.soundscapes.synthesize", RuntimeError))


def _add_score(commands):
    score = commands.add_parser(
        "score", help="score a checkpoint, or a file of predictions, on annotated recordings",
        description="Score a checkpoint, or a file of predictions, on annotated recordings: event-based and "
        "segment-based F1, PSDS, grounding, rejection and captions, with bootstrap intervals.",
    )  # fmt: skip
    add = score.add_argument
    data = score.add_mutually_exclusive_group(required=True)
    # SUPPRESS: an absent positional would otherwise overwrite what --data gave.
    data.add_argument(
        "data", nargs="?", default=argparse.SUPPRESS, metavar="DATA",
        help="annotated recordings: what `timepro synthesize` writes, or any format of docs/data-formats.md",
    )  # fmt: skip
    data.add_argument("--data", metavar="DATA", help="the same as DATA")
    add("--data-format", metavar="NAME", help=_FormatsHelp("default: detected from the contents. One of "))
    add("--audio-dir", metavar="DIR", help="folder of the recordings (default: that of the data)")
    add("--durations", metavar="TABLE", help="table of filename and duration, for data without durations")
    add("--label-aliases", metavar="JSON", help='other names for labels: {"alias": "label", ...}')
    add("--out", required=True, metavar="PATH", help="folder for report.json, report.md, ...; or the report, NAME.json")
    answers = score.add_mutually_exclusive_group()
    add_model(answers)
    answers.add_argument("--predictions", metavar="JSONL", help="score these predictions, without a model")
    add("--batch-size", type=positive_int, default=8, metavar="N", help="questions per batch (default 8)")
    add_hearing(score)
    add("--num-absent", type=not_negative_int, default=2, metavar="N", help="absent queries per clip (default 2)")
    add(
        "--min-score", type=probability, metavar="P",
        help="ignore detected events with a lower score, 0 to 1, except in PSDS (default: the checkpoint's; 0: none)",
    )  # fmt: skip
    add("--unconstrained", action="store_true", help="do not constrain answers to the grammar")
    add_decode(score)
    add("--against", metavar="JSONL", help="compare with these predictions: paired differences and p-values")
    add("--against-min-score", type=probability, metavar="P", help="--min-score for --against (default: the same)")
    add("--limit", type=positive_int, metavar="N", help="only the first N recordings")
    add("--overwrite", action="store_true", help="start again instead of resuming")
    score.set_defaults(run=score_model)


def _add_publish(commands):
    publish = commands.add_parser(
        "publish", help="check a checkpoint and upload it to the Hugging Face Hub",
        description="Check a checkpoint and upload it to the Hugging Face Hub, all files in one commit. The checks "
        "cover its card and figures, its code, pickles, and loading it in a fresh process with transformers, torch and "
        "soundfile alone. If a check fails, all failures are listed and nothing is uploaded.",
        epilog="Uploading needs a token with write access: run `hf auth login` once, or set HF_TOKEN. See "
        "docs/publishing.md.",
    )  # fmt: skip
    publish.add_argument("folder", metavar="DIR", help="checkpoint, with its card README.md")
    publish.add_argument("repo_id", metavar="REPO_ID", help="repository, OWNER/NAME; created if it does not exist")
    publish.add_argument("--private", action="store_true", help="create it as a private repository")
    publish.add_argument(
        "--dry-run", action="store_true", help="only check, and list what would be uploaded; needs no network"
    )
    publish.set_defaults(run=publish_checkpoint)


def describe(args) -> int:
    """Run `info`."""
    import json

    from recipes.cli.info import describe_checkpoint, description_lines

    description = describe_checkpoint(args.model)
    print(json.dumps(description) if args.json else "\n".join(description_lines(description)))
    return 0


def _run(module: str, shown, args) -> int:
    """Call the function of the same name in a module, logging progress and keeping stdout clean.

    Args:
        shown: further exceptions to print as errors: recordings that are missing, with instructions to get them.
    """
    logging.getLogger().setLevel(logging.INFO)
    with contextlib.redirect_stdout(sys.stderr):
        function = getattr(importlib.import_module(module), module.rpartition(".")[2])
        try:
            function(**_arguments_of(function, args))
        except shown as error:
            print(f"timepro: {error}", file=sys.stderr)
            return 1
    return 0


def score_model(args) -> int:
    """Run `score` and print the report; return 1 if any recording failed."""
    from recipes.data.questions import SCORING
    from recipes.evaluation.report import report_paths
    from recipes.evaluation.report_tables import format_report
    from recipes.evaluation.score import score_checkpoint, score_predictions

    if args.against_min_score is not None and args.against is None:
        raise argparse.ArgumentError(None, "--against-min-score given without --against; leave it out.")
    if args.predictions:
        if args.unconstrained:
            raise argparse.ArgumentError(None, "--unconstrained given with --predictions; leave one of them out.")
        if args.decode:
            raise argparse.ArgumentError(None, "--decode given with --predictions; leave one of them out.")
        report = score_predictions(**_arguments_of(score_predictions, args))
    else:
        args.constrained, args.policy = not args.unconstrained, replace(SCORING, num_absent=args.num_absent)
        with contextlib.redirect_stdout(sys.stderr):
            report = score_checkpoint(**_arguments_of(score_checkpoint, args))
    print(format_report(report))
    if failures := report["failures"]:
        print(
            f"timepro: {len(failures)} of {report['num_clips']} recordings failed and were not scored, for instance "
            f"{failures[0]['id']!r}: {failures[0]['error']} All are listed in {report_paths(args.out)['json']}; fix "
            "them and run the same command again, which retries only these.",
            file=sys.stderr,
        )
    return 1 if failures else 0


def publish_checkpoint(args) -> int:
    """Run `publish`."""
    from recipes.publishing.publish import publish

    publish(**_arguments_of(publish, args))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 1 after an error, or 2 for wrong arguments."""
    parser = build_parser()
    args = parser.parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        return args.run(args)
    except argparse.ArgumentError as error:
        parser.error(str(error))
    except (OSError, ValueError, Unavailable) as error:
        print(f"timepro: {name_first(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class _FormatsHelp(str):
    """A help text that ends with the names of all formats; their readers are imported only when it is shown."""

    def __mod__(self, _):
        from recipes.data.formats import READERS

        return self + ", ".join(READERS)


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        from importlib.metadata import version

        print(f"timepro {version('timepro')}")
        parser.exit()


def _arguments_of(function, args) -> dict:
    """Return the parsed arguments that a function has parameters for."""
    return {name: getattr(args, name) for name in inspect.signature(function).parameters if hasattr(args, name)}


def _plot(file: str, events: list[dict], title: str, path: str):
    from processing.audio_io import load_audio
    from processing.events import Event
    from space_app.plots import plot_events

    plot_events(load_audio(file), 16000, [Event.from_dict(event) for event in events], path=path, title=title)
    print(f"timepro: wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
