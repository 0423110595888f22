// The page: follows the stream, says so when it cannot, and asks before it changes anything.

import {byId, text} from "./dom.js";
import {showIam, tick} from "./iam.js";
import {showProblems} from "./problems.js";
import {showRoutes} from "./routes.js";
import {change, follow, forgetToken, keepToken} from "./stream.js";
import {showTables} from "./tables.js";
import {sentence} from "./words.js";

const SILENCE_MS = 3500;
const TOAST_MS = 8000;

let heardAt = performance.now();
let latest = null;
let toastTimer = 0;

function show(status) {
  heardAt = performance.now();
  connection("live", "Live");
  if (!status.workers) {
    connection("lost", "No worker answers");
    return;
  }
  latest = status;
  const workers = status.workers_expected > 1 ? ` · ${status.workers} of ${status.workers_expected} workers` : "";
  const state = status.draining ? "draining" : status.ready ? "ready" : "not ready";
  text(byId("about"), `${status.version} · ${state}${workers}`);
  const worst = showProblems(status);
  document.title = `${{well: "●", warning: "!"}[worst] ?? "▲"} Gateway`;
  showIam(status);
  showRoutes(status);
  showTables(status);
}

// A change on top of what is known: rows of routes by id, entries by name, all else whole.
function merge(change) {
  if (!latest) return;
  const {routes, breakers, upstreams, ...rest} = change;
  const rows = new Map(routes.map((route) => [route.id, route]));
  show({
    ...latest, ...rest,
    routes: rows.size ? latest.routes.map((route) => rows.get(route.id) ?? route) : latest.routes,
    breakers: {...latest.breakers, ...breakers},
    upstreams: {...latest.upstreams, ...upstreams},
  });
}

function connection(state, words) {
  document.body.dataset.connection = state;
  text(byId("connection"), words);
  byId("lost").hidden = state !== "lost";
}

function lost() {
  const seconds = Math.round((performance.now() - heardAt) / 1000);
  connection("lost", "Not connected");
  text(byId("lost"), `The gateway's admin listener does not answer. What is shown is ${seconds} s old. Trying again …`);
}

async function followForEver() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    const before = heardAt;
    try {
      await follow({status: show, changes: merge, unauthorized: askForToken});
    } catch {
      lost();
    }
    if (heardAt !== before) pause = 500;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function askForToken() {
  const dialog = byId("token");
  heardAt = performance.now();
  connection("token", "Token needed");
  byId("token-wrong").hidden = !forgetToken();
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    byId("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      keepToken(byId("token-value").value);
      byId("token-value").value = "";
      dialog.close();
      resolve();
    }, {once: true});
  });
}

const CHANGES = {
  reload: {
    path: "-/reload", label: "Reload", title: "Reload the configuration?",
    text: () => "routes.yaml and its policies are read again. With a mistake in them nothing changes.",
    done: () => "The configuration serves.",
  },
  purge: {
    path: "cache/purge", label: "Purge", title: "Purge the caches?",
    text: () => "Every remembered decision and every kept copy is forgotten: IAM is asked anew, and nothing stale can be served until then.",
    done: (document) => `${document.purged} decisions forgotten.`,
  },
  drain: {
    path: "-/drain", label: "Drain and stop", title: "Drain and stop this gateway?",
    text: () => "It stops being ready, finishes what is in flight and ends. Somebody or something else must start it again.",
    done: () => "Draining.",
  },
};

function breakerChange(name, mode) {
  const path = `breakers/${encodeURIComponent(name)}/${mode}`;
  const whom = name === "iam" ? "IAM" : name;
  return {
    try: {
      path, label: "Try now", title: `Try ${whom} now?`,
      text: () => "The next trial is now, not when its time is over. One request decides whether the circuit closes.",
      done: () => `${whom}: tried.`,
    },
    open: {
      path, label: "Hold open", title: `Hold the circuit of ${whom} open?`,
      text: () => name === "iam"
        ? `IAM is not asked until you choose Auto. ${sentence(latest.config.failure_summary)}`
        : "Its upstream gets no requests until you choose Auto; callers get 503, or what the route says.",
      done: () => `${whom}: held open.`,
    },
    close: {
      path, label: "Hold closed", title: `Hold the circuit of ${whom} closed?`,
      text: () => "It is asked whatever fails, until you choose Auto: callers may wait for their timeouts.",
      done: () => `${whom}: held closed.`,
    },
    auto: {
      path, label: "Auto", title: `Let the circuit of ${whom} decide again?`,
      text: () => "If it is held open, the next request is the trial.",
      done: () => `${whom}: automatic.`,
    },
  }[mode];
}

function confirm(what) {
  const dialog = byId("confirm");
  text(byId("confirm-title"), what.title);
  text(byId("confirm-text"), what.text());
  text(byId("confirm-yes"), what.label);
  dialog.returnValue = "";
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), {once: true});
  });
}

async function perform(what) {
  if (!await confirm(what)) return;
  try {
    const {ok, status, document: answer} = await change(what.path);
    if (status === 401) return void askForToken();
    toast(ok ? what.done(answer) : (answer.problems ?? [answer.detail ?? `The listener answered ${status}.`]).join(" · "));
  } catch {
    toast("The listener did not answer.");
  }
}

function toast(words) {
  clearTimeout(toastTimer);
  text(byId("toast"), words);
  toastTimer = setTimeout(() => text(byId("toast"), ""), TOAST_MS);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.breaker) void perform(breakerChange(button.dataset.breaker, button.dataset.mode));
  else if (button.dataset.action) void perform(CHANGES[button.dataset.action]);
});
byId("confirm-yes").addEventListener("click", () => byId("confirm").close("yes"));
byId("confirm-no").addEventListener("click", () => byId("confirm").close(""));
setInterval(tick, 100);
setInterval(() => {
  if (performance.now() - heardAt > SILENCE_MS && document.body.dataset.connection !== "token") lost();
}, 500);
void followForEver();
