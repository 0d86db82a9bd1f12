"""The ablation's tables and picture, and its driver on a tiny model."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.small import ablation
from recipes.small.ablation_report import (
    arm_table,
    figures_of,
    plot_strides,
    shared_seeds,
    stride_table,
    write_ablation,
)

ROOT = Path(__file__).parents[1]
SPLITS = ("test_unseen", "test_seen")


def report_of(f1, has_captions=False):
    """Return a report whose every figure is made from one number."""
    report = {
        "grounding": {"R@0.5": f1 / 2, "intervals": {"R@0.5": [f1 / 4, f1]}},
        "detection": {"micro": {"f1": f1, "precision": f1}, "intervals": {"micro_f1": [f1 - 0.1, f1 + 0.1]}},
    }
    if has_captions:
        report["captioning"] = {"meteor_text": 0.25, "time_only": {"micro": {"f1": 0.5}}, "intervals": {}}
    return report


def result(arm, f1, seed=0):
    """Return the result of an arm as tables are made of it."""
    return {"arm": arm, "seed": seed, "scores": {split: figures_of(report_of(f1)) for split in SPLITS}}


def test_a_figure_and_its_interval_are_found_in_a_report():
    figures = figures_of(report_of(0.4, has_captions=True))
    assert figures["Eb-F1"] == {"value": 0.4, "interval": [pytest.approx(0.3), 0.5]}
    assert figures["R@.5"] == {"value": 0.2, "interval": [0.1, 0.4]}
    assert figures["captions' Eb-F1"] == {"value": 0.5, "interval": None}
    assert "absent rejected" not in figures


def test_a_table_shows_means_over_seeds_and_only_what_there_is():
    results = [result("a", 0.4), result("a", 0.6, seed=1), result("b", 0.2)]
    # Means: F1 (.4 + .6) / 2 = .5 of .3 to .5 and .5 to .7; R@.5 (.2 + .3) / 2 of .1 to .4 and .15 to .6.
    assert arm_table(results, ["b", "a", "c"], "test_seen") == (
        "| | R@.5 | Eb-F1 | precision |\n|---|---|---|---|\n"
        "| b | 0.100<br><sub>0.050 to 0.200</sub> | 0.200<br><sub>0.100 to 0.300</sub> | 0.200 |\n"
        "| a<br><sub>2 seeds</sub> | 0.250<br><sub>0.125 to 0.500</sub><br><sub>seeds 0.200 to 0.300</sub> "
        "| 0.500<br><sub>0.400 to 0.600</sub><br><sub>seeds 0.400 to 0.600</sub> "
        "| 0.500<br><sub>seeds 0.400 to 0.600</sub> |\n"
    )


def test_a_table_shows_paired_differences_to_the_first_arm():
    def paired(seed, difference, p):
        pair = {"value": 0.4, "other": 0.4 - difference, "difference": difference, "interval": [0.0, 1.0], "p": p}
        report = report_of(0.4) | {"against": {"detection": {"micro_f1": pair}}}
        return {"arm": "b", "seed": seed, "scores": {"test_seen": figures_of(report)}}

    one, two = paired(0, 0.1, 0.01), paired(1, 0.05, 0.2)
    table = arm_table([result("a", 0.3), one], ["a", "b"], "test_seen")
    assert table.count("to the first arm") == 1
    assert "0.500</sub><br><sub>+0.100 to the first arm, +0.000 to +1.000, p 0.010</sub>" in table
    assert one["scores"]["test_seen"]["Eb-F1"]["paired"] == {"difference": 0.1, "interval": [0.0, 1.0], "p": 0.01}
    # Seeds are compared together, not each by itself.
    assert "first arm" not in arm_table([one, two], ["b"], "test_seen")
    over_seeds = {"num_seeds": 2, "Eb-F1": {"difference": 0.075, "interval": [0.02, 0.13], "p": 0.004}}
    table = arm_table([one, two], ["b"], "test_seen", {"b": {"test_seen": over_seeds}})
    assert "<br><sub>+0.075 to the first arm, +0.020 to +0.130, p 0.004</sub>" in table


@pytest.fixture
def runs(tmp_path):
    """Return the arguments of an ablation with two seeds of `before` and of `GRPO, sum`, which finds one event more."""
    rows, truth = [], {"onset": 1.0, "offset": 2.0, "event_label": "dog bark"}
    for index in range(20):
        rows.append({"id": str(index), "audio": f"{index}.wav", "duration": 10.0, "events": [truth]})
    (tmp_path / "data").mkdir()
    for split in SPLITS:
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for arm, seed in (("before", 0), ("before", 1), ("GRPO, sum", 0), ("GRPO, sum", 1)):
        folder = ablation.arm_folder(tmp_path / "out", arm, seed)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"arm": arm, "seed": seed}))
        num_right = 8 + seed + 6 * (arm != "before")
        for split in SPLITS:
            events = [[truth | {"score": 0.5}] if index < num_right else [] for index in range(20)]
            answers = [{"id": str(index), "task": "detection", "query": None, "events": found}
                       for index, found in enumerate(events)]  # fmt: skip
            lines = "".join(json.dumps(answer) + "\n" for answer in answers)
            (folder / f"{split}_predictions.jsonl").write_text(lines)
    return SimpleNamespace(out=str(tmp_path / "out"), data=str(tmp_path / "data"), num_clips=20)


def test_seeds_are_compared_in_pairs_over_clips_and_seeds(runs):
    ablation.compare_seeds(runs)
    compared = json.loads((Path(runs.out) / "paired.json").read_text())
    assert list(compared) == ["GRPO, sum"] and compared["GRPO, sum"]["test_seen"]["num_seeds"] == 2
    figure = compared["GRPO, sum"]["test_unseen"]["Eb-F1"]

    def f1(num_right):
        return 2 * num_right / (20 + num_right)

    expected = (f1(14) + f1(15) - f1(8) - f1(9)) / 2
    assert figure["difference"] == pytest.approx(expected)
    assert 0 < figure["interval"][0] < expected < figure["interval"][1] and figure["p"] < 0.01


def test_strides_are_compared_on_the_seeds_that_all_have():
    results = [result("dense", 0.4), result("dense", 0.6, seed=1), result("bare", 0.2), result("other", 0.1, seed=1)]
    assert shared_seeds(results, ["dense", "sparse", "bare"]) == [results[0], results[2]]
    assert shared_seeds(results, ["sparse"]) == []


COSTS = {
    "dense": {"tokens_10s": 260, "tokens_30s": 760, "prefill_seconds_10s": 0.2, "prefill_seconds_30s": 0.9},
    "bare": {"tokens_10s": 135, "tokens_30s": 385, "prefill_seconds_10s": 0.1, "prefill_seconds_30s": 0.3},
}
STRIDES = {"1": "dense", "5": "sparse", "none": "bare"}


def test_costs_are_told_beside_those_without_ticks():
    lines = stride_table([result("dense", 0.4), result("bare", 0.2)], STRIDES, COSTS).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 1 | 0.400") and lines[3].startswith("| none | 0.200")
    assert lines[2].endswith("| 260 | 760 | 2.00 x | 3.00 x |")
    assert lines[3].endswith("| 135 | 385 | 1.00 x | 1.00 x |")


def test_the_picture_shows_every_stride_that_was_scored(tmp_path):
    figure = plot_strides([result("dense", 0.4), result("bare", 0.2)], STRIDES, COSTS, tmp_path / "strides.png")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["1", "none"]
    assert left.get_ylabel() == "event-based F1" and "0.08 s" in left.get_xlabel()
    assert [list(line.get_ydata()) for line in right.lines] == [[760 / 385, 1.0], [pytest.approx(3.0), 1.0]]
    assert (tmp_path / "strides.png").stat().st_size > 10_000


def test_the_page_of_the_documentation_agrees_with_its_figures(tmp_path):
    page, figures = (ROOT / "docs" / f"ablation.{suffix}" for suffix in ("md", "json"))
    (tmp_path / "ablation.md").write_text(page.read_text())
    (tmp_path / "ablation.json").write_text(figures.read_text())
    kept = json.loads(figures.read_text())
    write_ablation(tmp_path / "runs", tmp_path, ablation.PROMPT_ARMS, ablation.GRPO_ARMS, ablation.STRIDES)
    assert (tmp_path / "ablation.md").read_text() == page.read_text()
    assert {made["arm"] for made in kept["results"]} <= {*ablation.SFT_ARMS, *ablation.GRPO_ARMS}
    assert json.loads((tmp_path / "ablation.json").read_text()) == kept


def test_seeds_are_added_to_what_was_published(tmp_path):
    page = "".join(f"<!-- table: {arms}, {split} --><!-- end of table -->" for arms in ("prompt", "GRPO")
                   for split in ("test_unseen", "test_seen"))  # fmt: skip
    (tmp_path / "ablation.md").write_text(f"{page}<!-- table: strides --><!-- end of table -->")
    first = {"arm": "mean", "seed": 0, "scores": {split: {"Eb-F1": {"value": 0.4, "interval": [0.3, 0.5]}}
                                                  for split in ("test_unseen", "test_seen")}}  # fmt: skip
    costs = {"mean": {"tokens_10s": 1}}
    (tmp_path / "ablation.json").write_text(json.dumps({"results": [first], "prompt_costs": costs}))
    for seed, f1 in ((1, 0.6), (0, 0.2)):
        folder = tmp_path / "runs" / str(seed)
        folder.mkdir(parents=True)
        scores = {split: report_of(f1) for split in SPLITS}
        (folder / "result.json").write_text(json.dumps({"arm": "mean", "seed": seed, "scores": scores}))
        write_ablation(tmp_path / "runs", tmp_path, ["mean"], [], {})
        kept = json.loads((tmp_path / "ablation.json").read_text())
        assert kept["prompt_costs"] == costs
        # What was scored again takes the place of what was published.
        expected = {1: [0.4, 0.6], 0: [0.2, 0.6]}[seed]
        assert [made["scores"]["test_seen"]["Eb-F1"]["value"] for made in kept["results"]] == expected
        assert f"{sum(expected) / 2:.3f}<br>" in (tmp_path / "ablation.md").read_text()


def test_an_unknown_arm_is_refused(capsys):
    with pytest.raises(SystemExit):
        ablation.main(["--arms", "random", "stride 3"])
    assert "--arms has ['stride 3']; choose from no prompt, random" in capsys.readouterr().err
