/**
 * The address of one of the server's endpoints.
 *
 * @param {string} url the WebSocket endpoint, absolute or as seen from the page
 * @param {"http" | "ws"} scheme it gets an "s" where the WebSocket endpoint is reached over TLS
 * @param {string} [path] of another endpoint, as seen from the WebSocket's
 * @returns {URL}
 */
export function endpointOf(url, scheme, path) {
  const address = new URL(url, globalThis.location?.href);
  address.protocol = scheme + (/^(https|wss):$/.test(address.protocol) ? "s" : "");
  return path === undefined ? address : new URL(path, address);
}
