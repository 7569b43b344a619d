// Small charts, and the bars of memory. Each says in words what it shows.

import { $, bytes, fill, h, mark, set } from './dom.js';
import { get } from './daemon.js';

const SPAN = 600;
const [WIDTH, HEIGHT] = [100, 26];
const SVG = 'http://www.w3.org/2000/svg';

let history = { at: [], instances: {} };
let fetched = 0;
let tail = {};

export async function refresh(names) {
  history = await get('/v1/history');
  fetched = Date.now() / 1000;
  for (const name of Object.keys(tail)) if (!names.includes(name)) delete tail[name];
}

const ends = () => (history.at.at(-1) ?? Date.now() / 1000) + (Date.now() / 1000 - (fetched || Date.now() / 1000));

// What the stream says between two looks at the history.
export function note(row) {
  const alive = row.pid !== null || !row.managed;
  tail[row.name] = { memory_bytes: alive ? row.memory_bytes : null, cpu_percent: alive ? row.cpu_percent : null };
}

export function noteTraffic(row) {
  const { requests_s = null, first_token_s = null } = row.requests ?? {};
  tail[row.name] = { requests_s, first_token_s };
}

export function spark(label) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  const [area, line] = ['area', 'line'].map((kind) => {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', kind);
    svg.append(path);
    return path;
  });
  const value = h('b');
  const node = h('div', { class: 'gauge' }, svg, h('span', null, value, ' ', h('small', null, label)));
  return { node, svg, area, line, value, label };
}

export function draw(chart, name, key, spell, least) {
  const until = ends();
  const values = history.instances[name]?.[key] ?? [];
  const points = values.map((value, index) => [history.at[index], value]);
  const now = tail[name]?.[key] ?? null;
  points.push([until, now]);
  const inside = points.filter(([at]) => at >= until - SPAN - 10);
  const known = inside.map(([, value]) => value).filter((value) => value !== null);
  const top = Math.max(least, ...known) * 1.12;
  let [line, area, run] = ['', '', []];
  const close = () => {
    if (run.length > 1) {
      const path = run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join('L');
      line += `M${path}`;
      area += `M${run[0][0].toFixed(1)} ${HEIGHT}L${path}L${run.at(-1)[0].toFixed(1)} ${HEIGHT}Z`;
    }
    run = [];
  };
  for (const [at, value] of inside) {
    if (value === null) close();
    else run.push([WIDTH - ((until - at) / SPAN) * WIDTH, HEIGHT - 1 - (value / top) * (HEIGHT - 2)]);
  }
  close();
  chart.line.setAttribute('d', line);
  chart.area.setAttribute('d', area);
  set(chart.value, now === null ? '–' : spell(now));
  const range = known.length ? `, ${spell(Math.min(...known))} to ${spell(Math.max(...known))} over the last minutes` : '';
  mark(chart.svg, 'aria-label', `${chart.label}${range}`);
}

export const percent = (value) => `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)} %`;

export async function machine() {
  const { memory, gpus = [] } = await get('/v1/machine');
  const budget = memory.budget && memory.budget < memory.total * 0.97 && h('p', { class: 'soft' }, `Instances may take ${bytes(memory.budget)} of it.`);
  fill($('machine'),
    bar('Memory', memory.total, memory.available ?? 0, memory.instances ?? {}, '', budget),
    gpus.map((gpu) => bar(`GPU ${gpu.index}`, gpu.total, gpu.free, gpu.instances ?? {}, gpu.name)));
}

function bar(title, total, free, takes, more = '', below = null) {
  const ours = Object.entries(takes).sort((one, other) => other[1] - one[1]);
  const sum = ours.reduce((all, [, size]) => all + size, 0);
  const rest = Math.max(0, total - free - sum);
  const pieces = [...ours.map(([name, size], index) => [name, size, `tint-${index % 6}`]), ['everything else', rest, 'tint-rest']];
  const strip = h('div', { class: 'bar', 'aria-hidden': 'true' }, pieces.filter(([, size]) => size > 0).map(([, size, tint]) => {
    const piece = h('i', { class: tint });
    piece.style.width = `${(100 * size) / total}%`;
    return piece;
  }));
  return h('div', { class: 'place' },
    h('p', null, h('b', null, title), ' ', more && h('span', { class: 'soft' }, more), h('span', { class: 'right' }, h('b', null, bytes(free)), ` of ${bytes(total)} free`)), strip,
    h('ul', { class: 'legend' }, pieces.map(([name, size, tint]) =>
      h('li', null, h('i', { class: tint, 'aria-hidden': 'true' }), name, ' ', h('b', null, bytes(size))))), below);
}
