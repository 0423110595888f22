// Everything below the card of IAM.

import {byId, each, element, pairs, row, text} from "./dom.js";
import {pressed} from "./iam.js";
import {labelled, number} from "./routes.js";
import {ago, clock, rate, share, stateOf} from "./words.js";

const MODES = [
  ["try", "Try now", "Send one request now, without waiting for the next try"],
  ["open", "Hold open", "Send no requests until you choose Auto"],
  ["close", "Hold closed", "Send requests whatever fails, until you choose Auto"],
  ["auto", "Auto", "The gateway decides by itself when to stop and when to try again"],
];
const RANK = {open: 0, half_open: 1, closed: 2};
const MOST = 30;
const SVG = "http://www.w3.org/2000/svg";
const FEW = 12;
const COUNTED = ["requests", "denied", "unknown", "degraded", "errors"];

let wantedBreaker = "";
let latest = null;

byId("breakers-search").addEventListener("input", (event) => {
  wantedBreaker = event.target.value.trim().toLowerCase();
  if (latest) breakers(latest.breakers);
});

export function showTables(status) {
  latest = status;
  traffic(status);
  history(status.history);
  breakers(status.breakers);
  refusals(status);
  upstreams(status.upstreams);
  shadow(status);
  configuration(status);
}

// How a second IAM agrees, worst first.
function shadow(status) {
  const {shadow: all} = status;
  byId("shadow").hidden = !all;
  if (!all) return;
  const rows = Object.entries(all.routes).map(([name, one]) => ({name, ...one, ...all.differences[name]}))
    .sort((one, other) => other.different - one.different || other.unknown - one.unknown);
  const whole = all.same + all.different;
  text(byId("shadow-count"), whole + all.unknown
    ? `since the start: ${all.different.toLocaleString("en")} of ${whole.toLocaleString("en")} decisions differ, ${all.unknown.toLocaleString("en")} not known`
    : "not asked yet");
  byId("shadow-table").hidden = !rows.length;
  each(byId("shadow-rows"), rows.slice(0, FEW), (one) => one.name,
    () => row(["Route", "Same", "Different", "Not known", "Latest difference"]),
    (node, one) => {
      const [name, agreed, differed, open, latest] = node.children;
      node.dataset.state = one.different ? "half_open" : "";
      text(name, one.name);
      number(agreed, one.same.toLocaleString("en"), one.same);
      number(differed, one.different.toLocaleString("en"), one.different, true);
      number(open, one.unknown.toLocaleString("en"), one.unknown, true);
      text(latest, one.said ? `it ${one.said} (${clock(one.latest_s)})` : "none");
      latest.classList.add("wide");
    });
}

function traffic(status) {
  const all = [...status.routes, status.unrouted];
  const sum = Object.fromEntries(COUNTED.map((name) => [name, all.reduce((total, one) => total + one[name], 0)]));
  const ended = status.problems.find((one) => one.severity === "over" && status.time_s - one.since_s < 60);
  text(byId("traffic-when"), ended ? "last minute, the outage that is over included" : "last minute");
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
  text(byId("history-peak"), `(peak ${peak} per second)`);
  svg.setAttribute("aria-label",
    `Requests of the last minute: ${total("requests")}, denied ${total("denied")}, 5xx ${total("errors")}, peak ${peak} per second`);
}

function breakers(all) {
  const sorted = Object.values(all).sort((one, other) => RANK[one.state] - RANK[other.state]
    || other.consecutive_failures - one.consecutive_failures);
  const open = sorted.filter((breaker) => breaker.state !== "closed").length;
  text(byId("breakers-count"), `${open ? `${open} of ${sorted.length} not closed` : `all ${sorted.length} closed`}${sorted.length > MOST ? ` · ${MOST} shown` : ""}`);
  const shown = sorted.filter(({name}) => name.toLowerCase().includes(wantedBreaker)).slice(0, MOST);
  each(byId("breakers"), shown, (breaker) => breaker.name, makeBreaker, (node, breaker) => {
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
      if (button.dataset.mode === "try") button.hidden = breaker.state !== "open" || Boolean(breaker.forced);
      else button.setAttribute("aria-pressed", String(pressed(button.dataset.mode, breaker)));
    }
  });
}

