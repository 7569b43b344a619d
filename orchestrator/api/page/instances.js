// One sheet for each instance, changed in place so that neither focus nor place is lost; and the
// timeline.

import { $, ask, bytes, clock, counted, fill, h, lasting, mark, say, set, toast } from './dom.js';
import { isKept, part, post } from './daemon.js';
import { traffic } from './gateway.js';
import { draw, note, percent, spark } from './charts.js';

export const MARKS = {
  ready: '●', starting: '◔', unready: '◐', stopping: '◑', pending: '◌', backoff: '↻', stopped: '○', failed: '✕',
};
const ALIVE = ['starting', 'ready', 'unready', 'stopping'];
const ENDS = ['exited', 'condemned', 'start-failed'];
export const KEPT = 300;

const cards = new Map();
let timeline = [];
const busy = new Set();

export function showInstances(rows) {
  set($('instances-count'), rows.length || '');
  const names = rows.map((row) => row.name);
  for (const [name, card] of cards) {
    if (names.includes(name)) continue;
    card.node.remove();
    cards.delete(name);
  }
  rows.forEach((row, index) => {
    note(row);
    if (!cards.has(row.name)) cards.set(row.name, newCard(row.name));
    const card = cards.get(row.name);
    if ($('instances').children[index] !== card.node) $('instances').insertBefore(card.node, $('instances').children[index] ?? null);
    update(card, row);
  });
  mark($('instances'), 'data-empty', rows.length ? null : 'No instance is declared. Switch to a profile, or apply one: orchestrate apply FILE');
}

function newCard(name) {
  const card = { name, memory: spark('memory'), cpu: spark('CPU') };
  const button = (word, act, more = {}) => h('button', { type: 'button', 'aria-label': `${word} ${name}`, onclick: act, ...more }, word);
  card.mark = h('span', { class: 'mark', 'aria-hidden': 'true' });
  card.phase = h('span', { class: 'phase' });
  card.since = h('span', { class: 'soft' });
  card.model = h('span', { class: 'model' });
  card.where = h('span', { class: 'where' });
  card.restarts = h('span', { class: 'restarts' });
  card.traffic = h('span', { class: 'traffic' });
  card.told = h('div', { class: 'told' });
  card.pulls = h('ul', { class: 'pulls' });
  card.start = button('Start', () => act(card, 'start'));
  card.restart = button('Restart', () => act(card, 'restart'));
  card.stop = button('Stop', () => act(card, 'stop'));
  card.kill = button('Kill', () => act(card, 'kill'), { class: 'danger' });
  card.facts = h('div', { class: 'facts', id: `facts-${cards.size}-${Date.now()}`, hidden: true });
  card.about = h('dl');
  card.ends = h('div');
  card.facts.append(card.about, card.ends, h('p', { class: 'buttons' }, card.kill));
  card.more = button('Details', () => toggle(card), { 'aria-expanded': 'false', 'aria-controls': card.facts.id });
  card.node = h('li', { class: 'sheet card', 'data-name': name },
    h('div', { class: 'who' }, card.mark, h('h3', null, name), card.phase, card.since),
    h('div', { class: 'acts' }, h('a', { class: 'button', href: `#/logs/${part(name)}`, 'aria-label': `Logs of ${name}` }, 'Logs'), card.start, card.restart, card.stop, card.more),
    h('div', { class: 'what' }, card.model, card.where, card.traffic, card.restarts),
    h('div', { class: 'gauges' }, card.memory.node, card.cpu.node),
    card.told, card.pulls, card.facts);
  return card;
}

function toggle(card) {
  card.facts.hidden = !card.facts.hidden;
  mark(card.more, 'aria-expanded', String(!card.facts.hidden));
  showFacts(card);
}

function update(card, row) {
  const moved = card.row && (card.row.phase !== row.phase || card.row.pid !== row.pid);
  card.row = row;
  mark(card.node, 'data-phase', row.phase);
  if (moved) {
    card.node.classList.remove('moved');
    void card.node.offsetWidth;
    card.node.classList.add('moved');
    say(`${row.name}: ${row.phase}${row.reason ? `, ${row.reason}` : ''}`);
  }
  set(card.mark, MARKS[row.phase] ?? '?');
  set(card.phase, row.held && row.phase === 'stopped' ? 'stopped by hand' : row.phase);
  set(card.model, row.model || (row.engine === 'ollama' ? modelsHeld(row) : row.engine));
  showWhere(card, row);
  set(card.traffic, traffic(row.requests));
  const cause = lastEnd(row.name);
  set(card.restarts, row.restarts ? `${counted(row.restarts, 'restart')}${cause ? ` · ${cause.reason || cause.type} ${clock(cause.time)}` : ''}` : '');
  const alive = ALIVE.includes(row.phase);
  show(card.start, !alive && row.phase !== 'pending');
  show(card.restart, alive);
  show(card.stop, alive || row.phase === 'backoff' || row.phase === 'pending');
  card.kill.disabled = !alive || !row.managed;
  // Not disabled: that would take the focus from whoever has just pressed it.
  for (const one of [card.start, card.restart, card.stop, card.kill]) mark(one, 'aria-busy', busy.has(row.name) || null);
  showTold(card, row);
  showPulls(card, row);
  showFacts(card);
  tickCard(card);
  drawCard(card);
}

