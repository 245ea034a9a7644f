"""What a proxy costs by the model, while nobody listens or connects."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from zpipe.proxy.addresses import parse_address
from zpipe.proxy.forecast import forecast
from zpipe.proxy.settings import Capture, Mirror, Route, Settings, Upstream

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.engine.forecast import Foreseen


def settings(*upstreams: str, listen: tuple[str, ...] = ("127.0.0.1:80",), **more: Any) -> Settings:
    return Settings(
        tuple(parse_address(text, listen=True) for text in listen),
        tuple(Upstream(parse_address(text)) for text in upstreams),
        **more,
    )


def mirror(text: str, **more: Any) -> Mirror:
    return Mirror(parse_address(text), **more)


def shown(hops: list[Foreseen]) -> list[str]:
    return [
        f"{hop.source.endpoint.text} -> {', '.join(to.endpoint.text for to in hop.sinks)}"
        for hop in hops
    ]


def costs(hop: Foreseen) -> tuple[float, float, float]:
    cost = hop.plan.first.cost
    return cost.cpu_copies, cost.dma_copies, cost.syscalls_per_mib


def test_a_hop_for_each_direction() -> None:
    up, down = hops = forecast(settings("10.0.0.1:80"))
    assert shown(hops) == [
        "clients of 127.0.0.1:80 -> 10.0.0.1:80",
        "10.0.0.1:80 -> clients of 127.0.0.1:80",
    ]
    for hop in (up, down):
        assert [one.name for one in hop.plan.candidates] == ["splice", "plain"]
        assert hop.plan.refusals == ()
        assert costs(hop) == (0, 0, 2)
        assert hop.plan.candidates[1].cost.cpu_copies == 2
        assert len(hop.onward) == len(hop.sinks)
        assert "each network device on it adds a DMA copy" in hop.plan.notes[-2]
        assert "does not gather from scattered pages adds a CPU copy" in hop.plan.notes[-1]
        assert "a read of less than 64 KiB" in hop.plan.notes[0]


def test_smaller_pipes_are_filled_more_often() -> None:
    (up, _) = forecast(settings("10.0.0.1:80", pipe_size=1 << 16))
    assert costs(up) == (0, 0, 32)


def test_without_splice_everything_is_copied() -> None:
    for hop in forecast(settings("10.0.0.1:80", splice=False)):
        assert [one.name for one in hop.plan.candidates] == ["plain"]
        assert [(one.name, one.why) for one in hop.plan.refusals] == [
            ("splice", "splicing is switched off")
        ]
        assert costs(hop) == (2, 0, 32)
        assert not any("64 KiB" in note or "gather" in note for note in hop.plan.notes)


@pytest.mark.parametrize(
    ("direction", "sinks"), [("up", [2, 1]), ("down", [1, 2]), ("both", [2, 2])]
)
def test_a_mirror_gets_its_directions(direction: str, sinks: list[int]) -> None:
    hops = forecast(settings("10.0.0.1:80", mirrors=(mirror("m:1", direction=direction),)))
    assert [len(hop.sinks) for hop in hops] == sinks
    for hop in hops:
        several = len(hop.sinks) > 1
        assert hop.plan.first.name == ("tee" if several else "splice")
        # a call in, a tee, and two calls out; references are doubled, not bytes
        assert costs(hop) == (0, 0, 4 if several else 2)
        if several:
            assert hop.sinks[1].endpoint.text == "mirror m:1"
            assert hop.plan.candidates[1].cost.cpu_copies == 3


def test_a_capture_costs_a_copy_into_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "tapes"
    hops = forecast(settings("10.0.0.1:80", capture=Capture(str(folder))))
    assert [costs(hop) for hop in hops] == [(1, 1, 4), (1, 1, 4)]
    assert [hop.sinks[1].endpoint.text for hop in hops] == [f"capture {folder}"] * 2
    assert not folder.exists()


def test_a_sample_is_told_of() -> None:
    up, down = forecast(settings("10.0.0.1:80", mirrors=(mirror("m:1", sample=0.25),)))
    assert any("m:1: gets 25 % of the connections" in note for note in up.plan.notes)
    assert not any("m:1" in note for note in down.plan.notes)


def test_upstreams_of_one_kind_share_a_hop() -> None:
    made = settings("10.0.0.1:80", "10.0.0.2:80", "unix:/run/x", "10.0.0.1:80", listen=())
    assert shown(forecast(made)) == [
        "clients -> 10.0.0.1:80 or 10.0.0.2:80",
        "10.0.0.1:80 or 10.0.0.2:80 -> clients",
        "clients -> unix:/run/x",
        "unix:/run/x -> clients",
    ]


def test_listeners_of_two_kinds_have_hops_of_their_own() -> None:
    made = settings("unix:/run/x", listen=(":80", "unix:/run/l", "fd:3"))
    hops = forecast(made)
    assert shown(hops)[::2] == [
        "clients of :80, fd:3 -> unix:/run/x",
        "clients of unix:/run/l -> unix:/run/x",
    ]
    networked = [any("network" in note for note in hop.plan.notes) for hop in hops]
    assert networked == [True, True, False, False]


def test_routes_lead_to_upstreams_too() -> None:
    routed = Upstream(parse_address("10.0.0.3:443"))
    default = Upstream(parse_address("10.0.0.4:443"))
    made = settings(
        "10.0.0.4:443",
        routes=(Route("*.example.org", (routed,)),),
        route_default=(default,),
    )
    assert shown(forecast(made))[0].endswith(" -> 10.0.0.3:443 or 10.0.0.4:443")


def test_nobody_is_connected_to_and_no_name_is_resolved(tmp_path: Path) -> None:
    path = tmp_path / "listener"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        peer = f"127.0.0.1:{server.getsockname()[1]}"
        made = settings(peer, "nosuch.invalid:1", listen=(f"unix:{path}",), mirrors=(mirror(peer),))
        assert len(forecast(made)) == 2
        with pytest.raises(BlockingIOError):
            server.accept()
    assert os.listdir(tmp_path) == []
