import http, { type IncomingMessage } from "node:http";
import type { JsonValue } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorFromJson } from "@connectrpc/connect/protocol-connect";

/** A snapshot from its start, in pieces that count only once all have come. Ends its request when its reader stops. */
export type FetchSnapshot = (generation: number) => AsyncGenerator<Uint8Array>;

/** What the control plane says behind the last piece: nothing against it, or why there is no more. */
const outcomeTrailer = "carrel-outcome";

/**
 * Asks for plain bytes (server/runners/snapshot-door.ts): in messages of the channel, each copied several times, they come at half
 * the speed. Throws the control plane's refusals as the channel's calls do, and `Unavailable` for what was cut.
 */
export function createSnapshotFetch(socketPath: string, leaseToken: string): FetchSnapshot {
  return async function* (generation) {
    const response = await request(socketPath, `/snapshots/${generation}`, leaseToken);
    try {
      yield* response as AsyncIterable<Uint8Array>;
    } catch (error) {
      throw new ConnectError("the snapshot was cut on its way", Code.Unavailable, undefined, undefined, error);
    } finally {
      response.destroy();
    }
    const outcome = JSON.parse(response.trailers[outcomeTrailer] ?? "null") as { code?: string } | null;
    if (outcome === null) throw new ConnectError("the snapshot was cut on its way", Code.Unavailable);
    if (outcome.code) throw errorFromJson(outcome as JsonValue, undefined, new ConnectError("the snapshot was refused", Code.Unknown));
  };
}

function request(socketPath: string, path: string, leaseToken: string): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    http
      .get({ socketPath, path, headers: { authorization: `Bearer ${leaseToken}` } }, resolve)
      .on("error", (error) => reject(new ConnectError(error.message, Code.Unavailable)));
  });
}
