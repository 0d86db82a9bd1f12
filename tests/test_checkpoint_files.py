"""Which files a checkpoint holds, and what is found wrong with others; its card and the figures in it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData

from recipes import DEFAULT_CHECKPOINT
from recipes.cli.info import describe_checkpoint, description_lines
from recipes.publishing.card_checks import check_card
from recipes.publishing.file_checks import check_files, checkpoint_code, is_pickle
from recipes.publishing.model_card import FIGURE_COLUMNS, eval_results, failures_list, figures_table, recordings_table
from recipes.small.link_code import code_sources
from recipes.soundscapes.catalogue import load_catalogue

# By protocol, written by hand: a call of `os.system`, an empty dict, the list [None], and an empty list in a frame.
PICKLES = {
    0: b"cos\nsystem\n(S'true'\ntR.", 2: b"\x80\x02}q\x00.", 3: b"\x80\x03]q\x00Na.",
    4: b"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00]\x94.",
}  # fmt: skip
needs_default_checkpoint = pytest.mark.skipif(
    not DEFAULT_CHECKPOINT.exists(), reason="the embedded checkpoint is not in this copy"
)


@pytest.fixture
def folder(scripted_checkpoint, tmp_path):
    """Return the folder of a checkpoint to be spoilt."""
    return Path(shutil.copytree(scripted_checkpoint("dog bark"), tmp_path / "checkpoint"))


@pytest.fixture
def released(tmp_path):
    """Return a copy of the embedded checkpoint's card and scores, to be spoilt."""
    for name in ("README.md", "scores.json"):
        shutil.copy(DEFAULT_CHECKPOINT / name, tmp_path)
    return tmp_path


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_code_is_what_the_settings_lead_to(folder):
    expected = set(code_sources())
    assert checkpoint_code(folder) == expected
    problems, notes = check_files(folder)
    assert problems == [] and notes == [f"{len(expected)} code files, equal to those of this package."]


@needs_default_checkpoint
def test_the_embedded_checkpoint_holds_these_files_and_no_pickle():
    assert check_files(DEFAULT_CHECKPOINT)[0] == []
    code = set(code_sources())
    others = {"README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
              "processor_config.json", "scores.json", "tokenizer.json", "tokenizer_config.json",
              "training_log.jsonl"}  # fmt: skip
    assert {path.name for path in DEFAULT_CHECKPOINT.rglob("*")} == code | others
    assert not [path.name for path in DEFAULT_CHECKPOINT.iterdir() if is_pickle(path)]
    # Nothing in it tells of the machine that made it.
    for path in DEFAULT_CHECKPOINT.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("runs/", "/home/", "/root/", "/tmp/", "local_files_only")), path


