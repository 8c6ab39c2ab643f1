/** The channel's WebSocket on the real port, database, journal and identity; sessions are driven through the journal. */
import type { Duplex } from "node:stream";
import { create } from "@bufbuild/protobuf";
import { pino } from "pino";
import WebSocket, { type ClientOptions, type RawData } from "ws";
import { QuestionSchema } from "../../gen/carrel/v1/approval_pb.ts";
import { ChannelService } from "../../gen/carrel/v1/channel_service_pb.ts";
import { EndReason } from "../../gen/carrel/v1/session_pb.ts";
import { createChannelActions } from "../../server/channel/actions.ts";
import { createChangedSessions } from "../../server/channel/changed-sessions.ts";
import { createChannelService } from "../../server/channel/service.ts";
import { createSocketHandler } from "../../server/channel/websocket/handler.ts";
import type { SocketLimits } from "../../server/channel/websocket/limits.ts";
import { directWriterKey } from "../../server/http/direct-stream.ts";
import { createHttpServer } from "../../server/http/server.ts";
import {
  type Authorize,
  createAuthorizationGate,
  createAuthorizationInterceptor,
  createAuthorizer,
  requireUser,
} from "../../server/identity/authorize.ts";
import { untilExpiry } from "../../server/identity/expiry.ts";
import { createLocalVerifier, openLocalIssuer } from "../../server/identity/local-issuer.ts";
import { createSocketTickets } from "../../server/identity/tickets/tickets.ts";
import { createUserDirectory } from "../../server/identity/user-directory.ts";
import { createTokenVerifier } from "../../server/identity/verify.ts";
import { newId, newUuid } from "../../server/ids.ts";
import { createFeeds } from "../../server/journal/feed.ts";
import { type Change, createJournal } from "../../server/journal/journal.ts";
import { askApproval, askQuestion } from "../../server/journal/pauses.ts";
import { createJournalReader } from "../../server/journal/reader.ts";
import { createFairShare } from "../../server/limits/fair-share.ts";
import { createRateLimiter } from "../../server/limits/limiter.ts";
import { optionsMessage } from "../../server/profiles/message.ts";
import { plainSettings } from "../../server/profiles/settings.ts";
import { findRegistration, insertUser } from "../../server/registration/store.ts";
import { sessionMessage } from "../../server/sessions/message.ts";
import { claimWithin, once } from "../../server/sessions/request-ids.ts";
import { aliveOf } from "../../server/sessions/service.ts";
import { insertSession, listAliveOf, listOwned, type ShownSession } from "../../server/sessions/store.ts";
import { createRootKeyring } from "../../server/vault/keyring.ts";
import { createSodium } from "../../server/vault/sodium.ts";
import { createVaultStore } from "../../server/vault/store.ts";
import { createVault } from "../../server/vault/vault.ts";
import { createTestDatabase } from "../support/postgres.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";

export type Person = { token: string; userId: string };
export type Frame = {
  type: string;
  timestamp: string;
  session_id: string;
  seq?: number;
  payload: Record<string, unknown> & { messages?: Frame[]; complete?: boolean };
};
export type Harness = Awaited<ReturnType<typeof createHarness>>;

