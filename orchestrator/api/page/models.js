// The models on this machine, and what the Ollama servers have or are getting.

import { $, bytes, counted, fill, h, later, set } from './dom.js';
import { get } from './daemon.js';
import { pullLine } from './instances.js';

let known = null;
let shown = '';

export function begin() {
  $('model-search').addEventListener('input', later(80, list));
  $('model-refresh').addEventListener('click', load);
}

export async function load() {
  $('model-refresh').disabled = true;
  if (!known) set($('model-count'), 'Looking …');
  try {
    known = await get('/v1/models');
    list();
  } catch (error) {
    set($('model-count'), error.said);
  } finally {
    $('model-refresh').disabled = false;
  }
}

export const open = () => known || load();

function list() {
  if (!known) return;
  const wanted = $('model-search').value.toLowerCase();
  const models = known.models.filter((model) => `${model.ref} ${model.path} ${model.architecture}`.toLowerCase().includes(wanted));
  const size = models.reduce((sum, model) => sum + (model.size_bytes ?? 0), 0);
  set($('model-count'), `${counted(models.length, 'model')}, ${bytes(size)}`);
  const cells = (model) => [
    h('th', { scope: 'row' }, model.ref, h('small', { class: 'soft' }, model.path)),
    ...[model.parameters && short(model.parameters), model.quantization, model.context_length?.toLocaleString('en'), model.size_bytes && bytes(model.size_bytes), model.source].map((cell) => h('td', null, cell || '–')),
  ];
  const head = ['Model', 'Parameters', 'Quantization', 'Context', 'Size', 'Source'];
  fill($('models'),
    h('table', null, h('thead', null, h('tr', null, head.map((one) => h('th', { scope: 'col' }, one)))),
      h('tbody', null, models.map((model) => h('tr', null, cells(model))))),
    known.errors.length > 0 && h('div', { class: 'pad' }, h('h2', null, 'Could not be read'), h('ul', null, known.errors.map((one) => h('li', null, h('code', null, one.path), ' ', one.message)))));
}

const short = (count) => (typeof count === 'number' ? bytes(count).replace(' B', '').replace(' kB', ' K').replace(' MB', ' M').replace(' GB', ' B').replace(' TB', ' T') : count);

export function showPulls(rows) {
  const held = rows.filter((row) => row.models.length);
  const key = JSON.stringify(held.map((row) => [row.name, row.models]));
  if (key === shown) return;
  shown = key;
  $('pulls').hidden = !held.length;
  fill($('pull-list'), held.flatMap((row) => row.models.map((model) => {
    const item = pullLine({ ...model, state: model.state === 'present' && model.loaded ? 'in memory' : model.state });
    item.prepend(h('span', { class: 'soft' }, `${row.name} `));
    return item;
  })));
}