// A button that had the focus hands it on to the one that takes its place.
function show(button, shown) {
  const had = document.activeElement === button;
  button.hidden = !shown;
  if (had && !shown) button.parentNode.querySelector('button:not([hidden])')?.focus();
}

function modelsHeld(row) {
  const loaded = row.models.filter((one) => one.loaded).length;
  return `Ollama · ${counted(row.models.length, 'model')}${loaded ? `, ${loaded} in memory` : ''}`;
}

function showWhere(card, row) {
  const said = `${row.host}:${row.port}`;
  if (card.said === `${said}${row.url}`) return;
  card.said = `${said}${row.url}`;
  const safe = /^https?:\/\//.test(row.url ?? '');
  fill(card.where, safe ? h('a', { href: row.url, target: '_blank', rel: 'noreferrer', title: 'What the engine itself serves' }, said) : said);
}

function showTold(card, row) {
  const lines = [
    row.message && [row.reason, row.message],
    !row.message && row.reason && !row.held && [row.reason, ''],
    ...row.alerts.map((one) => [one.alert, one.message]),
    row.stale && ['stale', 'its model or program changed on disk: a restart takes that up'],
    row.health && row.health.class !== 'healthy' && [row.health.class, `the last probe took ${lasting(row.health.latency_s)}`],
    ...row.lacking.map((one) => ['lacking', one]),
  ].filter(Boolean);
  const key = JSON.stringify(lines);
  if (card.key === key) return;
  card.key = key;
  fill(card.told, lines.map(([word, text]) => h('p', null, word && h('span', { class: 'word' }, word), ' ', text)));
}

export const pulling = (row) => row.models.filter((one) => ['pulling', 'building', 'failed', 'missing'].includes(one.state));

export function pullLine(model) {
  const { name, state, bytes_done: done, bytes_total: total, message } = model;
  const told = total ? `${bytes(done)} of ${bytes(total)}` : message;
  const progress = ['pulling', 'building'].includes(state) && h('progress', total ? { max: total, value: done, 'aria-label': `${state} ${name}` } : { 'aria-label': `${state} ${name}` });
  return h('li', { 'data-state': state }, h('b', null, name), ' ', h('span', { class: 'word' }, state), progress, h('span', { class: 'soft' }, told));
}

function showPulls(card, row) {
  const models = pulling(row);
  const key = JSON.stringify(models);
  if (card.pulling === key) return;
  card.pulling = key;
  fill(card.pulls, models.map(pullLine));
}

function showFacts(card) {
  if (card.facts.hidden) return;
  const { row } = card;
  const facts = [
    ['engine', row.managed ? row.engine : `${row.engine}, attached${row.owner ? `, of ${row.owner}` : ''}`],
    ['pid', row.pid ?? '–'],
    ['ready after', row.ready_after_s === null ? '–' : lasting(row.ready_after_s)],
    ['profiles', row.profiles.join(', ') || 'none any more'],
    row.description && ['description', row.description],
    row.exit_code !== null && ['last exit code', row.exit_code],
    row.health && ['probe', `${row.health.class}, ${lasting(row.health.latency_s)}`],
    row.models.length && ['models', row.models.map((one) => `${one.name} (${one.loaded ? 'in memory' : one.state})`).join(', ')],
    row.command.length && ['command', h('code', null, row.command.join(' '))],
  ].filter(Boolean);
  const key = JSON.stringify(facts.map(([name, value]) => [name, value?.textContent ?? value])) + endsOf(row.name).length;
  if (card.shown === key) return;
  card.shown = key;
  fill(card.about, facts.map(([name, value]) => [h('dt', null, name), h('dd', null, value instanceof Node ? value : String(value))]));
  const ends = endsOf(row.name).slice(-4).reverse();
  fill(card.ends, ends.length > 0 && [h('h4', null, 'Last ends'), h('ul', { class: 'ends' }, ends.map(line))]);
}

function tickCard(card) {
  const { row } = card;
  if (row.phase === 'backoff' && row.retry_in_s !== null) set(card.since, `next try in ${lasting(row.retry_in_s)}`);
  else set(card.since, row.since ? `for ${lasting(Math.max(0, (Date.now() - new Date(row.since)) / 1000))}` : '');
}

