"""Independent readers find in our files what we wrote, and we read theirs."""

import numpy as np
import pytest

from processing import Event
from recipes.data.label_files import read_labels, write_labels

STREET = [
    Event(0.5, 1.25, "dog bark", 0.875),
    Event(1.0, 2.112, "dog bark", 0.5),
    Event(2.112, 3.584, 'R&B "live" <loud>', None),
    Event(3.6, 4.0, "Käuzchen 猫", 0.25),
]


def written(tmp_path, format, events=STREET):
    result = {"file": "street.wav", "duration": 10.0, "events": events}
    (path,) = write_labels(result, tmp_path, format, drop_scores=True)
    return path


def test_webvtt_py_reads_our_captions(tmp_path):
    webvtt = pytest.importorskip("webvtt")
    for format, read in (("vtt", webvtt.read), ("srt", webvtt.from_srt)):
        captions = list(read(str(written(tmp_path, format))))
        assert [caption.start for caption in captions][:2] == ["00:00:00.500", "00:00:01.000"]
        assert [caption.end for caption in captions][-1] == "00:00:04.000"
        assert [caption.text for caption in captions][::3] == ["dog bark", "Käuzchen 猫"]


def test_praatio_reads_our_textgrids(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    events = [*STREET, Event(2, 2, "click"), Event(5, 6, "two\nlines")]
    grid = textgrid.openTextgrid(str(written(tmp_path, "textgrid", events)), includeEmptyIntervals=False)
    assert grid.tierNames[:2] == ("dog bark", "dog bark 2") and grid.maxTimestamp == 10.0
    found = [tuple(entry) for tier in grid.tiers for entry in tier.entries]
    assert (0.5, 1.25, "dog bark") in found and (2.112, 3.584, 'R&B "live" <loud>') in found
    assert (2.0, "click") in found and (5.0, 6.0, "two lines") in found and len(found) == len(events)


def test_textgrids_of_praatio_are_read(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    grid = textgrid.Textgrid(0, 4.0)
    grid.addTier(textgrid.IntervalTier("dogs", [(0.5, 1.25, "dog bark"), (2.0, 3.0, 'a "b"')], 0, 4.0))
    grid.addTier(textgrid.PointTier("clicks", [(1.5, "click")], 0, 4.0))
    for format in ("short_textgrid", "long_textgrid"):
        grid.save(str(tmp_path / "a.TextGrid"), format=format, includeBlankSpaces=True)
        (result,) = read_labels(tmp_path / "a.TextGrid")
        events = [Event(0.5, 1.25, "dog bark"), Event(2, 3, 'a "b"'), Event(1.5, 1.5, "click")]
        assert result == {"file": "a", "duration": 4.0, "events": [event.as_dict() for event in events]}


def test_jams_reads_our_jams_and_has_its_intervals(tmp_path):
    jams = pytest.importorskip("jams")
    jam = jams.load(str(written(tmp_path, "jams")), validate=True, strict=True)
    (annotation,) = jam.search(namespace="tag_open")
    intervals, values = annotation.to_interval_values()
    expected = np.array([[event.onset, event.offset] for event in STREET])
    assert intervals == pytest.approx(expected, abs=1e-12)
    assert values == [event.event_label for event in STREET]
    assert [item.confidence for item in annotation.data] == [0.875, 0.5, None, 0.25]


def test_pyannote_writes_the_rttm_that_we_do(tmp_path):
    core = pytest.importorskip("pyannote.core")
    events = [Event(0.5, 1.25, "dog"), Event(2.112, 3.584, "R&B")]
    annotation = core.Annotation(uri="street")
    for track, event in enumerate(events):
        annotation[core.Segment(event.onset, event.offset), track] = event.event_label
    assert annotation.to_rttm() == written(tmp_path, "rttm", events).read_text()
    (tmp_path / "theirs.rttm").write_text(annotation.to_rttm())
    (result,) = read_labels(tmp_path / "theirs.rttm")
    assert result == {"file": "street", "duration": None, "events": [event.as_dict() for event in events]}


def test_pyannote_database_reads_our_rttm_with_blanks_in_names_and_labels(tmp_path):
    util = pytest.importorskip("pyannote.database.util")
    events = [Event(0.5, 1.25, "dog bark", 0.5), Event(1.0, 2.0, "car_horn"), Event(2.5, 3.0, "dog bark")]
    path = tmp_path / "a.rttm"
    write_labels({"file": "x/my night.wav", "events": events}, path, "rttm")
    assert list(util.load_rttm(str(path))) == ["my_night"]
    found = util.load_rttm(str(path))["my_night"].itertracks(yield_label=True)
    assert [(segment.start, round(segment.end, 6), label) for segment, _, label in found] == [
        (0.5, 1.25, "dog_bark"), (1.0, 2.0, "car_horn"), (2.5, 3.0, "dog_bark"),
    ]  # fmt: skip
    # By the comments in the file the blanks come back, and underscores stay.
    (result,) = read_labels(path)
    assert result == {"file": "my night", "duration": None, "events": [event.as_dict() for event in events]}


def test_pympi_reads_our_eaf(tmp_path):
    elan = pytest.importorskip("pympi.Elan")
    eaf = elan.Eaf(str(written(tmp_path, "eaf")))
    assert list(eaf.tiers) == ["dog bark", "dog bark 2", 'R&B "live" <loud>', "Käuzchen 猫"]
    found = [entry for tier in eaf.tiers for entry in eaf.get_annotation_data_for_tier(tier)]
    assert found[:2] == [(500, 1250, "dog bark"), (1000, 2112, "dog bark")] and len(found) == len(STREET)
    assert [media["MEDIA_URL"] for media in eaf.media_descriptors] == ["street.wav"]


def test_pandas_reads_our_text_for_elan(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(written(tmp_path, "elan"), sep="\t", quoting=3)
    assert list(table["Annotation"]) == ["dog bark", "dog bark", 'R&B "live" <loud>', "Käuzchen 猫"]
    assert list(table["Begin Time - ss.msec"]) == [0.5, 1.0, 2.112, 3.6] and table["End Time - ss.msec"].max() == 4.0


def test_pysubs2_reads_our_captions(tmp_path):
    pysubs2 = pytest.importorskip("pysubs2")
    for format in ("vtt", "srt"):
        lines = list(pysubs2.load(str(written(tmp_path, format))))
        assert [(line.start, line.end) for line in lines][:2] == [(500, 1250), (1000, 2112)]
        assert lines[0].plaintext == "dog bark" and lines[3].plaintext == "Käuzchen 猫"


@pytest.mark.parametrize("format", ["tsv", "csv", "audacity"])
def test_dcase_util_reads_our_tables(format, tmp_path):
    containers = pytest.importorskip("dcase_util.containers")
    events = [Event(0.5, 1.25, "dog bark", None), Event(1.0, 2.112, "Käuzchen", None)]
    # The library knows no suffix .tsv.
    path = written(tmp_path, format, events).rename(tmp_path / ("a.txt" if format == "audacity" else "a.csv"))
    found = containers.MetaDataContainer().load(
        str(path), fields=["onset", "offset", "event_label"] if format == "audacity" else None
    )
    assert [(item.onset, item.offset, item.event_label) for item in found] == [
        (event.onset, event.offset, event.event_label) for event in events
    ]
    if format != "audacity":
        assert {item.filename for item in found} == {"street.wav"}
