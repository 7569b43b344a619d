// A profile as text: checked while one types, with what saving would do beside it. What was typed
// is kept until it is saved or thrown away by hand, also when the file changes meanwhile.

import { $, ask, counted, fill, h, later, mark, set, toast } from './dom.js';
import { call, get, part, post } from './daemon.js';
import { costList, costs, planList, problemList } from './plan.js';

const LINE = 20;
const PAUSE = 250;

// By name: what is on disk as we know it, and the text as it stands here.
const drafts = new Map();
let now = null;
let checked = 0;
let rows = [];
let problems = [];

export const running = (all) => (rows = all);
export const hasDraft = (name) => dirty(drafts.get(name));
export const anyDraft = () => [...drafts.values()].some(dirty);
const dirty = (one) => Boolean(one) && one.text !== one.saved;

export function begin(changed) {
  const text = $('text');
  text.addEventListener('input', () => {
    now.text = text.value;
    showState();
    showNotes();
    check();
  });
  text.addEventListener('scroll', align);
  text.addEventListener('keydown', (event) => {
    // Tab indents, as YAML needs it; after Escape it leads on, so that nobody is caught in here.
    if (event.key === 'Escape') text.dataset.free = 'yes';
    else if (event.key === 'Tab' && !event.shiftKey && !text.dataset.free) {
      event.preventDefault();
      text.setRangeText('  ', text.selectionStart, text.selectionEnd, 'end');
      text.dispatchEvent(new Event('input'));
    } else if (event.key !== 'Tab') delete text.dataset.free;
  });
  text.addEventListener('blur', () => delete text.dataset.free);
  $('edit-save').addEventListener('click', () => save(changed));
  $('edit-undo').addEventListener('click', undo);
  document.addEventListener('keydown', (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 's' && !$('editor').hidden && !$('view-profiles').hidden) {
      event.preventDefault();
      if (!$('ask').open) save(changed);
    }
  });
  addEventListener('beforeunload', (event) => anyDraft() && event.preventDefault());
}

export async function open(name) {
  $('editor').hidden = false;
  $('profile-list').hidden = true;
  now = drafts.get(name) ?? null;
  if (!dirty(now)) {
    try {
      const { text, revision, file } = await get(`/v1/profiles/${part(name)}`);
      now = { name, file, text, saved: text, revision };
      drafts.set(name, now);
    } catch (error) {
      toast(`${name} cannot be opened: ${error.said}`, true);
      location.hash = '#/profiles';
      return;
    }
  }
  set($('edit-title'), name);
  set($('edit-file'), now.file);
  $('text').value = now.text;
  $('text').scrollTop = 0;
  // Its own line ends: what a text area hands back is what is compared.
  if (!dirty(now)) now.saved = now.text = $('text').value;
  [problems, now.theirs] = [[], now.theirs ?? null];
  for (const id of ['problems', 'preview']) fill($(id), h('p', { class: 'soft pad' }, 'Checking …'));
  showConflict();
  showState();
  showNotes();
  await checkNow();
}

export function close() {
  $('editor').hidden = true;
  $('profile-list').hidden = false;
  now = null;
}

const isActive = () => rows.profiles?.some((one) => one.file === now.file);

function showState() {
  set($('edit-state'), dirty(now) ? '✎ unsaved changes' : 'saved');
  $('edit-undo').disabled = $('edit-save').disabled = !dirty(now);
  set($('edit-save'), isActive() ? 'Save and apply' : 'Save');
  set($('preview-title'), isActive() ? 'What saving would do' : 'What applying it would do');
}

// --- checking ----------------------------------------------------------------------------------

const check = later(PAUSE, () => checkNow());

