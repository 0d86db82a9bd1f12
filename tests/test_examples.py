"""The example recordings: real sounds that no training has used, with their true events and their sources."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from recipes.conversion.checkpoint_folder import load_pipeline
from recipes.soundscapes.catalogue import event_labels, load_catalogue
from recipes.soundscapes.examples import SCENES, SHAREABLE, provenance, shareable
from recipes.soundscapes.mixing import Soundscape
from recipes.soundscapes.sound_bank import SoundBank

EXAMPLES = Path(__file__).parents[1] / "space_app" / "examples"


def test_every_scene_is_shipped():
    assert {path.stem for path in EXAMPLES.glob("*.flac")} == set(SCENES)
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 2_000_000


@pytest.mark.parametrize("name", SCENES)
def test_an_example_is_audible_annotated_and_accounted_for(name):
    waveform, rate = soundfile.read(EXAMPLES / f"{name}.flac")
    seconds, labels = SCENES[name]
    assert rate == 16000 and len(waveform) == seconds * rate and 10 <= seconds <= 30
    assert 0.05 < np.abs(waveform).max() <= 1
    with open(EXAMPLES / f"{name}.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["filename", "onset", "offset", "event_label"]
    assert {row["event_label"] for row in rows} == set(labels) <= set(event_labels())
    for row in rows:
        assert row["filename"] == f"{name}.flac"
        assert 0 <= float(row["onset"]) < float(row["offset"]) <= seconds
    files = {file.ref: file for file in load_catalogue()}
    text = (EXAMPLES / f"{name}.txt").read_text(encoding="utf-8")
    sources = re.findall(r"^- (.*): ", text, re.MULTILINE)
    assert len(sources) >= 2
    for source in sources:
        if source in files:
            assert files[source].split == "heldout" and files[source].licence.startswith(SHAREABLE)
        else:
            assert source.startswith(("electronic:", "espeak-ng:"))


@pytest.mark.skipif(
    not getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16"),
    reason="this processor does not multiply in bfloat16",
)
def test_the_examples_have_the_same_events_in_bfloat16_as_in_float32(monkeypatch):
    found = []
    for name in ("float32", "bfloat16"):
        monkeypatch.setenv("TIMEPRO_CPU_DTYPE", name)
        pipe = load_pipeline()
        events = [event for path in sorted(EXAMPLES.glob("*.flac")) for event in pipe(str(path))["events"]]
        found.append([(event["onset"], event["offset"], event["event_label"]) for event in events])
    assert found[0] == found[1] and found[0]


def test_only_recordings_that_may_be_shared_are_used():
    bank = SoundBank()
    for file in load_catalogue():
        sound = (np.zeros(16000, dtype=np.float32), file.ref)
        if file.kind == "background":
            bank.backgrounds.append(sound)
        else:
            bank.events.setdefault(file.label, []).append(sound)
    part = shareable(bank, ("dog bark", "drum"))
    licences = {file.ref: file.licence for file in load_catalogue()}
    kept = [ref for sounds in part.events.values() for _, ref in sounds] + [ref for _, ref in part.backgrounds]
    assert set(part.events) == {"dog bark", "drum"} and part.backgrounds
    assert all(licences[ref].startswith(SHAREABLE) for ref in kept)
    everything = [ref for label in part.events for _, ref in bank.events[label]]
    assert len(kept) < len(everything) + len(bank.backgrounds)


def test_a_label_without_a_recording_to_share_is_named():
    file = next(file for file in load_catalogue() if not file.licence.startswith(SHAREABLE))
    bank = SoundBank({"dog bark": [(np.zeros(160), file.ref)]}, [])
    with pytest.raises(ValueError, match=r"\['dog bark'\] have no recording"):
        shareable(bank, ("dog bark",))


def test_provenance_names_each_source_once():
    refs = ["electronic:wail:heldout:0", "electronic:wail:heldout:0", load_catalogue()[0].ref]
    text = provenance(Soundscape(np.zeros(160), [], refs), 10.0)
    assert text.count("electronic:wail") == 1 and "made by a program" in text and load_catalogue()[0].licence in text
