// The page as a whole: which view is open, whether the daemon is there, and what it says.

import { $, clock, fill, h, mark, say, set } from './dom.js';
import { events, Live } from './daemon.js';
import { machine, refresh } from './charts.js';
import { addEvents, drawAll, forgetEvents, KEPT, putBefore, showInstances, showTimeline } from './instances.js';
import { drawGateway, showGateway } from './gateway.js';
import * as logs from './logs.js';
import * as models from './models.js';
import * as profiles from './profiles.js';
import * as editor from './editor.js';

const VIEWS = ['overview', 'logs', 'profiles', 'models'];
const OFTEN = 10000;

let status = null;
let view = '';
let at = null;
let applied = '';

function seen(fresh, happened, anew) {
  const first = status === null;
  status = fresh;
  at = Date.now();
  showVerdict();
  showInstances(status.instances);
  showGateway(status.gateway);
  if (anew) forgetEvents();
  addEvents(happened);
  const names = kept();
  logs.names(names);
  profiles.running(status.instances);
  editor.running(Object.assign([...status.instances], { profiles: status.profiles }));
  editor.sawRevisions(status.profiles);
  models.showPulls(status.instances);
  const set = JSON.stringify(status.profiles.map((one) => [one.file, one.revision, one.ok]));
  if (set !== applied && view === 'profiles') profiles.load();
  applied = set;
  if (first) open();
  if (!anew) return;
  look();
  past();
  if (!first && view === 'logs') logs.again();
}

// Whatever has a process, and so a log and a past.
const kept = () => [...status.instances, status.gateway].filter(Boolean).map((row) => row.name);

// The stream tells what happens from now on; what it told before the past was there comes after it.
async function past() {
  const old = await events(KEPT).catch(() => null);
  if (!old) return;
  putBefore(old);
  showInstances(status.instances);
}

const OVERALL = { ok: '●', busy: '◔', bad: '✕', none: '○', unknown: '◌' };

function judged() {
  const { instances, converged, settled, profiles: files } = status;
  const all = instances.length;
  if (converged) {
    if (!all) return ['none', files.length ? 'Nothing is declared, nothing runs' : 'No profile is applied'];
    const resting = instances.filter((row) => row.phase === 'stopped').length;
    const up = all - resting;
    return ['ok', resting ? `Converged: ${up} ready, ${resting} at rest` : all === 1 ? `Converged: ${instances[0].name} is ready` : `Converged: all ${all} instances are ready`];
  }
  const ready = instances.filter((row) => row.phase === 'ready').length;
  const broken = instances.filter((row) => row.phase === 'failed').map((row) => row.name);
  const bad = files.filter((one) => !one.ok).map((one) => one.name);
  if (broken.length) return ['bad', `Not converged: ${broken.join(', ')} failed`];
  if (bad.length) return ['bad', `Not converged: ${bad.join(', ')} ${bad.length === 1 ? 'is' : 'are'} invalid`];
  return [settled ? 'bad' : 'busy', settled ? `Not converged: ${ready} of ${all} ready` : `On its way: ${ready} of ${all} ready`];
}

let told = '';

function showVerdict() {
  const [state, words] = judged();
  mark($('verdict'), 'data-state', state);
  set($('verdict').firstElementChild, OVERALL[state]);
  set($('verdict-text'), words);
  if (told && told !== words) say(words);
  told = words;
  document.title = `${OVERALL[state]} ${words} · orchestrate`;
  lines($('missing'), status.missing);
  lines($('warnings'), status.warnings);
  const names = status.profiles.map((one) => one.name).join(', ') || 'no profile';
  const since = status.daemon ? ` · daemon ${status.daemon.pid}, since ${clock(status.daemon.since)}` : '';
  set($('daemon'), `${names}${since} · version ${status.version}`);
}

function lines(list, texts) {
  const key = JSON.stringify(texts);
  if (list.key === key) return;
  list.key = key;
  list.hidden = !texts.length;
  fill(list, texts.map((text) => h('li', null, text)));
}

// --- the connection ----------------------------------------------------------------------------

function connection(state) {
  const words = { live: 'live', lost: 'trying again', out: 'logged out' };
  mark($('link'), 'data-state', state);
  set($('link-text'), words[state]);
  set($('link').firstElementChild, state === 'live' ? '●' : '✕');
  const lost = $('lost');
  lost.hidden = state === 'live';
  document.body.classList.toggle('stale', state !== 'live');
  if (state === 'lost' && lost.key !== state) {
    fill(lost, '✕ Connection lost, trying again. ', at ? `What you see is from ${clock(at)}.` : 'The daemon does not answer.');
  } else if (state === 'out' && lost.key !== state) {
    // In another tab, so that nothing typed here is lost.
    fill(lost, '✕ You are logged out. ', h('a', { href: '/login', target: '_blank' }, 'Log in again'), ' in another tab: this one goes on by itself.');
  }
  lost.key = state;
}

// --- what is asked for now and then ------------------------------------------------------------

async function look() {
  if (document.hidden || !status) return;
  await Promise.allSettled([refresh(kept()), machine()]);
  drawAll();
  drawGateway();
}

// --- views -------------------------------------------------------------------------------------

function open() {
  const [, where = '', name = ''] = location.hash.split('/');
  const wanted = VIEWS.includes(where) ? where : 'overview';
  if (view === 'logs' && wanted !== 'logs') logs.leave();
  const moved = view && view !== wanted;
  view = wanted;
  for (const one of VIEWS) $(`view-${one}`).hidden = one !== view;
  for (const link of document.querySelectorAll('nav a')) mark(link, 'aria-current', (link.hash.slice(2) || 'overview') === view ? 'page' : null);
  if (moved) $('main').focus({ preventScroll: true });
  const chosen = named(name);
  if (view === 'logs') logs.open(chosen || status?.instances[0]?.name || '');
  if (view === 'models') models.open();
  if (view === 'profiles') {
    if (chosen) editor.open(chosen);
    else editor.close();
    profiles.load();
  }
}

function named(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return '';
  }
}

const live = new Live(seen, connection);
logs.begin();
models.begin();
editor.begin(() => profiles.load());
$('timeline-of').addEventListener('change', showTimeline);
addEventListener('hashchange', open);
addEventListener('pagehide', logs.leave);
addEventListener('pageshow', (event) => event.persisted && open());
setInterval(look, OFTEN);
open();
live.open();
