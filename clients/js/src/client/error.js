/**
 * Why something did not work: `code` is for programs, `message` for people.
 *
 * The server's codes come through unchanged (`bad_request`, …). The client adds `closed` (no
 * connection, or it ended before the answer), `timeout` (no answer in time; the message may have
 * arrived all the same), `no_socket` (there is none, and sending needs one), `token` (it could not be renewed), `http`
 * (a request failed) and `bad_frame` (the server sent what is not a JSON object). `number` is the code that the user's
 * own backend gave, if it did.
 */
export class HeliographError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {number} [number]
   */
  constructor(code, message, number) {
    super(message);
    this.name = "HeliographError";
    this.code = code;
    this.number = number;
  }
}
