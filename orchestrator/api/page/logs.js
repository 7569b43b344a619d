// The output of one instance, live: searched as it comes, and only ever text.

import { $, counted, fill, h, inert, later, mark, set } from './dom.js';
import { part } from './daemon.js';

const LINES = 2000;
const KEPT = 5000;
// Words, and the letter that llama-server puts after its clock.
const TROUBLE = /\b(error|fatal|failed|panic|exception|critical)\b|^[\d.]+ E /i;
const WARNING = /\bwarn(ing)?\b|^[\d.]+ W /i;

let reading = null;
let wanted = '';
let rest = '';
let arrived = [];
let due = 0;
let matches = 0;

export function begin() {
  for (const id of ['log-name', 'log-run']) $(id).addEventListener('change', () => choose($('log-name').value));
  $('log-search').addEventListener('input', later(80, search));
  $('log-search').addEventListener('keydown', (event) => event.key === 'Escape' && (($('log-search').value = ''), search()));
  $('log-only').addEventListener('change', search);
  $('log-wrap').addEventListener('change', () => $('log').classList.toggle('wrap', $('log-wrap').checked));
  $('log-follow').addEventListener('change', follow);
  $('log').addEventListener('scroll', () => {
    // Who scrolls up wants to read; who returns to the end, to follow.
    $('log-follow').checked = atEnd();
  });
  document.addEventListener('keydown', (event) => {
    const typing = event.target.matches('input, textarea, select');
    if (event.key === '/' && !typing && !$('view-logs').hidden) {
      event.preventDefault();
      $('log-search').focus();
    }
  });
}

const atEnd = () => $('log').scrollHeight - $('log').scrollTop - $('log').clientHeight < 24;
const follow = () => $('log-follow').checked && ($('log').scrollTop = $('log').scrollHeight);
const choose = (name) => {
  location.hash = `#/logs/${part(name)}`;
  open(name);
};

export function names(all) {
  const select = $('log-name');
  const have = [...select.options].map((one) => one.value);
  if (JSON.stringify(have) === JSON.stringify(all)) return;
  const was = select.value || wanted;
  fill(select, all.map((name) => h('option', { value: name }, name)));
  if (all.includes(was)) select.value = was;
}

export function open(name) {
  wanted = name;
  if (!name) return;
  if (![...$('log-name').options].some((one) => one.value === name)) $('log-name').append(h('option', { value: name }, name));
  $('log-name').value = name;
  read(name, Number($('log-run').value));
}

export function leave() {
  reading?.abort();
  reading = null;
}

// After a lost connection: the same log once more, from its end.
export const again = () => reading === null || open(wanted);

async function read(name, back) {
  leave();
  const mine = (reading = new AbortController());
  [rest, arrived] = ['', []];
  fill($('log'));
  counts();
  const query = `lines=${LINES}${back ? `&previous=${back}` : '&follow=1'}`;
  try {
    const answer = await fetch(`/v1/instances/${part(name)}/logs?${query}`, { signal: mine.signal });
    if (!answer.ok) {
      const { error = {} } = await answer.json().catch(() => ({}));
      set($('log-count'), error.message || `the daemon answered ${answer.status}`);
      return;
    }
    const decoder = new TextDecoder();
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (mine !== reading) return;
      if (done) break;
      take(decoder.decode(value, { stream: true }));
    }
    take(rest && '\n');
    if (!$('log').children.length && !arrived.length) set($('log-count'), 'There is no output of that run.');
  } catch (error) {
    if (error.name !== 'AbortError') set($('log-count'), 'The connection was lost; it is tried again.');
  }
}

function take(text) {
  const lines = (rest + text).split('\n');
  rest = lines.pop();
  arrived.push(...lines);
  if (!due) due = requestAnimationFrame(write);
}

function write() {
  due = 0;
  const pattern = sought();
  const lines = arrived.slice(-KEPT).map((line) => newLine(line, pattern));
  arrived = [];
  $('log').append(...lines);
  while ($('log').children.length > KEPT) $('log').firstChild.remove();
  counts();
  follow();
}

function newLine(raw, pattern) {
  // What a terminal would show of a line that was written over.
  const text = inert(raw.replace(/\r+$/, '').split('\r').at(-1));
  const node = h('div', { class: TROUBLE.test(text) ? 'trouble' : WARNING.test(text) ? 'warning' : null });
  node.line = text;
  render(node, pattern);
  return node;
}

function render(node, pattern) {
  const { line } = node;
  const pieces = [];
  let at = 0;
  if (pattern) {
    for (const found of line.matchAll(pattern)) {
      if (!found[0]) continue;
      pieces.push(line.slice(at, found.index), h('mark', null, found[0]));
      at = found.index + found[0].length;
    }
  }
  node.hit = pieces.length > 0;
  fill(node, ...pieces, line.slice(at) || (at ? '' : ' '));
  node.hidden = Boolean(pattern) && !node.hit && $('log-only').checked;
}

function sought() {
  const said = $('log-search').value;
  mark($('log-search'), 'aria-invalid', null);
  if (!said) return null;
  const written = said.match(/^\/(.+)\/$/);
  try {
    return new RegExp(written ? written[1] : said.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'), 'gi');
  } catch {
    mark($('log-search'), 'aria-invalid', 'true');
    return null;
  }
}

function search() {
  const pattern = sought();
  for (const node of $('log').children) render(node, pattern);
  counts();
  follow();
}

function counts() {
  const all = $('log').children.length;
  if (!$('log-search').value) return set($('log-count'), all ? counted(all, 'line') : '');
  matches = [...$('log').children].filter((node) => node.hit).length;
  return set($('log-count'), `${matches.toLocaleString('en')} of ${counted(all, 'line')} match`);
}
