// Request queue for inputs that change quickly, such as a slider: one request in flight, then only the latest one.

const PAUSE = 40; // milliseconds between a response and the next request while the input changes

export class RequestQueue {
  /** `send(request, signal)` resolves to a response. The queue passes it to `onResponse`, or an error to `onError`. */
  constructor(send, onResponse, onError) {
    Object.assign(this, { send, onResponse, onError, quit: new AbortController(), busy: false, waiting: null });
  }

  /** Sends the first request, and resolves after its response. */
  async first(request) {
    this.waiting = { ...request };
    await this.#work();
  }

  /** Sends this request next. It replaces a request that still waits. */
  push(request) {
    this.waiting = { ...request };
    if (!this.busy) this.#work();
  }

  end() {
    this.quit.abort();
  }

  async #work() {
    this.busy = true;
    const { signal } = this.quit;
    while (this.waiting && !signal.aborted) {
      const request = this.waiting;
      this.waiting = null;
      try {
        const response = await this.send(request, signal);
        if (!signal.aborted) this.onResponse(response);
      } catch (error) {
        if (!signal.aborted) this.onError(error);
      }
      if (this.waiting) await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    }
    this.busy = false;
  }
}
