"""Videos and sounds: what is in them, and what ffmpeg is asked to make of them.

::

    MediaConfig ──recipe──▶ Recipe ─┐
    file ──probe──▶ Probe ──────────┼─▶ clips, cuts ──▶ Span ──command──▶ arguments ──run──▶ files
                                    └─▶ sizes

`probe.py`, `cuts.py` and `clips.py` read with libav in this process (PyAV); `run.py` starts the ffmpeg that `binary.py`
found. Neither opens anything but the files it is given: the demuxer is always named (`demuxers.py`), never guessed, so
that no playlist is ever followed.
"""
