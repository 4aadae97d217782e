import { element } from "../dom.js";

const HUES = 6;

/**
 * A replica's colour is the same wherever it is named, and needs no list to be agreed on: its
 * number decides, so that the replicas of one cluster differ; other names are hashed.
 *
 * @param {string} name
 * @returns {string} for `data-hue`
 */
export function hue(name) {
  const number = /(\d+)$/.exec(name)?.[1];
  if (number) return String((Number(number) + HUES - 1) % HUES);
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 65_521;
  return String(hash % HUES);
}

/** @param {string} name */
export const replicaName = (name) => element("span", { class: "replica-name", "data-hue": hue(name) }, name);

const REASONS = {
  broken: "it has to be started anew",
  bus_lost: "it has lost Redis",
  bus_silent: "it does not hear itself over Redis",
  redis_unreachable: "Redis cannot be reached",
  redis_read_only: "Redis takes no writes",
  redis_memory_full: "Redis is full",
  redis_denied: "Redis does not give it the rights it needs",
  redis_refused: "Redis refuses what it writes",
  redis_not_durable: "Redis does not keep what it acknowledges",
  redis_unconfirmed: "replicas of Redis do not confirm",
  redis_layout: "Redis belongs to other shards",
  redis_memory_low: "Redis has little memory left, and keeps nothing of clients",
};

/**
 * What is wrong with a replica, in words; empty if nothing is.
 *
 * @param {{reason?: string}} report
 */
export const troubleOf = ({ reason }) => (reason && reason !== "draining" ? (REASONS[reason] ?? reason) : "");
