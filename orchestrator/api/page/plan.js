// A plan in words: what would happen to whom, and what it costs.

import { counted, h } from './dom.js';

const SERVING = ['ready', 'starting', 'unready'];
const WORDS = {
  start: ['+', 'start'],
  stop: ['−', 'stop'],
  kill: ['−', 'kill'],
  replace: ['↻', 'restart'],
  update: ['~', 'change in place'],
  provision: ['~', 'change its models'],
};

// What is running that would be interrupted, and what would be loaded.
export function costs(actions, rows) {
  const runs = new Set(rows.filter((row) => SERVING.includes(row.phase)).map((row) => row.name));
  const of = (...verbs) => actions.filter((one) => verbs.includes(one.action)).map((one) => one.instance);
  const stopped = of('stop', 'kill').filter((name) => runs.has(name));
  const restarted = of('replace').filter((name) => runs.has(name));
  const loaded = of('start', 'replace');
  const touched = new Set([...stopped, ...restarted]);
  return { stopped, restarted, loaded, kept: [...runs].filter((name) => !touched.has(name)) };
}

export function costList({ stopped, restarted, loaded, kept }) {
  const line = (names, kind, said) => names.length > 0 && h('li', { class: kind }, said(names.join(', ')));
  return h('ul', { class: 'cost' },
    line(stopped, 'dear', (names) => `− Stops ${names}`),
    line(restarted, 'dear', (names) => `↻ Interrupts ${names}: requests under way are lost`),
    line(loaded, null, (names) => `+ Loads ${counted(loaded.length, 'model')}: ${names}`),
    line(kept, 'soft', (names) => `● Goes on untouched: ${names}`));
}

export function planList(actions, nothing = 'Nothing would change.') {
  if (!actions.length) return h('p', { class: 'soft pad' }, nothing);
  return h('ul', { class: 'plan' }, actions.map(({ action, instance, reasons, message }) => {
    const [sign, word] = WORDS[action] ?? ['·', action];
    const fields = reasons.map(({ field, have, want }) =>
      h('li', null, h('code', null, field), ' ', have !== null && h('del', null, shown(have)), ' → ', want === null ? 'removed' : h('ins', null, shown(want))));
    return h('li', { 'data-action': action },
      h('span', { class: 'sign', 'aria-hidden': 'true' }, sign),
      h('div', null, h('b', null, instance), ` ${word}`,
        fields.length ? h('ul', null, fields) : message && message !== word && h('p', { class: 'soft' }, message)));
  }));
}

const shown = (value) => (typeof value === 'string' ? value || '""' : JSON.stringify(value));

// The line with a caret below, and of a long one what is around it.
function pointed(source, column) {
  const from = Math.max(0, column - 30);
  const lead = from ? '…' : '';
  return `${lead}${source.slice(from, from + 120)}\n${' '.repeat(column - 1 - from + lead.length)}^`;
}

export function problemList(problems, kind, go) {
  return h('ul', { class: `problems ${kind}` }, problems.map((problem) => {
    const { line, column, message, hint, source } = problem;
    const place = line ? `line ${line}, column ${column}` : '';
    return h('li', null,
      go && line ? h('button', { type: 'button', class: 'link', onclick: () => go(problem) }, place) : h('span', { class: 'soft' }, place),
      h('p', null, message, hint && h('span', { class: 'hint' }, ` ${hint}`)),
      source && h('pre', null, pointed(source, column)));
  }));
}
