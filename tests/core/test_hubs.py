"""What comes of a hub that fails, stalls or sends what is broken; it is on loopback, the clients are real."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fake_hub import FakeHub, Fault
from workflows.core.errors import UserError
from workflows.core.hubs import HUBS, STALL_VARIABLE, Hub, HubError, Repository, fetch, find_cached

CONTENT = random.Random(0).randbytes(300_000)
# As short as the clients' own variables allow.
HASTY = {
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
    "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    "HF_HUB_ETAG_TIMEOUT": "1",
}
# What the address of one repository's content has, and of its listing.
FILE = {"modelscope": "{id}/repo?", "huggingface": "{id}/resolve/"}
LISTING = {"modelscope": "{id}/repo/", "huggingface": "{id}/revision/"}
BOTH = pytest.mark.parametrize("name", HUBS)


@pytest.fixture
def faulty(hub_here: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub, and clients that do not wait for it long."""
    for name, value in HASTY.items():
        monkeypatch.setenv(name, value)
    return hub_here


def _put(hub: FakeHub, name: Hub, id: str, kind: str = "model") -> Repository:
    hub.put(f"{kind}s", id, "weights.bin", CONTENT)
    return Repository(name, "model" if kind == "model" else "dataset", id)


def _outcome(repository: Repository) -> str:
    """What the file holds, or why there is none."""
    try:
        folder = fetch(repository)
    except HubError as error:
        assert "\n" not in str(error)
        assert find_cached(Repository(**{**vars(repository), "wanted": ("weights.bin",)})) is None
        return str(error)
    assert find_cached(repository) == folder
    return "whole" if (folder / "weights.bin").read_bytes() == CONTENT else "not what it should be"


@BOTH
def test_a_broken_transfer_goes_on_where_it_ended(faulty: FakeHub, name: Hub) -> None:
    file = FILE[name].format(id="some/one")
    faulty.fail(file, "cut", times=1)
    assert _outcome(_put(faulty, name, "some/one")) == "whole"
    first, second = (start for address, start in faulty.asked if file in address)
    assert 0 == first < second <= len(CONTENT) // 2


@BOTH
def test_what_was_changed_on_the_way_is_fetched_again_and_never_used(faulty: FakeHub, name: Hub) -> None:
    for id, times in (("some/once", 1), ("some/always", 1000)):
        faulty.fail(FILE[name].format(id=id), "corrupt", times)
    assert _outcome(_put(faulty, name, "some/once", "dataset")) == "whole"
    why = _outcome(_put(faulty, name, "some/always", "dataset"))
    assert ("Hash mismatch" if name == "modelscope" else "not what the checksum says") in why
    asked = [address for address, _ in faulty.asked if FILE[name].format(id="some/always") in address]
    assert len(asked) == (3 if name == "modelscope" else 2)


@BOTH
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_final(faulty: FakeHub, name: Hub, status: int) -> None:
    faulty.fail("some/one", status)
    before = len(faulty.faults)
    assert str(status) in _outcome(_put(faulty, name, "some/one"))
    assert before - len(faulty.faults) <= 2


@BOTH
def test_a_hub_that_is_down_for_a_moment_is_asked_again(faulty: FakeHub, name: Hub) -> None:
    faulty.fail(FILE[name].format(id="some/one"), 503, times=1)
    assert _outcome(_put(faulty, name, "some/one")) == "whole"
    faulty.fail(LISTING[name].format(id="some/other"), 500)
    assert "500" in _outcome(_put(faulty, name, "some/other"))


def test_a_hub_that_stalls_is_left(faulty: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STALL_VARIABLE, "2")
    for limit in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):  # not by the client's own
        monkeypatch.setenv(limit, "600")
    wanted = []
    faults: list[Fault] = ["stall", "drip", "silent"]
    for name in HUBS:
        for fault in faults:
            wanted.append(_put(faulty, name, f"{name}/{fault}"))
            address = FILE if fault != "silent" else LISTING
            faulty.fail(address[name].format(id=f"{name}/{fault}"), fault)
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(_outcome, wanted))
    assert set(outcomes) == {"it stalls: less than 1 KB/s for 2 s"}
    for repository in wanted:
        assert any(f"{repository.id}/" in address for address, _ in faulty.asked)


@pytest.mark.parametrize("seconds", ["600s", "0", "-1"])
def test_seconds_that_are_no_number_are_refused(
    faulty: FakeHub, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setenv(STALL_VARIABLE, seconds)
    with pytest.raises(UserError, match=f"{STALL_VARIABLE}={seconds}: give a number of seconds above 0"):
        fetch(_put(faulty, "modelscope", "some/one"))


def test_what_modelscope_sent_before_it_stalled_is_kept(
    faulty: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, file = _put(faulty, "modelscope", "some/one"), FILE["modelscope"].format(id="some/one")
    faulty.fail(file, "stall", times=1)
    monkeypatch.setenv(STALL_VARIABLE, "2")
    assert "it stalls" in _outcome(repository)
    monkeypatch.delenv(STALL_VARIABLE)
    assert _outcome(repository) == "whole"
    assert [start for address, start in faulty.asked if file in address][-1] > 0


def test_a_hub_that_is_out_of_reach_or_forbidden_is_not_waited_for(
    faulty: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    repository = _put(faulty, "modelscope", "some/one")
    assert _outcome(repository) == "http://127.0.0.1:9 does not answer"
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert _outcome(repository).startswith("http://hub.example cannot be asked: ProxyError: ")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert _outcome(repository) == "not in its cache, and --offline asks no hub (HF_HUB_OFFLINE is set)"
