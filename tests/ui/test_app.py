"""The server: what it serves and what it refuses, the documented API, and visitors who take turns."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from shield.errors import BadRequestError
from tests.ui.pictures import saved
from tests.ui.serving import served
from ui.app import launched, page_of
from ui.verb import _user

# Gradio's own, with pandas 3.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


@pytest.fixture
def client(place) -> Client:
    return Client(place[0], verbose=False)


def test_the_page_fetches_nothing_from_elsewhere(place) -> None:
    text = httpx.get(place[0]).text
    assert "diffusion-shield" in text
    sources = re.findall(r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="(https?:[^"]+)"', text)
    assert [source for source in sources if not source.startswith(place[0])] == []
    assert "googleapis" not in httpx.get(place[0] + "theme.css").text


def test_the_api_draws_behind_the_shield(client: Client) -> None:
    picture, verdict = client.predict("the cat", "testbed", "balanced", 7, 2, 3.0, api_name="/shield")
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert verdict["request"] == {
        "prompt": "the cat",
        "model": "testbed",
        "policy": "balanced",
        "seed": 7,
        "steps": 2,
        "guidance_scale": 3.0,
    }
    assert verdict["verdict"]["status"] == "passed" and len(verdict["score_by_step"]) == 2
    assert verdict["sentence"].startswith("Passed") and verdict["same_picture_without_the_shield"]
    assert verdict["verdict"]["scores"][0]["threshold"] is not None


def test_the_api_has_defaults_and_refuses_in_one_sentence(client: Client) -> None:
    assert list(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ["/shield"]
    _, verdict = client.predict("a red thing 1", steps=1, api_name="/shield")
    assert verdict["request"]["model"] == "testbed" and verdict["request"]["guidance_scale"] == 5.0
    for given, says in (
        ({"model": "/etc"}, "There is no model '/etc' here"),
        ({"policy": "x"}, "no policy"),
        ({"prompt": ""}, "A prompt is needed"),
        ({"steps": 10**6}, "number of steps lies between"),
    ):
        with pytest.raises(AppError, match=says):
            client.predict(**{"prompt": "the cat", "steps": 1, **given}, api_name="/shield")


def test_a_protected_name_is_flagged(client: Client) -> None:
    _, verdict = client.predict("Mickey Mouse on the moon", steps=1, api_name="/shield")
    assert verdict["flagged"] and verdict["verdict"]["concepts"] == ["Mickey Mouse"]


def test_files_of_the_machine_are_not_served(place) -> None:
    url, page = place
    picture = page.protected.folder / page.protected.works[0]["file"]
    for path in (
        "/etc/passwd",
        str(Path("pyproject.toml").resolve()),
        str(picture),
        str(picture) + "/../x",
        "../../../../etc/passwd",
    ):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404), path


def test_uploads_have_a_limit(place, tmp_path: Path) -> None:
    small = saved(tmp_path, 1)
    large = tmp_path / "large.png"
    with open(large, "wb") as file:
        file.truncate(21 * 2**20)
    status = {}
    for file in (small, large):
        with open(file, "rb") as stream:
            answer = httpx.post(place[0] + "gradio_api/upload", files={"files": stream}, timeout=60)
            status[file.name] = answer.status_code
    assert status == {"1.png": 200, "large.png": 413}


def test_foreign_names_are_refused_and_bodies_have_a_limit(place) -> None:
    url, page = place
    for headers, code in (({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)):
        assert httpx.get(url + "config", headers=headers).status_code == code
    body = {"data": ["x" * 2**21, ""], "fn_index": 0, "session_hash": "abc"}
    for path in ("queue/join", "run/predict"):
        assert httpx.post(f"{url}gradio_api/{path}", json=body).status_code == 413
    many = [("files", (f"{n}.png", b"x" * 2**20)) for n in range(241)]
    assert httpx.post(url + "gradio_api/upload", files=many, timeout=60).status_code == 413


def test_one_visitor_leaves_room_and_what_is_quick_needs_none(place, tmp_path: Path) -> None:
    """Pictures of one address fill its share of the queue; saving, trying and canceling don't go through it."""
    with served(tmp_path) as (url, page):
        _fill(url, page)