def test_pickles_are_found_whatever_their_name(tmp_path):
    for protocol, content in PICKLES.items():
        (tmp_path / f"{protocol}.json").write_bytes(content)
    torch.save({"a": torch.zeros(2)}, tmp_path / "zip.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == len(PICKLES) + 2 and all(is_pickle(tmp_path / name) for name in names)


def test_weights_whose_header_reads_as_a_pickle_are_none(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    length = int.from_bytes(content[:8], "little")
    # A header of 0x..28 bytes begins as a pickle does; others of 0x2e end it. Spaces may follow its JSON.
    for longer in range(length, length + 4096):
        padded = longer.to_bytes(8, "little") + content[8 : 8 + length].ljust(longer) + content[8 + length :]
        weights.write_bytes(padded)
        if is_pickle(weights):
            break
    else:
        raise AssertionError("no header reads as a pickle")
    assert not [problem for problem in check_files(folder)[0] if "pickle" in problem or "safetensors" in problem]


def test_all_that_is_wrong_is_listed_at_once(folder):
    (folder / "windowing.py").unlink()
    (folder / "tokenizer.json").unlink()
    (folder / "leftover.py").write_text("")
    (folder / "events.py").write_text((folder / "events.py").read_text() + "# mine\n")
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "optimizer.pt").write_bytes(PICKLES[2])
    (folder / "scores.json").write_bytes(PICKLES[0])
    (folder / "logs").mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    problems, notes = check_files(folder)
    assert "logs is an empty folder, and no part of a checkpoint; remove it." in problems
    assert len(problems) == 7
    for start in ("windowing.py is missing", "tokenizer.json is missing", "leftover.py is not part of a checkpoint",
                  "checkpoint-10/optimizer.pt is, or may hold, a pickle", "scores.json is, or may hold, a pickle",
                  "model.safetensors is not a whole safetensors file"):  # fmt: skip
        assert any(problem.startswith(start) for problem in problems), (start, problems)
    assert notes == ["code that differs from this package's, published as it is: events.py."]


def test_shards_are_weights(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert check_files(folder)[0] == ["model-00002-of-00002.safetensors is missing; save the checkpoint again."]
    for name in ("model-00002-of-00002.safetensors", "model.safetensors"):
        shutil.copy(folder / names["a"], folder / name)
    assert "there are both model.safetensors and model.safetensors.index.json" in check_files(folder)[0][0]


def test_code_of_another_repository_is_refused(folder):
    change(folder / "config.json", '"modeling_timepro.TimeProAudioModel"', '"else/where--modeling_timepro.Model"')
    assert "code of another repository" in check_files(folder)[0][0]
    assert "holds no config.json" in check_files(folder.parent)[0][0]


@needs_default_checkpoint
def test_the_card_holds_every_figure_of_its_scores():
    card = ModelCard.load(DEFAULT_CHECKPOINT / "README.md")
    scores = json.loads((DEFAULT_CHECKPOINT / "scores.json").read_text())
    results = card.data.eval_results
    assert results == eval_results(scores, "timepro-small") and len(results) == 3 * len(FIGURE_COLUMNS)
    # Each of them is a cell of the table in the card: four decimals there are three here.
    text = card.text
    for result in results:
        row = next(line for line in text.splitlines() if line.startswith(f"| timepro-small, {result.dataset_config} |"))
        cell = row.split(" | ")[1 + list(FIGURE_COLUMNS).index(result.metric_name)]
        assert abs(float(cell.split()[0]) - result.metric_value) < 6e-4
        assert result.source_name and result.source_url.endswith("/scores.json")
    assert failures_list(scores, "timepro-small") in text
    assert recordings_table([file for file in load_catalogue() if file.split]) in text
    seconds = json.loads((DEFAULT_CHECKPOINT / "training_log.jsonl").read_text().splitlines()[-1])["train_runtime"]
    assert f"{seconds:,.0f} s" in text
    assert check_card(DEFAULT_CHECKPOINT) == ([], ["18 figures of the card agree with the reports."])


@needs_default_checkpoint
def test_metadata_are_what_huggingface_hub_reads_and_writes():
    card = ModelCard.load(DEFAULT_CHECKPOINT / "README.md")
    data = card.data.to_dict()
    assert ModelCardData(**data).to_dict() == data and ModelCard(str(card)).data.to_dict() == data
    assert str(card) == (DEFAULT_CHECKPOINT / "README.md").read_text(encoding="utf-8")
    expected = {"license": "apache-2.0", "language": ["en"], "library_name": "transformers",
                "pipeline_tag": "audio-text-to-text", "base_model": "google/yamnet"}  # fmt: skip
    assert {name: data[name] for name in expected} == expected
    assert set(data) == {*expected, "datasets", "tags", "metrics", "model-index"}


def test_recordings_are_counted_by_package_and_licence():
    files = [file for file in load_catalogue() if file.split]
    table = recordings_table(files)
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    assert sum(int(cell) for row in rows for cell in row[2:]) == len(files)
    assert {row[0].split()[0] for row in rows} == {file.package[1] for file in files}


@needs_default_checkpoint
@pytest.mark.parametrize(
    "old, new, message",
    [
        ("value: 0.6523\n", "value: 0.662\n", "Eb-F1 micro of seen is 0.662, but the report says 0.6523"),
        ("name: Eb-F1 macro", "name: accuracy", "the reports have no accuracy of field"),
        ("| timepro-small, unseen | 0.442", "| timepro-small, unseen | 0.540", "its table is not that of the reports"),
        ("license: apache-2.0\n", "", "its metadata lack license; write license: such as apache-2.0"),
        ("library_name: transformers", "library_name: keras", "library_name is 'keras'"),
        ("- en\n", "- English\n", "language is 'English'"),
        ("base_model: google/yamnet\n", "", "lack base_model"),
        ("license: apache-2.0", "license: other", "name it by license_name"),
        ("language:\n", "language: [\n", "its metadata cannot be read"),
        ("  results:\n", "  outcome:\n", "its metadata cannot be read"),
        ("## Limits", "[More Information Needed]\n## Limits", "1 places say '[More Information Needed]'"),
    ],
)
def test_spoilt_cards(released, old, new, message):
    change(released / "README.md", old, new)
    problems, _ = check_card(released)
    assert any(message in problem for problem in problems), problems


@needs_default_checkpoint
def test_cards_and_reports_may_be_missing(released):
    scores = json.loads((released / "scores.json").read_text())
    (released / "scores.json").unlink()
    assert check_card(released) == (
        [], ["18 figures in the card, and no scores.json or report.json to compare them with."]
    )  # fmt: skip
    # A report of one's own holds one test.
    (released / "report.json").write_text(json.dumps(scores["timepro-small, seen"]))
    wrong = check_card(released)[0]
    # All of the other tests but `unparseable`, which is 0 in all, and the table.
    assert len(wrong) == 11 and all("of unseen is" in one or "of field is" in one for one in wrong[:-1])
    (released / "README.md").unlink()
    assert check_card(released)[0] == ["README.md, the card, is missing; docs/publishing.md has one to start from."]


@needs_default_checkpoint
def test_info_is_the_card_and_the_settings():
    description = describe_checkpoint(DEFAULT_CHECKPOINT)
    assert json.loads(json.dumps(description)) == description
    assert description["ticks"] == {"number": 375, "step": 0.08, "max_time": 30.0, "init": "random", "stride": 1}
    assert (description["min_score"], description["chunk_length_s"]) == (0.25, 10.0)
    scores = json.loads((DEFAULT_CHECKPOINT / "scores.json").read_text())
    micro = scores["timepro-small, unseen"]["detection"]["micro"]["f1"]
    assert {"metric": "Eb-F1 micro", "dataset": "unseen", "value": round(micro, 4)} in description["figures"]
    lines = description_lines(description)
    assert f"card, unseen  Eb-F1 micro {micro:.4f}" in "\n".join(lines) and "min score     0.25" in lines
    assert "| timepro-small, unseen |" in figures_table(scores)