function makeBreaker(breaker) {
  const node = row(["Circuit", "State", "Trial in", "Failures", "Last failure", ""]);
  const buttons = MODES.map(([mode, label, title]) => element("button",
    {type: "button", title, "data-breaker": breaker.name, "data-mode": mode, "aria-label": `${label}: ${breaker.name}`}, label));
  node.lastChild.classList.add("wide");
  node.lastChild.append(element("div", {class: "actions", role: "group", "aria-label": `Circuit ${breaker.name}`}, ...buttons));
  return node;
}

// Denials are answers and unknowns are trouble: two lists. What is the same is one line with its number.
function refusals(status) {
  for (const [outcome, where] of [["unknown", "unknowns"], ["deny", "denials"]]) {
    const groups = new Map();
    for (const one of status.refusals.filter((each) => each.outcome === outcome)) {
      const key = `${one.route} ${one.code} ${one.reason}`;
      const group = groups.get(key) ?? {...one, count: 0};
      group.count += 1;
      groups.set(key, group);
    }
    const shown = [...groups.entries()].slice(0, FEW);
    byId(`${where}-none`).hidden = shown.length > 0;
    byId(`${where}-table`).hidden = !shown.length;
    each(byId(where), shown, ([key]) => key,
      () => row(["Latest", "Number", "Route", "Code", "Reason", "Request id"]),
      (node, [, one]) => {
        const [when, count, route, code, reason, id] = node.children;
        labelled(when, clock(one.at_s), ago(status.time_s - one.at_s));
        number(count, `×${one.count}`, one.count);
        text(route, one.route);
        text(code, one.code);
        text(reason, one.reason);
        reason.classList.add("wide");
        id.classList.add("wide");
        each(id, [one], () => "id", () => element("code"), (shown) => text(shown, one.request_id));
      });
  }
}

function upstreams(all) {
  const origins = Object.values(all).flatMap(({name, state, text: how, origins: some}) => some.map((origin) => ({name, state, how, ...origin})));
  const order = {down: 0, partly: 1, well: 2};
  origins.sort((one, other) => order[one.state] - order[other.state] || other.set_aside_s - one.set_aside_s);
  text(byId("upstreams-count"), origins.length > MOST ? `${MOST} of ${origins.length} shown` : "");
  origins.splice(MOST);
  each(byId("upstreams"), origins, (one) => `${one.name} ${one.origin}`,
    () => row(["Upstream", "", "Health", "In flight", "Idle", "Waiting", "Last error"]),
    (node, one) => {
      const [name, origin, health, inFlight, idle, waiting, error] = node.children;
      text(name, one.name);
      each(origin, [one], () => "origin", () => element("code"), (shown) => text(shown, one.origin));
      origin.classList.add("wide");
      number(inFlight, one.in_flight, one.in_flight);
      number(idle, one.idle, one.idle);
      number(waiting, one.pending + one.connecting, one.pending + one.connecting, true);
      const bad = one.set_aside_s > 0 || one.ill;
      health.className = bad || one.state === "down" ? "health down" : "health well";
      const aside = one.set_aside_s > 0 ? `set aside for ${Math.ceil(one.set_aside_s)} s` : "its health check fails";
      text(health, bad ? `▲ ${aside}` : one.state === "down" ? `▲ ${one.how}` : "● answers");
      text(error, one.last_error ? `${one.last_error.reason || one.last_error.code} (${clock(one.last_error.at_s)})` : "–");
      error.classList.add("wide");
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
    ...config.reload_problems.map((line) => ["problem", `✕ Rejected: ${line}`]),
    ...config.warnings.map((line) => ["warning", `! ${line}`]),
  ];
  each(byId("problems"), lines, ([kind, line]) => `${kind} ${line}`, ([kind]) => element("li", {class: kind}),
    (node, [, line]) => text(node, line));
}