def _fill(url: str, page) -> None:
    numbers = {one["api_name"]: one["id"] for one in httpx.get(url + "config").json()["dependencies"]}

    def join(name: str, data: list, session: str) -> int:
        body = {"data": data, "fn_index": numbers[name], "session_hash": session}
        return httpx.post(url + "gradio_api/queue/join", json=body).status_code

    with page.models.used("testbed"):  # so that nothing is drawn meanwhile
        codes = [join("generate", ["a cat", "testbed", "balanced", n, 1, 3, None], f"one{n}") for n in range(12)]
        assert codes == [200] * 8 + [429] * 4
        held = [one for one in httpx.get(url + "config").json()["dependencies"] if one["queue"]]
        assert {one["api_name"] for one in held} == {
            "generate",
            "generate_1",
            "first",
            "show",
            "add",
            "add_1",
            "exported",
            "imported",
            "shield",
            "left",
        }
        body = {
            "data": ["(a new one)", "", "Quickly", "character", "", "", "", ""],
            "fn_index": numbers["save"],
            "session_hash": "other",
        }
        assert httpx.post(url + "gradio_api/run/predict", json=body, timeout=30).status_code == 200
    assert page.protected.concept("Quickly")


def test_visitors_take_turns_and_the_page_answers_meanwhile(place) -> None:
    """Three pictures of two visitors come out in the order they were asked for; the page is served all the while."""
    done: list[str] = []
    clients = {name: Client(place[0], verbose=False) for name in ("ann", "bob")}

    def asked(name: str, steps: int) -> threading.Thread:
        job = clients[name.split()[0]].submit("the cat", steps=steps, api_name="/shield")
        thread = threading.Thread(target=lambda: (job.result(), done.append(name)))
        thread.start()
        time.sleep(0.3)
        return thread

    threads = [asked("ann", 40), asked("bob", 3), asked("ann again", 4)]  # none of them drawn before
    assert done == [] and httpx.get(place[0] + "config").status_code == 200
    for thread in threads:
        thread.join(120)
    assert done == ["ann", "bob", "ann again"]


def test_a_password_keeps_strangers_out(tmp_path: Path, place) -> None:
    with served(tmp_path, auth=("me", "secret")) as (url, _):
        assert httpx.get(url + "config").status_code == 401
        assert httpx.post(url + "gradio_api/call/shield", json={"data": ["the cat"]}).status_code == 401
        assert Client(url, auth=("me", "secret"), verbose=False).view_api(return_format="dict", print_info=False)
    assert _user("me:pass:word") == ("me", "pass:word") and _user(None) is None
    for wrong in ("me", ":", "me:", ":x", ""):
        with pytest.raises(BadRequestError, match="USER:PASSWORD"):
            _user(wrong)


def test_a_port_in_use_is_one_sentence(place, tmp_path: Path) -> None:
    port = int(place[0].rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(BadRequestError, match=f"can't be served on 127.0.0.1, port {port}"):
        launched(page_of("testbed", tmp_path, device="cpu"), port=port)


def test_the_verb_explains_itself_without_gradio_or_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from ui.verb import app\n"
        "done = CliRunner().invoke(app, ['ui', '--help'])\n"
        "assert done.exit_code == 0 and '--protected' in done.stdout, done.output\n"
        "assert 'generate' in CliRunner().invoke(app, ['--help']).stdout\n"
        "assert not {'torch', 'gradio'} & set(sys.modules), 'help must be quick'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    wrong = subprocess.run(
        [sys.executable, "-m", "ui", "--model", "/nowhere", "--auth", "x"], capture_output=True, text=True
    )
    assert wrong.returncode == 2 and wrong.stdout == "" and wrong.stderr.count("\n") == 1


def test_the_documented_call_works(place, capsys: pytest.CaptureFixture) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "ui" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(code.replace("http://127.0.0.1:7860", place[0]).replace("steps=25", "steps=2"), {})
    assert "Passed: nothing was flagged" in capsys.readouterr().out
