"""What the API server answers, as what the caller has to know: there, not there, later, or never."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cryoscale.errors import ClusterUnavailableError, CryoscaleError, InputError
from cryoscale.kube import api as asking
from cryoscale.kube.api import Kube, connected
from tests.kube_api import FakeApi, served

JOB = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(asking, "AGAIN_S", 0.0)
    with served(FakeApi(), tmp_path / "kubeconfig") as found:
        yield found


@pytest.fixture
def kube(api: FakeApi) -> Iterator[Kube]:
    with connected(None) as found:
        yield found


def refusing(api: FakeApi, status: int, times: int) -> list[str]:
    """Have the next calls refused; they are noted."""
    asked: list[str] = []

    def refuses(verb: str, plural: str) -> int | None:
        asked.append(verb)
        return status if len(asked) <= times else None

    api.refuses = refuses
    return asked


@pytest.mark.parametrize("status", [409, 429])
def test_a_create_that_others_came_in_the_way_of_is_tried_again(
    api: FakeApi, kube: Kube, status: int
) -> None:
    asked = refusing(api, status, times=2)
    assert kube.create(JOB) is not None
    assert (api.names("jobs"), len(asked)) == (["j"], 3)
    assert kube.create(JOB) is None


def test_a_conflict_that_stays_is_not_taken_for_an_object_that_is_there(api: FakeApi, kube: Kube) -> None:
    asked = refusing(api, 409, times=99)
    with pytest.raises(ClusterUnavailableError, match="the object has been modified"):
        kube.create(JOB)
    assert len(asked) == asking.CREATE_TRIES


@pytest.mark.parametrize("status", [408, 409, 429])
@pytest.mark.parametrize(
    "call",
    [
        lambda kube: kube.get("Job", "j"),
        lambda kube: kube.delete("Job", "j"),
        lambda kube: kube.patch("Job", "j", {}),
    ],
    ids=["get", "delete", "patch"],
)
def test_what_is_refused_because_of_others_may_be_asked_again(
    api: FakeApi, kube: Kube, status: int, call: Callable[[Kube], Any]
) -> None:
    api.put("jobs", {"metadata": {"name": "j"}})
    refusing(api, status, times=1)
    with pytest.raises(ClusterUnavailableError):
        call(kube)
    assert call(kube)


def test_another_object_of_the_name_is_neither_changed_nor_deleted(api: FakeApi, kube: Kube) -> None:
    api.put("jobs", {"metadata": {"name": "j", "uid": "there"}})
    change = {"metadata": {"labels": {"a": "b"}}}
    for call in (kube.patch("Job", "j", change, uid="there"), kube.get("Job", "j")):
        assert call is not None
        assert call["metadata"]["labels"] == {"a": "b"}
    with pytest.raises(ClusterUnavailableError, match="another by now"):
        kube.patch("Job", "j", {"metadata": {"labels": {"a": "c"}}}, uid="meant")
    with pytest.raises(ClusterUnavailableError):
        kube.delete("Job", "j", uid="meant")
    assert api.objects["jobs", "j"]["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_rolled_at_the_first_contact_is_away_and_no_bad_input(
    api: FakeApi, status: int
) -> None:
    refusing(api, status, times=1)
    with pytest.raises(ClusterUnavailableError), connected(None):
        pass


def test_credentials_that_the_server_does_not_take_are_bad_input(api: FakeApi) -> None:
    refusing(api, 401, times=99)
    with pytest.raises(InputError, match="a kubeconfig that kubectl can use"), connected(None):
        pass


@pytest.mark.parametrize(
    ("status", "text", "exit_code", "words"),
    [
        (200, "<html>sign in</html>", 75, "'<html>sign in</html>', no document of Kubernetes"),
        (403, '{"error": "blocked"}', 2, "rights that are too narrow: 403 Forbidden"),
        (403, '["blocked"]', 2, "rights that are too narrow: 403 Forbidden"),
        (429, "Too many requests", 75, "429 Too Many Requests"),
        (502, "<html>away</html>", 75, "fails: 502 Bad Gateway"),
        (503, '{"message": "etcd\\nis away"}', 75, "fails: etcd is away"),
    ],
)
def test_what_a_gateway_answers_is_told_in_a_line(
    api: FakeApi, kube: Kube, status: int, text: str, exit_code: int, words: str
) -> None:
    api.gateway = status, text
    for call in (lambda: kube.get("Job", "j"), lambda: kube.list("Job", {}), lambda: kube.create(JOB)):
        with pytest.raises(CryoscaleError) as told:
            call()
        assert told.value.exit_code == exit_code
        assert words in str(told.value)
        assert "\n" not in str(told.value)
