/** @import { Hello, Transport } from "../heliograph.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Said } from "./receipts.js" */

/**
 * One connection on one transport, from its opening to its end. It never reconnects: its owner decides that. After its
 * end it calls no handler.
 *
 * @typedef {object} Link
 * @property {Transport} transport
 * @property {?Hello} hello the server's `connected` frame, once it came
 * @property {string} lastSubscribed the channel of the last `subscribed`: the state of a run follows without its name
 * @property {Set<string>} [channels] over HTTP: what it is subscribed to; fixed
 * @property {(text: string) => void} [send] on a socket: writes one encoded frame
 * @property {(cursor: string, device?: string) => Promise<Said>} [received] over HTTP: says what the page has taken
 * @property {(url: URL, credentials: Credentials, place: () => Place, withinMs: number) => Promise<void>} open called
 *   once; the server must answer within so many milliseconds
 * @property {(waitMs?: number) => void} probe sends a ping on a socket; does nothing over HTTP
 * @property {() => void} close ends it from this side
 */

/**
 * Where a connection continues.
 *
 * @typedef {object} Place
 * @property {string} cursor of the user's own channel; over HTTP of all `channels` too
 * @property {boolean} replay begin the user's own channel with what is kept
 * @property {string} [device] which of the user's devices this is
 * @property {string[]} [channels] over HTTP: what to subscribe to. On a socket, channels are subscribed later
 */

/**
 * @typedef {object} LinkHandlers
 * @property {(hello: Hello) => void} connected the handshake is done
 * @property {(replica: string) => void} moved another replica serves it now
 * @property {(frame: Frame) => void} frame any other frame, except `pong`
 * @property {(error: Error) => void} garbled a frame is not a JSON object
 * @property {() => void} doubted nothing arrives; it may still come
 * @property {(close: Close) => void} closed it ended other than by `close()`
 */

/**
 * A frame of the server; docs/protocol.md says which there are.
 *
 * @typedef {{type: string, [field: string]: any}} Frame
 */

/**
 * How a connection ended.
 *
 * @typedef {object} Close
 * @property {number} code a close code, of a socket or with the same meaning
 * @property {string} reason
 * @property {boolean} [unasked] the page had no credentials, so the server was never asked
 * @property {string} [error] the code of the server's answer that refused a request over HTTP
 */

/** @typedef {Link & {send: (text: string) => void}} SendingLink */

/**
 * @param {Link} link
 * @returns {link is SendingLink} whether it is a socket: the other transports only receive
 */
export const canSend = (link) => link.send !== undefined;
