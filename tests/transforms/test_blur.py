"""Blurred boxes."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import correlate1d
from support.photos import photograph

from img2dataset_dist.config import JobConfig
from img2dataset_dist.errors import BadBox
from img2dataset_dist.model import Item, Sample
from img2dataset_dist.transforms.blur import blur, read_boxes
from img2dataset_dist.transforms.image import ImageTransform

PICTURE = np.asarray(photograph("chelsea.png").resize((90, 60)))[..., ::-1].copy()


SMALL_KERNELS = {
    3: [1, 2, 1],
    5: [1, 4, 6, 4, 1],
    7: [2, 7, 14, 18, 14, 7, 2],
    9: [4, 13, 30, 51, 60, 51, 30, 13, 4],
}
"""Binomial-like ones that OpenCV has for these sizes."""


def gaussian(values: np.ndarray, kernel: int) -> np.ndarray:
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    weights = np.exp(-((np.arange(kernel) - kernel // 2) ** 2) / (2 * sigma**2))
    weights = np.asarray(SMALL_KERNELS.get(kernel, weights), float)
    weights /= weights.sum()
    for axis in (0, 1):
        values = correlate1d(values, weights, axis=axis, mode="mirror")
    return values


def reference(picture: np.ndarray, boxes) -> np.ndarray:
    """The peer's method on the whole picture, in double precision."""
    height, width = picture.shape[:2]
    mask, longest = np.zeros((height, width)), 0
    for box in boxes:
        x0, y0, x1, y1 = (int(part * side) for part, side in zip(box, (width, height) * 2, strict=True))
        side = max(x1 - x0, y1 - y0)
        longest = max(longest, side)
        x0, y0, x1, y1 = (int(v) for v in (x0 - 0.1 * side, y0 - 0.1 * side, x1 + 0.1 * side, y1 + 0.1 * side))
        mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 1
    kernel = max(3, 2 * math.ceil(0.1 * longest) + 1)
    mask = gaussian(mask, kernel)
    if picture.ndim == 3:
        mask = mask[..., None]
    return picture * (1 - mask) + gaussian(picture.astype(float), kernel) * mask


BOXES = [
    [[0.2, 0.3, 0.5, 0.6]],
    [[0.2, 0.3, 0.3, 0.4], [0.6, 0.1, 0.9, 0.9]],
    [[0, 0, 1, 1]],
    [[-0.2, 0.5, 0.3, 1.4]],
    [[0.9, 0.9, 1, 1]],
    [[0.5, 0.5, 0.5, 0.5]],
    [[1, 1, 1, 1]],
]


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("grey", [False, True])
def test_blur_is_what_the_method_says(boxes, grey):
    picture = PICTURE[..., 0].copy() if grey else PICTURE
    before = picture.copy()
    done = blur(picture, read_boxes(boxes))
    assert np.abs(done - reference(picture, boxes)).max() < 0.6
    assert (picture == before).all()


def test_pixels_away_from_boxes_stay_exactly():
    done = blur(PICTURE, [(0.1, 0.1, 0.2, 0.2)])
    assert (done[:, 40:] == PICTURE[:, 40:]).all()
    assert (done != PICTURE).any()


def test_one_pixel():
    assert blur(np.full((1, 1), 9, np.uint8), [(0, 0, 1, 1)]).tolist() == [[9]]


@pytest.mark.parametrize("value", [None, [], (), np.zeros((0, 4))])
def test_no_boxes(value):
    assert read_boxes(value) == []


def test_boxes_from_numpy():
    assert read_boxes(np.asarray([[0, 0, 0.5, 1]], np.float32)) == [(0, 0, 0.5, 1)]


BAD = [
    "[[0, 0, 1, 1]]",
    5,
    [0, 0, 1, 1],
    [[0, 0, 1]],
    [[0, 0, 1, 1, 1]],
    [[0, 0, 1, float("nan")]],
    [[0, 0, 1, float("inf")]],
    [[0, 0, "1", 1]],
    [[0, 0, None, 1]],
    [[0, 0, True, 1]],
    [None],
    ["0011"],
    [[10, 10, 200, 200]],
    [[0.5, 0.5, 0.1, 0.6]],
]


@pytest.mark.parametrize("value", BAD)
def test_malformed_boxes(value):
    with pytest.raises(BadBox):
        read_boxes(value)


def run(boxes, **options):
    body = io.BytesIO()
    image = Image.fromarray(PICTURE[..., ::-1])
    exif = Image.Exif()
    exif[0x0112] = options.pop("orientation", 1)
    image.save(body, "PNG", exif=exif)
    flat = {"url_list": "x.jsonl", "input_format": "jsonl", "bbox_col": "faces", "encode_format": "png"}
    work = ImageTransform(JobConfig.from_flat({**flat, "encode_quality": 1, **options}))
    item = Item(shard_id=0, index=0, key="0", url="http://x/", columns={"faces": boxes} if boxes != "absent" else {})
    done = work(Sample(item=item, body=body.getvalue()))
    return np.asarray(Image.open(io.BytesIO(done.data))).astype(int)


@pytest.mark.parametrize("mode", ["no", "border", "keep_ratio", "center_crop", "keep_ratio_largest"])
@pytest.mark.parametrize("only", [False, True])
def test_blurred_in_every_mode(mode, only):
    box = [[0.4, 0.4, 0.6, 0.6]]
    options = {"resize_mode": mode, "resize_only_if_bigger": only, "image_size": 100}
    plain, blurred = run(None, **options), run(box, **options)
    assert plain.shape == blurred.shape
    assert (plain == run("absent", **options)).all()
    middle = tuple(slice(side // 2 - 5, side // 2 + 5) for side in plain.shape[:2])
    assert np.abs(plain[middle] - blurred[middle]).mean() > 1
    assert (plain[:2] == blurred[:2]).all()


def test_blurred_after_the_resize_and_before_the_border():
    blurred = run([[0, 0, 1, 0.1]], image_size=45)
    small = run(None, image_size=45)[7:37].astype(np.uint8)
    assert (blurred[:7] == 255).all()  # the white border is not blurred into the picture, nor it into the border
    assert np.abs(blurred[7:37] - reference(small, [[0, 0, 1, 0.1]])).max() <= 1


def test_boxes_are_those_of_the_upright_picture():
    options = {"resize_mode": "no", "orientation": 3}
    changed = (run(None, **options) != run([[0, 0, 0.2, 0.2]], **options)).any(axis=2)
    assert changed[:12, :18].mean() > 0.5
    assert not changed[30:].any()


def test_a_bad_box_fails_its_row():
    with pytest.raises(BadBox):
        run([[1, 2, 3]])
