// npm `ws`: the key in a header, as in ElevenLabs' example for Node.
import WebSocket from "ws";
import { MODEL, SOCKET_BASE, TOKEN, VOICE, report, sentences } from "./outcome.mjs";

const url = `${SOCKET_BASE}/v1/text-to-speech/${VOICE}/stream-input?model_id=${MODEL}&output_format=pcm_24000`;
const socket = new WebSocket(url, { headers: { "xi-api-key": TOKEN } });
const audio = [];
let chars = "";
let error = null;

socket.on("open", () => {
  socket.send(JSON.stringify({ text: " ", voice_settings: { stability: 0.5 } }));
  for (const text of sentences()) socket.send(JSON.stringify({ text }));
  socket.send(JSON.stringify({ text: "" }));
});
socket.on("message", (data) => {
  const message = JSON.parse(data);
  if (message.audio) audio.push(Buffer.from(message.audio, "base64"));
  if (message.alignment) chars += message.alignment.chars.join("");
  if (message.error) error = message;
});
socket.on("unexpected-response", (_request, response) => {
  response.setEncoding("utf8");
  let body = "";
  response.on("data", (part) => (body += part));
  response.on("end", () => report({ error: { status: response.statusCode, body } }));
});
socket.on("error", (failure) => report({ error: String(failure) }));
socket.on("close", (code, reason) =>
  report({ audio: Buffer.concat(audio), text: chars, close: code, error, reason: String(reason) }),
);
