"""What IAM and upstreams have in common: URLs that are warned about, TLS, retries and breakers of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from gateway.config.addresses import Url, is_loopback
from gateway.config.compile.world import World
from gateway.config.keys.base import Keys
from gateway.config.keys.upstreams import ClientTlsKeys
from gateway.config.tls_files import check_authorities, check_pair
from gateway.config.tree import Step
from gateway.config.validate import Section
from gateway.model.settings import ClientTls

M = TypeVar("M", bound=Keys)


def compile_url(section: Section[M], world: World, parse: Callable[[str], Url], *path: Step) -> Url | None:
    """The URL at `path`, or None where it is missing or wrong."""
    node = section.node.get(*path)
    if node is None or not section.sound(*path):
        return None
    return world.attempt(node.mark, "bad-url", parse, str(node.value))


def compile_urls(
    section: Section[M],
    world: World,
    parse: Callable[[str], Url],
    several: Sequence[str] | None,
    missing: tuple[str, str] | None,
) -> list[Url]:
    """The section's `url`, or its `urls` (`several`). `missing`: the mistake, if any, that it is to have neither."""
    one, many = section.has("url"), section.has("urls")
    if not (section.sound("url") and section.sound("urls")):
        return []
    if one and many:
        world.problems.error(section.key("urls"), "one-url", "exactly one of url and urls is needed")
        return []
    if not one and not many and missing is not None:
        world.problems.error(section.at(), *missing)
    urls: list[Url] = []
    for path in [("urls", index) for index, _ in enumerate(several or ())] if many else [("url",)]:
        url = compile_url(section, world, parse, *path)
        if url is not None and url.text in [other.text for other in urls]:
            world.problems.error(section.at(*path), "same-url", f"{url.text} stands twice among the urls")
        if url is not None:
            urls.append(url)
    return urls


def warn_plain_http(section: Section[M], world: World, url: Url, what: str, *path: Step) -> None:
    """Secrets in clear text are fine on loopback only."""
    if url.scheme == "http" and not is_loopback(url.host):
        world.problems.warning(section.at(*path), "plain-http", f"{what} in clear text to {url.host}; use https://")


def compile_tls(section: Section[M], keys: ClientTlsKeys, world: World, *, https: bool) -> ClientTls:
    """TLS towards the section's URL. `https`: at least one URL uses it."""
    files = {name: world.file(section.node.get("tls", name)) for name in ("ca_file", "cert_file", "key_file")}
    if (keys.cert_file is None) != (keys.key_file is None) and section.sound("tls"):
        message = "cert_file and key_file belong together"
        world.problems.error(section.key("tls"), "tls-pair", message)
    check_pair(section.key("tls"), files["cert_file"], files["key_file"], world.problems)
    check_authorities(section.at("tls", "ca_file"), files["ca_file"], world.problems)
    if not keys.verify:
        message = "any certificate is believed: whoever stands in between can answer"
        world.problems.warning(section.key("tls", "verify"), "tls-unverified", message)
    if section.has("tls") and not https and section.sound("url") and section.sound("urls"):
        world.problems.warning(section.key("tls"), "unused-key", "tls has no effect: the url is not https://")
    return _tls(keys, files)


def _tls(keys: ClientTlsKeys, files: dict[str, Path | None]) -> ClientTls:
    return ClientTls(
        ca_file=files["ca_file"],
        cert_file=files["cert_file"],
        key_file=files["key_file"],
        server_name=keys.server_name,
        verify=keys.verify,
    )
