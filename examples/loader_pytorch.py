"""A dataset of images or videos in PyTorch's DataLoader: python loader_pytorch.py dataset [workers].

It needs torch, and `pip install 'img2dataset_dist[loader]'`. What it "trains" is a mean colour; put a model there.
"""

import sys
import time
from typing import Any

import torch
from torch.nn.functional import interpolate

from img2dataset_dist.loader import dataset

SIDE, FRAMES, BATCH = 64, 4, 8


def example(sample: dict[str, Any]) -> dict[str, Any]:
    """One sample as tensors of one size: (frames, 3, SIDE, SIDE) from 0 to 1, and what else the training needs."""
    pixels = torch.from_numpy(sample["video"] if "video" in sample else sample["image"][None])
    frames = pixels.permute(0, 3, 1, 2).float() / 255
    return {
        "frames": interpolate(frames, size=(SIDE, SIDE), mode="bilinear", antialias=True),
        "caption": sample.get("txt", ""),
        "key": sample["__key__"],
    }


def main(folder: str, workers: int) -> None:
    """One epoch."""
    samples = dataset(
        folder,
        frames=FRAMES,  # of a video, evenly spaced
        where={"width": (32, None), "height": (32, None)},  # by the metadata, before anything is decoded
        shuffle=256,
        broken="skip",
    )
    samples = samples.compose(lambda stream: map(example, stream))
    loader = torch.utils.data.DataLoader(samples, batch_size=BATCH, num_workers=workers)

    mean, seen, keys, began = torch.zeros(3), 0, set(), time.monotonic()
    for batch in loader:
        frames = batch["frames"]  # (batch, frames, 3, SIDE, SIDE)
        seen += len(frames)
        keys.update(batch["key"])
        mean += (frames.mean(dim=(1, 3, 4)).sum(dim=0) - mean * len(frames)) / seen
    seconds = time.monotonic() - began
    print(f"{seen} samples ({len(keys)} different) in {seconds:.1f} s; mean colour {mean.tolist()}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)
