import { hash } from "node:crypto";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { type Event, type EventPayload, EventPayloadSchema, EventSchema } from "../../gen/carrel/v1/event_pb.ts";
import type { UserVault } from "../vault/user-vault.ts";

/** The chain before the first event of a log. */
export const emptyChain = new Uint8Array(32);

export type EventRow = { session_id: string; seq: number; turn: number; created_at: Date; payload: Uint8Array };

/** A payload sealed for its place: it opens as no other event of no other session. */
export function sealPayload(vault: UserVault, sessionId: string, seq: number, payload: EventPayload): Uint8Array {
  return vault.seal("events", eventContext(sessionId, seq), toBinary(EventPayloadSchema, payload));
}

/** The event a row holds. */
export function openEvent(vault: UserVault, row: EventRow): Event {
  const bytes = vault.open("events", eventContext(row.session_id, row.seq), row.payload);
  return create(EventSchema, {
    seq: row.seq,
    createdAt: timestampFromDate(row.created_at),
    turn: row.turn,
    payload: fromBinary(EventPayloadSchema, bytes),
  });
}

/** The link of an event in its log's hash chain. */
export function chainLink(before: Uint8Array, seq: number, sealed: Uint8Array): Uint8Array {
  const number = Buffer.alloc(4);
  number.writeUInt32BE(seq);
  return hash("sha256", Buffer.concat([before, number, sealed]), "buffer");
}

function eventContext(sessionId: string, seq: number) {
  return { resourceType: "event", resourceId: sessionId, field: "payload", generation: seq };
}

/** Seals a value of a session's row or of one of its parts. */
export function sealText(vault: UserVault, sessionId: string, field: string, text: string): Uint8Array {
  return sealBytes(vault, sessionId, field, new TextEncoder().encode(text));
}

export function openText(vault: UserVault, sessionId: string, field: string, sealed: Uint8Array): string {
  return new TextDecoder().decode(openBytes(vault, sessionId, field, sealed));
}

export function sealBytes(vault: UserVault, sessionId: string, field: string, bytes: Uint8Array): Uint8Array {
  return vault.seal("events", { resourceType: "session", resourceId: sessionId, field, generation: 0 }, bytes);
}

export function openBytes(vault: UserVault, sessionId: string, field: string, sealed: Uint8Array): Uint8Array {
  return vault.open("events", { resourceType: "session", resourceId: sessionId, field, generation: 0 }, sealed);
}
