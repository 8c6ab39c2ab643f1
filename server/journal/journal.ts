import type { Kysely, Transaction } from "kysely";
import type { Command } from "../../gen/carrel/runner/v1/command_pb.ts";
import type { Database } from "../db/database.ts";
import type { UserVault } from "../vault/user-vault.ts";
import { type Change, type Draft, openDraft } from "./draft.ts";
import type { Feeds } from "./feed.ts";
import { createKnownSessions } from "./known.ts";
import { type LockedSession, lockSession, type Preceding, type SessionCore, writeChange } from "./store.ts";

export type { Change, Origin } from "./draft.ts";

/** Sees the row a change starts from and returns it, or throws to refuse. */
export type Guard = (session: LockedSession | undefined) => LockedSession;

/** Refuses when the session is gone. */
export const present: Guard = (row) => {
  if (row) return row;
  throw new Error("the session is gone");
};

type Body<T> = (change: Change) => Promise<T> | T;

export type Journal = {
  /**
   * Changes one session under the lock of its row. `guard` sees the locked row first and throws to refuse; the row is
   * undefined when there is none. Resolves after the commit, when readers have been rung.
   */
  change<T>(sessionId: string, guard: Guard, body: Body<T>): Promise<T>;
  /**
   * The same in one statement, where nobody else has changed the session since this process did: guard and body see the
   * row as it was left, and what they make of it is written only if the row is still that. Whatever else comes of it, a
   * refusal included, is forgotten and decided anew under the lock; so both may run twice and must have no effects of
   * their own.
   */
  changeOptimistically<T>(sessionId: string, guard: Guard, body: Body<T>): Promise<T>;
  /**
   * The first half of it: undefined where the lock is needed. What its value asks for goes before it in the same statement
   * (`Preceding`), for changes that belong to more than the journal.
   */
  attempt<T>(
    sessionId: string,
    guard: Guard,
    body: Body<T>,
    before?: (value: T) => readonly Preceding[],
  ): Promise<{ value: T } | undefined>;
  /** `change` inside a transaction that does more; call `published` after its commit. */
  changeWithin<T>(tx: Transaction<Database>, session: LockedSession, body: Body<T>): Promise<{ value: T; published: () => void }>;
};

export type JournalDeps = {
  db: Kysely<Database>;
  userVault(userId: string): Promise<UserVault>;
  feeds: Feeds;
  /** Rings other processes; after the commit, never inside it (assurance §0.5). */
  notify(sessionId: string, ownerId: string): void;
  /** Told after each commit that changed what is wanted of a session. */
  onWish(sessionId: string): void;
  /** Told of the row and of the commands of each commit: the runner may be attached to this process. */
  handOver(session: SessionCore, commands: readonly Command[]): void;
};

export function createJournal(deps: JournalDeps): Journal {
  const known = createKnownSessions();

  const draw = async <T>(tx: Transaction<Database>, row: LockedSession, body: Body<T>) => {
    const draft = openDraft(row, await deps.userVault(row.owner_id), () => tx);
    const value = await body(draft.change);
    const changed = draft.finish();
    return { draft, value, written: changed && (await writeChange(tx, row.id, changed)) };
  };
  const publish = (draft: Draft): void => {
    const { session } = draft.change;
    deps.feeds.publish(session.id, draft.published());
    deps.handOver(session, draft.commands);
    if (draft.isWish()) deps.onWish(session.id);
    if (draft.isVisible()) deps.notify(session.id, session.owner_id);
  };
  const change = async <T>(sessionId: string, guard: Guard, body: Body<T>) => {
    const drawn = await deps.db.transaction().execute(async (tx) => draw(tx, guard(await lockSession(tx, sessionId)), body));
    publish(drawn.draft);
    return drawn;
  };
  /** Undefined unless it was written. */
  const attempt: Journal["attempt"] = async (sessionId, guard, body, before = () => []) => {
    const left = known.take(sessionId);
    if (!left) return undefined;
    const { row, version } = left;
    const draft = openDraft(row, await deps.userVault(row.owner_id), needsTransaction);
    const outcome = await refusable(async () => {
      guard(row);
      return { value: await body(draft.change) };
    });
    const changed = outcome && draft.finish();
    const supposed = outcome && { version, now: row.locked_at, ownerId: row.owner_id, before: before(outcome.value) };
    const written = changed && (await writeChange(deps.db, row.id, changed, supposed));
    if (!written) return undefined;
    known.remember(draft.change.session, written);
    publish(draft);
    return outcome;
  };

  return {
    async change(sessionId, guard, body) {
      const { draft, value, written } = await change(sessionId, guard, body);
      if (written && known.take(sessionId)) known.remember(draft.change.session, written);
      return value;
    },
    async changeOptimistically(sessionId, guard, body) {
      const done = await attempt(sessionId, guard, body);
      if (done) return done.value;
      const { draft, value, written } = await change(sessionId, guard, body);
      if (written) known.remember(draft.change.session, written);
      return value;
    },
    attempt,
    async changeWithin(tx, session, body) {
      const { draft, value } = await draw(tx, session, body);
      return { value, published: () => publish(draft) };
    },
  };
}

/** Undefined when it throws: what an attempt refuses is refused under the lock again, or not. */
async function refusable<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch {
    return undefined;
  }
}

function needsTransaction(): never {
  throw new Error("only a change under the lock has a transaction");
}
