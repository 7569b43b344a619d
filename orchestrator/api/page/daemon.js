// Talks to the daemon: one request at a time, and the stream of what is.

export class Refused extends Error {
  constructor(status, { error = {}, errors = [] } = {}) {
    super(error.message || `the daemon answered ${status}`);
    Object.assign(this, { status, code: error.code || '', hint: error.hint || '', errors });
  }
  get said() {
    return this.hint ? `${this.message} (${this.hint})` : this.message;
  }
}

export async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, { error: { message: 'the daemon cannot be reached', hint: 'it is tried again' } });
  }
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, document);
  return document;
}

export const get = (path) => call('GET', path);
export const post = (path, body = {}) => call('POST', path, body);
export const part = encodeURIComponent;

// The newest of what the daemon keeps of the timeline, oldest first.
export async function events(recent) {
  const answer = await fetch(`/v1/events?follow=0&recent=${recent}`);
  if (!answer.ok) throw new Refused(answer.status);
  const lines = (await answer.text()).split('\n');
  return lines.filter((line) => line.startsWith('data: ')).map((line) => JSON.parse(line.slice(6)));
}

// Of what is only progress the daemon keeps nothing, and the next one gives its id again.
const PASSING = ['progress', 'model-progress', 'look', 'looked'];
export const isKept = ({ type, reason, data }) => !PASSING.includes(type) && reason !== 'steady' && !data?.again;

const REFRESH = 2000;
const SILENT = 9000;
const UNSEEN = 20000;
const GLANCE = 15000;

// `seen` gets every status with what happened since the last, and whether it is the first of a
// connection: what happened before that, it is to ask for. `state` is live, lost or out.
export class Live {
  constructor(seen, state) {
    Object.assign(this, { seen, state, anew: true, tries: 0 });
    addEventListener('online', () => this.open());
    // A browser has six connections for each server, and all tabs share them: a page that is not
    // looked at gives its own back, and asks now and then instead.
    document.addEventListener('visibilitychange', () => {
      clearTimeout(this.unseen);
      if (document.hidden) this.unseen = setTimeout(() => this.rest(), UNSEEN);
      else if (this.lost || this.resting) this.open();
    });
    addEventListener('pagehide', () => this.close());
    addEventListener('pageshow', (event) => event.persisted && this.open());
  }

  async rest() {
    this.close();
    this.resting = true;
    const status = await get('/v1/status').catch(() => null);
    if (!this.resting) return;
    if (status) this.seen(status, [], false);
    this.timer = setTimeout(() => this.rest(), GLANCE);
  }

  open() {
    this.close();
    this.resting = false;
    this.anew = true;
    const source = new EventSource(`/v1/status?follow=1&refresh_ms=${REFRESH}`);
    this.source = source;
    source.addEventListener('status', (message) => this.came(JSON.parse(message.data)));
    source.onerror = () => this.fail();
    this.expect();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
  }

  // A connection that is cut off without a word only shows by its silence.
  expect() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fail(), SILENT);
  }

  came({ status, events: fresh }) {
    this.expect();
    this.tries = 0;
    const anew = this.anew;
    this.anew = this.lost = false;
    this.seen(status, fresh, anew);
    this.state('live');
  }

  async fail() {
    this.close();
    this.lost = true;
    this.tries += 1;
    this.timer = setTimeout(() => this.open(), Math.min(250 * 1.6 ** this.tries, 5000));
    this.state('lost');
    const answer = await fetch('/v1/status').catch(() => null);
    if (this.lost && answer?.status === 401) this.state('out');
  }
}
