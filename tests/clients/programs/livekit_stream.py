"""LiveKit's plugin: two utterances at once on one multi-context socket, or one over HTTP."""

import asyncio
import os

import aiohttp
from livekit.agents import APIConnectOptions, APIError
from livekit.plugins import elevenlabs

from outcome import BASE, MODEL, TEXT, TOKEN, VOICE, report, sentences

ONCE = APIConnectOptions(max_retry=0, timeout=15)


async def speak(tts, text):
    stream = tts.stream(conn_options=ONCE)
    for sentence in sentences():
        stream.push_text(sentence)
    stream.end_input()
    audio, words = b"", []
    async for event in stream:
        audio += bytes(event.frame.data)
        words += [str(word) for word in event.frame.userdata.get("lk.timed_transcripts", [])]
    await stream.aclose()
    return audio, "".join(words)


async def main():
    async with aiohttp.ClientSession() as session:
        tts = elevenlabs.TTS(
            voice_id=VOICE,
            model=MODEL,
            api_key=TOKEN,
            base_url=f"{BASE}/v1",
            encoding="pcm_24000",
            auto_mode=True,
            preferred_alignment="original",
            http_session=session,
        )
        try:
            if os.environ["XI_CALL"] == "synthesize":
                frame = await tts.synthesize(TEXT, conn_options=ONCE).collect()
                report(bytes(frame.data))
                return
            (audio, text), (again, _) = await asyncio.gather(speak(tts, TEXT), speak(tts, TEXT))
            report(audio, text, same_length=len(audio) == len(again))
        except APIError as error:
            report(error=f"{type(error).__name__}: {error} {error.body}")
        finally:
            await tts.aclose()


asyncio.run(main())