async function checkNow() {
  const [mine, one] = [++checked, now];
  if (!one) return;
  const body = { profile: one.file, text: one.text };
  let found;
  try {
    found = await post('/v1/validate', body);
  } catch (error) {
    found = { errors: error.errors, warnings: [], failed: error.errors.length ? '' : error.said };
  }
  if (mine !== checked || one !== now) return;
  problems = found.errors;
  const source = one.text.split('\n');
  const placed = (list) => list.map((problem) => ({ ...problem, source: source[problem.line - 1] ?? '' }));
  fill($('problems'),
    found.failed ? h('p', { class: 'pad bad' }, found.failed)
      : problems.length ? [h('p', { class: 'pad bad' }, `✕ ${counted(problems.length, 'error')}: nothing of it would be taken up`), problemList(placed(problems), 'error', goTo)]
      : h('p', { class: 'pad good' }, '✓ Valid'),
    found.warnings.length > 0 && problemList(placed(found.warnings), 'warning', goTo));
  mark($('text'), 'aria-invalid', problems.length > 0 || null);
  showNotes();
  if (problems.length || found.failed) return void fill($('preview'), h('p', { class: 'soft pad' }, 'Once it is valid.'));
  try {
    const plan = await post('/v1/plan', body);
    if (mine !== checked || one !== now) return;
    fill($('preview'), plan.actions.length > 0 && costList(costs(plan.actions, rows)),
      planList(plan.actions, 'Nothing: what runs stays as it is.'));
  } catch (error) {
    if (mine === checked) fill($('preview'), error.errors.length ? problemList(error.errors, 'error', goTo) : h('p', { class: 'pad bad' }, error.said));
  }
}

function goTo({ line, column }) {
  const lines = $('text').value.split('\n');
  const at = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + Math.max(0, column - 1);
  $('text').focus();
  $('text').setSelectionRange(at, Math.min(at + 1, $('text').value.length));
  $('text').scrollTop = Math.max(0, (line - 4) * LINE);
}

// --- beside the lines --------------------------------------------------------------------------

function showNotes() {
  const lines = now.text.split('\n');
  const wrong = new Set(problems.map((problem) => problem.line));
  fill($('gutter'), h('div', null, lines.map((_, index) => h('i', { class: wrong.has(index + 1) ? 'wrong' : null }, String(index + 1)))));
  const layer = h('div', { class: 'layer' });
  for (const line of wrong) {
    const here = problems.filter((problem) => problem.line === line);
    const text = lines[line - 1] ?? '';
    const before = text.slice(0, here[0].column - 1);
    const rest = text.slice(before.length).match(/^[\w./-]+|^./)?.[0] ?? ' ';
    // The same letters, unseen, bring caret and words to where they belong, however wide those are.
    const note = h('div', { class: 'note' }, h('span', null, before), h('u', null, rest), h('span', null, text.slice(before.length + rest.length)),
      h('em', null, `▲ ${here.map((one) => one.message + (one.hint ? ` (${one.hint})` : '')).join('; ')}`));
    note.style.top = `${(line - 1) * LINE}px`;
    layer.append(note);
  }
  fill($('notes'), layer);
  for (const note of layer.children) bend(note);
  align();
}

// Words that would end beyond the edge go below their line, with the caret under what is wrong.
function bend(note) {
  const words = note.lastChild;
  if (words.offsetLeft + words.offsetWidth <= $('field').clientWidth - 24) return;
  note.classList.add('bent');
  words.style.left = `${Math.min(note.children[1].offsetLeft, $('field').clientWidth * 0.3)}px`;
  words.style.maxWidth = `${$('field').clientWidth * 0.66}px`;
}

function align() {
  const { scrollTop, scrollLeft } = $('text');
  $('gutter').firstChild.style.transform = `translateY(${-scrollTop}px)`;
  $('notes').firstChild.style.transform = `translate(${-scrollLeft}px, ${-scrollTop}px)`;
}

// --- saving ------------------------------------------------------------------------------------

