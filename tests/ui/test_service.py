"""diffshield serve, on a tiny pipeline: images, verdicts, what is refused, and several clients at once."""

import base64
import io
import json
from threading import Barrier, Thread

import openai
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from shield import Policy, Shield
from shield.errors import BadRequestError
from tests.shield.calls import STEPS, options, thresholds
from tests.tiny import tiny_sd
from ui.drawing_queue import DrawingQueue, DrawingSettings, QueuedRequest, QueueError
from ui.service import LONGEST, Service, routes

PATH = "/v1/images/generations"
WISH = {"prompt": "the cat", "seed": 5, "steps": STEPS, "guidance": 5.0}


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd()


@pytest.fixture
def client(pipe):
    """Makes clients of services whose detectors flag above a value; the services end with the test."""
    made = []

    def client(value=1e9, policy="balanced", hosts=(), **more):
        made.append(Service(Shield(pipe, policy, thresholds=thresholds(pipe, value)), "tiny", **more))
        return TestClient(routes(made[-1], hosts=hosts), raise_server_exceptions=False)

    yield client
    for service in made:
        service.close()


def shown(datum):
    return Image.open(io.BytesIO(base64.b64decode(datum["b64_json"])))


def test_an_ordinary_prompt_gives_the_pipelines_own_image(pipe, client):
    answer = client().post(PATH, json=WISH)
    (datum,) = answer.json()["data"]
    assert answer.status_code == 200 and datum["revised_prompt"] == "the cat"
    assert datum["shield"]["seed"] == 5 and datum["shield"]["status"] == "passed" and not datum["shield"]["flagged"]
    noise = [torch.Generator().manual_seed(5)]
    bare = pipe("the cat", **options(generator=noise, output_type="pil")).images[0]
    assert shown(datum).format == "PNG" and shown(datum).tobytes() == bare.tobytes()


def test_blocked_images_raise_bad_request_in_openais_own_client(client, tmp_path):
    log = tmp_path / "verdicts.jsonl"
    blocking = client(-1.0, Policy(on_flag="block"), verdict_log=log)
    official = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=blocking)
    more = {name: WISH[name] for name in ("seed", "steps", "guidance")}
    with pytest.raises(openai.BadRequestError) as caught:
        official.images.generate(prompt="the cat", n=2, extra_body=more)
    assert caught.value.code == "content_policy_violation" and caught.value.status_code == 400
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(one["status"], one["flagged"], one["seed"]) for one in said] == [("blocked", True, s) for s in (5, 6)]


def test_openais_own_client_gets_images(client):
    official = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client())
    assert [model.id for model in official.models.list()] == ["tiny"]
    more = {name: WISH[name] for name in ("seed", "steps", "guidance")}
    made = official.images.generate(prompt="the cat", n=2, size="64x64", response_format="b64_json", extra_body=more)
    assert len(made.data) == 2 and made.data[0].b64_json != made.data[1].b64_json
    assert Image.open(io.BytesIO(base64.b64decode(made.data[0].b64_json))).size == (64, 64)


def test_a_request_without_a_seed_is_told_it(client):
    served = client()
    wish = {name: value for name, value in WISH.items() if name != "seed"}
    first, second = (served.post(PATH, json=wish).json()["data"][0] for _ in range(2))
    assert first["shield"]["seed"] != second["shield"]["seed"]
    again = served.post(PATH, json={**WISH, "seed": first["shield"]["seed"]}).json()["data"][0]
    assert again["b64_json"] == first["b64_json"] != second["b64_json"]


@pytest.mark.parametrize(
    "wish, said",
    [
        ({**WISH, "prompt": "x" * (LONGEST + 1)}, "prompt: String should have at most 2000 characters."),
        ({**WISH, "prompt": "   "}, "prompt: String should have at least 1 character."),
        ({"seed": 1}, "prompt: Field required."),
        ({**WISH, "steps": 0}, "steps: "),
        ({**WISH, "steps": 10**9}, "steps: "),
        ({**WISH, "seed": -1}, "seed: "),
        ({**WISH, "n": 99}, "n: "),
        ({**WISH, "size": "big"}, "size: "),
        ({**WISH, "size": "4096x4096"}, "A side has at most 2048 pixels, a multiple of 8; not 4096x4096."),
        ({**WISH, "size": "33x32"}, "A side has"),
        ({**WISH, "response_format": "url"}, "Images are sent as base64 alone"),
        ({**WISH, "guidance": "much"}, "guidance: "),
        ({**WISH, "colour": "x"}, "colour: "),
        ("the cat", "body: "),
    ],
)
def test_an_unusable_request_gets_one_sentence(client, wish, said):
    answer = client().post(PATH, json=wish)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(said)
    assert len(answer.text) < 400, "what was sent isn't sent back"


