"""The official Python SDK, realtime: it dials wss only, and reads until the socket is closed."""

from elevenlabs import VoiceSettings
from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError

from outcome import BASE, MODEL, TOKEN, VOICE, report, sentences

client = ElevenLabs(api_key=TOKEN, base_url=BASE)
try:
    chunks = client.text_to_speech.convert_realtime(
        VOICE,
        text=iter(sentences()),
        model_id=MODEL,
        output_format="mp3_44100_128",
        voice_settings=VoiceSettings(stability=0.5, similarity_boost=0.7),
    )
    # The generator swallows nothing but a close with 1000.
    report(b"".join(chunks), close=1000)
except ApiError as error:
    report(error={"status": error.status_code, "body": error.body})
except Exception as error:  # noqa: BLE001: whatever the person at the keyboard would see
    report(error=f"{type(error).__name__}: {error} {getattr(error, 'response', None) and error.response.body}")
