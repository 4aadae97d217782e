const MINUTE_MS = 60_000;
const KEPT_MS = 5 * MINUTE_MS;

/**
 * What the replicas reported in the last minutes.
 *
 * @typedef {object} Sample
 * @property {number} at milliseconds since the epoch, by this browser's clock
 * @property {Map<string, object>} reports by the name of the replica
 */
export class ClusterHistory {
  /** @type {Sample[]} oldest first */
  samples = [];

  /** @param {object[]} replicas as `GET /api/cluster` lists them */
  add(replicas, at = Date.now()) {
    const reports = new Map();
    for (const report of replicas) {
      // A replica that was restarted may be listed twice until the report of its old life expires.
      const other = reports.get(report.name);
      if (!other || other.started_at < report.started_at) reports.set(report.name, report);
    }
    this.samples.push({ at, reports });
    const old = this.samples.findIndex((sample) => sample.at >= at - KEPT_MS);
    if (old > 0) this.samples.splice(0, old);
  }

  /** How far the charts go back, in whole minutes: as far as there are samples. */
  get reachMs() {
    const { samples } = this;
    const seenMs = samples.length ? samples[samples.length - 1].at - samples[0].at : 0;
    return Math.min(KEPT_MS, MINUTE_MS * Math.max(1, Math.ceil(seenMs / MINUTE_MS)));
  }

  /** @returns {string[]} the names of all replicas that were seen, in order */
  names() {
    const names = new Set(this.samples.flatMap(({ reports }) => [...reports.keys()]));
    return [...names].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  }
}
