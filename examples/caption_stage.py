"""A stage of your own: describe each picture or video by its colours.

    python caption_stage.py dataset described

It stands for a model that you have. What a model needs is all here: it is loaded once per worker, gets samples in
batches, and what it says of each goes into the dataset. To put a captioner such as BLIP in its place, load the model
in `__init__` and let `_describe` call it with all the pictures of a batch; for transcripts by Whisper, take the sound
by `arrays.audio(path, rate=16000, mono=True)` instead of the frames. Neither is installed by this package.
"""

import os
import sys
from collections.abc import Sequence

import numpy as np

from img2dataset_dist import arrays, download
from img2dataset_dist.config import JobConfig
from img2dataset_dist.model import Sample
from img2dataset_dist.stages import noted
from img2dataset_dist.tars import role_of

COLOURS = {
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (220, 40, 40),
    "orange": (240, 150, 40),
    "yellow": (240, 230, 60),
    "green": (50, 160, 70),
    "blue": (50, 90, 200),
    "purple": (130, 60, 160),
    "brown": (120, 80, 50),
}


class ColourCaptions:
    """Says which colours are most of a picture: `{"colours": "mostly blue and grey"}` in column `stages`."""

    batch_size = 16

    def __init__(self, _config: JobConfig, words: int = 2, frames: int = 4) -> None:
        """Load the "model"; `words` and `frames` come from `stage_args`."""
        self.words = words
        self.frames = frames
        self.names = list(COLOURS)
        self.palette = np.array(list(COLOURS.values()), np.float32)

    def __call__(self, batch: Sequence[Sample]) -> list[Sample]:
        """All samples of a batch at once, as a model takes them."""
        pictures = np.stack([self._pixels(sample) for sample in batch])
        return [noted(sample, "colours", said) for sample, said in zip(batch, self._describe(pictures), strict=True)]

    def _pixels(self, sample: Sample) -> np.ndarray:
        """1,024 pixels of an image, or of some frames of a video, as (1024, 3)."""
        if sample.data is not None:
            picture = arrays.image(sample.data)
        else:
            path = next(part.path for part in sample.parts if role_of(part.extension) == "video" and part.path)
            picture, _ = arrays.video(path, count=self.frames)
        flat = picture.reshape(-1, 3)
        return flat[np.linspace(0, len(flat) - 1, 1024).astype(int)].astype(np.float32)

    def _describe(self, pictures: np.ndarray) -> list[str]:
        """The "model": (batch, 1024, 3) to one caption each."""
        distances = ((pictures[:, :, None] - self.palette) ** 2).sum(axis=-1)
        counts = [np.bincount(nearest, minlength=len(self.names)) for nearest in distances.argmin(axis=-1)]
        return [f"mostly {' and '.join(self.names[i] for i in np.argsort(-count)[: self.words])}" for count in counts]


if __name__ == "__main__":
    # The workers are processes of their own, and must find this file too.
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    stats = download(
        url_list=sys.argv[1],  # a dataset that was made with output_format="webdataset"
        input_format="webdataset",
        output_folder=sys.argv[2],
        output_format="webdataset",
        disable_all_reencoding=True,  # the pictures stay as they are
        stages=["caption_stage:ColourCaptions"],
        stage_args={"caption_stage:ColourCaptions": {"words": 2}},
    )
    print(f"{stats.successes} of {stats.count} rows")
