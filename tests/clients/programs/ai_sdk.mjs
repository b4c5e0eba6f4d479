// Vercel's AI SDK: its base URL is fixed, so its requests are led to the relay by its `fetch`.
import { createElevenLabs } from "@ai-sdk/elevenlabs";
import { APICallError, experimental_generateSpeech as generateSpeech } from "ai";
import { BASE, MODEL, TEXT, TOKEN, VOICE, report } from "./outcome.mjs";

const elevenlabs = createElevenLabs({
  apiKey: TOKEN,
  fetch: (url, init) => fetch(String(url).replace("https://api.elevenlabs.io", BASE), init),
});

try {
  const { audio } = await generateSpeech({
    model: elevenlabs.speech(MODEL),
    text: TEXT,
    voice: VOICE,
    outputFormat: "mp3_44100_128",
    maxRetries: 0,
  });
  report({ audio: audio.uint8Array });
} catch (error) {
  if (!APICallError.isInstance(error)) throw error;
  report({ error: { status: error.statusCode, message: error.message, body: error.responseBody } });
}
