#!/bin/bash
# pympi-ling 1.71 reads an .eaf (ELAN Annotation Format 3.0) that other programs write: its root names no schema
# (`xsi:noNamespaceSchemaLocation`, which XML leaves to the writer), and two annotations divide a time, so that the time
# slot between them has no value (the format allows that; ELAN shows them as equal parts).
# Expected: both annotations, at 0.5-1.0 and 1.0-1.5 s; or the slot without a value as it is.
# Seen: KeyError without the attribute; with it, `get_annotation_data_for_tier` gives (500, None) and (None, 1500).
# For us: .eaf are read without pympi, and times that annotations divide are divided evenly.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q pympi-ling==1.71
cat > run.py <<'PY'
import warnings

import pympi

warnings.simplefilter("ignore")
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd" '
ITEM = '<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="%s" TIME_SLOT_REF1="%s" TIME_SLOT_REF2="%s"><ANNOTATION_VALUE>%s</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>'
TEXT = (
    '<ANNOTATION_DOCUMENT %sAUTHOR="" DATE="2026-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">'
    '<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"/><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="500"/>'
    '<TIME_SLOT TIME_SLOT_ID="ts2"/><TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="1500"/></TIME_ORDER>'
    '<TIER LINGUISTIC_TYPE_REF="d" TIER_ID="x">' + ITEM % ("a1", "ts1", "ts2", "dog") + ITEM % ("a2", "ts2", "ts3", "cat")
    + '</TIER><LINGUISTIC_TYPE LINGUISTIC_TYPE_ID="d" TIME_ALIGNABLE="true"/></ANNOTATION_DOCUMENT>'
)
for name, attribute in (("without", ""), ("with", XSI)):
    open("a.eaf", "w").write(TEXT % attribute)
    try:
        eaf = pympi.Eaf("a.eaf")
        print(name, "slots:", eaf.timeslots)
        print(name, eaf.get_annotation_data_for_tier("x"))
    except Exception as error:
        print(name, type(error).__name__)
PY
seen=$(venv/bin/python run.py)
echo "$seen"
[ "$seen" = "without KeyError
with slots: {'ts1': 500, 'ts2': None, 'ts3': 1500}
with [(500, None, 'dog'), (None, 1500, 'cat')]" ]
