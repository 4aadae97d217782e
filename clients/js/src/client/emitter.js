/**
 * Named events with plain functions as listeners.
 *
 * @template Events the value of each event, by its name
 */
export class Emitter {
  /** @type {Map<keyof Events, Set<(value: any) => void>>} */
  #listeners = new Map();

  /**
   * @template {keyof Events} E
   * @param {E} event
   * @param {(value: Events[E]) => void} listener called with the event's one value
   * @returns {() => void} removes the listener
   */
  on(event, listener) {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners);
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
    };
  }

  /**
   * A listener that throws must not stop the others, nor break the caller half-way through a
   * change of state: its error surfaces as uncaught, as it would from a DOM event.
   *
   * @template {keyof Events} E
   * @param {E} event
   * @param {Events[E]} value
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
