"""The relay under test: its own binary in front of its built-in sandbox, on ports of its choice."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

TOKEN = "token-of-the-client-tests-51c2"
ORIGIN_PORT = 18990

CONFIG = """
[server]
bind = "127.0.0.1:0"
allowed_origins = ["http://localhost:{origin_port}"]
tls = "{tls}"

[operator]
bind = "127.0.0.1:0"

[upstream]
base_url = "sandbox"

[sandbox]
first_audio_delay = "50ms"
pace = 0
close_delay = "50ms"

[[clients]]
id = "tests"
token_sha256 = "{token_sha256}"
plan = "default"

[usage]
store = "memory"

[log]
format = "json"
"""


class Relay:
    """Started by `with`, and stopped at its end."""

    def __init__(self, binary, tls):
        self.binary, self.tls = Path(binary).resolve(), tls
        self.folder = Path(tempfile.mkdtemp(prefix="xi-relay-clients-"))
        self.lines = []

    def __enter__(self):
        config = self.folder / "relay.toml"
        hashed = hashlib.sha256(TOKEN.encode()).hexdigest()
        tls = "dev" if self.tls else "off"
        config.write_text(CONFIG.format(tls=tls, token_sha256=hashed, origin_port=ORIGIN_PORT))
        self.process = subprocess.Popen(
            [self.binary, "--config", config],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.listening = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self.listening.wait(20):
            raise SystemExit("the relay did not start:\n" + "".join(self.lines))
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(40)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("message") == "listening":
                self.address = entry["address"]
                self.certificate = entry.get("certificate")
                self.listening.set()

    @property
    def base(self):
        port = self.address.rsplit(":", 1)[1]
        return f"{'https' if self.tls else 'http'}://localhost:{port}"

    @property
    def environment(self):
        """What a client needs to trust the development certificate."""
        if not self.tls:
            return {}
        return {"SSL_CERT_FILE": self.certificate, "NODE_EXTRA_CA_CERTS": self.certificate}
