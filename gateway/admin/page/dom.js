// The little that is needed of a view library. Everything is set as text, never as markup; what is there already is
// changed in place, so that focus and selection stay where they are.

export const byId = (id) => document.getElementById(id);

export function text(node, value) {
  const shown = String(value);
  if (node.textContent !== shown) node.textContent = shown;
}

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// One child for each item, found again by its key; `make` builds one, `update` fills it in.
export function each(parent, items, key, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const name = key(item);
    const child = known.get(name) ?? make(item);
    known.delete(name);
    child.dataset.key = name;
    update(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  for (const child of known.values()) child.remove();
}

// Pairs of a description list: [label, value, smaller text].
export function pairs(list, items) {
  each(list, items, ([label]) => label,
    ([label]) => element("div", {}, element("dt", {}, label), element("dd", {}, element("span"), element("small"))),
    (node, [, value, small]) => {
      text(node.querySelector("span"), value);
      text(node.querySelector("small"), small ? ` ${small}` : "");
    });
}

// A table row with a cell for each label; the first one is its header.
export function row(labels) {
  const cells = labels.map((label, index) => index === 0
    ? element("th", {role: "rowheader", scope: "row"})
    : element("td", {role: "cell", "data-label": label}));
  return element("tr", {role: "row"}, ...cells);
}
