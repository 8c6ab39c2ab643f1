// The bulk of what a runner is given: its session's files and conversation, as plain bytes over HTTP/1.1.
//
//   GET /snapshots/<generation>   Authorization: Bearer <lease token>
//
// The answer is always 200 with what PutSnapshot was given; whether it is whole is said behind it, in the trailer
// `carrel-outcome`: `{}`, or an error as Connect writes it. Without that trailer the answer was cut.
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { errorToJson } from "@connectrpc/connect/protocol-connect";
import type { Kysely } from "kysely";
import { ErrorReason } from "../../gen/carrel/v1/error_reason_pb.ts";
import type { Database } from "../db/database.ts";
import { asUnavailable } from "../db/unavailable-interceptor.ts";
import { refusal } from "../errors.ts";
import { findSession } from "../journal/store.ts";
import type { Log } from "../log.ts";
import type { Archives } from "../snapshots/archives.ts";
import { digestOf, findSnapshot } from "../snapshots/store.ts";
import { type FindLease, holding, type Lease } from "./leases.ts";

/** What was put away of a lease's session, in pieces that count only once all have come. */
export type ReadSnapshot = (lease: Lease, generation: number) => AsyncGenerator<Uint8Array>;

export function createSnapshotReader({ db, archives }: { db: Kysely<Database>; archives: Archives }): ReadSnapshot {
  return async function* (lease, generation) {
    const { owner_id: ownerId, id: sessionId } = holding(lease, await findSession(db, lease.sessionId));
    const snapshot = await findSnapshot(db, lease.sessionId, generation);
    if (!snapshot) throw refusal(ErrorReason.NOT_FOUND, "there is no such snapshot");
    yield* archives.get({ ownerId, sessionId, generation, archive: snapshot.archive }, digestOf(snapshot));
  };
}

export type SnapshotDoorDeps = {
  findLease: FindLease;
  read: ReadSnapshot;
  /** The box whose socket a request came through. */
  boxOf(request: IncomingMessage): string | undefined;
  log: Log;
};

const target = /^\/snapshots\/(\d{1,9})$/;
const outcomeTrailer = "carrel-outcome";

export function createSnapshotDoor({ findLease, read, boxOf, log }: SnapshotDoorDeps) {
  /** By box. A runner reads one at a time: who asks again has given the one before up. */
  const open = new Map<string, ServerResponse>();
  async function* content(request: IncomingMessage): AsyncGenerator<Uint8Array> {
    const generation = request.method === "GET" && target.exec(request.url ?? "")?.[1];
    if (!generation) throw refusal(ErrorReason.NOT_FOUND, "there is no such snapshot");
    yield* read(await findLease(request.headers.authorization, boxOf(request)), Number(generation));
  }
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const box = boxOf(request) ?? "";
    open.get(box)?.destroy();
    if (box) open.set(box, response);
    response.once("close", () => open.get(box) === response && open.delete(box));
    response.writeHead(200, { "content-type": "application/octet-stream", trailer: outcomeTrailer });
    let outcome = {};
    const told = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield* content(request);
      } catch (error) {
        // A reader that has left is thrown in here, too.
        if (!response.destroyed) outcome = errorToJson(shown(error, log), undefined);
      }
    };
    await pipeline(Readable.from(told(), { objectMode: false }), response, { end: false });
    response.addTrailers({ [outcomeTrailer]: JSON.stringify(outcome) });
    response.end();
  };
  return (request: IncomingMessage, response: ServerResponse): void => {
    answer(request, response).catch((error: Error) => {
      log.debug({ error: error.message }, "a runner went away from its snapshot");
      response.destroy();
    });
  };
}

/** Anything unexpected is told in the log only. */
function shown(error: unknown, log: Log): ConnectError {
  const known = asUnavailable(error);
  if (known instanceof ConnectError) return known;
  log.error({ err: error }, "a snapshot could not be given to its runner");
  return new ConnectError("internal error", Code.Internal);
}
