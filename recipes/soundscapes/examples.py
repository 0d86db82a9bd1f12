"""Write the package's example recordings, from recordings that were never used for training.

    python -m recipes.soundscapes.examples --out space_app/examples

Each is a soundscape with its reference events (`NAME.tsv`) and sources (`NAME.txt`). Only recordings that can be
redistributed under CC-BY-SA-4.0 are used. Scenes and seeds were fixed before any checkpoint was run on them.
"""

import logging
from pathlib import Path

import numpy as np
import soundfile

from recipes.arguments import script_parser
from recipes.data.clip import AnnotatedClip
from recipes.data.writers import write_label_files
from recipes.soundscapes.catalogue import load_catalogue
from recipes.soundscapes.mixing import mix
from recipes.soundscapes.packages import DEFAULT_SOUNDS
from recipes.soundscapes.sound_bank import SAMPLING_RATE, SoundBank, load_bank

logger = logging.getLogger(__name__)

# Name: (seconds, labels).
SCENES = {
    "farmyard": (10.0, ("dog bark", "rooster", "sheep bleat")),
    "village": (12.0, ("church bell", "hen", "siren")),
    "living_room": (10.0, ("laughter", "guitar", "speech")),
    "night": (15.0, ("owl hoot", "dog bark", "drum")),
}
SHAREABLE = ("CC0", "CC-BY-SA-", "GPL-2+ or CC-BY-SA-")


def shareable(bank: SoundBank, labels) -> SoundBank:
    """Return the sounds of a bank with `labels` that may be shared; sounds outside the catalogue are synthetic.

    Raises:
        ValueError: a label has no shareable sound.
    """
    licences = {file.ref: file.licence for file in load_catalogue()}

    def allowed(ref):
        return ref not in licences or licences[ref].startswith(SHAREABLE)

    events = {label: [item for item in bank.events[label] if allowed(item[1])] for label in labels}
    empty = [label for label, items in events.items() if not items]
    if empty:
        raise ValueError(f"labels {empty} have no recording that may be shared; choose other labels.")
    return SoundBank(events, [item for item in bank.backgrounds if allowed(item[1])])


def provenance(scene, seconds) -> str:
    """Return a text that lists the sources of an example."""
    licences = {file.ref: file.licence for file in load_catalogue()}
    lines = [f"- {ref}: {licences.get(ref, 'made by a program')}" for ref in dict.fromkeys(scene.recordings)]
    return (
        f"A mixture of {seconds:g} s, shared under CC-BY-SA-4.0, of these recordings (cut, equalised, changed in\n"
        "level, pitch or speed); none of them was used in training:\n" + "\n".join(lines) + "\n"
    )


def write_examples(out, sounds=DEFAULT_SOUNDS, seed=2026) -> list[Path]:
    """Write `NAME.flac`, `NAME.tsv` and `NAME.txt` of every scene to `out`; return the audio files."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    bank, paths = load_bank("heldout", sounds), []
    for index, (name, (seconds, labels)) in enumerate(SCENES.items()):
        part, rng = shareable(bank, labels), np.random.default_rng([seed, index])
        scene = mix(part, rng, seconds)
        while {event.event_label for event in scene.events} != set(labels):
            scene = mix(part, rng, seconds)
        path = out / f"{name}.flac"
        soundfile.write(path, scene.waveform, SAMPLING_RATE, subtype="PCM_16")
        write_label_files([AnnotatedClip(name, scene.events, path.name)], path.with_suffix(".tsv"), "tsv")
        path.with_suffix(".txt").write_text(provenance(scene, seconds), encoding="utf-8")
        paths.append(path)
    return paths


def main(argv=None):
    parser = script_parser(__doc__)
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--sounds", default=DEFAULT_SOUNDS, help="folder of the unpacked packages")
    arguments = parser.parse_args(argv)
    for path in write_examples(arguments.out, arguments.sounds):
        logger.info("wrote %s", path)


if __name__ == "__main__":
    main()
