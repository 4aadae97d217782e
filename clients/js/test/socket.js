/** A WebSocket whose other side is the test. */
export class Socket {
  /** @type {Socket[]} every one so far, in order */
  static all = [];
  /** @type {any[]} the frames that the client has sent */
  sent = [];

  /** @param {string} url */
  constructor(url) {
    this.url = url;
    Socket.all.push(this);
  }

  /** @param {string} text */
  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {}

  /** @param {object[]} frames the server sends these */
  say(...frames) {
    for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) });
  }
}
