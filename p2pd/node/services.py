"""The services of one node, wired together. `node.node` runs them."""

import attrs
import trio

from p2pd.address import Address
from p2pd.config import Config
from p2pd.core.confirmations import Confirmations
from p2pd.core.entries import Backoff
from p2pd.core.registry import Registry
from p2pd.core.stalemates import Stalemates
from p2pd.node.bootstrap import Bootstrap
from p2pd.node.clock_watch import ClockWatch
from p2pd.node.dht import Dht
from p2pd.node.dial_back import DiallingBack
from p2pd.node.dialler import Dialler
from p2pd.node.discovery import Discovery
from p2pd.node.dispatch import Call, Dispatch
from p2pd.node.doctor import Doctor
from p2pd.node.env import Env
from p2pd.node.events import Events
from p2pd.node.exchange import Exchange
from p2pd.node.gossip import GossipService
from p2pd.node.handshaking import Introducer
from p2pd.node.inbound import Inbound
from p2pd.node.interfaces import Interfaces
from p2pd.node.keepalive import Keepalive
from p2pd.node.late_writes import LateWrites
from p2pd.node.liveness import LivenessService
from p2pd.node.own_record import OwnRecord
from p2pd.node.peer_book import PeerBook
from p2pd.node.probing import Probing
from p2pd.node.quorum import Quorum
from p2pd.node.reconciler import Reconciler
from p2pd.node.repair import Repair
from p2pd.node.replica import Replica
from p2pd.node.republish import Republisher
from p2pd.node.requester import Requester
from p2pd.node.roster import Roster
from p2pd.node.routes import Routes
from p2pd.node.seeds import Seeds
from p2pd.node.shortage import Shortage
from p2pd.node.soundings import Soundings
from p2pd.node.surplus import Surplus
from p2pd.node.upkeep import Upkeep
from p2pd.wire.beacon import network_tag
from p2pd.wire.handshake import Terms
from p2pd.wire.messages import Echo, Echoed, Ping, Pong


@attrs.frozen
class Services:
    """Everything that a node is made of."""

    events: Events
    dispatch: Dispatch
    own: OwnRecord
    registry: Registry
    roster: Roster
    inbound: Inbound
    dialler: Dialler
    requester: Requester
    upkeep: Upkeep
    bootstrap: Bootstrap
    seeds: Seeds
    keepalive: Keepalive
    clock_watch: ClockWatch
    exchange: Exchange
    surplus: Surplus
    interfaces: Interfaces
    discovery: Discovery
    gossip: GossipService
    probing: Probing
    liveness: LivenessService
    replica: Replica
    routes: Routes
    dht: Dht
    reconciler: Reconciler
    repair: Repair
    republisher: Republisher
    doctor: Doctor


def wire_services(config: Config, env: Env, events: Events, listening: list[Address]) -> Services:
    """Make the services of a node that listens on `listening`; nothing runs yet."""
    terms = Terms(
        identity=env.identity,
        instance=env.entropy(16),
        network=config.node.network,
        records=env.records,
        network_key=env.network_key,
        difficulty=config.identity.difficulty,
    )
    dispatch = Dispatch(events)
    dispatch.add(Ping, _pong)
    dispatch.add(Echo, _echo)
    own = OwnRecord(env, config.node.name, listening, config.node.roles)
    backoff = Backoff(config.connections.backoff_min, config.connections.backoff_max)
    registry = Registry(env.identity.node_id, backoff, env.rng)
    roster = Roster(env, config.connections, registry, events)
    book = PeerBook(env, registry, difficulty=config.identity.difficulty)
    introducer = Introducer(env, terms, own, book, dispatch)
    shortage = Shortage(roster)
    dialler = Dialler(env, introducer, roster, shortage, events)
    requester = Requester(roster, dialler)
    upkeep = Upkeep(env, roster, dialler, shortage)
    book.on_news.append(upkeep.wake_if_short)
    exchange = Exchange(env, roster, book, own, dispatch)
    multicast = config.discovery.multicast
    interfaces = Interfaces(env, multicast.interfaces, own, roster, upkeep, exchange, events)
    discovery = Discovery(
        env,
        multicast,
        interfaces,
        own,
        registry,
        upkeep,
        events,
        network=network_tag(config.node.network),
        instance=terms.instance.hex(),
    )

    def woke() -> None:
        upkeep.retry_all()
        for connection in roster.connections.values():
            connection.probe()

    gossip = GossipService(env, config.gossip, roster, dispatch, name=config.node.name)
    probing = Probing(env, config.liveness, roster, dialler, requester, book, dispatch)
    liveness = LivenessService(env, roster, probing, book, own, gossip, events)
    limit = config.store.max_value_bytes
    replica = Replica(env, dispatch, events, max_value_bytes=limit)
    routes = Routes(env, config.dht, roster, requester, book, dispatch)
    quorum = Quorum(env, config.dht, roster, routes, requester, replica)
    dialling_back = DiallingBack(env, roster, dispatch)
    confirmations = Confirmations(trio.current_time())
    stalemates = Stalemates(config.dht.repair_interval)
    reconciler = Reconciler(env, roster, requester, replica, confirmations, stalemates, dispatch)
    repair = Repair(env, config.dht, roster, routes, replica, reconciler, confirmations)
    liveness.on_dead += [routes.died, registry.died, repair.note_gone]
    # A node that said goodbye keeps no place in the routing table from others.
    liveness.on_left += [routes.stopped, repair.note_gone]
    liveness.on_alive += [registry.revived, routes.revived]
    return Services(
        events=events,
        dispatch=dispatch,
        own=own,
        registry=registry,
        roster=roster,
        inbound=Inbound(env, introducer, roster, events),
        dialler=dialler,
        requester=requester,
        upkeep=upkeep,
        bootstrap=Bootstrap(env, config.discovery.bootstrap, registry, roster, upkeep, events),
        seeds=Seeds(env, config.discovery.seeds, roster, dialler, events),
        keepalive=Keepalive(env, config.liveness, roster, events, woke, liveness.timer_came),
        clock_watch=ClockWatch(env, roster, events),
        exchange=exchange,
        surplus=Surplus(env, roster, dialler, dispatch, gossip.carries),
        interfaces=interfaces,
        discovery=discovery,
        gossip=gossip,
        probing=probing,
        liveness=liveness,
        replica=replica,
        routes=routes,
        dht=Dht(
            env,
            config.dht,
            routes,
            quorum,
            replica,
            LateWrites(requester, config.dht.request_timeout),
            dispatch,
            max_value_bytes=limit,
        ),
        reconciler=reconciler,
        repair=repair,
        republisher=Republisher(
            env, config.dht, routes, replica, reconciler, confirmations, repair
        ),
        doctor=Doctor(env, roster, dialler, upkeep, Soundings(discovery), dialling_back, own),
    )


def _pong(_: Call, __: Ping) -> Pong:
    return Pong()


def _echo(_: Call, message: Echo) -> Echoed:
    return Echoed(message.data)