async function save(changed, revision = now.revision) {
  const one = now;
  if (!dirty(one)) return;
  const text = one.text;
  $('edit-save').disabled = true;
  try {
    const answer = await call('PUT', `/v1/profiles/${part(one.name)}`, { text, revision });
    Object.assign(one, { saved: text, revision: answer.revision, theirs: null, mine: null });
    toast(isActive() ? `${one.name} is saved, and being applied.` : `${one.name} is saved.`);
    changed();
  } catch (error) {
    if (error.status === 409) await conflict(one);
    else if (error.errors.length) await checkNow();
    if (error.status !== 409) toast(`${one.name} was not saved: ${error.said}`, true);
  }
  if (now !== one) return;
  showConflict();
  showState();
  checkNow();
}

async function undo() {
  if (!(await ask('Discard your changes?', h('p', null, 'What you typed since the last save is lost.'), 'Discard', { danger: true }))) return;
  now.mine = now.theirs = null;
  const { name } = now;
  drafts.delete(name);
  open(name);
}

// The file is another one than we knew: shown at once, not only when somebody saves over it.
export async function sawRevisions(profiles) {
  for (const one of drafts.values()) {
    const report = profiles.find((profile) => profile.file === one.file);
    if (!report || report.revision === one.revision || report.revision === one.theirs?.revision || one.asking) continue;
    one.asking = true;
    await conflict(one).catch(() => {});
    one.asking = false;
    if (now === one) {
      showConflict();
      showState();
    }
  }
}

async function conflict(one) {
  const { text, revision } = await get(`/v1/profiles/${part(one.name)}`);
  if (revision === one.revision) return;
  if (dirty(one) && text !== one.text) {
    one.theirs = { text, revision };
    return;
  }
  Object.assign(one, { text, saved: text, revision, theirs: null });
  if (now !== one) return;
  if ($('text').value !== text) {
    $('text').value = text;
    one.text = one.saved = $('text').value;
    toast(`${one.name} changed on disk, and was read again.`);
  }
  showNotes();
  checkNow();
}

function showConflict() {
  const { theirs, mine } = now;
  $('conflict').hidden = !theirs && !mine;
  if (theirs) {
    fill($('conflict'),
      h('h2', null, '⚠ The file changed on disk while you were editing'),
      h('p', null, 'Nothing is lost: below is what would become of the file on disk (−) with your text (+).'),
      h('pre', { class: 'diff', tabindex: '0', 'aria-label': 'Differences' }, difference(theirs.text, now.text)),
      h('p', { class: 'buttons' },
        h('button', { type: 'button', onclick: takeTheirs }, 'Take the file on disk'),
        h('button', { type: 'button', class: 'danger', onclick: () => keepMine() }, 'Keep my text')));
  } else if (mine) {
    fill($('conflict'), h('p', null, 'This is the file as it is on disk. ', h('button', { type: 'button', onclick: backToMine }, 'Back to my text')));
  }
}

function takeTheirs() {
  const { text, revision } = now.theirs;
  swapIn(text, { mine: now.text, theirs: null, revision, saved: text });
}

// Only the ground changes: saving is then a change of what is on disk now.
function keepMine() {
  Object.assign(now, { revision: now.theirs.revision, saved: now.theirs.text, theirs: null });
  showConflict();
  showState();
  $('edit-save').focus();
}

const backToMine = () => swapIn(now.mine, { mine: null });

function swapIn(text, more) {
  Object.assign(now, more, { text });
  $('text').value = text;
  showConflict();
  showState();
  showNotes();
  checkNow();
  $('text').focus();
}

// Line by line: the longest that both have in common stays.
function difference(old, fresh) {
  const [a, b] = [old.split('\n'), fresh.split('\n')];
  if (a.length * b.length > 4e6) return 'Both are too long to be compared here.';
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  }
  const out = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) out.push(h('span', null, `  ${a[i++]}\n`)) && j++;
    else if (j >= b.length || (i < a.length && common[i + 1][j] >= common[i][j + 1])) out.push(h('del', null, `− ${a[i++]}\n`));
    else out.push(h('ins', null, `+ ${b[j++]}\n`));
  }
  return out;
}
