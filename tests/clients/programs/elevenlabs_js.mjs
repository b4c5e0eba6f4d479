// The official JavaScript SDK over HTTP: convert, stream, and both with timestamps, in XI_CALL.
import { ElevenLabsClient, ElevenLabsError } from "@elevenlabs/elevenlabs-js";
import { BASE, CALL, MODEL, TEXT, TOKEN, VOICE, report } from "./outcome.mjs";

const client = new ElevenLabsClient({ apiKey: TOKEN, baseUrl: BASE, maxRetries: 0 }).textToSpeech;
const order = { text: TEXT, modelId: MODEL, outputFormat: "mp3_44100_128" };
const decode = (part) => Buffer.from(part.audioBase64, "base64");

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

try {
  if (CALL === "convert" || CALL === "stream") {
    report({ audio: Buffer.concat(await collect(await client[CALL](VOICE, order))) });
  } else if (CALL === "convertWithTimestamps") {
    const whole = await client.convertWithTimestamps(VOICE, order);
    report({ audio: decode(whole), text: whole.alignment.characters.join("") });
  } else {
    const parts = await collect(await client.streamWithTimestamps(VOICE, order));
    const text = parts.flatMap((part) => part.alignment?.characters ?? []).join("");
    report({ audio: Buffer.concat(parts.map(decode)), text });
  }
} catch (error) {
  if (!(error instanceof ElevenLabsError)) throw error;
  report({ error: { status: error.statusCode, body: error.body } });
}
