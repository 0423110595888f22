"""`gateway explain`: what would become of one request, what exactly IAM would be asked, and what stands behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import DEFAULT_FILE, EXIT_BAD, EXIT_CANNOT, AdminToken, ConfigFile, fail, load_or_exit, say
from gateway.cli.output import ask as ask_admin
from gateway.cli.routes import destination, match_or_exit, split_request
from gateway.config.values import format_duration
from gateway.model.route import Access, AccessKind, IamFailureMode
from gateway.model.settings import (
    HeaderIdentity,
    IntrospectionIdentity,
    JwtIdentity,
    JwtIssuer,
    OpaqueIdentity,
    TokenIn,
    TokenPlace,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model.permit import Decision, Question
    from gateway.model.request import Match, Request, Subject
    from gateway.model.route import IamFailureRule, Route
    from gateway.model.settings import CacheSettings, Configuration, Identity


# What stands behind a decision, for `gateway explain`: where identity comes from, the cache, and what stale would do.
#
# By itself this is what the configuration says. With the admin listener's status it is also what the gateway has now.

_PLACES = {
    TokenIn.HEADER: "Authorization: Bearer",
    TokenIn.COOKIE: "the cookie",
    TokenIn.QUERY: "the query parameter",
    TokenIn.WEBSOCKET_PROTOCOL: "Sec-WebSocket-Protocol",
}


def background(configuration: Configuration, route: Route, method: str) -> Iterator[str]:
    """Lines about identity, cache and stale, for one method of a route."""
    access = route.access[method]
    yield f"identity  {_identity_said(configuration.identity, access)}"
    if access.kind is AccessKind.CHECKS:
        cache = configuration.iam.cache
        yield f"cache     {_cache_said(cache)}"
        yield f"stale     {_stale(route.on_iam_failure[method], cache)}"


def now(status: dict[str, Any], kept_s: float) -> Iterator[str]:
    """Lines about a running gateway. KeyError, TypeError: this is no status."""
    iam, entries = status["iam"], int(status["cache"]["entries"])
    circuit = f", IAM's circuit is {iam['state']}" if "state" in iam else ""
    kept = "1 decision of all callers is" if entries == 1 else f"{entries} decisions of all callers are"
    yield f"now       {kept} kept{circuit}"
    if entries == 0:
        yield f"          so a stale permit stands in for nobody yet; each is kept for {format_duration(kept_s)}"


def _identity_said(identity: Identity, access: Access) -> str:
    if access.kind is AccessKind.PUBLIC:
        return "nobody is asked who they are: the route is public"
    match identity:
        case HeaderIdentity(name=name):
            return f"the header {name.decode('ascii')}, believed only from server.trusted_proxies"
        case OpaqueIdentity(places=places):
            return f"the token in {_places(places)} is the subject; IAM says whose it is"
        case IntrospectionIdentity(url=url, cache_s=cache_s, places=places):
            return (
                f"the token in {_places(places)}; {url} says whose it is (asked again after {format_duration(cache_s)})"
            )
        case JwtIdentity(issuers=issuers, places=places):
            return f"the JWT in {_places(places)}, of {'; or of '.join(map(_issuer, issuers))}"


def _issuer(issuer: JwtIssuer) -> str:
    found = issuer.jwks_file or issuer.jwks_url or "OpenID discovery"
    return f"{issuer.issuer} for {' or '.join(issuer.audience)}, {' or '.join(issuer.algorithms)}, keys from {found}"


def _places(places: tuple[TokenPlace, ...]) -> str:
    return " or ".join(f"{_PLACES[place.kind]} {place.name}".rstrip() for place in places)


def _cache_said(cache: CacheSettings) -> str:
    permits = f"a permit answers for {format_duration(cache.ttl_s)}" if cache.ttl_s else "every request asks IAM"
    denials = f", a denial for {format_duration(cache.negative_ttl_s)}" if cache.negative_ttl_s else ""
    return f"{permits}{denials}; permits are remembered for {format_duration(cache.max_stale_s)}"


def _stale(rule: IamFailureRule, cache: CacheSettings) -> str:
    if rule.mode is IamFailureMode.STALE:
        known = f"whoever was permitted this within the last {format_duration(rule.max_stale_s)}"
        return f"while IAM can't answer, {known} goes on; everybody else gets 503"
    return (
        f"not used here ({rule.mode.value}); with degrade: stale, permits of the last "
        f"{format_duration(cache.max_stale_s)} could stand in"
    )


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def explain(
        request: Annotated[str, typer.Argument(metavar="'GET /path'", help="The request.")],
        config: ConfigFile = DEFAULT_FILE,
        subject: Annotated[str, typer.Option(help="Who asks; with opaque identity the token.")] = "",
        header: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A request header.")] = None,
        claim: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim of the token.")] = None,
        ask: Annotated[bool, typer.Option("--ask", help="Ask IAM and say what it decided.")] = False,
        admin: Annotated[str, typer.Option(metavar="URL", help="Also ask this admin listener what is kept now.")] = "",
        token: AdminToken = "",
    ) -> None:
        """Explain what happens to a request.

        Shows the route, where identity comes from, the exact request to IAM, the cache, and the answer while IAM is
        down.

        Exit code: 0 allowed, 1 denied, 3 unknown; without --ask 0.
        """
        from gateway.cli.asking import decided  # heavy
        from gateway.errors import GatewayError

        configuration = load_or_exit(config, warnings=False)
        method, host, target = split_request(request)
        match = match_or_exit(configuration, method, host, target)
        made = _request(method, host, target, match, _pairs(header))
        try:
            questions = _questions(configuration, made, match, subject, _pairs(claim))
        except GatewayError as error:
            _say_route(match, method)
            fail(f"refused: {error.code} ({error.kind.status}) {error.detail}")
        _say_route(match, method)
        _say_background(configuration, match.route, method, admin, token)
        _say_items(match.route, method)
        if questions:
            _say_iam_request(configuration, questions)
        _say_outage(configuration, match.route, method)
        if ask and questions:
            raise typer.Exit(_say_decisions(questions, asyncio.run(decided(configuration, questions))))


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _request(method: str, host: str, target: str, match: Match, headers: dict[str, str]) -> Request:
    from gateway.model.request import Request
    from gateway.routing import parse_target

    return Request(
        method=method,
        target=parse_target(target.encode()),
        headers=[(name.lower().encode("latin-1"), value.encode()) for name, value in headers.items()],
        host=host,
        scheme="http",
        peer="127.0.0.1",
        client="127.0.0.1",
        trusted=False,
        request_id="explain",
        params=match.params,
    )


def _subject(configuration: Configuration, name: str, claims: dict[str, str]) -> Subject:
    """The subject that the claims make; `name` is the claim that its id is made of, where they do not have it."""
    from gateway.identity.claims import ClaimReader, TokenRefused
    from gateway.identity.subjects import identity, token_subject
    from gateway.model.settings import HeaderIdentity, IntrospectionIdentity, OpaqueIdentity

    settings = configuration.identity
    if isinstance(settings, OpaqueIdentity):
        return token_subject(name)
    if isinstance(settings, HeaderIdentity):
        return identity(name)
    if isinstance(settings, IntrospectionIdentity):
        rules, source = settings.rules, settings.url
    else:
        issuers = {issuer.issuer: issuer for issuer in settings.issuers}
        issuer = issuers.get(claims.get("iss", ""), settings.issuers[0])
        rules, source = issuer.rules, issuer.issuer
    asked = {placeholder.name: name for placeholder in rules.subject_id.placeholders}
    try:
        return ClaimReader(rules, source=source).subject({"sub": name, **asked, **claims}, None)
    except TokenRefused as refused:
        raise typer.BadParameter(str(refused)) from None


def _questions(
    configuration: Configuration, request: Request, match: Match, name: str, claims: dict[str, str]
) -> list[Question]:
    from gateway.authorize.plan import plans_of
    from gateway.model.route import AccessKind

    plan = plans_of(match.route)[request.method]
    if plan.kind is AccessKind.PUBLIC and not plan.checks:
        return []
    if not name:
        raise typer.BadParameter("this route asks who it is: --subject NAME")
    return plan.questions(request, _subject(configuration, name, claims))


def _say_route(match: Match, method: str) -> None:
    from gateway.model.route import AggregateAction

    route = match.route
    say(f"route     {route.id}  {route.path}  ({route.location})")
    for name, value in match.params.items():
        say(f"          {name} = {value}")
    say(f"to        {destination(route)}".rstrip())
    say(f"policy    {route.policy}, deadline {route.deadline_s:g} s")
    access = route.access[method]
    say(f"authorize {', '.join(check.source for check in access.checks) or access.kind.value}")
    if isinstance(route.action, AggregateAction):
        for part in route.action.parts:
            if part.access is not None:
                say(f"          {part.name}: {', '.join(check.source for check in part.access.checks)}")


def _say_background(configuration: Configuration, route: Route, method: str, admin: str, token: str) -> None:

    for line in background(configuration, route, method):
        say(line)
    if not admin:
        return
    status = ask_admin("GET", admin, "/status", token)
    try:
        lines = list(now(status, configuration.iam.cache.max_stale_s))
    except (KeyError, TypeError, ValueError):
        fail(f"cannot ask {admin}: what it answers is no status; is this the admin listener?", EXIT_CANNOT)
    for line in lines:
        say(line)


def _say_items(route: Route, method: str) -> None:
    """What is asked besides, once the items are known."""
    from gateway.model.route import NavigationAction, PermissionsAction, bulk_of

    match route.action:
        case NavigationAction(check=check):
            say(f"items     IAM is asked about each item of the document: {check.source}")
        case PermissionsAction():
            say("items     IAM is asked each question of the request's body")
        case _ if bulk_of(route):
            checks = ", ".join(check.source for check in route.access[method].checks)
            say(f"items     IAM is asked about each item of the request's body: {checks}")


def _say_iam_request(configuration: Configuration, questions: Sequence[Question]) -> None:
    """The exact request, or the evaluations where no request is made."""
    from gateway.cli.asking import caught  # heavy
    from gateway.model.settings import IamApi

    if configuration.iam.api is IamApi.EMBEDDED:
        say("IAM       embedded: no request; the policies decide")
        for question in questions:
            say(f"          {question.document}")
        return
    for sent in asyncio.run(caught(configuration.iam, questions)):
        elsewhere = ", unless discovery says otherwise" if configuration.iam.discovery else ""
        say(f"IAM       {sent.method} {sent.url}{elsewhere}")
        body = json.dumps(json.loads(sent.content), indent=2, ensure_ascii=False)
        say("          " + body.replace("\n", "\n          "))


def _say_outage(configuration: Configuration, route: Route, method: str) -> None:
    """The failure matrix's row."""
    from gateway.config.matrix import failure_matrix  # heavy

    rows = failure_matrix(configuration).rows
    row = next(row for row in rows if row.route == route.id and method in row.methods)
    say(f"IAM down  the route {row.text}")


def _say_decisions(questions: Sequence[Question], decisions: Sequence[Decision]) -> int:
    """Each decision; the exit code of all together: a denial wins over the unknown."""
    for question, decision in zip(questions, decisions, strict=True):
        why = f" ({decision.fault.code}: {decision.fault.reason})" if decision.fault else ""
        check = question.check
        asked = f"{check.action['name']} {check.resource['type']}:{check.resource['id']}"
        say(f"decided   {asked}: {decision.outcome}{why}")
    outcomes = {decision.outcome.value for decision in decisions}
    if "deny" in outcomes:
        return EXIT_BAD
    return EXIT_CANNOT if "unknown" in outcomes else 0
