// Talks to the listener: the event stream, the changes, and the token, which lives in this tab's sessionStorage alone.
// An EventSource cannot send a header, so the stream is read with fetch.

const TOKEN = "gateway-admin-token";

function headers(more) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? {...more, authorization: `Bearer ${token}`} : more;
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function forgetToken() {
  const had = sessionStorage.getItem(TOKEN) !== null;
  sessionStorage.removeItem(TOKEN);
  return had;
}

export async function change(path) {
  const reply = await fetch(path, {method: "POST", headers: headers({"x-gateway-admin": "1"}), cache: "no-store"});
  return {ok: reply.ok, status: reply.status, document: await reply.json().catch(() => ({}))};
}

// Calls `on.status(document)` for every event until the stream ends. Throws when it cannot be had.
export async function follow(on) {
  const reply = await fetch("status/stream", {headers: headers({accept: "text/event-stream"}), cache: "no-store"});
  if (reply.status === 401) return on.unauthorized();
  if (!reply.ok) throw new Error(`the listener answered ${reply.status}`);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("");
      if (event.startsWith("event: status")) on.status(JSON.parse(data));
      else if (event.startsWith("event: changes")) on.changes(JSON.parse(data));
    }
  }
}
