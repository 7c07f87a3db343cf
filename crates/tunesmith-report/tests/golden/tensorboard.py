"""Writes events.bin: the event file that src/tensorboard.rs must reproduce byte for byte.

    python tensorboard.py        # needs the package tensorboard (made with 2.21.0)
"""

import math
import pathlib
import sys

# This script's own name would hide the package.
here = pathlib.Path(__file__).resolve().parent
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != here]

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(wall_time, step, values):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in values])
    return Event(wall_time=wall_time, step=step, summary=summary)


events = [
    Event(wall_time=1.5, file_version="brain.Event:2"),
    Event(wall_time=2.25, step=301, session_log=SessionLog(status=SessionLog.START)),
    scalars(1_700_000_000.125, 0, [("train/loss", 0.0)]),
]
for step, loss in [(1, 5.5401726), (127, math.nan), (128, math.inf), (70_000, -1e-30)]:
    events.append(
        scalars(
            1_700_000_000 + step,
            step,
            [("train/loss", loss), ("train/learning_rate", 9.8e-5), ("eval/" + "ü" * 100, 1.0)],
        )
    )

with open(here / "events.bin", "wb") as file:
    writer = RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString())
    writer.flush()
