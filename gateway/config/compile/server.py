"""`server` → ServerSettings. The admin listener off loopback needs a token."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.config.addresses import host_name, is_loopback, parse_address, parse_network
from gateway.config.compile.world import World
from gateway.config.keys.server import ServerKeys
from gateway.config.tls_files import check_authorities, check_pair
from gateway.config.validate import Section
from gateway.model.settings import Address, DecisionLogSettings, Network, ServerSettings, ServerTls

_NOWHERE: Final = Address("127.0.0.1", 0)
_SAME_NAME: Final = (
    "name",
    "max_concurrency",
    "max_body",
    "max_header_bytes",
    "max_connections",
    "max_connections_per_client",
    "max_headers",
    "max_uri",
    "min_body_rate",
    "max_streams",
    "max_token",
    "admin_token",
    "access_log",
    "log",
)


def compile_server(section: Section[ServerKeys], world: World) -> ServerSettings:
    """The listeners and limits; what is wrong is noted."""
    keys = section.keys
    listen, admin = _address(section, world, "listen"), _address(section, world, "admin")
    decisions = _decisions(section, world, (listen, admin))
    _check_admin(section, world, listen, admin)
    return ServerSettings(
        listen=listen or _NOWHERE,
        admin=admin or _NOWHERE,
        decisions=decisions,
        deadline_s=keys.deadline,
        header_timeout_s=keys.header_timeout,
        idle_timeout_s=keys.idle_timeout,
        drain_notice_s=keys.drain_notice,
        drain_timeout_s=keys.drain_timeout,
        trusted_proxies=_networks(section, world),
        tls=_tls(section, world),
        strip_request_headers=frozenset(name.encode() for name in keys.strip_request_headers),
        admin_hosts=_admin_hosts(section, world),
        decision_log=_decision_log(section, world),
        **{name: getattr(keys, name) for name in _SAME_NAME},
    )


def _address(section: Section[ServerKeys], world: World, name: str) -> Address | None:
    if not section.sound(name):
        return None
    text: str = getattr(section.keys, name)
    return world.attempt(section.at(name), "bad-address", parse_address, text)


def _decisions(section: Section[ServerKeys], world: World, others: Iterable[Address | None]) -> Address | None:
    keys = section.keys.decisions
    if keys is None or not section.sound("decisions"):
        return None
    mark = section.at("decisions", "listen")
    if not section.keys.trusted_proxies and section.sound("trusted_proxies"):
        message = "only trusted proxies may ask the decision listener: server.trusted_proxies must name them"
        world.problems.error(section.key("decisions"), "decisions-need-proxies", message)
    address = world.attempt(mark, "bad-address", parse_address, keys.listen)
    if address is not None and address.port and address in others:
        world.problems.error(mark, "same-address", f"two listeners can't be on {address}")
    return address


def _decision_log(section: Section[ServerKeys], world: World) -> DecisionLogSettings | None:
    keys = section.keys.decision_log
    if keys is None or not section.sound("decision_log"):
        return None
    path, mark = world.files.resolve(keys.path), section.at("decision_log", "path")
    if path.is_dir():
        world.problems.error(mark, "bad-path", f"{keys.path} is a folder, and decisions are logged to a file")
    elif not path.parent.is_dir():
        world.problems.warning(mark, "no-folder", f"there is no folder {path.parent}: decisions can't be logged there")
    hashed = "hash" in (keys.subject, keys.values) or (world.identity == "opaque" and keys.subject != "none")
    if hashed and keys.key is None:
        message = "something is hashed here, so a key is needed, best as ${file:/path}"
        if world.identity == "opaque" and "hash" not in (keys.subject, keys.values):
            message = "opaque tokens are always hashed, so a key is needed, best as ${file:/path}"
        world.problems.error(section.key("decision_log"), "key-needed", message)
    return DecisionLogSettings(path=path, permits=keys.permits, subject=keys.subject, values=keys.values, key=keys.key)


def _check_admin(section: Section[ServerKeys], world: World, listen: Address | None, admin: Address | None) -> None:
    if admin is None:
        return
    if not is_loopback(admin.host) and not section.keys.admin_token and section.sound("admin_token"):
        message = f"the admin listener on {admin} is not on loopback: it needs server.admin_token"
        world.problems.error(section.at("admin"), "admin-token-needed", message)
    if listen is not None and admin.port and listen == admin:
        world.problems.error(section.at("admin"), "same-address", f"both listeners can't be on {admin}")


def _networks(section: Section[ServerKeys], world: World) -> tuple[Network, ...]:
    networks = []
    for index, text in enumerate(section.keys.trusted_proxies):
        mark = section.at("trusted_proxies", index)
        network = world.attempt(mark, "bad-network", parse_network, text)
        if network is not None and network.prefixlen == 0:
            world.problems.warning(mark, "trusts-everybody", f"{network}: every caller may choose its address and name")
        if network is not None:
            networks.append(network)
    return tuple(networks)


def _tls(section: Section[ServerKeys], world: World) -> ServerTls | None:
    if section.keys.tls is None:
        return None
    files = {name: world.file(section.node.get("tls", name)) for name in ("cert_file", "key_file", "client_ca_file")}
    check_pair(section.key("tls"), files["cert_file"], files["key_file"], world.problems)
    check_authorities(section.at("tls", "client_ca_file"), files["client_ca_file"], world.problems)
    nowhere = Path()
    return ServerTls(
        cert_file=files["cert_file"] or nowhere,
        key_file=files["key_file"] or nowhere,
        client_ca_file=files["client_ca_file"],
    )


def _admin_hosts(section: Section[ServerKeys], world: World) -> frozenset[str]:
    hosts = set()
    for index, text in enumerate(section.keys.admin_hosts):
        host, colon, port = text.rpartition(":") if text.rpartition(":")[2].isdigit() else (text, "", "")
        name = world.attempt(section.at("admin_hosts", index), "bad-host", host_name, host)
        hosts.add(f"{name}{colon}{port}")
    return frozenset(hosts)
