#!/usr/bin/env python3
"""Runs every ElevenLabs client that xi-relay is tested with against the relay's own binary.

    run.py BINARY [WORD…]      only the clients whose name holds one of the words

Each client speaks once with a good token and once with a bad one. With the good one, ffmpeg has to take its
audio, the text it heard has to be the text it sent, and it has to see a clean end; with the bad one, a person
has to be able to read what is wrong. `install.sh` lays out what this needs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import terminal
from audio import seconds_of_sound
from relay import ORIGIN_PORT, TOKEN, Relay

HERE = Path(__file__).resolve().parent
VENV = HERE / ".cache" / "venv" / "bin"
NODE_BIN = HERE / "node_modules" / ".bin"
TEXT = "The tide turns at noon. Bring a coat, a lamp and 3 friends! Nobody will mind."
VOICE = "VoiceAlpha0000000001"
PATIENCE = 90


class Client:
    """One client, how it is run, and what of its run can be seen."""

    def __init__(self, name, run, call="", output_format="mp3_44100_128", tls=False, sees_text=False, sees_close=False, own_words="401"):
        self.name, self.run, self.call, self.tls = name, run, call, tls
        # What the client says of a bad token where it keeps the relay's words to itself.
        self.own_words = own_words
        self.output_format, self.sees_text, self.sees_close = output_format, sees_text, sees_close


def python(program):
    return lambda order: run_program([VENV / "python", HERE / "programs" / program], order)


def node(program):
    return lambda order: run_program(["node", HERE / "programs" / program], order)


def run_program(argv, order):
    environment = {**os.environ, **order}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    lines = done.stdout.strip().splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        raise AssertionError(f"{argv[-1]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}") from None


def wscat_tty(order):
    return terminal.wscat_in_a_terminal(order, [NODE_BIN / "wscat"])


def wscat_x(order):
    return terminal.wscat_with_x(order, [NODE_BIN / "wscat"])


def websocat(order):
    return terminal.websocat(order, [VENV / "websocat"])


SOCKET = {"output_format": "pcm_24000", "sees_text": True, "sees_close": True}
PAGE = {"sees_text": True, "sees_close": True}

CLIENTS = [
    Client("wscat in a terminal", wscat_tty, **SOCKET),
    Client("wscat -x", wscat_x, output_format="pcm_24000", sees_text=True),
    Client("websocat", websocat, output_format="pcm_24000", sees_text=True),
    Client("Python websockets", python("python_websockets.py"), **SOCKET),
    Client("npm ws", node("ws.mjs"), **SOCKET),
    Client("Chromium, key in the first message", node("chromium.mjs"), "first message", **PAGE),
    Client("Chromium, key in the subprotocol", node("chromium.mjs"), "subprotocol", **PAGE),
    Client("elevenlabs (Python) convert_realtime", python("elevenlabs_realtime.py"), tls=True, sees_close=True),
    Client("elevenlabs (Python) convert", python("elevenlabs_http.py"), "convert", tls=True),
    Client("elevenlabs (Python) stream", python("elevenlabs_http.py"), "stream"),
    Client(
        "elevenlabs (Python) convert_with_timestamps",
        python("elevenlabs_http.py"),
        "convert_with_timestamps",
        sees_text=True,
    ),
    Client(
        "elevenlabs (Python) stream_with_timestamps",
        python("elevenlabs_http.py"),
        "stream_with_timestamps",
        sees_text=True,
    ),
    Client("elevenlabs-js convert", node("elevenlabs_js.mjs"), "convert", tls=True),
    Client("elevenlabs-js stream", node("elevenlabs_js.mjs"), "stream"),
    Client("elevenlabs-js convertWithTimestamps", node("elevenlabs_js.mjs"), "convertWithTimestamps", sees_text=True),
    Client("elevenlabs-js streamWithTimestamps", node("elevenlabs_js.mjs"), "streamWithTimestamps", sees_text=True),
    Client("LiveKit (Python) stream", python("livekit_stream.py"), "stream", "pcm_24000", sees_text=True),
    Client("LiveKit (Python) synthesize", python("livekit_stream.py"), "synthesize", "pcm_24000"),
    Client("LiveKit (Node) stream", node("livekit.mjs"), output_format="pcm_22050", own_words="could not connect"),
    Client("Pipecat WebSocket", python("pipecat_pipeline.py"), "websocket", "pcm_24000", sees_text=True),
    Client("Pipecat HTTP", python("pipecat_pipeline.py"), "http", "pcm_24000", sees_text=True),
    Client("Vercel AI SDK", node("ai_sdk.mjs")),
]


def speaks(client, outcome, order):
    """The run with the good token."""
    assert not outcome.get("error"), f"an error: {outcome['error']}"
    seconds = seconds_of_sound(order["XI_OUT"], client.output_format)
    # The sandbox speaks some 15 characters a second.
    assert len(TEXT) / 30 < seconds < len(TEXT) / 7, f"{seconds:.2f} s for {len(TEXT)} characters"
    if client.sees_text:
        heard = (outcome.get("text") or "").split()
        assert heard == TEXT.split(), f"heard {' '.join(heard)!r}"
    if client.sees_close:
        assert outcome.get("close") == 1000, f"closed with {outcome.get('close')}"
    assert outcome.get("clean", True), "the browser calls the end unclean"
    assert outcome.get("same_length", True), "two utterances of one text differ in length"


def is_told(client, outcome, order):
    """The run with the bad token: the reason is there to read, and the token is not."""
    said = json.dumps(outcome)
    assert outcome.get("error"), f"no error: {said}"
    readable = ("invalid_api_key", "Invalid API key", client.own_words)
    assert any(word in said for word in readable), f"not readable: {said}"
    assert order["XI_TOKEN"] not in said, f"the token comes back: {said}"
    if client.sees_close and outcome.get("close") is not None:
        assert outcome["close"] == 1008, f"closed with {outcome['close']}"


def check(client, relay, folder, token, judge):
    order = {
        "XI_BASE": relay.base,
        "XI_TOKEN": token,
        "XI_VOICE": VOICE,
        "XI_MODEL": "eleven_flash_v2_5",
        "XI_TEXT": TEXT,
        "XI_OUT": str(folder / "audio"),
        "XI_CALL": client.call,
        "XI_CHROMIUM": shutil.which("chromium") or "",
        "XI_PAGE_PORT": str(ORIGIN_PORT),
        **relay.environment,
    }
    started = time.monotonic()
    try:
        judge(client, client.run(order), order)
    except Exception as failure:  # noqa: BLE001: one client's failure is its own
        is_ours = isinstance(failure, AssertionError)
        return f"{failure}" if is_ours else traceback.format_exc(), time.monotonic() - started
    return None, time.monotonic() - started


def main(binary, words):
    chosen = [client for client in CLIENTS if not words or any(word in client.name for word in words)]
    n_failed = 0
    with Relay(binary, tls=False) as plain, Relay(binary, tls=True) as secure:
        for client in chosen:
            for token, judge, what in [(TOKEN, speaks, "speaks"), ("no-such-token", is_told, "is told of a bad token")]:
                with tempfile.TemporaryDirectory() as folder:
                    relay = secure if client.tls else plain
                    failure, seconds = check(client, relay, Path(folder), token, judge)
                n_failed += failure is not None
                verdict = "FAILED" if failure else "ok"
                print(f"{verdict:6} {client.name} {what} ({seconds:.1f} s)", flush=True)
                if failure:
                    print("       " + failure.strip().replace("\n", "\n       "), flush=True)
        if n_failed:
            for relay in (plain, secure):
                print(f"--- the end of the log of {relay.base}:", *relay.lines[-30:], sep="\n")
    print(f"clients: {2 * len(chosen) - n_failed} passed, {n_failed} failed")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
