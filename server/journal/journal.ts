import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import type { Kysely, Transaction, Updateable } from "kysely";
import { type Command, CommandSchema } from "../../gen/carrel/runner/v1/command_pb.ts";
import { type Event, type EventPayload, EventPayloadSchema, EventSchema } from "../../gen/carrel/v1/event_pb.ts";
import type { Database } from "../db/database.ts";
import type { UserVault } from "../vault/user-vault.ts";
import type { Feeds } from "./feed.ts";
import { chainLink, sealBytes, sealPayload } from "./seal.ts";
import { viewOf } from "./session-view.ts";
import { insertCommand, insertEvents, type LockedSession, lockSession, type SessionRow, updateSession } from "./store.ts";
import type { SessionTable } from "./tables.ts";

export type PayloadKind = NonNullable<MessageInitShape<typeof EventPayloadSchema>["kind"]>;
export type CommandKind = NonNullable<MessageInitShape<typeof CommandSchema>["kind"]>;

/** Where an event comes from, when not from the server itself. */
export type Origin = { runnerSeq?: number; createdAt?: Date };

/**
 * One change of one session, made under the lock of its row. What `append`, `command` and `set` collect is written once,
 * in the same transaction, when the body returns; nothing of it is visible before the commit.
 */
export type Change = {
  readonly tx: Transaction<Database>;
  /** The row as this change has made it so far. */
  readonly session: Readonly<SessionRow>;
  readonly vault: UserVault;
  /** The database's clock at the lock. */
  readonly now: Date;
  /** Adds an event and returns its number. */
  append(kind: PayloadKind, origin?: Origin): number;
  /** Adds an event whose payload exists already. */
  appendPayload(payload: EventPayload, origin?: Origin): number;
  /** Asks the runner for something and returns the command's number. */
  command(kind: CommandKind): number;
  set(values: Partial<SessionRow>): void;
};

/** Sees the locked row and returns it, or throws to refuse. */
export type Guard = (session: LockedSession | undefined) => LockedSession;

/** Refuses when the session is gone. */
export const present: Guard = (row) => {
  if (row) return row;
  throw new Error("the session is gone");
};

export type Journal = {
  /**
   * Changes one session. `guard` sees the locked row first and throws to refuse; the row is undefined when there is none.
   * Resolves after the commit, when readers have been rung.
   */
  change<T>(sessionId: string, guard: Guard, body: (change: Change) => Promise<T> | T): Promise<T>;
  /** The same inside a transaction that does more; call `published` after its commit. */
  changeWithin<T>(
    tx: Transaction<Database>,
    session: LockedSession,
    body: (change: Change) => Promise<T> | T,
  ): Promise<{ value: T; published: () => void }>;
};

export type JournalDeps = {
  db: Kysely<Database>;
  userVault(userId: string): Promise<UserVault>;
  feeds: Feeds;
  /** Rings other processes; after the commit, never inside it (assurance §0.5). */
  notify(sessionId: string, ownerId: string): void;
  /** Told after each commit that changed what is wanted of a session. */
  onWish(sessionId: string): void;
  /** Told after each commit that left commands for the runner. */
  onCommands(sessionId: string): void;
};

export function createJournal(deps: JournalDeps): Journal {
  const changeWithin: Journal["changeWithin"] = async (tx, row, body) => {
    const draft = openDraft(tx, row, await deps.userVault(row.owner_id));
    const value = await body(draft.change);
    await draft.write();
    return {
      value,
      published() {
        deps.feeds.publish(row.id, draft.published());
        if (draft.commands.length > 0) deps.onCommands(row.id);
        if (draft.isWish()) deps.onWish(row.id);
        if (draft.isVisible()) deps.notify(row.id, row.owner_id);
      },
    };
  };
  return {
    changeWithin,
    async change(sessionId, guard, body) {
      const result = await deps.db.transaction().execute(async (tx) => changeWithin(tx, guard(await lockSession(tx, sessionId)), body));
      result.published();
      return result.value;
    },
  };
}

