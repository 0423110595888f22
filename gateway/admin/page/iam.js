// The card of IAM: how it is, in words; when it is tried again, counted down between two events; what is done about it.

import {byId, pairs, text} from "./dom.js";
import {ago, clock, milliseconds, sentence, stateOf} from "./words.js";

let trialAt = 0;
let longest = 0;
let lastTold = null;

export function showIam(status) {
  const {iam} = status;
  const breaker = status.breakers.iam;
  const slow = status.problems.some(({title: told}) => told === "IAM is slow");
  const {mood, title, detail} = describe(iam, breaker, status.time_s, slow);
  byId("iam").dataset.state = mood;
  const incident = Boolean(breaker) && mood !== "closed" && status.problems.some(({title: told}) => told.startsWith("IAM "));
  const elsewhere = mood === "closed" && status.problems.some(({severity}) => severity !== "over");
  byId("iam").toggleAttribute("data-incident", incident);
  byId("iam").dataset.size = elsewhere ? "small" : "";
  text(byId("iam-title"), incident ? "IAM, the authorization service" : title);
  text(byId("iam-text"), detail);
  text(byId("iam-badge"), breaker ? `IAM circuit ${stateOf(breaker)}` : "embedded policies");
  byId("iam-badge").className = `badge ${mood}`;
  const summary = status.config.failure_summary;
  text(byId("iam-summary"), incident ? "" : sentence(summary.replace(/\b(serves?) stale\b/g, (found, verb) => `${verb.replace("serve", "use")} old permits`)));
  for (const button of document.querySelectorAll("#iam button")) {
    if (button.dataset.mode === "try") {
      button.hidden = incident || !breaker || breaker.state !== "open" || Boolean(breaker.forced);
      continue;
    }
    button.hidden = !breaker;
    button.setAttribute("aria-pressed", String(Boolean(breaker) && pressed(button.dataset.mode, breaker)));
  }
  figures(iam);
  lastError(iam, breaker, status.time_s);
  trial(breaker);
  announce(title);
}

export function pressed(mode, breaker) {
  return {open: breaker.forced === "open", close: breaker.forced === "closed", auto: !breaker.forced}[mode];
}

function describe(iam, breaker, now, slow) {
  if (!breaker) return {mood: "closed", title: "IAM is embedded", detail: "Policies are evaluated in this process."};
  if (breaker.forced === "open") {
    return {mood: "open", title: "IAM is not asked", detail: "An operator holds the circuit open."};
  }
  if (breaker.state === "open") {
    const since = iam.answered_at_s && iam.answered_at_s > (breaker.opened_at_s ?? 0)
      ? ` Circuit open, IAM answered ${ago(now - iam.answered_at_s)}.` : "";
    return {mood: "open", title: "IAM is down", detail: `The gateway has stopped asking IAM (${breaker.last_failure || "cause not known"}).${since}`};
  }
  if (breaker.state === "half_open") {
    return {mood: "half_open", title: "IAM is being tried", detail: "One question decides whether the circuit closes."};
  }
  if (breaker.consecutive_failures) {
    const detail = breaker.forced
      ? `${breaker.consecutive_failures} failures in a row; an operator holds the circuit closed.`
      : `${breaker.consecutive_failures} of ${iam.failure_threshold} failures in a row that open the circuit.`;
    return {mood: "failing", title: "IAM is failing", detail};
  }
  const held = breaker.forced ? " An operator holds the circuit closed." : "";
  if (slow) return {mood: "failing", title: "IAM answers slowly", detail: `Requests wait for its decision.${held}`};
  return {mood: "closed", title: "IAM answers", detail: `IAM, the authorization service, decides every request that a route guards.${held}`};
}

function figures(iam) {
  const asked = iam.calls !== undefined;
  pairs(byId("iam-figures"), asked ? [
    ["Latency p50", milliseconds(iam.latency_ms.p50)],
    ["p95", milliseconds(iam.latency_ms.p95)],
    ["p99", milliseconds(iam.latency_ms.p99)],
    ["Calls / min", iam.calls_1m, iam.failed_1m ? `${iam.failed_1m} failed` : ""],
    ["Checks per call", iam.mean_batch_size ?? "–"],
    ["In flight", iam.in_flight, `of ${iam.max_concurrency}`],
    ["Waiting", iam.queue, `of ${iam.max_queue}`],
  ] : [["Protocol", iam.api]]);
}

function lastError(iam, breaker, now) {
  const error = iam.last_error;
  byId("iam-error").hidden = !breaker;
  text(byId("iam-error"), error
    ? `Last error ${ago(now - error.at_s)} (${clock(error.at_s)}): ${error.code} – ${error.reason}`
    : "No error since the start.");
}

function trial(breaker) {
  const open = Boolean(breaker) && breaker.state === "open" && !breaker.forced;
  byId("iam-countdown").hidden = !open;
  byId("iam-progress").hidden = !open;
  if (!open) {
    trialAt = longest = 0;
    return;
  }
  trialAt = performance.now() + breaker.remaining_s * 1000;
  longest = Math.max(longest, breaker.remaining_s);
  tick();
}

// Called ten times a second.
export function tick() {
  if (!trialAt) return;
  const left = Math.max(0, (trialAt - performance.now()) / 1000);
  text(byId("iam-seconds"), left.toFixed(1));
  text(byId("iam-countdown-text"), left > 0 ? "until the next try" : "the next request tries IAM");
  byId("iam-progress").max = longest || 1;
  byId("iam-progress").value = left;
}

function announce(title) {
  if (lastTold !== null && lastTold !== title) text(byId("announcement"), title);
  lastTold = title;
}
