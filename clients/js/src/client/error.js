/**
 * Why something did not work: `code` is for programs, `message` for people.
 *
 * The server's codes come through unchanged (`bad_request`, …). The client adds `closed` (no
 * connection, or it ended before the answer), `timeout` (no answer in time; the message may have
 * arrived all the same), `no_socket` (there is none, and sending needs one), `token` (it could not be renewed), `http`
 * (a request failed) and `bad_frame` (the server sent what is not a JSON object).
 */
export class HeliographError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = "HeliographError";
    this.code = code;
  }
}
