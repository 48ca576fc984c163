"""The example service, on a tiny pipeline: pictures, verdicts, what is refused, and one picture at a time."""

import base64
import io
from threading import Barrier, Thread

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from examples.service import LONGEST, service, told
from shield import Policy, Score, Shield, Verdict
from tests.shield.calls import STEPS, options, thresholds
from tests.tiny import tiny_sd

WISH = {"prompt": "the cat", "seed": 5, "steps": STEPS, "guidance": 5.0}


@pytest.fixture(scope="module")
def pipe():
    return tiny_sd()


def client(pipe, value, policy="balanced", **more):
    """A client of a service whose detectors flag above `value`."""
    return TestClient(service(Shield(pipe, policy, thresholds=thresholds(pipe, value)), "tiny", **more))


def test_an_ordinary_prompt_gives_the_pipelines_own_picture(pipe):
    answer = client(pipe, 1e9).post("/generate", json=WISH)
    found = answer.json()
    assert answer.status_code == 200 and found["seed"] == 5 and found["verdict"]["status"] == "passed"
    assert [score["flagged"] for score in found["verdict"]["scores"]] == [False]
    drawn = Image.open(io.BytesIO(base64.b64decode(found["picture"])))
    noise = [torch.Generator().manual_seed(5)]
    bare = pipe("the cat", **options(generator=noise, output_type="pil")).images[0]
    assert drawn.format == "PNG" and drawn.tobytes() == bare.tobytes()


def test_a_blocked_picture_is_not_sent(pipe):
    answer = client(pipe, -1.0, Policy(on_flag="block")).post("/generate", json=WISH)
    found = answer.json()
    assert answer.status_code == 451 and "picture" not in found
    assert found["verdict"]["status"] == "blocked" and found["verdict"]["reasons"]


def test_a_request_without_a_seed_is_told_it(pipe):
    served = client(pipe, 1e9)
    wish = {name: value for name, value in WISH.items() if name != "seed"}
    first, second = (served.post("/generate", json=wish).json() for _ in range(2))
    assert first["seed"] != second["seed"]
    again = served.post("/generate", json={**WISH, "seed": first["seed"]}).json()
    assert again["picture"] == first["picture"] != second["picture"]


@pytest.mark.parametrize(
    "wish, said",
    [
        ({**WISH, "prompt": "x" * (LONGEST + 1)}, "prompt: String should have at most 1000 characters."),
        ({**WISH, "prompt": "   "}, "prompt: String should have at least 1 character."),
        ({"seed": 1}, "prompt: Field required."),
        ({**WISH, "steps": 0}, "steps: "),
        ({**WISH, "steps": 10**9}, "steps: "),
        ({**WISH, "seed": -1}, "seed: "),
        ({**WISH, "guidance": "much"}, "guidance: "),
        ({**WISH, "negative_prompt": "x"}, "negative_prompt: "),
        ("the cat", "body: "),
    ],
)
def test_an_unusable_request_gets_one_sentence(pipe, wish, said):
    answer = client(pipe, 1e9).post("/generate", json=wish)
    assert answer.status_code == 422 and answer.json()["error"].startswith(said)
    assert len(answer.text) < 200, "what was sent isn't sent back"


def test_what_cannot_be_judged_is_refused(pipe):
    answer = client(pipe, 1e9).post("/generate", json={**WISH, "guidance": 1.0})
    assert answer.status_code == 422 and list(answer.json()) == ["error"]
    assert "guidance is off" in answer.json()["error"]


def test_health_names_the_model(pipe):
    found = client(pipe, 1e9).get("/health").json()
    assert found["status"] == "ready" and found["model"] == "tiny" and len(found["model_sha256"]) == 64
    assert found["busy"] is False


def test_one_picture_at_a_time_and_no_endless_queue(pipe):
    served, start, codes = client(pipe, 1e9, waiting=2), Barrier(6), []

    def ask():
        start.wait()
        codes.append(served.post("/generate", json={**WISH, "steps": 20}).status_code)

    threads = [Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 200 in codes and 503 in codes and set(codes) == {200, 503}
    assert served.post("/generate", json=WISH).status_code == 200, "a place is free again"


def test_one_address_leaves_places_for_the_others(pipe):
    app = client(pipe, 1e9, waiting=3, of_one=1).app
    ann, bob = (TestClient(app, client=(name, 1)) for name in ("ann", "bob"))
    codes, start = [], Barrier(5)

    def ask():
        start.wait()
        codes.append(ann.post("/generate", json={**WISH, "steps": 40}).status_code)

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    assert bob.get("/health").status_code == 200 and bob.post("/generate", json=WISH).status_code == 200
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200, 429, 429, 429]


def test_foreign_names_and_long_bodies_are_refused(pipe):
    served = client(pipe, 1e9, hosts=["pictures.example"])
    for headers, code in (({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403),
                          ({"Host": "localhost:8000", "Origin": "null"}, 403),
                          ({"Host": "127.0.0.1:8000"}, 200), ({"Host": "pictures.example"}, 200)):
        assert served.get("/health", headers=headers).status_code == code, headers
    assert served.post("/generate", json={**WISH, "prompt": "x" * 70_000}).status_code == 413
    pieces = (b" " * 1000 for _ in range(100))
    assert served.post("/generate", content=pieces, headers={"Content-Type": "application/json"}).status_code == 413


def test_an_error_frees_the_lock(pipe):
    served = client(pipe, 1e9, waiting=1)
    assert served.post("/generate", json={**WISH, "guidance": 1.0}).status_code == 422
    assert served.post("/generate", json=WISH).status_code == 200


def test_a_number_that_is_none_is_null():
    found = told(Verdict(0, "x", "passed", (Score("noise_gap", float("nan"), 1.0, 0),)))
    assert found["scores"][0]["value"] is None and found["scores"][0]["flagged"] is None
