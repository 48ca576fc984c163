"""Names that a server answers to, and bodies that it takes, told by a small application behind the guard."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ui.guard import Guard


def client(**options) -> TestClient:
    async def read(request):
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route(path, read, methods=["GET", "POST"]) for path in ("/", "/a/upload")])
    app.add_middleware(Guard, most=1000, most_upload=5000, **options)
    return TestClient(app)


FOREIGN = [
    "evil.example",
    "evil.example:7860",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "",
    "a@localhost.x",
    "localhost@evil.example",
    "evil.example.",
    "[::2]:80",
    "10.0.0.5",
    "[::1",
    "evil.example#localhost",
]
OWN = ["localhost", "LOCALHOST:7860", "localhost.", "127.0.0.1:7860", "127.8.0.1", "[::1]:7860", "a.localhost", "mybox"]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_name_is_refused(host: str) -> None:
    for answer in (client().get("/", headers={"Host": host}), client().post("/", headers={"Host": host})):
        assert answer.status_code == 421 and "--allow-host" in answer.json()["error"]


@pytest.mark.parametrize("host", OWN)
def test_this_machines_names_are_its_own(host: str) -> None:
    assert client().get("/", headers={"Host": host}).status_code == 200


def test_a_server_for_other_machines_answers_to_addresses_and_to_names_it_is_told() -> None:
    served = client(bound="0.0.0.0", hosts=["pictures.example", ".all.example"])
    for host, code in (
        ("10.0.0.5:7860", 200),
        ("[2001:db8::1]", 200),
        ("Pictures.example", 200),
        ("x.all.example", 200),
        ("evil.example", 421),
        ("x.pictures.example", 421),
        ("all.example", 421),
    ):
        assert served.get("/", headers={"Host": host}).status_code == code, host
    assert client(hosts=["*"]).get("/", headers={"Host": "evil.example"}).status_code == 200
    assert client(bound="page.example").get("/", headers={"Host": "page.example:7860"}).status_code == 200


@pytest.mark.parametrize(
    "origin, code",
    [
        ("http://localhost:7860", 200),
        ("http://127.0.0.1", 200),
        ("https://pictures.example", 200),
        ("http://mybox:1", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://intranet", 403),
        ("file://localhost", 403),
        ("x", 403),
    ],
)
def test_pages_of_others_are_refused(origin: str, code: int) -> None:
    served = client(hosts=["pictures.example"])
    assert served.post("/", headers={"Host": "mybox", "Origin": origin}).status_code == code


def test_bodies_have_a_size_whatever_they_say_of_it() -> None:
    served = client()
    for path, size, code in (("/", 1000, 200), ("/", 1001, 413), ("/a/upload", 5000, 200), ("/a/upload", 5001, 413)):
        assert served.post(path, content=b"x" * size).status_code == code
        pieces = (b"x" for _ in range(size))
        assert served.post(path, content=pieces).status_code == code
    assert served.post("/", headers={"Content-Length": "-5"}).status_code == 413
