"""diffshield serve under load, on the shipped model: 200 requests of 20 clients, each of an address of its own."""

import base64
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from probes.testbed.manifest import load_manifest
from shield import Shield, load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PORT, CLIENTS, EACH, STEPS, GUIDANCE = 7998, 20, 10, 6, 3.0
URL = f"http://127.0.0.1:{PORT}"
MANIFEST = load_manifest()
PROMPTS = (
    *(scene.caption for scene in MANIFEST.scenes("heldout")[:2]),
    f"a picture of {MANIFEST.characters()[0].aliases[0]} on a gray background",
    MANIFEST.shown()[-1].captions[0],
)
SEEDS = range(5)
NEARLY = 2.0  # of 255: what another place in a batch may change in a picture's pixels, on average
GROWTH = 25  # MB, from the hundredth answer to the last


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The service in a process of its own; its process id."""
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "ui.verb", "serve", "--model", "testbed", "--port", str(PORT), "--device", "cpu"]
    with open(log, "wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            try:
                httpx.get(f"{URL}/health")
                break
            except httpx.TransportError:
                time.sleep(0.5)
        yield process.pid
    finally:
        process.terminate()
        assert process.wait(60) is not None


def memory(pid: int) -> float:
    """Resident megabytes."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def wishes(client: int) -> list[tuple[str, int]]:
    """Each client's prompts and seeds; of all clients, every pair equally often."""
    pairs = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
    return [pairs[(client * EACH + place) % len(pairs)] for place in range(EACH)]


def asked(client: int, half: slice) -> list[tuple[tuple[str, int], int, dict]]:
    """Half of a client's requests, one after the other: the wish, the status, the answer."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=f"127.0.0.{client + 2}"), timeout=600) as http:
        found = []
        for prompt, seed in wishes(client)[half]:
            wish = {"prompt": prompt, "seed": seed, "steps": STEPS, "guidance": GUIDANCE}
            answer = http.post(f"{URL}/v1/images/generations", json=wish)
            found.append(((prompt, seed), answer.status_code, answer.json()))
        return found


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, int], tuple[np.ndarray, str]]:
    """What the Shield draws of each wish in a call of its own."""
    safe, found = Shield(load("testbed", device="cpu")), {}
    for prompt in PROMPTS:
        for seed in SEEDS:
            noise = [torch.Generator("cpu").manual_seed(seed)]
            output = safe([prompt], num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise)
            found[prompt, seed] = pixels(output.images[0]), output.verdicts[0].status
    return found


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=np.float32)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc, which Linux has")
def test_two_hundred_requests_none_lost_none_wrong_memory_flat(server: int, alone: dict) -> None:
    answers, sizes, started = [], [memory(server)], time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for half in (slice(0, EACH // 2), slice(EACH // 2, EACH)):
            answers += [one for client in pool.map(asked, range(CLIENTS), [half] * CLIENTS) for one in client]
            sizes.append(memory(server))
    seconds = time.monotonic() - started
    counts = httpx.get(f"{URL}/metrics").text
    print(f"{len(answers)} requests in {seconds:.0f} s; memory {', '.join(f'{size:.0f}' for size in sizes)} MB")
    assert [status for _, status, _ in answers] == [200] * CLIENTS * EACH, "none lost"
    assert f'diffshield_answers_total{{code="200"}} {CLIENTS * EACH}.0' in counts
    assert "diffshield_requests_waiting 0.0" in counts
    for wish, _, answer in answers:
        (datum,) = answer["data"]
        drawn = pixels(Image.open(io.BytesIO(base64.b64decode(datum["b64_json"]))))
        expected, status = alone[wish]
        assert datum["shield"]["seed"] == wish[1] and datum["shield"]["status"] == status, wish
        distances = {other: float(np.abs(drawn - one).mean()) for other, (one, _) in alone.items()}
        assert min(distances, key=distances.get) == wish and distances[wish] < NEARLY, (wish, distances[wish])
    assert sizes[2] - sizes[1] < GROWTH, sizes
