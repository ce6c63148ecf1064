"""The formats that are stored: which codecs a file of each may hold, and which are used to make one.

Sources: for what may be copied, the muxers of libavformat (movenc.c, matroskaenc.c, oggenc.c) and what players expect;
for the rates of sounds, the encoders: ISO/IEC 13818-7 table 35 (AAC), ISO/IEC 11172-3 and 13818-3 with the extension
2.5 (MP3), RFC 6716 (Opus).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioCodec:
    """How a sound is encoded: the `encoder`, rates that it takes (None: any), and how many channels at most."""

    name: str
    encoder: str
    rates: tuple[int, ...] | None = None
    channels: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFormat:
    """A file with pictures and sound.

    Attributes:
        muxer: as ffmpeg names it.
        kinds: what `kinds.sniff` calls files that are of this format already.
        holds: codecs of pictures and of sounds that can be copied into it.
        encoder: of the pictures.
        audio: of the sound.
    """

    muxer: str
    kinds: frozenset[str]
    holds: frozenset[str]
    encoder: str
    audio: AudioCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFormat:
    """A file with a sound alone; see `VideoFormat`."""

    muxer: str
    kinds: frozenset[str]
    holds: frozenset[str]
    codec: AudioCodec


_AAC = AudioCodec(
    name="AAC",
    encoder="aac",
    rates=(7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
)
_MP3 = AudioCodec(
    name="MP3",
    encoder="libmp3lame",
    rates=(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    channels=2,
)
_OPUS = AudioCodec(name="Opus", encoder="libopus", rates=(8000, 12000, 16000, 24000, 48000))
_VORBIS = AudioCodec(name="Vorbis", encoder="libvorbis", rates=tuple(range(8000, 200_001)))
_FLAC = AudioCodec(name="FLAC", encoder="flac")
_PCM = AudioCodec(name="PCM", encoder="pcm_s16le")
_RAW = frozenset({"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_u8", "pcm_f32le"})

VIDEO = {
    "mp4": VideoFormat(
        muxer="mp4",
        kinds=frozenset({"mp4"}),
        holds=frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}),
        encoder="libx264",
        audio=_AAC,
    ),
    "webm": VideoFormat(
        muxer="webm",
        kinds=frozenset({"webm"}),
        holds=frozenset({"vp8", "vp9", "av1", "vorbis", "opus"}),
        encoder="libvpx-vp9",
        audio=_OPUS,
    ),
    "mkv": VideoFormat(
        muxer="matroska",
        kinds=frozenset({"mkv", "webm"}),
        holds=frozenset({
            "h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "mjpeg", "prores", "aac", "mp3", "ac3", "eac3",
            "opus", "vorbis", "flac", "alac", *_RAW,
        }),
        encoder="libx264",
        audio=_AAC,
    ),
}  # fmt: skip
AUDIO = {
    "m4a": AudioFormat(
        muxer="ipod", kinds=frozenset({"m4a", "mp4"}), holds=frozenset({"aac", "alac"}), codec=_AAC
    ),
    "mp3": AudioFormat(muxer="mp3", kinds=frozenset({"mp3"}), holds=frozenset({"mp3"}), codec=_MP3),
    "wav": AudioFormat(muxer="wav", kinds=frozenset({"wav"}), holds=_RAW, codec=_PCM),
    "flac": AudioFormat(muxer="flac", kinds=frozenset({"flac"}), holds=frozenset({"flac"}), codec=_FLAC),
    "ogg": AudioFormat(
        muxer="ogg", kinds=frozenset({"ogg"}), holds=frozenset({"vorbis", "opus", "flac"}), codec=_VORBIS
    ),
    "opus": AudioFormat(muxer="opus", kinds=frozenset(), holds=frozenset({"opus"}), codec=_OPUS),
}  # fmt: skip

CLEAN = frozenset({"mp4", "mov", "m4a", "3gp", "webm", "mkv", "flv", "ts", "m2ts", "mp3", "flac", "ogg", "wav", "aac"})
"""Kinds whose packets all have times, so that they can be copied; AVI, MPEG and others are encoded again."""
