"""The page as a Space: it starts as its Dockerfile starts it, and answers to the name that the host gives it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "space"


@pytest.mark.slow
def test_the_space_starts_and_answers_to_its_hosts_name_alone() -> None:
    (command,) = re.findall(r"^CMD (.*)$", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    _, *arguments = json.loads(command)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"PORT": str(port), "SPACE_HOST": "me-shield.hf.space", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("The page is at http")
        codes = {
            host: httpx.get(f"http://127.0.0.1:{port}/", headers={"Host": host}).status_code
            for host in ("me-shield.hf.space", "evil.example")
        }
        assert codes == {"me-shield.hf.space": 200, "evil.example": 421}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