def test_what_cannot_be_judged_is_not_drawn(client):
    served = client(waiting=1, policy=Policy(extra_uncond=False))
    answer = served.post(PATH, json={**WISH, "guidance": 1.0})
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "judge_unavailable"
    assert served.post(PATH, json=WISH).status_code == 200, "its place is free again"


def test_a_key_is_asked_for(client):
    served = client(api_key="secret")
    assert served.post(PATH, json=WISH).status_code == 401
    assert served.post(PATH, json=WISH, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_verdicts_can_be_kept_from_clients(client):
    assert "shield" not in client(verdicts=False).post(PATH, json=WISH).json()["data"][0]


def test_health_and_metrics_count(client):
    served = client()
    served.post(PATH, json=WISH)
    found = served.get("/health").json()
    assert found["status"] == "ready" and found["model"] == "tiny" and found["waiting"] == 0
    told = served.get("/metrics").text
    assert 'diffshield_images_total{status="passed"} 1.0' in told and 'diffshield_answers_total{code="200"} 1.0' in told


def test_waiting_requests_of_equal_settings_are_drawn_together(client):
    """Nine clients at once: every one gets its own seed's image, and the pipeline is called less often."""
    served, start, found = client(batch=4), Barrier(9), {}
    alone = {seed: served.post(PATH, json={**WISH, "seed": seed}).json()["data"][0] for seed in range(9)}
    calls = served.app.state.service.queue.calls

    def ask(seed):
        start.wait()
        found[seed] = served.post(PATH, json={**WISH, "seed": seed}).json()["data"][0]

    _together([lambda seed=seed: ask(seed) for seed in range(9)])
    for seed, datum in found.items():
        assert datum["shield"]["seed"] == seed and datum["shield"]["prompt"] == "the cat"
        own, other = shown(alone[seed]), shown(datum)
        assert max(abs(a - b) for a, b in zip(own.tobytes(), other.tobytes(), strict=True)) <= 2
    assert 3 <= served.app.state.service.queue.calls - calls < 9


def test_no_endless_queue_and_a_share_for_everybody(client):
    app = client(waiting=3, of_one=1).app
    ann, bob = (TestClient(app, client=(name, 1)) for name in ("ann", "bob"))
    codes, start = [], Barrier(5)

    def ask():
        start.wait()
        codes.append(ann.post(PATH, json={**WISH, "steps": 60}).status_code)

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    assert bob.get("/health").status_code == 200 and bob.post(PATH, json=WISH).status_code == 200
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 429, 429, 429]


def test_one_bad_request_of_a_batch_spoils_no_other(pipe):
    queue = DrawingQueue(Shield(pipe, thresholds=thresholds(pipe, 1e9)), batch=4)
    settings = DrawingSettings(STEPS, 5.0)
    first = QueuedRequest(
        "ann", "the cat", [1], DrawingSettings(40, 5.0)
    )  # keeps the thread busy while the others come in
    good, bad, other = (QueuedRequest("ann", prompt, [2], settings) for prompt in ("the cat", None, "a hat"))
    for request in (first, good, bad, other):
        queue.put(request)
    assert [len(one.result.result(60)) for one in (first, good, other)] == [1, 1, 1]
    with pytest.raises(BadRequestError):
        bad.result.result(60)
    queue.close()
    with pytest.raises(QueueError, match="shutting down"):
        queue.put(good)


def test_foreign_names_and_long_bodies_are_refused(client):
    served = client(hosts=["pictures.example"])
    for headers, code in (
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "pictures.example"}, 200),
    ):
        assert served.get("/health", headers=headers).status_code == code, headers
    assert served.post(PATH, json={**WISH, "prompt": "x" * 70_000}).status_code == 413


def _together(works):
    threads = [Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