export async function createHarness() {
  const database = await createTestDatabase();
  const directory = makeTemporaryDirectory("websocket");
  const { db } = database;
  const lines: string[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => void lines.push(line) });
  const sodium = await createSodium();
  const keyring = createRootKeyring(sodium, [sodium.random(32)]);
  const vault = createVault({ sodium, keyring, store: createVaultStore(db) });
  const userVault = (userId: string) => vault.forUser(userId);
  const feeds = createFeeds();
  const journal = createJournal({ db, userVault, feeds, notify: () => undefined, onWish: () => undefined, handOver: () => undefined });
  const reader = createJournalReader({ db, userVault, feeds });
  const rules = { derive: () => "Bash(ls:*)", matches: () => true, verdict: () => ({ behavior: "ask" as const }) };
  const limiter = createRateLimiter({ perMinute: { registrations: 10_000, sessionCreates: 10_000, prompts: 10_000, tickets: 10_000 } });
  const actions = createChannelActions({ limiter, db, journal, rules, userVault, aliveOf, requestIds: { once, claimWithin } });
  const issuer = await openLocalIssuer(directory);
  const users = createUserDirectory(async (name, subject) => (await findRegistration(db, { issuer: name, subject }))?.userId);
  const authorize = createAuthorizer({
    verify: createTokenVerifier([createLocalVerifier(issuer)]),
    findUser: users.find,
    publicServices: [],
  });

  const ticketsOn = (lifetimeMs?: number) =>
    createSocketTickets({
      db,
      hashToken: (ticket) => keyring.hashToken(ticket),
      ...(lifetimeMs === undefined ? {} : { lifetimeMs }),
    });
  const tickets = ticketsOn();

  const place = { region: "test", demo: false, showSettings: optionsMessage };
  const show = (rows: readonly ShownSession[]) =>
    Promise.all(rows.map(async (row) => sessionMessage(row, await userVault(row.owner_id), place)));
  const channelService = (stalledMs: number) =>
    createChannelService({
      db,
      actions,
      reader,
      changed: createChangedSessions(),
      userVault,
      userOf: requireUser,
      issueTicket: tickets.issue,
      streamSignal: ({ signal }) => signal,
      stalledMs,
      approvalTimeoutMs: 300_000,
      directWriter: (context) => context.values.get(directWriterKey),
      showAliveOf: async (ownerId) => show(await listAliveOf(db, ownerId)),
      showOwned: async (ownerId, sessionIds) => show(await listOwned(db, ownerId, sessionIds)),
    });

  const tokenFor = (email: string, ttlMs = 600_000) => issuer.issueToken({ email, ttlMs, operator: false });
  const closers: (() => Promise<void>)[] = [];
  return {
    db,
    feeds,
    journal,
    reader,
    actions,
    lines,
    tokenFor,
    tickets,
    ticketsOn,

    async person(email: string, ttlMs?: number): Promise<Person> {
      const userId = newUuid();
      await insertUser(db, { userId, issuer: "carrel", subject: email, email }, (tx) =>
        vault.createUserKey(tx, userId).then(() => undefined),
      );
      return { token: await tokenFor(email, ttlMs), userId };
    },

    /** A session that runs and waits for a prompt. */
    async session({ userId }: Person): Promise<string> {
      const id = newId("ses");
      const made = await db.transaction().execute(async (tx) => {
        const row = await insertSession(tx, {
          ...plainSettings,
          profileId: "",
          settings: null,
          host: "test",
          id,
          ownerId: userId,
          name: "",
          model: "",
          permissionMode: "acceptEdits",
          allowedTools: [],
          deniedTools: [],
          initialPrompt: null,
        });
        return journal.changeWithin(tx, row, (change) => change.set({ state: "running", started_at: change.now }));
      });
      made.published();
      return id;
    },

    change: <T>(sessionId: string, body: (change: Change) => Promise<T> | T) => journal.change(sessionId, (row) => row!, body),

    /** Appends what an agent says. */
    append: (sessionId: string, ...texts: string[]) =>
      journal.change(
        sessionId,
        (row) => row!,
        (change) => {
          for (const text of texts) change.append({ case: "assistant", value: { content: { case: "text", value: text } } });
        },
      ),

    askApproval: (sessionId: string, toolUseId: string) =>
      journal.change(
        sessionId,
        (row) => row!,
        (change) => askApproval(change, { toolUseId, toolName: "Bash", input: { command: "ls" }, parentToolUseId: "" }),
      ),

    askQuestion: (sessionId: string, questionId: string) =>
      journal.change(
        sessionId,
        (row) => row!,
        (change) => {
          const question = create(QuestionSchema, {
            questionId,
            questions: [{ question: "Which colour?", header: "Colour", options: [{ label: "blue" }] }],
          });
          return askQuestion(change, question);
        },
      ),

    end: (sessionId: string) =>
      journal.change(
        sessionId,
        (row) => row!,
        (change) => {
          change.append({ case: "sessionEnd", value: { reason: EndReason.USER_REQUESTED, message: "" } });
          change.set({ state: "ended", desired: "end", end_reason: "user_requested", terminated_at: change.now });
        },
      ),

    /** One more server on the same database and journal. */
    async serve(
      limits: Partial<SocketLimits> = {},
      wrap: (authorize: Authorize) => Authorize = (same) => same,
      stalledMs = limits.stalledMs ?? 30_000,
    ) {
      const handler = createSocketHandler({
        authorize: wrap(authorize),
        redeemTicket: tickets.redeem,
        share: createFairShare(100),
        reader,
        actions,
        limits,
        log,
        whileAllowed: untilExpiry,
      });
      const sockets: Duplex[] = [];
      const http = createHttpServer({
        services: [ChannelService],
        routes: (router) => router.service(ChannelService, channelService(stalledMs)),
        interceptors: [createAuthorizationInterceptor(authorize)],
        requestGate: createAuthorizationGate(authorize),
        allowedOrigins: [],
        log,
        ready: () => true,
        onUpgrade(request, socket, head) {
          sockets.push(socket);
          handler.onUpgrade(request, socket, head);
        },
        address: { host: "127.0.0.1", port: 0 },
      });
      const { port } = await http.listen();
      const close = async () => {
        await handler.close();
        await http.close(0);
      };
      closers.push(close);
      return { handler, close, port, sockets, url: `ws://127.0.0.1:${port}` };
    },

    async close() {
      for (const close of closers) await close();
      vault.close();
      await database.drop();
      removeDirectory(directory);
    },
  };
}

