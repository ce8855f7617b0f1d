// HTTP client for the server's REST API. Paths are relative to the base address: api.get('v1/kan/models/NAME').

const KEPT = 'kanserve-token';
const JSON_KIND = 'application/json';
const PACKED = 'application/octet-stream';
const PATIENCE = 15_000; // milliseconds for the first event of a stream, before it is asked for again and again
const AGAIN = 2_000; // milliseconds between two questions then
const LONGEST = 30_000; // between two tries where the server does not answer

/** status: HTTP's, 0 where there was no answer. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
  }
}

export class Api {
  /** prompt(why): a promise of a token, or of '' where the viewer has none. */
  constructor(prompt) {
    this.prompt = prompt;
    this.asking = null;
  }

  /** Objects and lists; of numbers in arrays also NaN and the infinities. Rejects with ApiError. */
  get(path, options = {}) {
    return this.#value(path, { ...options, method: 'GET' });
  }

  post(path, body = {}, options = {}) {
    return this.#value(path, { ...options, method: 'POST', body: JSON.stringify(body) });
  }

  /** As text: /metrics. */
  async text(path, options = {}) {
    const answer = await this.ask(path, { ...options, method: 'GET' });
    return this.#read(() => answer.text());
  }

  async #value(path, { packed = false, ...options }) {
    const answer = await this.ask(path, { ...options, accept: packed ? PACKED : JSON_KIND });
    const kind = answer.headers.get('content-type') ?? '';
    if (kind.startsWith(PACKED)) {
      const head = Number(answer.headers.get('inference-header-content-length'));
      return unpacked(await this.#read(() => answer.arrayBuffer()), head);
    }
    const text = await this.#read(() => answer.text());
    return text ? parsed(text) : null;
  }

  async #read(reading) {
    try {
      return await reading();
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError(0, 'The answer broke off.');
    }
  }

  /** The response, with the token of this tab; asks the viewer for one where the server wants one. */
  async ask(path, { method, body, signal, accept = JSON_KIND }) {
    for (;;) {
      const token = sessionStorage.getItem(KEPT);
      const headers = { accept };
      if (body !== undefined) headers['content-type'] = JSON_KIND;
      if (token) headers.authorization = `Bearer ${token}`;
      let answer;
      try {
        answer = await fetch(new URL(path, document.baseURI), {
          method, body, signal, headers, credentials: 'same-origin', cache: 'no-store', redirect: 'error',
        });
      } catch (error) {
        if (error.name === 'AbortError') throw error;
        throw new ApiError(0, 'No answer came from the server.');
      }
      if (answer.ok) return answer;
      const failure = await failed(answer);
      if (failure.status !== 401) throw failure;
      if (sessionStorage.getItem(KEPT) === token && !(await this.#token(token, failure))) throw failure;
    }
  }

  /** Several calls that are refused at once ask the viewer once. Resolves to whether there is a new token. */
  #token(old, failure) {
    this.asking ??= (async () => {
      sessionStorage.removeItem(KEPT);
      const given = await this.prompt(old ? `The server did not take the last one: ${failure.message}` : failure.message);
      if (given) sessionStorage.setItem(KEPT, given);
      return Boolean(given);
    })().finally(() => { this.asking = null; });
    return this.asking;
  }

  /**
   * Calls onValue with every {statistics, end_reason} of 'v1/kan/models/NAME/watch?source=live&interval=2', until `signal`
   * aborts or a value has an `end_reason`; not while the tab is hidden. Where events do not come through, such as behind a proxy that holds them
   * back, the statistics are asked for again and again. onTrouble(error) is called where the server is gone, and
   * onTrouble(null) when it is back. Rejects with ApiError for what will not pass by itself.
   */
  async follow(path, onValue, { signal, onTrouble } = {}) {
    let wait = AGAIN;
    let trouble = false;
    const value = (one) => {
      wait = AGAIN;
      if (trouble) onTrouble?.(null);
      trouble = false;
      onValue(one);
      return Boolean(one.end_reason);
    };
    let live = true;
    while (!signal?.aborted) {
      await seen(signal);
      try {
        if (live ? await this.#events(path, value, signal) : value(await this.#poll(path, signal))) return;
        if (!live) await pause(AGAIN, signal);
      } catch (error) {
        if (signal?.aborted) return;
        if (error === HIDDEN) continue;
        if (live && (error === SILENT || [429, 502, 504].includes(error.status))) { // 429: the limit of watches is reached
          live = false;
          continue;
        }
        if (!(error instanceof ApiError) || ![0, 429, 502, 503, 504].includes(error.status)) throw error;
        if (!trouble) onTrouble?.(error);
        trouble = true;
        await pause(wait, signal);
        wait = Math.min(2 * wait, LONGEST);
      }
    }
  }

  /** Whether an event said that it was the last. Throws SILENT where none comes. */
  async #events(path, onValue, signal) {
    const quit = new AbortController();
    const stop = () => quit.abort();
    signal?.addEventListener('abort', stop);
    let [silent, hidden] = [false, false];
    const hide = () => { if (document.hidden) { hidden = true; stop(); } };
    document.addEventListener('visibilitychange', hide);
    const timer = setTimeout(() => { silent = true; stop(); }, PATIENCE);
    try {
      const answer = await this.ask(path, { method: 'GET', signal: quit.signal, accept: 'text/event-stream' });
      if (!(answer.headers.get('content-type') ?? '').startsWith('text/event-stream')) throw SILENT;
      for await (const { event, data } of events(answer.body)) {
        clearTimeout(timer);
        if (event === 'error') throw new ApiError(data.status ?? 0, data.error);
        if (onValue(data)) return true;
      }
      throw new ApiError(0, 'The stream of values broke off.');
    } catch (error) {
      if (hidden && !signal?.aborted) throw HIDDEN;
      if (silent && !signal?.aborted) throw SILENT;
      if (error === SILENT || error instanceof ApiError || signal?.aborted) throw error;
      throw new ApiError(0, 'The stream of values broke off.');
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
      document.removeEventListener('visibilitychange', hide);
      quit.abort();
    }
  }

  async #poll(path, signal) {
    const [before, query = ''] = path.split('?');
    const source = new URLSearchParams(query).get('source') ?? '';
    const statistics = await this.post(before.replace(/watch$/, 'statistics'), { source }, { signal });
    return { statistics, end_reason: '' };
  }
}

