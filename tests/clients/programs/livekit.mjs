// LiveKit's plugin for Node: one utterance on a multi-context socket.
import { initializeLogger } from "@livekit/agents";
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
tts.on("error", ({ error }) => report({ error: String(error) }));

const stream = tts.stream();
for (const sentence of sentences()) stream.pushText(sentence);
stream.endInput();
const audio = [];
for await (const event of stream) {
  if (typeof event === "symbol") break;
  audio.push(Buffer.from(event.frame.data.buffer, event.frame.data.byteOffset, event.frame.data.byteLength));
}
report({ audio: Buffer.concat(audio) });
