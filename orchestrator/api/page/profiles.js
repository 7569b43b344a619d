// The profiles that there are, and the switch from one to another, which says first what it costs.

import { $, ask, fill, h, mark, toast } from './dom.js';
import { get, part, post } from './daemon.js';
import { costList, costs, planList, problemList } from './plan.js';
import { hasDraft } from './editor.js';

let profiles = [];
let rows = [];

export const known = () => profiles;
export const running = (all) => (rows = all);

export async function load() {
  try {
    ({ profiles } = await get('/v1/profiles'));
  } catch (error) {
    toast(`The profiles cannot be listed: ${error.said}`, true);
  }
  list();
}

export function list() {
  const active = profiles.filter((one) => one.active);
  const order = [...active, ...profiles.filter((one) => !one.active)];
  fill($('profiles'), order.map((profile) => {
    const { name, file, ok, errors, description, instances } = profile;
    const alone = profile.active && active.length === 1;
    return h('li', { class: 'sheet card', 'data-name': name, 'data-active': profile.active || null },
      h('div', { class: 'who' }, h('h3', null, name),
        profile.active && h('span', { class: 'badge good' }, '● active'),
        !ok && h('span', { class: 'badge bad' }, `✕ ${errors.length === 1 ? 'an error' : `${errors.length} errors`}`),
        hasDraft(name) && h('span', { class: 'badge' }, '✎ unsaved changes')),
      h('div', { class: 'acts' },
        h('a', { class: 'button', href: `#/profiles/${part(name)}`, 'aria-label': `Edit ${name}` }, 'Edit'),
        !alone && h('button', { type: 'button', 'aria-label': `Switch to ${name}`, onclick: (event) => waiting(event.target, change(profile)) }, 'Switch to'),
        active.length > 0 && !profile.active && h('button', { type: 'button', 'aria-label': `Add ${name}`, onclick: (event) => waiting(event.target, change(profile, true)) }, 'Add')),
      description && h('p', { class: 'wide' }, description),
      h('p', { class: 'soft wide' }, instances.length ? `Declares ${instances.join(', ')}` : ok ? 'Declares nothing' : '', h('span', { class: 'file' }, file)),
      errors.length > 0 && h('div', { class: 'wide' }, problemList(errors.slice(0, 3), 'error')));
  }));
  if (!profiles.length) fill($('profiles'), h('li', { class: 'soft pad' }, 'There is none in the profiles folder yet. ', h('code', null, 'orchestrate init'), ' writes a first one.'));
}

async function waiting(button, work) {
  mark(button, 'aria-busy', 'true');
  await work;
  mark(button, 'aria-busy', null);
}

async function planOf({ name, file }, add) {
  const { text } = await get(`/v1/profiles/${part(name)}`);
  return post('/v1/plan', { profile: file, text, add });
}

// Of several that are applied, this one alone is to stay.
function withoutOthers(name) {
  const leaving = rows.filter((row) => !row.profiles.includes(name));
  return { actions: leaving.map((row) => ({ action: 'stop', instance: row.name, reasons: [], message: 'not declared any more' })) };
}

async function change(profile, add = false) {
  const { name } = profile;
  const title = add ? `Add ${name} to what is applied?` : `Switch to ${name}?`;
  let force = false;
  let plan;
  try {
    plan = profile.active ? withoutOthers(name) : await planOf(profile, add);
  } catch (refusal) {
    const problems = refusal.errors.length ? problemList(refusal.errors, 'error') : h('p', null, refusal.said);
    const forcible = refusal.errors.length > 0 && refusal.errors.every((one) => /--force|memory/.test(`${one.message} ${one.hint}`));
    const why = forcible ? 'It needs more memory than this machine has. It can be forced, and may bring everything to a crawl.' : 'It cannot be applied as it is. Nothing was changed.';
    const yes = await ask(`${name} is not healthy`, [h('p', null, why), problems], 'Switch anyway', { danger: true, possible: forcible });
    if (!yes) return;
    force = true;
  }
  if (plan?.actions.length) {
    const cost = costs(plan.actions, rows);
    const dear = cost.stopped.length + cost.restarted.length > 0;
    const body = [
      costList(cost),
      problemList(plan.warnings ?? [], 'warning'),
      h('details', null, h('summary', null, 'The plan'), planList(plan.actions)),
    ];
    if (!(await ask(title, body, add ? 'Add' : 'Switch', { danger: dear }))) return;
  }
  try {
    await post(`/v1/profiles/${part(name)}/apply`, { add, force });
    toast(add ? `${name} is applied, too.` : `${name} is applied.`);
    location.hash = '#/';
  } catch (error) {
    toast(`${name} was not applied: ${error.said}`, true);
  }
  load();
}
