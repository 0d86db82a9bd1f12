"""Options of the command, of the modules that can be run, and of the recipes: one dialect, and what they mean."""

import argparse
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from trl import ModelConfig, TrlParser

import recipes
from recipes.arguments import ArgumentParser, positive_int, seconds
from recipes.cli.main import build_parser
from recipes.training.adapter import adapter_config
from recipes.training.grpo import GRPOArguments
from recipes.training.sft import SFTArguments


def long_options(parser):
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from long_options(command)


def test_options_of_the_command_are_taken_with_hyphens_and_with_underscores():
    options = [option for option in long_options(build_parser()) if "-" in option[2:]]
    assert len(options) > 30 and not any("_" in option for option in options)
    for spelling in ("--min-score", "--min_score"):
        assert build_parser().parse_args(["detect", "a.wav", spelling, "0.5"]).min_score == 0.5
        assert build_parser().parse_args(["score", "a.jsonl", "--out", "o", f"{spelling}=0.5"]).min_score == 0.5


def test_what_follows_an_equals_sign_or_two_hyphens_is_no_option():
    args = build_parser().parse_args(["ground", "--query=--a_b", "--", "--a_b.wav"])
    assert (args.query, args.files) == (["--a_b"], ["--a_b.wav"])


def test_every_module_that_is_run_uses_the_parser_that_takes_both_spellings():
    # isolated_load.py runs alone, where this package cannot be imported, and has no options.
    for path in Path(recipes.__file__).parent.rglob("*.py"):
        if path.name not in ("arguments.py", "isolated_load.py") and "checkpoints" not in path.parts:
            assert "argparse.ArgumentParser(" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("arguments", [SFTArguments, GRPOArguments])
@pytest.mark.parametrize("spelling", ["--num_absent", "--num-absent"])
def test_options_of_the_recipes_are_taken_with_hyphens_and_with_underscores(arguments, spelling):
    (parsed,) = TrlParser((arguments,)).parse_args_and_config([spelling, "3"])
    assert parsed.num_absent == 3


@pytest.mark.parametrize("arguments", [SFTArguments, GRPOArguments])
def test_every_option_of_the_recipes_has_a_help(arguments):
    parser = TrlParser((arguments,))
    assert [action.dest for action in parser._actions if not action.help] == []


def test_numbers_out_of_bounds_are_told_with_what_to_give(capsys):
    parser = ArgumentParser(prog="x")
    parser.add_argument("--num", type=positive_int)
    parser.add_argument("--length", type=seconds)
    cases = {("--num", "0"): "0 given; give 1 or more", ("--num", "x"): "invalid int value: 'x'",
             ("--length", "inf"): "inf given; give seconds, 0 or more"}  # fmt: skip
    for arguments, message in cases.items():
        with pytest.raises(SystemExit):
            parser.parse_args(arguments)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "targets, found",
    [
        (["q_proj"], ["decoder.q_proj", "encoder.q_proj"]),
        (["decoder.q_proj"], ["decoder.q_proj"]),
        (["q_proj", "v_proj"], ["decoder.q_proj", "decoder.v_proj", "encoder.q_proj", "encoder.v_proj"]),
        ([r"decoder\..*_proj"], ["decoder.q_proj", "decoder.v_proj"]),
    ],
)
def test_lora_target_modules_are_names_or_a_pattern_for_whole_paths(targets, found):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("encoder", "decoder"):
                parts = {part: torch.nn.Linear(4, 4) for part in ("q_proj", "v_proj")}
                setattr(self, name, torch.nn.ModuleDict(parts))

    (settings,) = TrlParser((ModelConfig,)).parse_args_and_config(
        ["--use_peft", "--lora_task_type", "FEATURE_EXTRACTION", "--lora_target_modules", *targets]
    )
    model = get_peft_model(Model(), adapter_config(settings))
    names = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert sorted(name.removeprefix("base_model.model.") for name in names) == found


def test_without_an_adapter_there_is_no_configuration_of_one():
    assert adapter_config(ModelConfig()) is None
