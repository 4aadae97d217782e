// Close codes that the client uses itself. Those from 3000 on mean what they mean when the server says them;
// ABNORMAL is what a browser reports for a connection that failed without a close frame.
export const ABNORMAL = 1006;
export const TOO_LARGE = 1009;
export const EXPIRED = 3005;
export const NO_PONG = 3012;
export const INVALID_TOKEN = 3500;

/**
 * Close codes 3500–3999 and 4500–4999 mean that coming back would end the same way.
 *
 * @param {number} code
 */
export const mayReconnect = (code) => code < 3500 || (code > 3999 && code < 4500);
