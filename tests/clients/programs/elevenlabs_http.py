"""The official Python SDK over HTTP: convert, stream, and both with timestamps, in XI_CALL."""

import base64
import os

from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError

from outcome import BASE, MODEL, TEXT, TOKEN, VOICE, report

client = ElevenLabs(api_key=TOKEN, base_url=BASE).text_to_speech
call = os.environ["XI_CALL"]
order = {"voice_id": VOICE, "text": TEXT, "model_id": MODEL, "output_format": "mp3_44100_128"}


def characters(alignments):
    return "".join("".join(alignment.characters) for alignment in alignments if alignment)


try:
    if call in ("convert", "stream"):
        report(b"".join(getattr(client, call)(**order)))
    elif call == "convert_with_timestamps":
        whole = client.convert_with_timestamps(**order)
        report(base64.b64decode(whole.audio_base_64), characters([whole.alignment]))
    else:
        parts = list(client.stream_with_timestamps(**order))
        audio = b"".join(base64.b64decode(part.audio_base_64) for part in parts)
        report(audio, characters(part.alignment for part in parts))
except ApiError as error:
    report(error={"status": error.status_code, "body": error.body})
