/** Named events with plain functions as listeners. */
export class Emitter {
  /** @type {Map<string, Set<Function>>} */
  #listeners = new Map();

  /**
   * @param {string} event
   * @param {Function} listener called with the event's one value
   * @returns {() => void} takes the listener off again
   */
  on(event, listener) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
    const listeners = this.#listeners.get(event);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /**
   * A listener that throws must not stop the others, nor break the caller half-way through a
   * change of state: its error surfaces as uncaught, as it would from a DOM event.
   */
  emit(event, value) {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