const SILENT = Symbol('no events come through');
const HIDDEN = Symbol('nobody looks');

/** Until somebody looks: a browser has six connections to a server of HTTP/1 for all its tabs. */
function seen(signal) {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal?.aborted) return;
      document.removeEventListener('visibilitychange', look);
      resolve();
    };
    document.addEventListener('visibilitychange', look);
    signal?.addEventListener('abort', look, { once: true });
    look();
  });
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

async function failed(answer) {
  let message = `HTTP ${answer.status}`;
  try {
    message = (await answer.json()).error ?? message;
  } catch {
    // what stands before the server, such as a proxy, has no words for us
  }
  return new ApiError(answer.status, message);
}

/** The server's JSON has NaN and the infinities as Python writes them, outside of strings. */
export function parsed(text, revive) {
  try {
    return JSON.parse(text, revive && ((_, value) => revive(value)));
  } catch (error) {
    const quoted = text.replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g,
      (word) => (word[0] === '"' ? word : `"${MARK}${word}"`));
    if (quoted === text) throw new ApiError(0, `The answer is no JSON: ${error.message}`);
    return JSON.parse(quoted, (_, value) => {
      if (typeof value === 'string' && value.startsWith(MARK)) return Number(value.slice(MARK.length));
      return revive ? revive(value) : value;
    });
  }
}

const MARK = '\uE000number:'; // before what was no JSON, and in no answer
const ARRAYS = { '<f4': Float32Array, '<f8': Float64Array, '<u4': Uint32Array, '<u8': BigUint64Array };

/** JSON of `head` bytes, then the bytes of its arrays: {"$array": [type, offset, ...shape]} becomes a typed array with
 * a property `shape`; 64-bit whole numbers become doubles. */
export function unpacked(buffer, head) {
  const text = new TextDecoder().decode(new Uint8Array(buffer, 0, head));
  return parsed(text, (value) => {
    const told = value?.$array;
    if (!told) return value;
    const [type, offset, ...shape] = told;
    const size = shape.reduce((product, extent) => product * extent, 1);
    const found = new ARRAYS[type](buffer, head + offset, size);
    const array = type === '<u8' ? Float64Array.from(found, Number) : found;
    array.shape = shape;
    return array;
  });
}

/** Server-sent events of a body: {event, data}, data parsed. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split('\n\n');
    rest = whole.pop();
    for (const one of whole) {
      const lines = one.split('\n').map((line) => line.split(/: ?(.*)/s, 2));
      const data = lines.filter(([name]) => name === 'data').map(([, text]) => text).join('\n');
      if (data) yield { event: lines.find(([name]) => name === 'event')?.[1] ?? 'message', data: parsed(data) };
    }
  }
}
