import { HeliographError } from "./error.js";
import { endpointOf } from "./endpoint.js";
import { REQUEST_TIMEOUT_MS } from "./requests.js";

/** @import { Run } from "../heliograph.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Environment } from "./environment.js" */

/**
 * Requests the state of a run over HTTP.
 *
 * @param {Environment} env
 * @param {string} url of the WebSocket endpoint
 * @param {Credentials} credentials
 * @param {string} runId
 * @returns {Promise<?Run>} null: the run is unknown; rejects with a HeliographError
 */
export async function requestRun(env, url, credentials, runId) {
  const { query, headers } = await credentials.forRequest(false);
  const address = endpointOf(url, "http", `api/runs/${encodeURIComponent(runId)}`);
  for (const [name, value] of Object.entries(query)) address.searchParams.set(name, value);
  const abort = new AbortController();
  const timer = env.setTimeout(() => abort.abort(), REQUEST_TIMEOUT_MS);
  let response;
  let answer;
  try {
    response = await env.fetch(address.href, { headers, cache: "no-store", signal: abort.signal });
    answer = await response.json().catch((error) => {
      if (abort.signal.aborted) throw error;
      return {}; // no JSON: not from the server
    });
  } catch (error) {
    if (abort.signal.aborted) throw new HeliographError("timeout", `No answer within ${REQUEST_TIMEOUT_MS / 1000} s`);
    const { message } = /** @type {Error} */ (error);
    throw new HeliographError("http", `The run cannot be asked for: ${message}`);
  } finally {
    env.clearTimeout(timer);
  }
  if (response.status === 404) return null;
  if (!response.ok) {
    throw new HeliographError(answer.error?.code ?? "http", answer.error?.message ?? `HTTP ${response.status}`);
  }
  return answer;
}
