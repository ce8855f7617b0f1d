// Request queue for inputs that change quickly, such as a slider: one request in flight, then only the latest one.

const PAUSE = 40; // milliseconds between an answer and the next question while something moves

export class Asking {
  /** ask(question, signal): a promise of the answer; then onAnswer(answer), or onError(error). */
  constructor(ask, onAnswer, onError) {
    Object.assign(this, { asked: ask, onAnswer, onError, quit: new AbortController(), busy: false, waiting: null });
  }

  /** The first; resolves when it was answered. */
  async first(question) {
    this.waiting = { ...question };
    await this.#work();
  }

  ask(question) {
    this.waiting = { ...question };
    if (!this.busy) this.#work();
  }

  end() {
    this.quit.abort();
  }

  async #work() {
    this.busy = true;
    const { signal } = this.quit;
    while (this.waiting && !signal.aborted) {
      const question = this.waiting;
      this.waiting = null;
      try {
        const answer = await this.asked(question, signal);
        if (!signal.aborted) this.onAnswer(answer);
      } catch (error) {
        if (!signal.aborted) this.onError(error);
      }
      if (this.waiting) await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    }
    this.busy = false;
  }
}
