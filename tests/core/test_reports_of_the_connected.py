"""Reports of a node that we are connected to: what we hear of it decides."""

from collections.abc import Callable

import attrs
import pytest

from p2pd.core.actions import Evidence, Liveness, Redial
from p2pd.core.membership import HEARD_LATELY, Membership
from p2pd.core.reporters import FALSE_REPORTS
from p2pd.core.suspicion import MAX_REPORTS
from p2pd.wire.messages import DeadReport
from tests.core.evidence import ACCUSED, LIAR, accuse, membership, node, run, wall


def test_whom_we_hear_again_on_a_quiet_connection_is_alive_whatever_was_reported() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, HEARD_LATELY + 1, heard_at=0.0)
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    machine.heard(ACCUSED, HEARD_LATELY + 2)
    assert machine.liveness(ACCUSED) is Liveness.ALIVE


def test_who_was_heard_lately_over_a_connection_that_is_no_more_is_suspect() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.unlinked(ACCUSED, 0.0, 1.0)
    assert accuse(machine, ACCUSED, LIAR, 5.0)
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT


def test_what_was_heard_last_over_a_connection_refutes_what_was_observed_before() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    machine.heard(ACCUSED, 10.0)
    machine.unlinked(ACCUSED, 0.0, 10.5)
    assert not accuse(machine, ACCUSED, LIAR, 11.0, age=5.0)


def lose(machine: Membership) -> None:
    machine.lost(ACCUSED, 10.0, reset=True)


def unlink(machine: Membership) -> None:
    machine.unlinked(ACCUSED, 0.0, 10.0)


def leave(machine: Membership) -> None:
    machine.left(ACCUSED, 10.0)


@pytest.mark.parametrize("end", [lose, unlink, leave])
def test_a_report_of_before_this_connection_says_nothing_of_it(
    end: Callable[[Membership], None],
) -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    end(machine)
    machine.heard(ACCUSED, 20.0)
    machine.heard(ACCUSED, 23.0)
    assert not accuse(machine, ACCUSED, LIAR, 25.0, age=10.0, heard_at=24.0)
    # It might be dying just now, with the reporter's clock a little slow.
    assert accuse(machine, ACCUSED, node(98), 25.0, age=3.0, heard_at=24.0)


def test_of_one_connected_node_only_so_many_reports_are_kept() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    kept = [accuse(machine, ACCUSED, node(100 + n), 10.0, heard_at=9.0) for n in range(50)]
    assert kept == [True] * MAX_REPORTS + [False] * (50 - MAX_REPORTS)


def test_a_message_that_refutes_a_report_begins_no_new_connection() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, 10.0, heard_at=9.0)
    machine.heard(ACCUSED, 11.0)
    assert accuse(machine, ACCUSED, node(98), 12.0, age=1.5, heard_at=11.5)


def test_one_mistake_about_a_connected_node_costs_credit_once() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, 10.0, heard_at=9.0)
    for number in range(FALSE_REPORTS):
        machine.heard(ACCUSED, 11.0 + number)
    assert accuse(machine, node(2), LIAR, 20.0)


def test_a_word_of_the_connected_costs_those_who_reported_them_before_it_their_credit() -> None:
    machine, late = membership(), node(98)
    for number in range(200, 200 + FALSE_REPORTS):
        machine.heard(node(number), 0.0)
        assert accuse(machine, node(number), LIAR, 10.0, age=0.2, heard_at=9.0)
        assert accuse(machine, node(number), late, 10.0, heard_at=9.0)
        machine.vouched(node(number), wall(9.9), 10.1, wall(10.1))
    assert not accuse(machine, ACCUSED, LIAR, 20.0)
    assert accuse(machine, ACCUSED, late, 20.0)


def test_what_was_reported_counts_where_the_connection_ends_before_anything_decides() -> None:
    """As where it makes room for another: nobody says a second time that its peer is dead."""
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, 10.0, heard_at=9.0)
    machine.dial_failed(ACCUSED, 12.0, refused=False)
    assert machine.liveness(ACCUSED) is Liveness.ALIVE
    machine.unlinked(ACCUSED, 9.0, 12.5)
    assert machine.liveness(ACCUSED) is Liveness.SUSPECT
    assert list(machine.accusers(ACCUSED)) == [LIAR]
    assert run(machine, 15.0) == [Redial(ACCUSED)]


def test_what_was_reported_before_the_connected_was_heard_last_accuses_nobody_afterwards() -> None:
    machine, late = membership(), node(98)
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, 10.0, heard_at=9.0)
    assert accuse(machine, ACCUSED, late, 11.0, heard_at=10.5)
    machine.unlinked(ACCUSED, 10.5, 12.0)
    assert list(machine.accusers(ACCUSED)) == [late]


def test_who_accuses_is_named_with_what_it_saw() -> None:
    machine = membership(known=100_000)
    assert machine.accusers(ACCUSED) == {}
    saw = DeadReport(ACCUSED, "10.0.0.1:41000", 1, wall(100.0), Evidence.SILENT.value)
    refused = attrs.evolve(saw, evidence=Evidence.REFUSED.value)
    for number, report in enumerate((saw, refused, refused)):
        machine.reported(
            report,
            node(10 + number),
            known_sequence=1,
            heard_at=None,
            wall_ms=wall(100.0),
            now=100.0,
        )
    said = {
        node(10): "nothing came from 10.0.0.1:41000",
        node(11): "a dial of 10.0.0.1:41000 was refused",
        node(12): "a dial of 10.0.0.1:41000 was refused",
    }
    assert {who: each.saw for who, each in machine.accusers(ACCUSED).items()} == said
    machine.take_actions(110.0)
    assert machine.liveness(ACCUSED) is Liveness.DEAD
    assert {who: each.saw for who, each in machine.accusers(ACCUSED).items()} == said


def test_a_report_that_counted_when_the_connection_ended_costs_credit_once() -> None:
    machine = membership()
    for number in range(200, 199 + FALSE_REPORTS):
        machine.heard(node(number), 0.0)
        assert accuse(machine, node(number), LIAR, 10.0, heard_at=9.0)
        machine.unlinked(node(number), 9.0, 12.0)
        machine.heard(node(number), 13.0)
    assert accuse(machine, ACCUSED, LIAR, 20.0)


def test_who_reported_one_that_then_said_goodbye_keeps_its_credit() -> None:
    machine = membership()
    for number in range(200, 200 + FALSE_REPORTS):
        machine.heard(node(number), 0.0)
        assert accuse(machine, node(number), LIAR, 10.0, heard_at=9.0)
        machine.left(node(number), 11.0)
        machine.heard(node(number), 13.0)
    assert accuse(machine, ACCUSED, LIAR, 20.0)


def test_a_suspect_that_was_connected_when_it_was_reported_is_unknown_once_it_is_given_up() -> None:
    machine = membership()
    machine.heard(ACCUSED, 0.0)
    assert accuse(machine, ACCUSED, LIAR, 10.0, heard_at=9.0)
    machine.unlinked(ACCUSED, 9.0, 12.0)
    machine.forget(ACCUSED)
    assert machine.liveness(ACCUSED) is Liveness.UNKNOWN
