// What is broken, since when and why, worst first; and what was broken in the last hour.

import {byId, each, element, row, text} from "./dom.js";
import {ago, clock, lasting} from "./words.js";

const SYMBOLS = {down: "▲", failing: "▲", warning: "!", over: "✓"};
const HARMS = ["fail", "late", "none"];
const LABELS = {down: "Down", failing: "Failing", warning: "Look at", over: "Over"};

export function showProblems(status) {
  const now = status.problems.filter(({severity}) => severity !== "over");
  const worst = now[0]?.severity ?? "well";
  byId("verdict").dataset.state = worst;
  byId("verdict").dataset.harm = now.length ? HARMS.find((harm) => now.some((one) => one.harm === harm)) : "";
  byId("verdict").dataset.problems = now.length === 1 ? "one" : "";
  text(byId("verdict-title"), headline(status, now));
  text(byId("verdict-text"), now.length === 1 ? sinceWhen(now[0], status) : now.length ? "" : calm(status));
  each(byId("notices"), status.problems, ({title, severity, harm}) => `${severity} ${harm} ${title}`, make,
    (node, problem) => fill(node, problem, status));
  outages(status);
  return worst;
}

function headline(status, now) {
  if (!now.length) return status.ready ? "All is well" : "Not ready";
  return now.length === 1 ? now[0].title : `${now.length} problems`;
}

function calm(status) {
  const asked = status.routes.reduce((sum, route) => sum + route.requests, 0);
  return `${status.routes.length} routes, ${asked.toLocaleString("en")} requests in the last minute, no circuit open.`;
}

function sinceWhen(problem, status) {
  const seconds = status.time_s - problem.since_s;
  if (!problem.since_s) return "";
  return problem.severity === "over" ? ago(seconds) : `for ${lasting(seconds)}, since ${clock(problem.since_s)}`;
}

// The server knows no time zone of the reader: it says when the figures were counted, the clock is put here.
function counted({counted: time, effect}) {
  if (!time || !effect) return effect;
  const when = time.until_s ? `From ${clock(time.since_s)} to ${clock(time.until_s)}` : `Since ${clock(time.since_s)}`;
  return `${when}, ${effect.charAt(0).toLowerCase()}${effect.slice(1)}`;
}

function outcome(problem) {
  const {counted: time, text: why} = problem;
  if (problem.severity !== "over" || !time?.until_s) return why;
  return `${why.replace(/\.$/, "")}, for ${lasting(time.until_s - time.since_s)}.`;
}

function make({severity, harm}) {
  const line = (name, label) => element("p", {class: name}, element("b", {}, label), element("span"));
  const button = element("button", {type: "button", "data-mode": "try", title: "Send one request now, without waiting for the next try"}, "Try now");
  return element("li", {class: `${severity} harm-${harm}`},
    element("p", {class: "what"}, element("strong"), element("span", {class: "since"})),
    line("why", "Why"), line("effect", "Effect"), line("next", "Next"), button);
}

function fill(node, problem, status) {
  const [what, why, effect, next, button] = node.children;
  text(what.firstChild, `${SYMBOLS[problem.severity]} ${LABELS[problem.severity]}: ${problem.title}`);
  text(what.lastChild, sinceWhen(problem, status));
  for (const [line, said] of [[why, outcome(problem)], [effect, counted(problem)], [next, problem.next]]) {
    line.hidden = !said;
    text(line.lastChild, said);
  }
  button.hidden = !problem.breaker;
  button.dataset.breaker = problem.breaker ?? "";
  button.setAttribute("aria-label", `Try now: ${problem.breaker}`);
}

const KINDS = {circuit: "Circuit", route: "Route", iam: "", slow: ""};
const NAMES = {iam: "IAM did not decide", slow: "IAM was slow"};

function outages(status) {
  const twice = status.outages.some(({what}) => what === "iam");
  const shown = status.outages.filter(({what, name}) => !(twice && what === "circuit" && name === "iam"));
  byId("outages-none").hidden = shown.length > 0;
  byId("outages-table").hidden = !shown.length;
  each(byId("outages"), shown, (one) => `${one.what} ${one.name} ${one.since_s}`,
    () => row(["What", "Since", "Lasted", "Got 5xx", "Served by something else", "Cause"]),
    (node, one) => {
      const [name, since, lasted, refused, served, cause] = node.children;
      text(name, NAMES[one.what] ?? `${KINDS[one.what]} ${one.name}`);
      text(since, clock(one.since_s));
      text(lasted, one.until_s ? lasting(one.until_s - one.since_s) : `▲ ${lasting(status.time_s - one.since_s)}, still`);
      const counted = one.what === "route" || one.what === "iam";
      text(refused, counted ? `${one.errors.toLocaleString("en")} of ${one.requests.toLocaleString("en")}` : "–");
      text(served, counts(one.degraded) || "–");
      text(cause, counted ? counts(one.causes) : Object.keys(one.causes).join(", ") || "–");
      cause.classList.add("wide");
    });
}

function counts(all) {
  return Object.entries(all).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([name, count]) => `${name} ×${count}`).join(", ");
}
