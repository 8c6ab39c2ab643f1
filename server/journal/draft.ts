import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Transaction } from "kysely";
import { type Command, CommandSchema } from "../../gen/carrel/runner/v1/command_pb.ts";
import { type Event, type EventPayload, EventPayloadSchema, EventSchema } from "../../gen/carrel/v1/event_pb.ts";
import type { Database } from "../db/database.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Sized } from "./feed.ts";
import { isParked } from "./rules.ts";
import { chainLink, sealBytes, sealPayload } from "./seal.ts";
import { viewOf } from "./session-view.ts";
import type { LockedSession, LoggedEvent, SessionChange, SessionCore } from "./store.ts";

type PayloadKind = NonNullable<MessageInitShape<typeof EventPayloadSchema>["kind"]>;
type CommandKind = NonNullable<MessageInitShape<typeof CommandSchema>["kind"]>;

/** Where an event comes from, when not from the server itself. */
export type Origin = { runnerSeq?: number; createdAt?: Date };

/**
 * One change of one session. What `append`, `command` and `set` collect is written at once when the body returns; nothing
 * of it is visible before the commit.
 */
export type Change = {
  /** The transaction that holds the lock of the session's row. */
  readonly tx: Transaction<Database>;
  /** The row as this change has made it so far. */
  readonly session: Readonly<SessionCore>;
  readonly vault: UserVault;
  /** The database's clock at the lock. */
  readonly now: Date;
  /** Adds an event and returns its number. */
  append(kind: PayloadKind, origin?: Origin): number;
  /** Adds an event whose payload exists already. */
  appendPayload(payload: EventPayload, origin?: Origin): number;
  /** Asks the runner for something and returns the command's number. */
  command(kind: CommandKind): number;
  set(values: Partial<SessionCore>): void;
};

export type Draft = {
  readonly change: Change;
  readonly commands: readonly Command[];
  /** Closes the draft: what its body asked for, with the event of a changed state, sealed. Undefined when nothing changed. */
  finish(): SessionChange | undefined;
  /** The events with the bytes they take, for readers of this process. */
  published(): Sized[];
  /** Whether something else is wanted of the session now, or the same once more. */
  isWish(): boolean;
  /** Whether anybody who watches sees a difference. */
  isVisible(): boolean;
};

/** @param tx asked for by bodies that read or write more than the draft; throws where there is none. */
export function openDraft({ locked_at: now, ...before }: LockedSession, vault: UserVault, tx: () => Transaction<Database>): Draft {
  const session: SessionCore = { ...before };
  const events: Event[] = [];
  const origins: (Origin | undefined)[] = [];
  const commands: Command[] = [];
  let sealed: readonly LoggedEvent[] = [];

  const appendPayload = (payload: EventPayload, origin?: Origin): number => {
    session.last_seq += 1;
    const createdAt = timestampFromDate(origin?.createdAt ?? new Date());
    events.push(create(EventSchema, { seq: session.last_seq, createdAt, turn: session.turn, payload }));
    origins.push(origin);
    return session.last_seq;
  };
  const change: Change = {
    get tx() {
      return tx();
    },
    session,
    vault,
    now,
    appendPayload,
    append: (kind, origin) => appendPayload(create(EventPayloadSchema, { kind }), origin),
    command(kind) {
      session.last_command_id += 1;
      commands.push(create(CommandSchema, { id: session.last_command_id, kind }));
      return session.last_command_id;
    },
    set: (values) => void Object.assign(session, values),
  };
  return {
    change,
    commands,
    finish() {
      appendStatusChange(before, change);
      sealed = sealEvents(vault, session, events, origins);
      const last = sealed.at(-1);
      if (last) session.chain = Buffer.from(last.chain);
      const set = difference(before, session);
      return set && { set, epoch: session.epoch, events: sealed, commands: commands.map((one) => sealCommand(vault, session.id, one)) };
    },
    published: () => events.map((event, index) => ({ event, bytes: sealed[index]?.payload.length ?? 0 })),
    isWish: () => before.desired !== session.desired || (isParked(before) && !isParked(session)),
    isVisible: () => events.length > 0 || commands.length > 0 || before.name !== session.name || before.desired !== session.desired,
  };
}

/** People see every change of state as an event, so it is derived here and nowhere forgotten. */
function appendStatusChange(before: SessionCore, change: Change): void {
  const was = viewOf(before);
  const now = viewOf(change.session);
  const created = before.last_seq === 0;
  if (!created && was.status === now.status && was.userState === now.userState && was.detail === now.detail) return;
  if (change.session.state === "ended") return;
  change.append({ case: "sessionStatus", value: { status: now.status, userState: now.userState, detail: now.detail } });
}

function sealCommand(vault: UserVault, sessionId: string, command: Command) {
  return { id: command.id, payload: sealBytes(vault, sessionId, `command/${command.id}`, toBinary(CommandSchema, command)) };
}

function sealEvents(
  vault: UserVault,
  session: SessionCore,
  events: readonly Event[],
  origins: readonly (Origin | undefined)[],
): LoggedEvent[] {
  let chain: Uint8Array = session.chain;
  return events.map(({ seq, turn, createdAt, payload }, index) => {
    const sealed = sealPayload(vault, session.id, seq, payload!);
    chain = chainLink(chain, seq, sealed);
    const { seconds, nanos } = createdAt!;
    const createdAtMs = Number(seconds) * 1000 + nanos / 1e6;
    return { seq, runnerSeq: origins[index]?.runnerSeq ?? null, turn, createdAtMs, payload: sealed, chain };
  });
}

/** The columns that differ; undefined when none does. JSON columns are compared and written as text. */
function difference(before: SessionCore, after: SessionCore): SessionChange["set"] | undefined {
  const changed = Object.entries(after).filter(([column, value]) => before[column as keyof SessionCore] !== value);
  if (changed.length === 0) return undefined;
  return Object.fromEntries(
    changed.map(([column, value]) => [column, jsonColumns.has(column) && value !== null ? JSON.stringify(value) : value]),
  );
}

const jsonColumns = new Set(["handle", "usage", "turn_usage", "start_marks"]);
