// Everything below the card of IAM.

import {byId, each, element, pairs, row, text} from "./dom.js";
import {pressed} from "./iam.js";
import {OUTCOMES, ago, clock, milliseconds, rate, share, stateOf} from "./words.js";

const MODES = [["open", "Hold open"], ["close", "Hold closed"], ["auto", "Auto"]];
const RANK = {open: 0, half_open: 1, closed: 2};
const SVG = "http://www.w3.org/2000/svg";
const FEW = 8;
const COUNTED = ["requests", "denied", "unknown", "degraded", "errors"];

let allRefusals = false;
let latest = null;

byId("refusals-more").addEventListener("click", () => {
  allRefusals = !allRefusals;
  refusals(latest);
});

export function showTables(status) {
  latest = status;
  notices(status);
  traffic(status);
  history(status.history);
  routes(status);
  breakers(status.breakers);
  refusals(status);
  upstreams(status.upstreams);
  configuration(status);
}

function notices(status) {
  const {config} = status;
  const open = Object.values(status.breakers).filter(({kind, state}) => kind === "upstream" && state !== "closed");
  const missing = status.workers_expected - status.workers;
  const lines = [
    ["draining", status.draining && "Draining: what is in flight is finished, then this gateway ends."],
    ["workers", missing > 0 && `${missing} of ${status.workers_expected} workers do not answer.`],
    ["hashes", config.hashes.length > 1 && "Workers run on different configurations. Reload."],
    ["reload", config.reload_problems.length > 0 && "The last reload was refused; the configuration before goes on serving. See Configuration."],
    ["circuits", open.length > 0 && `Circuits not closed: ${open.map(({name}) => name).join(", ")}.`],
  ].filter(([, line]) => line);
  each(byId("notices"), lines, ([name]) => name, () => element("li", {class: "problem"}),
    (node, [, line]) => text(node, `▲ ${line}`));
}

function traffic(status) {
  const all = [...status.routes, status.unrouted];
  const sum = Object.fromEntries(COUNTED.map((name) => [name, all.reduce((total, one) => total + one[name], 0)]));
  const of = (name) => share(sum.requests ? sum[name] / sum.requests : 0);
  pairs(byId("traffic"), [
    ["Requests", rate(all.reduce((total, one) => total + one.rate_10s, 0)), "/s"],
    ["Denied", of("denied")],
    ["Unknown", of("unknown")],
    ["Degraded", of("degraded")],
    ["5xx", of("errors")],
    ["In flight", status.in_flight],
    ["Streams", status.streams],
    ["Decisions kept", status.cache.entries.toLocaleString("en")],
    ["No route", status.unrouted.requests],
  ]);
}

function history(seconds) {
  const svg = byId("history");
  const count = seconds.requests.length;
  const peak = Math.max(1, ...seconds.requests);
  const width = 600 / count;
  each(svg, ["requests", "denied", "errors"].flatMap((what) => seconds[what].map((value, at) => [what, at, value])),
    ([what, at]) => `${what}${at}`,
    ([what, at]) => {
      const bar = document.createElementNS(SVG, "rect");
      bar.setAttribute("class", what === "requests" ? "total" : what);
      bar.setAttribute("x", String(at * width + (what === "errors" ? width / 2 : 0) + 0.5));
      bar.setAttribute("width", String((what === "requests" ? width : width / 2) - 1));
      return bar;
    },
    (bar, [, , value]) => {
      const height = (value / peak) * 58;
      bar.setAttribute("height", String(height));
      bar.setAttribute("y", String(60 - height));
    });
  const total = (what) => seconds[what].reduce((sum, value) => sum + value, 0);
  text(byId("history-peak"), `· highest ${peak} in a second`);
  svg.setAttribute("aria-label",
    `Requests of the last minute: ${total("requests")}, denied ${total("denied")}, 5xx ${total("errors")}, highest ${peak} in a second`);
}

function routes(status) {
  each(byId("routes"), status.routes, (route) => route.id,
    () => row(["Route", "req/s", "p50 · p95 · p99", "Denied", "Unknown", "Degraded", "5xx", "If IAM fails"]),
    (node, route) => {
      const [name, perSecond, latency, denied, unknown, degraded, errors, rule] = node.children;
      labelled(name, route.id, route.host ? `${route.host}${route.path}` : route.path);
      number(perSecond, `${rate(route.rate_10s)} · ${rate(route.rate_1m)}`, route.requests);
      const {p50, p95, p99} = route.latency_ms;
      number(latency, p50 === null ? "–" : [p50, p95, p99].map(milliseconds).join(" · "), route.requests);
      for (const [cell, what] of [[denied, "denied"], [unknown, "unknown"], [degraded, "degraded"], [errors, "errors"]]) {
        number(cell, share(route.shares[what]), route[what], true);
      }
      rule.classList.add("wide");
      each(rule, route.if_iam_fails, (one) => one.text, () => element("span", {class: "rule"}),
        (line, one) => text(line, route.if_iam_fails.length > 1 ? `${one.methods.join(", ")}: ${one.text}` : one.text));
    });
}

