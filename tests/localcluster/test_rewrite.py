from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.network import ClusterNetwork
from localcluster.node.rewrite import Rewriter, service_names

SERVICES = {("monitoring", "prometheus"): "10.96.0.9", ("default", "web"): "10.96.7.7"}
MOUNTS = {"/etc/app": "/state/v/app", "/etc/app/inner": "/state/v/inner", "/data/": "/state/v/data"}


def rewriter(mounts: dict[str, str] | None = None) -> Rewriter:
    return Rewriter(
        MOUNTS if mounts is None else mounts,
        "127.244.0.3",
        ClusterNetwork(0),
        lambda namespace, name: SERVICES.get((namespace, name)),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/etc/app", "/state/v/app"),
        ("/etc/app/", "/state/v/app/"),
        ("--config=/etc/app/a.yml", "--config=/state/v/app/a.yml"),
        ("/etc/app/inner/x", "/state/v/inner/x"),
        ("/data", "/state/v/data"),
        ("file:///data/x", "file:///state/v/data/x"),
        ("a=/data:/etc/app", "a=/state/v/data:/state/v/app"),
        ('{"path": "/data/x"}', '{"path": "/state/v/data/x"}'),
        ("echo hi > /data/log; exit 1", "echo hi > /state/v/data/log; exit 1"),
        ("/etc/application", "/etc/application"),
        ("/data.json", "/data.json"),
        ("/var/data/x", "/var/data/x"),
        ("http://host/data/x", "http://host/data/x"),
        ("$(ROOT)/data", "$(ROOT)/data"),
    ],
)
def test_mount_paths(text: str, expected: str) -> None:
    assert rewriter().text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0", "127.244.0.3"),  # noqa: S104 - what is rewritten
        ("--listen=0.0.0.0:9090", "--listen=127.244.0.3:9090"),
        ("0.0.0.0:80", "127.244.0.3:10080"),
        ("http://0.0.0.0", "http://127.244.0.3:10080"),
        ("10.96.0.1", "127.96.0.1"),
        ("https://10.96.0.1/x", "https://127.96.0.1:10443/x"),
        ("10.96.0.1:443", "127.96.0.1:10443"),
        ("redis://10.244.1.2:6379/0", "redis://127.244.1.2:6379/0"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("10.96.0.0/16", "10.96.0.0/16"),
        ("10.97.0.1", "10.97.0.1"),
        ("192.168.0.1:80", "192.168.0.1:80"),
        ("v10.96.0.1", "v10.96.0.1"),
        ("10.96.0.1.5", "10.96.0.1.5"),
        ("10.96.0.1.", "127.96.0.1."),
        ("110.96.0.1", "110.96.0.1"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert rewriter().text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://prometheus.monitoring.svc:9090", "http://127.96.0.9:9090"),
        ("http://prometheus.monitoring.svc.cluster.local:9090/api", "http://127.96.0.9:9090/api"),
        ("web.default.svc", "127.96.7.7"),
        ("http://web.default.svc/predict", "http://127.96.7.7:10080/predict"),
        ("https://web.default.svc", "https://127.96.7.7:10443"),
        ("web.default.svc:80", "127.96.7.7:10080"),
        ("redis://:word@web.default.svc:6379", "redis://:word@127.96.7.7:6379"),
        ("http://absent.default.svc:80", "http://absent.default.svc:80"),
        ("pod-0.web.default.svc", "pod-0.web.default.svc"),
        ("web.default.svcx", "web.default.svcx"),
        ("web.default.svc.example.org", "web.default.svc.example.org"),
        ("web.default", "web.default"),
    ],
)
def test_service_names(text: str, expected: str) -> None:
    assert rewriter().text(text) == expected


def test_names_in_a_text_are_found() -> None:
    assert service_names("a=http://web.default.svc,b=x.y.svc.cluster.local:1") == {("default", "web"), ("y", "x")}


@given(st.text(alphabet=st.characters(exclude_characters="/."), max_size=80))
def test_text_without_paths_and_addresses_stays_as_it_is(text: str) -> None:
    assert rewriter().text(text) == text


names = st.text(alphabet="abcxyz-_", min_size=1, max_size=8)
relative = st.lists(names, max_size=3).map("/".join)


@given(names, names, relative, st.sampled_from(["", "--flag=", "a:", " ", '"', "file://"]))
def test_path_under_a_mount_keeps_its_tail(mount: str, folder: str, rest: str, before: str) -> None:
    tail = f"/{rest}" if rest else ""
    moved = rewriter({f"/{mount}": f"/s/{folder}"}).text(f"{before}/{mount}{tail}")
    assert moved == f"{before}/s/{folder}{tail}"


@given(names, names, relative)
def test_mount_moves_nothing_that_only_begins_alike(mount: str, suffix: str, rest: str) -> None:
    text = f"/{mount}{suffix}/{rest}"
    assert rewriter({f"/{mount}": "/elsewhere"}).text(text) == text


@given(st.text(max_size=200))
def test_any_text_can_be_rewritten(text: str) -> None:
    assert isinstance(rewriter().text(text), str)


@given(st.sampled_from(sorted(MOUNTS)), relative)
def test_replacement_is_not_rewritten_again(mount: str, rest: str) -> None:
    # The folder lies below a mount path itself, as when the state folder is under /tmp and /tmp is mounted.
    nested = Rewriter({"/tmp": "/tmp/state/tmp"}, "127.244.0.3", ClusterNetwork(0), lambda *_: None)  # noqa: S108 - a mount point
    assert nested.text(f"/tmp/{rest}") == f"/tmp/state/tmp/{rest}"  # noqa: S108 - as above
    assert nested.text(mount) == mount
