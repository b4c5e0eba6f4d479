// Headless Chromium with a page that speaks; XI_CALL says how the page shows its key. The page comes
// from the address in XI_PAGE_PORT, so that its origin is one that the relay was told to expect.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { CALL, MODEL, SOCKET_BASE, TOKEN, VOICE, report, sentences } from "./outcome.mjs";

const page = readFileSync(new URL("page.html", import.meta.url));
const server = createServer((_request, response) => {
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  response.end(page);
});
await new Promise((resolve) => server.listen(process.env.XI_PAGE_PORT, "127.0.0.1", resolve));

const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.XI_CHROMIUM,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
  ],
});
let outcome;
try {
  const tab = await browser.newPage();
  await tab.goto(`http://localhost:${server.address().port}/`);
  const order = { base: SOCKET_BASE, token: TOKEN, way: CALL, voice: VOICE, model: MODEL };
  outcome = await tab.evaluate((o) => speak(o), { ...order, sentences: sentences() });
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
const { mp3, ...rest } = outcome;
report({ audio: mp3 ? Buffer.from(mp3, "base64") : null, ...rest });
