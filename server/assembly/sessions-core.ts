// What every part that touches a session shares: its log, its bells, its readers, and the rules for its tool calls.
import type { JsonObject } from "@bufbuild/protobuf";
import { createBell } from "../bell.ts";
import { createLiveSessions } from "../broker/live-sessions.ts";
import { createPatience } from "../broker/patience.ts";
import { createChangedSessions } from "../channel/changed-sessions.ts";
import { decide } from "../channel/permissions/engine.ts";
import type { Config } from "../config.ts";
import { createOpenedCredentials } from "../credentials/opened.ts";
import { createFeeds } from "../journal/feed.ts";
import { createJournal } from "../journal/journal.ts";
import { createJournalReader } from "../journal/reader.ts";
import type { PermissionModeWord } from "../journal/session-view.ts";
import type { SessionCore } from "../journal/store.ts";
import type { Log } from "../log.ts";
import { createCommandStreams } from "../runners/command-streams.ts";
import type { Closers } from "./closers.ts";
import type { Storage } from "./storage.ts";

export type SessionsCore = Awaited<ReturnType<typeof openSessionsCore>>;

export async function openSessionsCore({ db, listener, userVault }: Storage, { modelTries }: Config, log: Log, closers: Closers) {
  const feeds = createFeeds();
  const commandStreams = createCommandStreams();
  const changed = createChangedSessions();
  const live = createLiveSessions();
  const bell = await createBell({
    db,
    listener,
    log,
    onRing(sessionId, ownerId) {
      feeds.ring(sessionId);
      commandStreams.ring(sessionId);
      live.rung(sessionId);
      if (sessionId && ownerId) changed.ring(ownerId, sessionId);
      else changed.ringAll();
    },
  });
  closers.push(bell.close);
  /** Tells the readers of session lists, here and elsewhere. */
  const announce = (ownerId: string, sessionId: string): void => {
    changed.ring(ownerId, sessionId);
    bell.ring(sessionId, ownerId);
  };
  let onWish: (sessionId: string) => void = () => undefined;
  const journal = createJournal({
    db,
    userVault,
    feeds,
    onWish: (sessionId) => onWish(sessionId),
    handOver(session, commands) {
      commandStreams.handOver(session, commands);
      live.committed(session);
    },
    notify: (sessionId, ownerId) => announce(ownerId, sessionId),
  });
  const credentials = createOpenedCredentials({ db, userVault });
  closers.push(() => credentials.close());
  return {
    feeds,
    commandStreams,
    live,
    changed,
    announce,
    journal,
    reader: createJournalReader({ db, userVault, feeds }),
    credentials,
    patience: createPatience({ tries: modelTries }),
    verdict,
    /** Names the one who carries out what is wanted of a session. */
    carryOut(poke: (sessionId: string) => void): void {
      onWish = poke;
    },
  };
}

function verdict(session: SessionCore, toolName: string, input: JsonObject) {
  const rules = {
    allowed: session.allowed_tools,
    denied: session.denied_tools,
    sessionPatterns: session.session_patterns,
    mode: session.permission_mode as PermissionModeWord,
  };
  return decide(rules, toolName, input);
}