export type Served = Awaited<ReturnType<Harness["serve"]>>;

export type TestClient = {
  socket: WebSocket;
  /** Everything received so far. */
  frames: Frame[];
  /** The next frame, from the first unread one on, that `wanted` takes; what it passes over is skipped. */
  next(wanted?: (frame: Frame) => boolean): Promise<Frame>;
  send(type: string, payload?: unknown): void;
  closed: Promise<{ code: number; reason: string }>;
};

/** Attaches as a program does, with the token in the header. */
export function attach(served: Served, sessionId: string, person: Person, query = "", options: ClientOptions = {}): TestClient {
  return clientOf(
    new WebSocket(`${served.url}/v1/sessions/${sessionId}/ws${query}`, {
      ...options,
      headers: { authorization: `Bearer ${person.token}` },
    }),
  );
}

export function clientOf(socket: WebSocket): TestClient {
  const frames: Frame[] = [];
  let read = 0;
  let wake = () => {};
  socket.on("message", (data: RawData) => {
    frames.push(JSON.parse(String(data)) as Frame);
    wake();
  });
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    socket.on("close", (code, reason) => {
      resolve({ code, reason: reason.toString() });
      wake();
    });
  });
  socket.on("error", () => wake());
  return {
    socket,
    frames,
    closed,
    async next(wanted = () => true) {
      for (;;) {
        while (read < frames.length) {
          const frame = frames[read++]!;
          if (wanted(frame)) return frame;
        }
        if (socket.readyState === WebSocket.CLOSED)
          throw new Error(`closed before the frame came; got ${frames.map(({ type }) => type).join(", ")}`);
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    send: (type, payload) => socket.send(JSON.stringify(payload === undefined ? { type } : { type, payload })),
  };
}

/** The frames of a stream that are events of the log, those of its history included. */
export function eventsOf(frames: readonly Frame[]): Frame[] {
  return frames.flatMap((frame) => frame.payload.messages ?? (frame.seq === undefined ? [] : [frame]));
}

export function ofType(type: string): (frame: Frame) => boolean {
  return (frame) => frame.type === type;
}
