"""Where the keyframes of a part of a video are."""

from __future__ import annotations

import av

from img2dataset_dist.ffmpeg.clips import NEAR, Keyframe
from img2dataset_dist.ffmpeg.probe import main_video, opened, start_of
from img2dataset_dist.model import Clip


def keyframes_around(path: str, kind: str, clip: Clip, *, max_pixels: int) -> list[Keyframe]:
    """Keyframes from the one before a clip to its end, read from that part of the file only; nothing is decoded.

    The end of the video counts as one when it is within the clip.

    Raises:
        DecodeError: the file is broken.
    """
    found: list[Keyframe] = []
    with opened(path, kind, max_pixels) as container:
        video = main_video(container)
        if video is None or video.time_base is None:
            return []
        start = start_of(container)
        container.seek(round((clip.start + start + NEAR) * av.time_base))
        number, end = 0, 0.0
        for packet in container.demux(video):
            if packet.pts is None:
                continue  # the empty one after the last
            time = float(packet.pts * video.time_base) - start
            decoded = time if packet.dts is None else float(packet.dts * video.time_base) - start
            if packet.is_keyframe:
                found.append(Keyframe(time=time, number=number))
            if decoded > clip.end + NEAR:
                break
            number += 1
            end = max(end, time + float((packet.duration or 0) * video.time_base))
        else:
            found.append(Keyframe(time=end, number=number))
    return found
