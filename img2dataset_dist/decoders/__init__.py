"""Decoders: bytes of a picture to upright 8-bit pixels.

One file per kind of file; `decode.py` has the table of them, `picture.py` what a decoder takes and gives. They only run
where they can be ended (`transforms/child.py`), see docs/architecture.md.
"""
