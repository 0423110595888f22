// What is broken, since when and why, worst first; and what was broken in the last hour.

import {byId, each, element, row, text} from "./dom.js";
import {ago, clock, lasting} from "./words.js";

const SYMBOLS = {down: "▲", failing: "▲", warning: "!", over: "✓"};
const LABELS = {down: "Down", failing: "Failing", warning: "Look at", over: "Over"};

export function showProblems(status) {
  const now = status.problems.filter(({severity}) => severity !== "over");
  const worst = now[0]?.severity ?? "well";
  byId("verdict").dataset.state = worst;
  text(byId("verdict-title"), headline(status, now));
  text(byId("verdict-text"), now.length ? "" : calm(status));
  each(byId("notices"), status.problems, ({title, severity}) => `${severity} ${title}`, make,
    (node, problem) => fill(node, problem, status));
  outages(status);
  return worst;
}

function headline(status, now) {
  if (!now.length) return status.ready ? "All is well" : "Not ready";
  return now.length === 1 ? now[0].title : `${now.length} problems: ${now[0].title}`;
}

function calm(status) {
  const asked = status.routes.reduce((sum, route) => sum + route.requests, 0);
  return `${status.routes.length} routes, ${asked.toLocaleString("en")} requests in the last minute, no circuit open.`;
}

function make({severity}) {
  const button = element("button", {type: "button", "data-mode": "try"}, "Try now");
  return element("li", {class: severity}, element("strong"), element("span", {class: "since"}), element("span", {class: "why"}), button);
}

function fill(node, problem, status) {
  const [title, since, why, button] = node.children;
  text(title, `${SYMBOLS[problem.severity]} ${LABELS[problem.severity]}: ${problem.title}`);
  const seconds = status.time_s - problem.since_s;
  const words = problem.severity === "over" ? ago(seconds) : `for ${lasting(seconds)}, since ${clock(problem.since_s)}`;
  text(since, problem.since_s ? words : "");
  text(why, problem.text);
  button.hidden = !problem.breaker;
  button.dataset.breaker = problem.breaker ?? "";
  button.setAttribute("aria-label", `Try now: ${problem.breaker}`);
}

function outages(status) {
  byId("outages-none").hidden = status.outages.length > 0;
  byId("outages-table").hidden = !status.outages.length;
  each(byId("outages"), status.outages, (one) => `${one.what} ${one.name} ${one.since_s}`,
    () => row(["What", "Since", "Lasted", "5xx", "Cause"]),
    (node, one) => {
      const [name, since, lasted, errors, cause] = node.children;
      text(name, one.what === "circuit" ? `circuit ${one.name}` : one.name);
      text(since, clock(one.since_s));
      text(lasted, one.until_s ? lasting(one.until_s - one.since_s) : `▲ ${lasting(status.time_s - one.since_s)}, still`);
      text(errors, one.what === "route" ? `${one.errors} of ${one.requests}` : "");
      const causes = Object.entries(one.causes).sort((a, b) => b[1] - a[1]).slice(0, 3);
      text(cause, causes.map(([code, count]) => one.what === "route" ? `${code} ×${count}` : code).join(", "));
      cause.classList.add("wide");
    });
}