function drawCard(card) {
  draw(card.memory, card.name, 'memory_bytes', bytes, 1e6);
  draw(card.cpu, card.name, 'cpu_percent', percent, 100);
}

export const drawAll = () => cards.forEach(drawCard);

// --- by hand -----------------------------------------------------------------------------------

async function act(card, verb) {
  const { row, name } = card;
  if (busy.has(name)) return;
  if (verb !== 'start' && !(await agreed(row, verb))) return;
  busy.add(name);
  update(card, card.row);
  try {
    const outcome = await post(`/v1/instances/${part(name)}/${verb}`);
    toast(`${name}: ${outcome.phase}${outcome.message ? `: ${outcome.message}` : ''}`, !outcome.ok);
  } catch (error) {
    toast(`${name}: ${error.said}`, true);
  } finally {
    busy.delete(name);
    if (cards.has(name)) update(card, card.row);
  }
}

function agreed(row, verb) {
  if (row.phase !== 'ready' && verb !== 'kill') return true;
  const again = row.ready_after_s === null ? '' : ` It took ${lasting(row.ready_after_s)} to come up.`;
  const words = {
    stop: ['Stop', row.managed ? `It serves on port ${row.port}, and stays down until it is started again.${again}` : 'The server is not ours: it is let go of, and runs on.'],
    restart: ['Restart', row.managed ? `Requests under way on port ${row.port} are lost, and ${row.model || 'its models'} will be loaded again.${again}` : 'The server is not ours: it is let go of and looked for again.'],
    kill: ['Kill', `It gets no time to finish, and stays down until it is started again.`],
  }[verb];
  return ask(`${words[0]} ${row.name}?`, h('p', null, words[1]), words[0], { danger: verb !== 'restart' });
}

// --- the timeline ------------------------------------------------------------------------------

const GOOD = ['ready', 'converged', 'mended', 'profile-ok', 'alert-over', 'adopted', 'store-ok'];
const BAD = ['exited', 'condemned', 'start-failed', 'unready', 'profile-error', 'alert', 'store-error', 'stalled', 'bug', 'killing'];

const endsOf = (name) => timeline.filter((event) => event.instance === name && ENDS.includes(event.type));
const lastEnd = (name) => endsOf(name).at(-1);

// A stop that was asked for is an end like any other, and no bad news.
const asked = (event) => event.type === 'exited' && (event.data?.requested || ['', 'stop', 'held'].includes(event.reason));

function line(event) {
  const { time, instance, type, reason, message, data } = event;
  const tone = asked(event) ? '' : GOOD.includes(type) ? 'good' : BAD.includes(type) ? 'bad' : '';
  const took = type === 'ready' && data?.ready_after_s ? ` after ${lasting(data.ready_after_s)}` : '';
  const hint = data?.hint && !message.includes(data.hint) ? data.hint : '';
  return h('li', { class: tone }, h('time', { datetime: time, title: new Date(time).toLocaleString() }, clock(time)),
    h('span', { class: 'event' },
      instance && [h('b', null, instance), ' '], h('span', { class: 'word' }, type.replaceAll('-', ' ')), took,
      reason && !message.startsWith(reason) && h('span', { class: 'soft' }, ` ${reason}`),
      message && h('span', { class: 'soft' }, ` ${message}`),
      hint && h('span', { class: 'hint' }, ` ${hint}`)));
}

// After a break the daemon says the past again. Until it has, what is seen stays to be seen.
export const forgetEvents = () => (timeline = []);

export function putBefore(old) {
  const newest = old.at(-1)?.id ?? 0;
  timeline = [...old, ...timeline.filter((event) => event.id > newest)].slice(-KEPT);
  offer(timeline);
  showTimeline();
}

function offer(events) {
  const select = $('timeline-of');
  const known = new Set([...select.options].map((one) => one.value));
  for (const name of new Set(events.map((event) => event.instance))) {
    if (name && !known.has(name)) select.append(h('option', { value: name }, name));
  }
}

export function addEvents(fresh) {
  const newest = timeline.at(-1)?.id ?? 0;
  const added = fresh.filter((event) => event.id > newest && isKept(event));
  if (!added.length) return;
  timeline = [...timeline, ...added].slice(-KEPT);
  offer(added);
  const only = $('timeline-of').value;
  for (const event of added) if (!only || event.instance === only) $('timeline').prepend(line(event));
  while ($('timeline').children.length > KEPT) $('timeline').lastChild.remove();
}

export function showTimeline() {
  const only = $('timeline-of').value;
  fill($('timeline'), timeline.filter((event) => !only || event.instance === only).reverse().map(line));
}
