"""Pipecat's ElevenLabs services in a small pipeline: over the WebSocket, or over HTTP, in XI_CALL."""

import asyncio
import os

import aiohttp
from pipecat.frames.frames import EndFrame, ErrorFrame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame, TTSTextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.elevenlabs.tts import ElevenLabsHttpTTSService, ElevenLabsTTSService
from pipecat.workers.runner import WorkerRunner

from outcome import BASE, MODEL, SOCKET_BASE, TEXT, TOKEN, VOICE, report


class Collector(FrameProcessor):
    """Keeps what the service says, whichever way it goes, until it has stopped or failed."""

    def __init__(self):
        super().__init__()
        self.audio, self.words, self.errors = b"", [], []
        self.done = asyncio.Event()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.audio += frame.audio
        elif isinstance(frame, TTSTextFrame):
            self.words.append(frame.text)
        elif isinstance(frame, ErrorFrame):
            self.errors.append(frame.error)
            self.done.set()
        elif isinstance(frame, TTSStoppedFrame):
            self.done.set()
        await self.push_frame(frame, direction)


def service(session):
    if os.environ["XI_CALL"] == "http":
        settings = ElevenLabsHttpTTSService.Settings(voice=VOICE, model=MODEL)
        return ElevenLabsHttpTTSService(api_key=TOKEN, aiohttp_session=session, base_url=BASE, settings=settings)
    settings = ElevenLabsTTSService.Settings(voice=VOICE, model=MODEL)
    return ElevenLabsTTSService(api_key=TOKEN, url=SOCKET_BASE, settings=settings)


async def main():
    async with aiohttp.ClientSession() as session:
        before, after = Collector(), Collector()
        pipeline = Pipeline([before, service(session), after])
        worker = PipelineWorker(pipeline, params=PipelineParams(audio_out_sample_rate=24000))
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)

        async def speak():
            await worker.queue_frame(TTSSpeakFrame(TEXT))
            waits = [asyncio.ensure_future(collector.done.wait()) for collector in (before, after)]
            await asyncio.wait(waits, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            await worker.queue_frame(EndFrame())

        await asyncio.gather(runner.run(), speak())
        report(after.audio, " ".join(after.words), error=before.errors + after.errors)


asyncio.run(main())
