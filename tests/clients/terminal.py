"""wscat and websocat, the two clients that people type into."""

import base64
import json
import os
import pty
import select
import subprocess
import time

from relay import TOKEN

VOICE_PATH = "/v1/text-to-speech/{voice}/stream-input?model_id={model}&output_format=pcm_24000"


def outcome_of(messages, out):
    """The same outcome as the programs report, from the messages that a terminal client printed."""
    audio, chars, error = b"", "", None
    for message in messages:
        if message.get("audio"):
            audio += base64.b64decode(message["audio"])
        if message.get("alignment"):
            chars += "".join(message["alignment"]["chars"])
        if message.get("error"):
            error = message
    with open(out, "wb") as file:
        file.write(audio)
    return {"text": chars, "error": error}


def json_in(text):
    """Every JSON object that stands in what a terminal shows, colors and prompts around it or not."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            found.append(value)
        except ValueError:
            at += 1
    return found


def wscat_in_a_terminal(order, command):
    """A person at a terminal: connects, types the messages, reads until it says that it is over."""
    primary, secondary = pty.openpty()
    # Raw and without echo, as a terminal program sets its terminal: long lines come through whole.
    subprocess.run(["stty", "-F", os.ttyname(secondary), "-echo", "-icanon", "cols", "1000"], check=True)
    argv = [*command, "-c", url_of(order), "-H", f"xi-api-key: {order['XI_TOKEN']}"]
    process = subprocess.Popen(argv, stdin=secondary, stdout=secondary, stderr=secondary, close_fds=True)
    os.close(secondary)
    screen, typed, deadline = "", False, time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([primary], [], [], 0.1)[0]:
            try:
                part = os.read(primary, 1 << 16)
            except OSError:
                break  # The other end of the terminal is closed.
            screen += part.decode(errors="replace")
        if "Connected" in screen and not typed:
            for message in messages_of(order):
                os.write(primary, json.dumps(message).encode() + b"\n")
            typed = True
        if process.poll() is not None and not select.select([primary], [], [], 0.1)[0]:
            break
    process.kill()
    os.close(primary)
    if "Disconnected" in screen:
        close = int(screen.split("code: ")[1].split(",")[0])
        received = [message for message in json_in(screen) if "text" not in message]
        return {**outcome_of(received, order["XI_OUT"]), "close": close}
    return {"error": screen.strip()}


def wscat_with_x(order, command):
    """A script: each message by -x, into a file, since wscat loses frames on a pipe when it exits. Its input stays
    open, since its end is the end of the conversation."""
    flags = [flag for message in messages_of(order) for flag in ("-x", json.dumps(message))]
    argv = [*command, "-c", url_of(order), "-H", f"xi-api-key: {order['XI_TOKEN']}", "-w", "5", *flags]
    keyboard, nobody_types = os.pipe()
    with open(order["XI_OUT"] + ".txt", "w+b") as file:
        done = subprocess.run(argv, stdin=keyboard, stdout=file, stderr=subprocess.PIPE, timeout=40, check=False)
        file.seek(0)
        printed = file.read().decode()
    os.close(keyboard)
    os.close(nobody_types)
    if done.returncode:
        return {"error": done.stderr.decode().strip() or printed}
    return outcome_of(json_in(printed), order["XI_OUT"])


def websocat(order, command):
    """A pipe: one message a line; the key in the first message."""
    first, *rest = messages_of(order)
    first = {**first, "xi_api_key": order["XI_TOKEN"]}
    lines = "".join(json.dumps(message) + "\n" for message in [first, *rest])
    argv = [*command, "--no-close", "-B", "1000000", url_of(order)]
    done = subprocess.run(argv, input=lines.encode(), capture_output=True, timeout=40, check=False)
    return outcome_of([json.loads(line) for line in done.stdout.splitlines()], order["XI_OUT"])


def url_of(order):
    path = VOICE_PATH.format(voice=order["XI_VOICE"], model=order["XI_MODEL"])
    return order["XI_BASE"].replace("http", "ws", 1) + path


def messages_of(order):
    sentences = [part + " " for part in order["XI_TEXT"].replace(". ", ".\n").split("\n")]
    return [{"text": " "}, *({"text": sentence} for sentence in sentences), {"text": ""}]
