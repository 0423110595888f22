// Numbers and times as people read them, and what states are called.

export const STATES = {
  closed: {symbol: "●", word: "closed"},
  open: {symbol: "▲", word: "open"},
  half_open: {symbol: "◐", word: "half-open"},
};

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10000 ? 0 : 1)} s`;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ms`;
}

export function rate(value) {
  return value >= 10 ? Math.round(value).toLocaleString("en") : value.toFixed(1);
}

export function share(value) {
  if (value === 0) return "0";
  const percent = value * 100;
  return `${percent < 1 ? percent.toFixed(1) : Math.round(percent)} %`;
}

export function sentence(words) {
  return `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

export function ago(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s ago`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ago`;
  return whole < 86400 ? `${Math.floor(whole / 3600)} h ago` : `${Math.floor(whole / 86400)} d ago`;
}

// How long something lasts.
export function lasting(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  return whole < 7200 ? `${Math.floor(whole / 60)} min` : `${Math.floor(whole / 3600)} h`;
}

export function stateOf(breaker) {
  const {symbol, word} = STATES[breaker.state];
  const held = breaker.forced ? `held ${STATES[breaker.forced].word}` : word;
  const part = breaker.workers > 1 && breaker.open_in ? `, ${breaker.open_in} of ${breaker.workers} workers` : "";
  return `${symbol} ${held}${part}`;
}
