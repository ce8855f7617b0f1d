// HTTP client for the server's REST API. Paths are relative to the base address: api.get('v1/kan/models/NAME').

const KEPT = 'kanserve-token';
const JSON_KIND = 'application/json';
const PACKED = 'application/octet-stream';
const PATIENCE = 15_000; // milliseconds until the first event of a stream; after them, the client polls
const AGAIN = 2_000; // milliseconds between two polls
const LONGEST = 30_000; // milliseconds between two attempts while the server does not respond
const LOST = 'The live connection was lost.';

/** `status` is that of HTTP, and 0 without a response. `help` is the action that solves the problem, or ''. */
export class ApiError extends Error {
  constructor(status, message, help = '') {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.help = help;
  }
}

export class Api {
  /** `prompt(why)` resolves to a token, or to '' if the user cancels. */
  constructor(prompt) {
    this.prompt = prompt;
    this.prompting = null;
  }

  /** Resolves to objects and lists, in which numbers may be NaN or infinite. Rejects with ApiError. */
  get(path, options = {}) {
    return this.#value(path, { ...options, method: 'GET' });
  }

  post(path, body = {}, options = {}) {
    return this.#value(path, { ...options, method: 'POST', body: JSON.stringify(body) });
  }

  /** Resolves to a text, such as /metrics. */
  async text(path, options = {}) {
    const response = await this.request(path, { ...options, method: 'GET' });
    return this.#read(() => response.text());
  }

  async #value(path, { packed = false, ...options }) {
    const response = await this.request(path, { ...options, accept: packed ? PACKED : JSON_KIND });
    const kind = response.headers.get('content-type') ?? '';
    if (kind.startsWith(PACKED)) {
      const head = Number(response.headers.get('inference-header-content-length'));
      return unpacked(await this.#read(() => response.arrayBuffer()), head);
    }
    const text = await this.#read(() => response.text());
    return text ? parsed(text) : null;
  }

