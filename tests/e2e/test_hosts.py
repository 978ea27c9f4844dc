"""Several hosts with addresses of their own."""

import pytest

from tests.e2e.daemons import until
from tests.e2e.hosts import IN, OUT, Ground
from tests.e2e.test_finding import know_each_other, start_all

pytestmark = pytest.mark.e2e

both_families = pytest.mark.parametrize(
    ("v4", "v6"), [(True, True), (True, False), (False, True)], ids=["both", "v4", "v6"]
)


@both_families
def test_hosts_on_a_lan_find_each_other(ground: Ground, v4: bool, v6: bool) -> None:
    lan = ground.lan(v4=v4, v6=v6)
    daemons = [ground.host(lan).make_daemon() for _ in range(3)]
    start_all(daemons)
    until("each lists the two others", know_each_other(daemons), 3.0)


def test_firewalls(ground: Ground) -> None:
    lan = ground.lan()
    deaf, closed, other = (ground.host(lan) for _ in range(3))
    deaf.drop_multicast(IN, OUT)
    closed.drop_inbound_tcp()
    daemons = [host.make_daemon() for host in (deaf, closed, other)]
    start_all(daemons)
    until("closed dials other", lambda: daemons[2].connected() == {closed.name})
    assert daemons[0].connected() == set()
    deaf.open_firewall()
    closed.drop_all()
    daemons[0].call("connect", address=daemons[2].address)
