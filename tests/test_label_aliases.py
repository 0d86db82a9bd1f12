"""Label aliases: read from a file, applied to answers in free words."""

import pytest

from processing.events import Event
from recipes.scoring import apply_aliases, event_based_f1, read_label_aliases


def test_aliases_are_read_and_applied(tmp_path):
    path = tmp_path / "aliases.json"
    path.write_text('{"dog barking": "Dog", "Hund": "Dog", "Klölbel": "Alarm bell"}', encoding="utf-8-sig")
    aliases = read_label_aliases(path)
    assert aliases == {"dog barking": "Dog", "Hund": "Dog", "Klölbel": "Alarm bell"}
    events = [Event(1, 2, "dog barking", 0.5), Event(3, 4, "Cat")]
    assert apply_aliases(events, aliases) == [Event(1, 2, "Dog"), Event(3, 4, "Cat")]
    assert apply_aliases(events, aliases)[0].score == 0.5
    assert apply_aliases(None, aliases) is None and apply_aliases([], aliases) == []
    references = [[Event(1, 2, "Dog"), Event(3, 4, "Cat")]]
    assert event_based_f1(references, [events])["micro"]["f1"] == 0.5
    assert event_based_f1(references, [apply_aliases(events, aliases)])["micro"]["f1"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": "b",}', "not JSON: line 1, column"),
        ("", "not JSON: line 1"),
        ('["a", "b"]', "is not an object"),
        ('[["a", "b"]]', "is not an object"),
        ("3", "is not an object"),
        ('{"a": 1}', "'a' is an alias of 1; both must be non-empty strings"),
        ('{"a": {"b": "c"}}', "both must be non-empty strings"),
        ('{"a": " "}', "both must be non-empty strings"),
        ('{"": "b"}', "both must be non-empty strings"),
        ('{"a": "b", "a": "c"}', "'a' is an alias of both 'b' and 'c'; keep one"),
        ('{"a": "b", "b": "c"}', "'a' is an alias of 'b', an alias of 'c'"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    path = tmp_path / "aliases.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_aliases(path)


def test_files_that_are_unusual_but_right(tmp_path):
    path = tmp_path / "aliases.json"
    path.write_text('\r\n{"Dog": "Dog", "hound": "Dog", "hound": "Dog"}\r\n')
    assert read_label_aliases(path) == {"Dog": "Dog", "hound": "Dog"}
    path.write_text("{}")
    assert read_label_aliases(path) == {}


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.json").write_bytes('{"ä": "b"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8 at byte 2"):
        read_label_aliases(tmp_path / "latin.json")
    with pytest.raises(FileNotFoundError):
        read_label_aliases(tmp_path / "missing.json")
