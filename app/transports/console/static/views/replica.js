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
