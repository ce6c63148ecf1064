"""Store the bytes as they came."""

from __future__ import annotations

from dataclasses import replace

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import MediaError
from img2dataset_dist.kinds import extension_of, sniff
from img2dataset_dist.media import quiet_pillow, read_header
from img2dataset_dist.model import Sample


class KeepBytes:
    """Decode nothing, keep everything. Option `disable_all_reencoding`.

    The extension is that of the kind that the bytes are of, whatever `encode_format` or the URL says. The sizes come
    from the header. Bytes that are no image are kept too, without sizes: whoever turns re-encoding off may be after
    something else than images, and the peer keeps them as well. `width` and `height` are upright like the original
    ones, although a viewer has to turn the picture.
    """

    def __init__(self, _config: JobConfig) -> None:
        quiet_pillow()

    def __call__(self, sample: Sample) -> Sample:
        """The sample with `data`, what it is and, for an image, its sizes in pixels. Never raises."""
        kind = sniff(sample.body)
        kept = replace(sample, data=sample.body, original_format=kind, extension=extension_of(kind))
        try:
            width, height = read_header(sample.body).upright
        except MediaError:
            return kept
        return replace(kept, width=width, height=height, original_width=width, original_height=height)
