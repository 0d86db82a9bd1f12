#!/bin/bash
# praatio 6.2.2, openTextgrid: the long text format is taken apart by regular expressions, the short one is not.
# Expected: one file in both formats gives the same intervals, and one that breaks off is an error.
# Seen: in the long format an interval from -1 to 1.5 s is read from 1 to 1.5 s, without an error (the short format
# keeps the sign); times that need an exponent (5e-05) and labels with "intervals [" cannot be read at all, and in the short
# format both can; a short file that breaks off within an interval loses that interval without an error.
# For us: TextGrids are written by praatio but not read by it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q praatio==6.2.2
cat > run.py <<'PY'
from praatio import textgrid

HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'


def short(start, middle, end, label):
    rows = [start, end, "<exists>", 1, '"IntervalTier"', '"sounds"', start, end, 2]
    rows += [start, middle, '"noise"', middle, end, f'"{label}"']
    return HEAD + "\n".join(map(str, rows)) + "\n"


def long(start, middle, end, label):
    entries = [(start, middle, "noise"), (middle, end, label)]
    text = HEAD + f"xmin = {start} \nxmax = {end} \ntiers? <exists> \nsize = 1 \nitem []: \n    item [1]:\n"
    text += f'        class = "IntervalTier" \n        name = "sounds" \n        xmin = {start} \n        xmax = {end} \n'
    text += "        intervals: size = 2 \n"
    for number, (onset, offset, said) in enumerate(entries, 1):
        text += f"        intervals [{number}]:\n            xmin = {onset} \n            xmax = {offset} \n"
        text += f'            text = "{said}" \n'
    return text


def show(name, text):
    with open("a.TextGrid", "w") as file:
        file.write(text)
    try:
        grid = textgrid.openTextgrid("a.TextGrid", includeEmptyIntervals=False)
        print(name, [tuple(entry) for entry in grid.tiers[0].entries])
    except Exception as error:
        print(name, type(error).__name__)


for make in (long, short):
    show(f"{make.__name__}, from -1 s:", make(-1, 1.5, 2, "dog"))
    show(f"{make.__name__}, 5e-05 s:", make(0, "5e-05", 2, "dog"))
    show(f"{make.__name__}, label:", make(0, 1, 2, "see intervals [3]"))
show("short, breaks off:", short(0, 1, 2, "dog")[:-6])
PY
venv/bin/python run.py | tee seen
diff seen - <<'EXPECTED'
long, from -1 s: [(1.0, 1.5, 'noise'), (1.5, 2.0, 'dog')]
long, 5e-05 s: ParsingError
long, label: ParsingError
short, from -1 s: [(-1.0, 1.5, 'noise'), (1.5, 2.0, 'dog')]
short, 5e-05 s: [(0.0, 5e-05, 'noise'), (5e-05, 2.0, 'dog')]
short, label: [(0.0, 1.0, 'noise'), (1.0, 2.0, 'see intervals [3]')]
short, breaks off: [(0.0, 1.0, 'noise')]
EXPECTED
