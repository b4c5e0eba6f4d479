// What a client program is told and tells; the same as outcome.py.
import { writeFileSync } from "node:fs";

export const {
  XI_BASE: BASE,
  XI_TOKEN: TOKEN,
  XI_VOICE: VOICE,
  XI_MODEL: MODEL,
  XI_TEXT: TEXT,
  XI_OUT: OUT,
  XI_CALL: CALL,
} = process.env;
export const SOCKET_BASE = BASE.replace("http", "ws");

/** The text as clients cut it, each part with the space that ends it. */
export function sentences() {
  return TEXT.replaceAll(". ", ".\n").split("\n").map((part) => `${part} `);
}

/** Prints the outcome, and ends the program: what else would go on is of no interest. */
export function report({ audio = null, text = null, close = null, error = null, ...more }) {
  if (audio) writeFileSync(OUT, audio);
  const line = JSON.stringify({ text, close, error, ...more });
  process.stdout.write(`${line}\n`, () => process.exit(0));
}
