#!/usr/bin/env python3
"""Makes the pre-encoded frames of the sandbox's tone voice: one file per MP3 and Opus format.

Needs Python 3, ffmpeg with libmp3lame, and libopus.so.0 (Debian: `apt-get install ffmpeg libopus0`).
Run it in this directory; it overwrites the `.bin` files and checks that ffmpeg decodes them.

Each file holds 49 encoded frames of one size: silence, then tone 0 to tone 47. Tone `k` sounds at
about 300 + 50 k Hz, moved to the nearest frequency that has a whole number of cycles in a frame, so
that one frame repeated is one unbroken tone. The frames stand alone: MP3 without bit reservoir and
without padding, Opus as CELT packets without prediction. Any sequence of them is a valid stream.
"""

import array
import ctypes
import math
import subprocess
import sys

TONES = 48
AMPLITUDE = 0.25

MP3 = [  # sample rate, kbit/s, samples a frame
    (22050, 32, 576),
    (24000, 48, 576),
    (44100, 32, 1152),
    (44100, 64, 1152),
    (44100, 96, 1152),
    (44100, 128, 1152),
    (44100, 192, 1152),
]
OPUS = [32, 64, 96, 128, 192]  # kbit/s; 960 samples at 48 kHz a packet


def tone(index, rate, frame, n_frames):
    """16-bit samples of one tone (`None` is silence) with whole cycles in every frame."""
    if index is None:
        return array.array("h", [0] * (frame * n_frames))
    cycles = round((300 + 50 * index) * frame / rate)
    one = [
        round(32767 * AMPLITUDE * math.sin(2 * math.pi * cycles * i / frame)) for i in range(frame)
    ]
    return array.array("h", one * n_frames)


def ffmpeg(args, data):
    command = ["ffmpeg", "-v", "error", "-nostdin", *args]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    if done.stderr:
        sys.exit(f"{' '.join(command)}: {done.stderr.decode()}")
    return done.stdout


def mp3_frames(data, rate, kbps, samples):
    """Cuts an MP3 stream into its frames."""
    unpadded = samples // 8 * kbps * 1000 // rate
    at = 0
    while at + 4 <= len(data):
        assert data[at] == 0xFF and data[at + 1] & 0xE0 == 0xE0, "a frame header is expected"
        size = unpadded + (data[at + 2] >> 1 & 1)
        yield data[at : at + size]
        at += size


def mp3_frame(index, rate, kbps, samples):
    """One unpadded frame out of the steady middle of an encoded tone."""
    pcm = tone(index, rate, samples, 60).tobytes()
    raw = ["-f", "s16le", "-ar", str(rate), "-ac", "1", "-i", "-"]
    codec = ["-c:a", "libmp3lame", "-b:a", f"{kbps}k", "-reservoir", "0"]
    plain = ["-write_xing", "0", "-id3v2_version", "0", "-f", "mp3", "-"]
    frames = list(mp3_frames(ffmpeg(raw + codec + plain, pcm), rate, kbps, samples))
    for frame in frames[25:50]:
        version1 = frame[1] & 0x08
        reservoir = frame[4] << 1 | frame[5] >> 7 if version1 else frame[4]
        assert frame[1] & 0x01, "no checksum is expected"
        assert reservoir == 0, "a frame must not lean on the one before it"
        if not frame[2] & 0x02:
            return frame
    sys.exit("no unpadded frame found")


def opus_packet(index, kbps):
    """One packet out of the steady middle of an encoded tone."""
    opus = ctypes.CDLL("libopus.so.0")
    opus.opus_encoder_create.restype = ctypes.c_void_p
    error = ctypes.c_int()
    restricted_lowdelay = 2051  # CELT only
    encoder = ctypes.c_void_p(opus.opus_encoder_create(48000, 1, restricted_lowdelay, ctypes.byref(error)))
    assert error.value == 0
    set_bitrate, set_vbr, set_complexity, set_bandwidth, set_prediction_disabled = 4002, 4006, 4010, 4008, 4042
    for request, value in [
        (set_bitrate, kbps * 1000),
        (set_vbr, 0),
        (set_complexity, 10),
        (set_bandwidth, 1105),  # full band
        (set_prediction_disabled, 1),
    ]:
        assert opus.opus_encoder_ctl(encoder, request, ctypes.c_int(value)) == 0
    pcm = tone(index, 48000, 960, 1)
    samples = (ctypes.c_int16 * 960)(*pcm)
    out = (ctypes.c_ubyte * 2000)()
    for _ in range(30):
        size = opus.opus_encode(encoder, samples, 960, out, len(out))
        assert size == kbps * 1000 // 8 // 50, f"{size} bytes is not constant bit rate"
    opus.opus_encoder_destroy(encoder)
    return bytes(out[:size])


def main():
    every = [None, *range(TONES)]
    for rate, kbps, samples in MP3:
        frames = [mp3_frame(index, rate, kbps, samples) for index in every]
        assert len({len(frame) for frame in frames}) == 1
        with open(f"mp3_{rate}_{kbps}.bin", "wb") as file:
            file.write(b"".join(frames))
        ffmpeg(["-f", "mp3", "-i", "-", "-f", "null", "-"], b"".join(frames))
    for kbps in OPUS:
        with open(f"opus_48000_{kbps}.bin", "wb") as file:
            file.write(b"".join(opus_packet(index, kbps) for index in every))


if __name__ == "__main__":
    main()
