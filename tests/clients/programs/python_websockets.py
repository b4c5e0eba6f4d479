"""Python's `websockets`, as in ElevenLabs' own example: the key in the first message."""

import asyncio
import base64
import json

import websockets

from outcome import MODEL, SOCKET_BASE, TOKEN, VOICE, report, sentences


async def main():
    url = f"{SOCKET_BASE}/v1/text-to-speech/{VOICE}/stream-input?model_id={MODEL}&output_format=pcm_24000"
    audio, chars, error = b"", [], None
    async with websockets.connect(url) as socket:
        settings = {"stability": 0.5, "similarity_boost": 0.8}
        await socket.send(json.dumps({"text": " ", "voice_settings": settings, "xi_api_key": TOKEN}))
        try:
            for sentence in sentences():
                await socket.send(json.dumps({"text": sentence}))
            await socket.send(json.dumps({"text": ""}))
        except websockets.ConnectionClosed:
            pass  # What was sent before is still to be read.
        try:
            while True:
                message = json.loads(await socket.recv())
                if message.get("audio"):
                    audio += base64.b64decode(message["audio"])
                if message.get("alignment"):
                    chars += message["alignment"]["chars"]
                if message.get("error"):
                    error = message
        except websockets.ConnectionClosed:
            report(audio, "".join(chars), socket.close_code, error, reason=socket.close_reason)


asyncio.run(main())
