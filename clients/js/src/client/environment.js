/** @import { Options } from "../heliograph.js" */

/**
 * What the client uses of its surroundings. Tests replace it.
 *
 * @typedef {object} Environment
 * @property {new (url: string) => any} WebSocket
 * @property {(url: string, request: RequestInit) => Promise<Response>} fetch
 * @property {(callback: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} now milliseconds of a clock that does not go back
 * @property {() => number} random in [0, 1)
 * @property {(EventTarget & {document?: {hidden: boolean}}) | null} host where the browser's hints are heard
 */

/**
 * @param {Options} options
 * @returns {Environment}
 */
export function environmentOf(options) {
  return {
    WebSocket: options.WebSocket ?? globalThis.WebSocket,
    // Wrapped: the browser's functions refuse to be called as methods of another object.
    fetch: options.fetch ?? ((url, request) => fetch(url, request)),
    setTimeout: options.setTimeout ?? ((callback, ms) => setTimeout(callback, ms)),
    clearTimeout: options.clearTimeout ?? ((timer) => clearTimeout(timer)),
    now: options.now ?? (() => performance.now()),
    random: options.random ?? Math.random,
    host: options.host ?? globalThis.window ?? null,
  };
}
