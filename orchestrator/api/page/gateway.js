// The gateway: where it is, what goes through it, and who serves which name.

import { $, fill, h, lasting, mark, say, set, toast } from './dom.js';
import { draw, noteTraffic, spark } from './charts.js';
import { MARKS } from './instances.js';

const NAME = 'gateway';

const short = (value) => (value < 9.95 ? Math.round(value * 10) / 10 : Math.round(value));
const rate = (value) => `${short(value)}/s`;
const share = (part, whole) => `${Math.round((100 * part) / whole)} %`;

let card = null;
let last = null;

function begun() {
  const made = { requests: spark('requests'), first: spark('first token') };
  made.mark = h('span', { class: 'mark', 'aria-hidden': 'true' });
  made.phase = h('span', { class: 'phase' });
  made.since = h('span', { class: 'soft' });
  made.address = h('code');
  made.now = h('p', { class: 'now' });
  made.told = h('div', { class: 'told' });
  made.names = h('tbody');
  const head = ['Name', 'Served by', 'Requests'].map((one) => h('th', { scope: 'col' }, one));
  made.node = h('div', { class: 'sheet card', 'data-name': NAME },
    h('div', { class: 'who' }, made.mark, made.address, made.phase, made.since),
    h('div', { class: 'acts' },
      h('button', { type: 'button', 'aria-label': 'Copy the address of the gateway', onclick: copy }, 'Copy'),
      h('a', { class: 'button', href: `#/logs/${NAME}`, 'aria-label': 'Logs of the gateway' }, 'Logs')),
    made.now,
    h('div', { class: 'gauges' }, made.requests.node, made.first.node),
    made.told,
    h('div', { class: 'wide names', tabindex: 0, role: 'region', 'aria-label': 'Names that clients may ask for' },
      h('table', null, h('thead', null, h('tr', null, head)), made.names)));
  fill($('gateway'), made.node);
  return made;
}

export function showGateway(row) {
  $('gateway-part').hidden = !row;
  if (!row) return;
  card ??= begun();
  if (last && last.phase !== row.phase) say(`gateway: ${row.phase}${row.reason ? `, ${row.reason}` : ''}`);
  last = row;
  noteTraffic(row);
  mark(card.node, 'data-phase', row.phase);
  set(card.mark, MARKS[row.phase] ?? '?');
  set(card.phase, row.phase);
  set(card.since, row.since ? `for ${lasting(Math.max(0, (Date.now() - new Date(row.since)) / 1000))}` : '');
  set(card.address, row.url);
  set(card.now, passing(row.requests));
  once(card.told, [[row.reason, row.message]].filter(([, text]) => text), ([word, text]) => h('p', null, h('span', { class: 'word' }, word), ' ', text));
  once(card.names, row.names, named);
  drawGateway();
}

// What is the same is left as it is, with the focus and whatever is marked in it.
function once(node, rows, made) {
  const key = JSON.stringify(rows);
  if (node.key === key) return;
  node.key = key;
  fill(node, rows.map(made));
}

function passing(requests) {
  if (!requests) return 'It has not said yet what goes through it.';
  const { in_flight: now, waiting, tokens_s: tokens, lately } = requests;
  return [
    `${now} in flight`,
    `${waiting} waiting`,
    tokens > 0 && `${short(tokens)} tokens/s`,
    lately.fallbacks > 0 && `${share(lately.fallbacks, lately.requests)} fell back`,
    lately.failures > 0 && `${share(lately.failures, lately.requests)} failed`,
  ].filter(Boolean).join(' · ');
}

function named({ name, instances, ready, fallback, requests, fallbacks }) {
  const served = instances.map((one) => {
    const up = ready.includes(one);
    return h('span', { class: up ? 'serves up' : 'serves' }, h('span', { 'aria-hidden': 'true' }, up ? '● ' : '○ '), one, !up && h('span', { class: 'unseen' }, ' (not ready)'));
  });
  const behind = fallback.length > 0 && h('span', { class: 'soft' }, `else ${fallback.join(', ')}`);
  const asked = requests.toLocaleString('en') + (fallbacks > 0 ? `, ${share(fallbacks, requests)} fell back` : '');
  return h('tr', null, h('th', { scope: 'row' }, name), h('td', null, served, !instances.length && 'nobody', ' ', behind), h('td', null, asked));
}

export function drawGateway() {
  if (!card || !last) return;
  draw(card.requests, NAME, 'requests_s', rate, 1);
  draw(card.first, NAME, 'first_token_s', lasting, 0.05);
}

async function copy() {
  try {
    await navigator.clipboard.writeText(last.url);
    toast(`${last.url} is copied`);
  } catch {
    // Without a secure connection there is no clipboard; what is marked can be copied by hand.
    getSelection().selectAllChildren(card.address);
    toast('Marked: copy it with the keyboard');
  }
}

// Beside what an instance takes: what goes through the gateway to it.
export function traffic(requests) {
  if (!requests) return '';
  const { in_flight: now, waiting, tokens_s: tokens, first_token_s: first } = requests;
  return [
    (now > 0 || waiting > 0) && `${now} in flight${waiting > 0 ? `, ${waiting} waiting` : ''}`,
    tokens > 0 && `${short(tokens)} tokens/s`,
    first !== null && `first after ${lasting(first)}`,
  ].filter(Boolean).join(' · ');
}
