"""Whether what a client got is sound: decoded by ffmpeg, long enough, and not silence."""

import array
import subprocess

RAW = {"pcm_22050": ["-f", "s16le", "-ar", "22050", "-ac", "1"], "pcm_24000": ["-f", "s16le", "-ar", "24000", "-ac", "1"]}


def seconds_of_sound(path, output_format):
    """The length in seconds; raises if ffmpeg has any complaint, or if there is nothing to hear."""
    command = ["ffmpeg", "-v", "error", *RAW.get(output_format, []), "-i", path, "-f", "s16le", "-ar", "24000", "-ac", "1", "-"]
    decoded = subprocess.run(command, capture_output=True, check=False)
    if decoded.returncode or decoded.stderr:
        raise AssertionError(f"ffmpeg does not take {output_format}: {decoded.stderr.decode()}")
    samples = array.array("h", decoded.stdout[: len(decoded.stdout) // 2 * 2])
    loudest = max((abs(sample) for sample in samples), default=0)
    if loudest < 500:
        raise AssertionError(f"silence: {len(samples)} samples, the loudest {loudest}")
    return len(samples) / 24000
