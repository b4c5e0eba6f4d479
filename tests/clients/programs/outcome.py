"""What a client program tells the test about its run: one JSON object on the last line it prints.

The program gets its orders from the environment: XI_BASE (http or https), XI_TOKEN, XI_VOICE, XI_MODEL,
XI_TEXT, XI_OUT (the file that takes the audio).
"""

import json
import os
import sys

BASE = os.environ["XI_BASE"]
SOCKET_BASE = BASE.replace("http", "ws", 1)
TOKEN = os.environ["XI_TOKEN"]
VOICE = os.environ["XI_VOICE"]
MODEL = os.environ["XI_MODEL"]
TEXT = os.environ["XI_TEXT"]
OUT = os.environ["XI_OUT"]


def sentences():
    """The text as clients cut it, each part with the space that ends it."""
    return [part + " " for part in TEXT.replace(". ", ".\n").split("\n")]


def report(audio=None, text=None, close=None, error=None, **more):
    """Prints the outcome: text as heard back, close code, and the error as a person would read it."""
    if audio is not None:
        with open(OUT, "wb") as out:
            out.write(audio)
    print(json.dumps({"text": text, "close": close, "error": error, **more}))
    sys.stdout.flush()
