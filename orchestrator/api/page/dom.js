// Elements, words and numbers. Everything that comes from the daemon becomes text, never markup.

export const $ = (id) => document.getElementById(id);

// Terminal sequences first, then whatever would still hide, reorder or beep.
const ESCAPES =
  /\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|\x9b[0-?]*[ -/]*[@-~]/g;
const UNSEEN = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g;

export const inert = (text) => String(text).replace(ESCAPES, '').replace(UNSEEN, '\ufffd');

export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : inert(value));
  }
  return fill(node, ...children);
}

export function fill(node, ...children) {
  const flat = children.flat(3).filter((one) => one !== null && one !== undefined && one !== false);
  node.replaceChildren(...flat.map((one) => (one instanceof Node ? one : inert(one))));
  return node;
}

export function set(node, text) {
  const shown = inert(text);
  if (node.textContent !== shown) node.textContent = shown;
}

export function mark(node, name, value) {
  if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function bytes(count) {
  if (count === null || count === undefined) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (count >= 999.5 && unit < 4) [count, unit] = [count / 1000, unit + 1];
  return `${unit && count < 9.95 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function lasting(seconds) {
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function clock(time) {
  const at = new Date(time);
  const today = at.toDateString() === new Date().toDateString();
  const said = at.toLocaleTimeString([], { hour12: false });
  return today ? said : `${at.toLocaleDateString([], { month: 'short', day: 'numeric' })} ${said}`;
}

export const counted = (count, noun) =>
  `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;

export const later = (wait, act) => {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...args), wait);
  };
};

// For those who listen instead of looking.
export const say = (text) => set($('said'), text);

export function toast(text, bad = false) {
  const note = h('p', { class: bad ? 'toast bad' : 'toast' }, text,
    h('button', { type: 'button', 'aria-label': 'Dismiss', onclick: () => note.remove() }, '×'));
  $('toasts').append(note);
  if (!bad) setTimeout(() => note.remove(), 6000);
  while ($('toasts').children.length > 4) $('toasts').firstChild.remove();
}

export function ask(title, body, yes, { danger = false, possible = true } = {}) {
  const dialog = $('ask');
  set($('ask-title'), title);
  fill($('ask-body'), body);
  set($('ask-yes'), yes);
  $('ask-yes').className = danger ? 'danger' : 'primary';
  $('ask-yes').hidden = !possible;
  set($('ask-no'), possible ? 'Cancel' : 'Close');
  dialog.returnValue = 'no';
  dialog.showModal();
  // Enter must not do what costs something before it was read.
  $('ask-no').focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}