function openDraft(tx: Transaction<Database>, { locked_at, ...before }: LockedSession, vault: UserVault) {
  const session: SessionRow = { ...before };
  const events: Event[] = [];
  const origins: (Origin | undefined)[] = [];
  const commands: Command[] = [];

  const appendPayload = (payload: EventPayload, origin?: Origin): number => {
    session.last_seq += 1;
    const createdAt = timestampFromDate(origin?.createdAt ?? new Date());
    events.push(create(EventSchema, { seq: session.last_seq, createdAt, turn: session.turn, payload }));
    origins.push(origin);
    return session.last_seq;
  };
  const change: Change = {
    tx,
    session,
    vault,
    now: locked_at,
    appendPayload,
    append: (kind, origin) => appendPayload(create(EventPayloadSchema, { kind }), origin),
    command(kind) {
      session.last_command_id += 1;
      commands.push(create(CommandSchema, { id: session.last_command_id, kind }));
      return session.last_command_id;
    },
    set: (values) => void Object.assign(session, values),
  };
  let sizes: readonly number[] = [];
  const write = async () => {
    appendStatusChange(before, change);
    if (events.length > 0) {
      const rows = sealEvents(vault, session, events, origins);
      await insertEvents(tx, rows);
      session.chain = Buffer.from(rows.at(-1)!.chain);
      sizes = rows.map((row) => row.payload.length);
    }
    for (const command of commands) await insertCommand(tx, session.id, command.id, sealCommand(vault, session.id, command));
    const set = difference(before, session);
    if (set) await updateSession(tx, session.id, set);
  };
  const published = () => events.map((event, index) => ({ event, bytes: sizes[index] ?? 0 }));
  return {
    change,
    commands,
    write,
    published,
    isWish: () => before.desired !== session.desired,
    isVisible: () => events.length > 0 || commands.length > 0 || before.name !== session.name || before.desired !== session.desired,
  };
}

function sealCommand(vault: UserVault, sessionId: string, command: Command): Uint8Array {
  return sealBytes(vault, sessionId, `command/${command.id}`, toBinary(CommandSchema, command));
}

/** People see every change of state as an event, so it is derived here and nowhere forgotten. */
function appendStatusChange(before: SessionRow, change: Change): void {
  const was = viewOf(before);
  const now = viewOf(change.session);
  const created = before.last_seq === 0;
  if (!created && was.status === now.status && was.userState === now.userState && was.detail === now.detail) return;
  if (change.session.state === "ended") return;
  change.append({ case: "sessionStatus", value: { status: now.status, userState: now.userState, detail: now.detail } });
}

function sealEvents(vault: UserVault, session: SessionRow, events: readonly Event[], origins: readonly (Origin | undefined)[]) {
  let chain: Uint8Array = session.chain;
  return events.map((event, index) => {
    const payload = sealPayload(vault, session.id, event.seq, event.payload!);
    chain = chainLink(chain, event.seq, payload);
    const { seconds, nanos } = event.createdAt!;
    return {
      session_id: session.id,
      seq: event.seq,
      epoch: session.epoch,
      runner_seq: origins[index]?.runnerSeq ?? null,
      turn: event.turn,
      created_at: new Date(Number(seconds) * 1000 + nanos / 1e6),
      payload,
      chain,
    };
  });
}

/** The columns that differ; undefined when none does. JSON columns are compared and written as text. */
function difference(before: SessionRow, after: SessionRow): Updateable<SessionTable> | undefined {
  const changed = Object.entries(after).filter(([column, value]) => before[column as keyof SessionRow] !== value);
  if (changed.length === 0) return undefined;
  return Object.fromEntries(
    changed.map(([column, value]) => [column, jsonColumns.has(column) && value !== null ? JSON.stringify(value) : value]),
  );
}

const jsonColumns = new Set(["handle", "usage", "turn_usage"]);
