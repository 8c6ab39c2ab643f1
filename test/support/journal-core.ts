/** The journal and the runners' side of it on a real database, without a port, a sandbox or an agent: the test is the runner. */
import { hash } from "node:crypto";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, type ConnectRouter, createClient, createRouterTransport } from "@connectrpc/connect";
import { createAsyncIterable } from "@connectrpc/connect/protocol";
import { createValidateInterceptor } from "@connectrpc/validate";
import type { Manifest } from "../../gen/carrel/runner/v1/manifest_pb.ts";
import { type ReportEventsRequestSchema, type ReportEventsResponse, RunnerService } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import { AnswerApprovalRequestSchema } from "../../gen/carrel/v1/channel_service_pb.ts";
import type { FetchSnapshot } from "../../runner/fetch-snapshot.ts";
import type { BlobStore } from "../../server/blobs/store.ts";
import { answerApproval } from "../../server/channel/answers.ts";
import { newId, newUuid } from "../../server/ids.ts";
import { createFeeds } from "../../server/journal/feed.ts";
import { createJournal } from "../../server/journal/journal.ts";
import { createJournalReader } from "../../server/journal/reader.ts";
import { acceptPrompt } from "../../server/journal/turns.ts";
import { applyToBank, readBank } from "../../server/memory/sessions.ts";
import { plainSettings } from "../../server/profiles/settings.ts";
import { insertUser } from "../../server/registration/store.ts";
import { createCommandStreams } from "../../server/runners/command-streams.ts";
import { createLeaseFinder, createLeaseInterceptor, type Lease, underLease } from "../../server/runners/leases.ts";
import { createRunnerService, type RunnerServiceDeps } from "../../server/runners/service.ts";
import { createSnapshotReader } from "../../server/runners/snapshot-door.ts";
import { createSnapshotCalls } from "../../server/runners/snapshots.ts";
import { findByLeaseHash } from "../../server/runners/store.ts";
import { insertSession } from "../../server/sessions/store.ts";
import { type Archives, createArchives } from "../../server/snapshots/archives.ts";
import { createRootKeyring } from "../../server/vault/keyring.ts";
import { createSodium } from "../../server/vault/sodium.ts";
import { createVaultStore } from "../../server/vault/store.ts";
import { createVault } from "../../server/vault/vault.ts";
import type { TestDatabase } from "./postgres.ts";

/** The runner's calls, where a batch of events is a call with one answer: the one message of a stream. */
export type RunnerClient = Omit<Client<typeof RunnerService>, "reportEvents"> & {
  reportEvents(batch: MessageInitShape<typeof ReportEventsRequestSchema>): Promise<ReportEventsResponse>;
};

export type Runner = {
  client: RunnerClient;
  sessionId: string;
  epoch: number;
  leaseToken: string;
  manifest: Manifest | undefined;
};
export type JournalCore = Awaited<ReturnType<typeof createJournalCore>>;

/** @param blobs where snapshots are kept; without it nothing is put away. */
export async function createJournalCore({ db }: Pick<TestDatabase, "db">, blobs?: BlobStore) {
  const sodium = await createSodium();
  const vault = createVault({ sodium, keyring: createRootKeyring(sodium, [sodium.random(32)]), store: createVaultStore(db) });
  const userVault = (userId: string) => vault.forUser(userId);
  const hashToken = (token: string) => hash("sha256", token, "buffer");
  const detached: string[] = [];
  const ownerId = newUuid();
  await insertUser(db, { userId: ownerId, issuer: "test", subject: ownerId, email: undefined }, (tx) => vault.createUserKey(tx, ownerId));

  /** The parts of one process. */
  const serve = () => {
    const feeds = createFeeds();
    const commandStreams = createCommandStreams();
    const journal = createJournal({
      db,
      userVault,
      feeds,
      notify: () => undefined,
      onWish: () => undefined,
      handOver: commandStreams.handOver,
    });
    const reader = createJournalReader({ db, userVault, feeds });
    const onDetached = async (lease: Lease) => {
      await journal.change(lease.sessionId, underLease(lease), () => undefined);
      detached.push(lease.sessionId);
    };
    const archives = blobs && createArchives(blobs, userVault);
    const snapshots = archives && createSnapshotCalls({ ...snapshotLimits, db, journal, archives });
    const served = runnerService({ db, journal, feeds, commandStreams, hashToken, userVault, onDetached, ...(snapshots && { snapshots }) });
    return {
      journal,
      feeds,
      reader,
      commandStreams,
      served,
      clientWith: runnerClients(served),
      fetchWith: snapshotFetch({ db, hashToken }, archives),
    };
  };
  const { journal, feeds, reader, commandStreams, served, clientWith, fetchWith } = serve();

  /** Gives the session to a new runner, whatever it had before, as the reconciler does. */
  const expectRunner = async (sessionId: string): Promise<string> => {
    const attachToken = newId("box");
    await db
      .updateTable("session")
      .set((e) => ({ epoch: e("epoch", "+", 1), state: "starting", attach_hash: Buffer.from(hashToken(attachToken)), lease_hash: null }))
      .where("id", "=", sessionId)
      .execute();
    return attachToken;
  };

  return {
    ownerId,
    userVault,
    createUserKey: vault.createUserKey,
    journal,
    feeds,
    reader,
    detached,
    commandStreams,
    /** The runners' service, for a server with a port. */
    served,
    clientWith,
    fetchWith,
    /** Another process on the same database, which hears of nothing that this one does. */
    otherServer: serve,
    async openSession(): Promise<string> {
      const id = newId("ses");
      const none = { ...plainSettings, name: "", profileId: "", settings: null, host: "test", initialPrompt: null };
      await db.transaction().execute(async (tx) => insertSession(tx, { id, ownerId, ...none }));
      return id;
    },
    expectRunner,
    async attach(sessionId: string): Promise<Runner> {
      const attachToken = await expectRunner(sessionId);
      let lease = "";
      const client = clientWith(() => lease);
      const { leaseToken, epoch, manifest } = await client.attach({ attachToken });
      lease = leaseToken;
      return { client, sessionId, epoch, leaseToken, manifest };
    },
    answer: (sessionId: string, toolUseId: string, approved: boolean, who: string) =>
      journal.change(
        sessionId,
        (row) => row!,
        (change) =>
          answerApproval(
            change,
            create(AnswerApprovalRequestSchema, { sessionId, toolUseId, approved }),
            { userId: who, name: who },
            {
              derive: () => undefined,
              matches: () => false,
              verdict: () => ({ behavior: "ask" }),
            },
          ),
      ),
    prompt: (sessionId: string, text: string) =>
      journal.change(
        sessionId,
        (row) => row!,
        (change) => acceptPrompt(change, text, ""),
      ),
  };
}

