// The table of routes: worst first, found by a word, a screenful at a time.

import {byId, each, element, row, text} from "./dom.js";
import {milliseconds, rate, share} from "./words.js";

const FEW = 40;
const RANK = {failing: 0, upstream: 1, iam: 2, "": 3};

let latest = null;
let wanted = "";
let most = FEW;

byId("routes-search").addEventListener("input", (event) => {
  wanted = event.target.value.trim().toLowerCase();
  most = FEW;
  showRoutes(latest);
});
byId("routes-more").addEventListener("click", () => {
  most += 200;
  showRoutes(latest);
});

export function showRoutes(status) {
  latest = status;
  if (!status) return;
  const found = status.routes.filter((route) => !wanted || words(route).includes(wanted));
  found.sort((one, other) => RANK[one.now.state] - RANK[other.now.state]
    || other.errors - one.errors || other.unknown - one.unknown || other.rate_10s - one.rate_10s);
  const shown = found.slice(0, most);
  const broken = status.routes.filter((route) => route.now.state).length;
  text(byId("routes-count"), `${found.length} of ${status.routes.length}${broken ? `, ${broken} not as usual` : ""} · last minute, worst first`);
  byId("routes-more").hidden = found.length <= shown.length;
  text(byId("routes-more"), `Show more (${found.length - shown.length} left)`);
  each(byId("routes"), shown, (route) => route.id,
    () => row(["Route", "req/s", "p50 · p95 · p99", "Denied", "Unknown", "Degraded", "5xx", "Upstream", "Serves now"]),
    (node, route) => fill(node, route, status));
}

function words(route) {
  return `${route.id} ${route.host ?? ""}${route.path} ${route.to} ${route.now.texts.join(" ")}`.toLowerCase();
}

function fill(node, route, status) {
  const [name, perSecond, latency, denied, unknown, degraded, errors, upstream, now] = node.children;
  node.dataset.state = route.now.state ? "open" : "";
  labelled(name, route.id, route.host ? `${route.host}${route.path}` : route.path);
  number(perSecond, `${rate(route.rate_10s)} · ${rate(route.rate_1m)}`, route.requests);
  const {p50, p95, p99} = route.latency_ms;
  number(latency, p50 === null ? "–" : [p50, p95, p99].map(milliseconds).join(" · "), route.requests);
  for (const [cell, what] of [[denied, "denied"], [unknown, "unknown"], [degraded, "degraded"], [errors, "errors"]]) {
    number(cell, share(route.shares[what]), route[what], what !== "denied");
  }
  upstream.classList.add("wide");
  const names = route.to ? route.to.split(", ") : [];
  each(upstream, names, (one) => one, () => element("span", {class: "rule"}), (line, one) => {
    const health = status.upstreams[one];
    line.className = `rule health ${health?.state ?? ""}`;
    text(line, health ? `${{well: "●", partly: "◐", down: "▲"}[health.state]} ${one}${health.state === "well" ? "" : `: ${health.text}`}` : one);
  });
  now.classList.add("wide");
  now.classList.toggle("some", Boolean(route.now.state));
  each(now, route.now.texts, (one) => one, () => element("span", {class: "rule"}), (line, one) => text(line, one));
}

export function labelled(cell, main, small) {
  each(cell, ["main", "small"], (which) => which, (which) => element(which === "main" ? "span" : "small"),
    (node, which) => text(node, which === "main" ? main : small));
}

export function number(cell, shown, value, alarming = false) {
  cell.classList.add("number");
  cell.classList.toggle("zero", !value);
  cell.classList.toggle("some", alarming && Boolean(value));
  text(cell, shown);
}