  async #read(reading) {
    try {
      return await reading();
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError(0, 'The response ended early.');
    }
  }

  /** Sends a request with the token of this tab. If the server requires a token, the user enters one. */
  async request(path, { method, body, signal, accept = JSON_KIND }) {
    for (;;) {
      const token = sessionStorage.getItem(KEPT);
      const headers = { accept };
      if (body !== undefined) headers['content-type'] = JSON_KIND;
      if (token) headers.authorization = `Bearer ${token}`;
      let response;
      try {
        response = await fetch(new URL(path, document.baseURI), {
          method, body, signal, headers, credentials: 'same-origin', cache: 'no-store', redirect: 'error',
        });
      } catch (error) {
        if (error.name === 'AbortError') throw error;
        throw new ApiError(0, 'The server did not respond.');
      }
      if (response.ok) return response;
      const failure = await failed(response);
      if (failure.status !== 401) throw failure;
      if (sessionStorage.getItem(KEPT) === token && !(await this.#token(token, failure))) throw failure;
    }
  }

  /** Prompts once for several requests that are rejected at the same time. Resolves to whether there is a new token. */
  #token(old, failure) {
    this.prompting ??= (async () => {
      sessionStorage.removeItem(KEPT);
      const token = await this.prompt(old ? `The server rejected the last token: ${failure.message}` : failure.message);
      if (token) sessionStorage.setItem(KEPT, token);
      return Boolean(token);
    })().finally(() => { this.prompting = null; });
    return this.prompting;
  }

  /**
   * Calls onValue with each {statistics, end_reason} of 'v1/kan/models/NAME/watch?source=live&interval=2', until
   * `signal` aborts or a value has an `end_reason`. A hidden tab receives nothing. If a proxy holds events back, the
   * client polls the statistics. onTrouble(error) reports that the server is gone, onTrouble(null) that it is back.
   * Rejects with ApiError if another attempt cannot help.
   */
  async follow(path, onValue, { signal, onTrouble } = {}) {
    let wait = AGAIN;
    let trouble = false;
    const value = (update) => {
      wait = AGAIN;
      if (trouble) onTrouble?.(null);
      trouble = false;
      onValue(update);
      return Boolean(update.end_reason);
    };
    let live = true;
    while (!signal?.aborted) {
      await visible(signal);
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

  /** Resolves to whether the last event ends the watch. Throws SILENT if no event arrives. */
  async #events(path, onValue, signal) {
    const quit = new AbortController();
    const stop = () => quit.abort();
    signal?.addEventListener('abort', stop);
    let [silent, hidden] = [false, false];
    const hide = () => { if (document.hidden) { hidden = true; stop(); } };
    document.addEventListener('visibilitychange', hide);
    const timer = setTimeout(() => { silent = true; stop(); }, PATIENCE);
    try {
      const response = await this.request(path, { method: 'GET', signal: quit.signal, accept: 'text/event-stream' });
      if (!(response.headers.get('content-type') ?? '').startsWith('text/event-stream')) throw SILENT;
      for await (const { event, data } of events(response.body)) {
        clearTimeout(timer);
        if (event === 'error') throw new ApiError(data.status ?? 0, data.error);
        if (onValue(data)) return true;
      }
      throw new ApiError(0, LOST);
    } catch (error) {
      if (hidden && !signal?.aborted) throw HIDDEN;
      if (silent && !signal?.aborted) throw SILENT;
      if (error === SILENT || error instanceof ApiError || signal?.aborted) throw error;
      throw new ApiError(0, LOST);
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

const SILENT = Symbol('silent stream');
const HIDDEN = Symbol('hidden tab');

/** Resolves when the tab is visible. A browser has six connections to an HTTP/1 server for all its tabs. */
function visible(signal) {
  return new Promise((resolve) => {
    const check = () => {
      if (document.hidden && !signal?.aborted) return;
      document.removeEventListener('visibilitychange', check);
      resolve();
    };
    document.addEventListener('visibilitychange', check);
    signal?.addEventListener('abort', check, { once: true });
    check();
  });
}

/** Resolves after some milliseconds, or when `signal` aborts. */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

async function failed(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // A proxy in front of the server sends no JSON.
  }
  return new ApiError(response.status, body?.error ?? `HTTP ${response.status}`, body?.help);
}

/** Parses the server's JSON, which has NaN and the infinities as Python writes them, outside of strings. */
export function parsed(text, revive) {
  try {
    return JSON.parse(text, revive && ((_, value) => revive(value)));
  } catch (error) {
    const quoted = text.replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/g,
      (word) => (word[0] === '"' ? word : `"${MARK}${word}"`));
    if (quoted === text) throw new ApiError(0, `The response is not valid JSON: ${error.message}`);
    return JSON.parse(quoted, (_, value) => {
      if (typeof value === 'string' && value.startsWith(MARK)) return Number(value.slice(MARK.length));
      return revive ? revive(value) : value;
    });
  }
}

const MARK = '\uE000number:'; // a prefix that no response contains, for numbers that JSON lacks
const ARRAYS = { '<f4': Float32Array, '<f8': Float64Array, '<u4': Uint32Array, '<u8': BigUint64Array, '|u1': Uint8Array };

/** Reads JSON of `head` bytes, then the bytes of its arrays. {"$array": [type, offset, ...shape]} becomes a typed array
 * with the property `shape`. 64-bit integers become doubles. */
export function unpacked(buffer, head) {
  const text = new TextDecoder().decode(new Uint8Array(buffer, 0, head));
  return parsed(text, (value) => {
    const described = value?.$array;
    if (!described) return value;
    const [type, offset, ...shape] = described;
    const size = shape.reduce((product, extent) => product * extent, 1);
    const raw = new ARRAYS[type](buffer, head + offset, size);
    const array = type === '<u8' ? Float64Array.from(raw, Number) : raw;
    array.shape = shape;
    return array;
  });
}

/** Yields the server-sent events of a body as {event, data}, with parsed data. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split('\n\n');
    rest = whole.pop();
    for (const block of whole) {
      const lines = block.split('\n').map((line) => line.split(/: ?(.*)/s, 2));
      const data = lines.filter(([name]) => name === 'data').map(([, text]) => text).join('\n');
      if (data) yield { event: lines.find(([name]) => name === 'event')?.[1] ?? 'message', data: parsed(data) };
    }
  }
}
