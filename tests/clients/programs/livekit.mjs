// LiveKit's plugin for Node: one utterance on a multi-context socket.
import { initializeLogger, tts as agents } from "@livekit/agents";
import { TTS } from "@livekit/agents-plugin-elevenlabs";
import { BASE, MODEL, TOKEN, VOICE, report, sentences } from "./outcome.mjs";

initializeLogger({ pretty: false, level: "silent" });
const tts = new TTS({
  apiKey: TOKEN,
  baseURL: `${BASE}/v1`,
  voiceId: VOICE,
  model: MODEL,
  encoding: "pcm_22050",
  autoMode: true,
});
const failure = new Promise((resolve) => tts.on("error", ({ error }) => resolve(String(error))));

const stream = tts.stream({ connOptions: { maxRetry: 0, retryIntervalMs: 0, timeoutMs: 10_000 } });
for (const sentence of sentences()) stream.pushText(sentence);
stream.endInput();
const audio = [];
for await (const event of stream) {
  if (event === agents.SynthesizeStream.END_OF_STREAM) break;
  audio.push(Buffer.from(event.frame.data.buffer, event.frame.data.byteOffset, event.frame.data.byteLength));
}
// A stream that failed just ends; the reason comes as an event.
report(audio.length > 0 ? { audio: Buffer.concat(audio) } : { error: await failure });
