/** How much and how long an issuer may answer. */
export type FetchLimits = { bytes: number; milliseconds: number };

const DEFAULT_LIMITS: FetchLimits = { bytes: 1024 * 1024, milliseconds: 10_000 };

/** Fetches and parses one JSON document. Follows no redirect; rejects for any status but 200 and past the limits. */
export async function fetchJson(url: URL, limits: FetchLimits = DEFAULT_LIMITS): Promise<unknown> {
  // The signal also ends a body that trickles.
  const signal = AbortSignal.timeout(limits.milliseconds);
  const response = await fetch(url, { redirect: "error", signal, headers: { accept: "application/json" } });
  if (response.status !== 200 || !response.body) {
    await response.body?.cancel();
    throw new Error(`${url.href} answered with status ${response.status}`);
  }
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  // Counts what was decompressed, and leaving the loop cancels the rest.
  for await (const chunk of response.body) {
    bytes += chunk.byteLength;
    if (bytes > limits.bytes) throw new Error(`${url.href} answered with more than ${limits.bytes} bytes`);
    chunks.push(chunk);
  }
  return JSON.parse(Buffer.concat(chunks).toString("utf8"));
}

/** True for hosts that are this machine by name; no look-up is made. */
export function isLoopback(url: URL): boolean {
  return url.hostname === "localhost" || url.hostname === "[::1]" || /^127(\.\d{1,3}){3}$/.test(url.hostname);
}