type RunnerParts = Pick<RunnerServiceDeps, "db" | "journal" | "feeds" | "commandStreams" | "hashToken" | "userVault" | "onDetached"> &
  Partial<Pick<RunnerServiceDeps, "snapshots">>;

const nobody = () => undefined;
const snapshotLimits = { maxBytes: 2 ** 26, kept: 3, maxSessionMs: 86_400_000, poke: nobody, onError: nobody };

const nothingPutAway = (): never => {
  throw new Error("nothing is put away here");
};

function runnerService(parts: RunnerParts) {
  const service = createRunnerService({
    assigned: async () => false,
    decide: () => ({ behavior: "ask" }),
    memory: { read: readBank, apply: applyToBank },
    snapshots: {
      putSnapshot: nothingPutAway,
      abandonSnapshot: nothingPutAway,
      reportRestore: nothingPutAway,
    },
    staleMs: 45_000,
    heartbeatMs: 10_000,
    maxSessionMs: 86_400_000,
    settled: () => Promise.resolve(),
    ...parts,
  });
  const interceptors = [createLeaseInterceptor(leaseFinder(parts)), createValidateInterceptor()];
  return { routes: (router: ConnectRouter) => void router.service(RunnerService, service), interceptors };
}

function leaseFinder({ db, hashToken }: Pick<RunnerParts, "db" | "hashToken">) {
  return createLeaseFinder({ hashToken, findLease: (lease) => findByLeaseHash(db, lease) });
}

/** What a runner with this lease would be given of its snapshots. */
function snapshotFetch(parts: Pick<RunnerParts, "db" | "hashToken">, archives: Archives | undefined) {
  const findLease = leaseFinder(parts);
  const read = archives ? createSnapshotReader({ db: parts.db, archives }) : nothingPutAway;
  return (leaseToken: string): FetchSnapshot =>
    async function* (generation) {
      try {
        yield* read(await findLease(`Bearer ${leaseToken}`, undefined), generation);
      } catch (error) {
        throw ConnectError.from(error, Code.Internal);
      }
    };
}

/** What a runner with this bearer would call through. */
function runnerClients({ routes, interceptors }: ReturnType<typeof runnerService>) {
  return (bearer: () => string): RunnerClient => {
    const client = createClient(
      RunnerService,
      createRouterTransport(routes, {
        router: { interceptors },
        transport: {
          interceptors: [
            (next) => (request) => {
              if (bearer()) request.header.set("authorization", `Bearer ${bearer()}`);
              return next(request);
            },
          ],
        },
      }),
    );
    return { ...client, reportEvents: (batch) => onlyAnswer(client.reportEvents(createAsyncIterable([batch]))) };
  };
}

async function onlyAnswer<T>(answers: AsyncIterable<T>): Promise<T> {
  const all: T[] = [];
  for await (const answer of answers) all.push(answer);
  if (all.length !== 1) throw new Error(`${all.length} answers to one message`);
  return all[0]!;
}

/** An event that a runner reports, told from others by its text. */
export function said(text: string) {
  return {
    createdAtMs: Date.now(),
    payload: { kind: { case: "assistant" as const, value: { blockId: text, content: { case: "text" as const, value: text } } } },
  };
}