function breakers(all) {
  const sorted = Object.values(all).sort((one, other) => RANK[one.state] - RANK[other.state]
    || other.consecutive_failures - one.consecutive_failures);
  const open = sorted.filter((breaker) => breaker.state !== "closed").length;
  text(byId("breakers-count"), open ? `${open} of ${sorted.length} not closed` : `all ${sorted.length} closed`);
  each(byId("breakers"), sorted, (breaker) => breaker.name, makeBreaker, (node, breaker) => {
    const [name, state, remaining, failures, last, actions] = node.children;
    node.dataset.state = breaker.state;
    text(name, breaker.name);
    each(state, [breaker], () => "state", () => element("span"), (badge) => {
      badge.className = `badge ${breaker.state}`;
      text(badge, stateOf(breaker));
    });
    const aside = breaker.set_aside_s > 0 ? `set aside ${Math.ceil(breaker.set_aside_s)} s` : "";
    const waiting = breaker.state === "open" && !breaker.forced ? `${Math.ceil(breaker.remaining_s)} s` : "";
    number(remaining, aside || waiting, breaker.remaining_s);
    number(failures, breaker.consecutive_failures, breaker.consecutive_failures, true);
    text(last, breaker.last_failure || "–");
    for (const button of actions.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(pressed(button.dataset.mode, breaker)));
    }
  });
}

function makeBreaker(breaker) {
  const node = row(["Circuit", "State", "Trial in", "Failures", "Last failure", ""]);
  const buttons = MODES.map(([mode, label]) => element("button",
    {type: "button", "data-breaker": breaker.name, "data-mode": mode, "aria-label": `${label}: ${breaker.name}`}, label));
  node.lastChild.classList.add("wide");
  node.lastChild.append(element("div", {class: "actions", role: "group", "aria-label": `Circuit ${breaker.name}`}, ...buttons));
  return node;
}

function refusals(status) {
  const some = status.refusals.length > 0;
  byId("refusals-none").hidden = some;
  byId("refusals-table").hidden = !some;
  const shown = allRefusals ? status.refusals : status.refusals.slice(0, FEW);
  const more = byId("refusals-more");
  more.hidden = status.refusals.length <= FEW;
  more.setAttribute("aria-expanded", String(allRefusals));
  text(more, allRefusals ? `Show the last ${FEW}` : `Show all ${status.refusals.length}`);
  each(byId("refusals"), shown, (one) => `${one.at_s} ${one.request_id}`,
    () => row(["", "", "Route", "Code", "Reason", "Request id"]),
    (node, one) => {
      const [when, outcome, route, code, reason, id] = node.children;
      labelled(when, clock(one.at_s), ago(status.time_s - one.at_s));
      each(outcome, [one], () => "outcome", () => element("span"), (badge) => {
        badge.className = `badge ${one.outcome}`;
        text(badge, OUTCOMES[one.outcome] ?? one.outcome);
      });
      text(route, one.route);
      text(code, one.code);
      text(reason, one.reason);
      reason.classList.add("wide");
      id.classList.add("wide");
      each(id, [one], () => "id", () => element("code"), (shown) => text(shown, one.request_id));
    });
}

function upstreams(all) {
  const origins = Object.values(all).flatMap(({name, origins: some}) => some.map((origin) => ({name, ...origin})));
  each(byId("upstreams"), origins, (one) => `${one.name} ${one.origin}`,
    () => row(["Upstream", "", "In flight", "Idle", "Waiting", "Set aside"]),
    (node, one) => {
      const [name, origin, inFlight, idle, waiting, aside] = node.children;
      text(name, one.name);
      each(origin, [one], () => "origin", () => element("code"), (shown) => text(shown, one.origin));
      origin.classList.add("wide");
      number(inFlight, one.in_flight, one.in_flight);
      number(idle, one.idle, one.idle);
      number(waiting, one.pending + one.connecting, one.pending + one.connecting, true);
      text(aside, one.set_aside_s > 0 ? `▲ for ${Math.ceil(one.set_aside_s)} s` : "no");
    });
}

function configuration(status) {
  const {config} = status;
  pairs(byId("config"), [
    ["File", config.file],
    ["Hash", config.hash.slice(0, 16)],
    ["Loaded", new Date(config.loaded_at_s * 1000).toLocaleString("en-GB"), ago(status.time_s - config.loaded_at_s)],
    ["Warnings", config.warnings.length || "none"],
  ]);
  const lines = [
    ...config.reload_problems.map((line) => ["problem", `✕ Not loaded: ${line}`]),
    ...config.warnings.map((line) => ["warning", `! ${line}`]),
  ];
  each(byId("problems"), lines, ([kind, line]) => `${kind} ${line}`, ([kind]) => element("li", {class: kind}),
    (node, [, line]) => text(node, line));
}

function labelled(cell, main, small) {
  each(cell, ["main", "small"], (which) => which, (which) => element(which === "main" ? "span" : "small"),
    (node, which) => text(node, which === "main" ? main : small));
}

function number(cell, shown, value, alarming = false) {
  cell.classList.add("number");
  cell.classList.toggle("zero", !value);
  cell.classList.toggle("some", alarming && Boolean(value));
  text(cell, shown);
}
