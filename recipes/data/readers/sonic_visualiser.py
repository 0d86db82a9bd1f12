"""Regions, notes and instants of a layer exported from Sonic Visualiser (`.svl`).

    <sv><data><model sampleRate="44100" type="sparse" dimensions="3" subtype="region" .../>
      <dataset dimensions="3"><point frame="22050" value="1" duration="33075" label="dog"/></dataset></data></sv>

Known from public files. Frames and durations are in samples.
"""

from collections.abc import Iterator
from xml.etree import ElementTree

from processing.text_files import make_event
from recipes.data.clip import AnnotatedClip, files_of, make_clip


def read_svl(path) -> Iterator[AnnotatedClip]:
    """Yield the clip of a layer, or of every `*.svl` in a folder; the recording is named after the file.

    Raises:
        ValueError: another kind of layer, no sampling rate, or malformed points.
    """
    for file in files_of(path, ".svl"):
        try:
            data = ElementTree.parse(file).find("data")
        except ElementTree.ParseError as error:
            raise ValueError(f"{file} is not XML ({error}); export the layer again.") from None
        model = None if data is None else data.find("model")
        if model is None or not (model.get("sampleRate") or "").isdigit() or not int(model.get("sampleRate")):
            raise ValueError(f"{file} has no model with a sampleRate; export one layer of Sonic Visualiser.")
        if model.get("type") != "sparse" or model.get("subtype", "") not in ("", "region", "note", "flexinote"):
            raise ValueError(
                f"{file} is a layer of the type {model.get('type')!r} {model.get('subtype', '')!r}; export one of "
                "regions, notes or time instants."
            )
        rate, events = int(model.get("sampleRate")), []
        for index, point in enumerate(data.iter("point")):
            where = f"{file}, point {index}"
            try:
                frame, length = int(point.get("frame", "")), int(point.get("duration", "0"))
            except ValueError:
                raise ValueError(f"{where} is {point.attrib}; give whole numbers as frame and duration.") from None
            events.append(make_event(frame / rate, (frame + length) / rate, point.get("label", ""), where))
        yield make_clip(str(file), file.stem, events, file.stem)
