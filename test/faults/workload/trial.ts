// One trial: several lives at once while a nemesis is at work, then quiet, then everything ends and is judged.
import { setTimeout as sleep } from "node:timers/promises";
import { sql } from "kysely";
import { readSpool } from "../../../server/runners/spool.ts";
import { placesOf } from "../../support/sandboxes.ts";
import type { Evidence } from "../history/evidence.ts";
import { strandedArchives } from "../history/files-invariants.ts";
import { judge, type Violation } from "../history/invariants.ts";
import { longest } from "../history/life-invariants.ts";
import type { FaultName } from "../nemesis/faults.ts";
import { createMoments, type Struck, strike } from "../nemesis/nemesis.ts";
import type { World } from "../world.ts";
import type { LifeDeps } from "./deeds.ts";
import { gatherArchives, gatherEnd, gatherProfiles, gatherSessions, gatherStuck } from "./gather.ts";
import { begin, type Life } from "./life.ts";
import { createRecorder, type Recorder } from "./recorder.ts";
import { startSampler } from "./sampler.ts";

export type TrialOptions = {
  /** Made in turn. */
  faults: readonly FaultName[];
  times: number;
  /** Sessions that live at once, without their forks. */
  lives: number;
};

export type Trial = { struck: Struck; figures: Figures; violations: Violation[]; evidence: Evidence };

export type Figures = {
  sessions: number;
  forks: number;
  calls: number;
  acknowledged: number;
  unknown: number;
  refused: number;
  events: number;
  snapshots: number;
  /** Answers of the model that came through whole and are in no ledger: their control plane was killed before it could book them. */
  unbilled: number;
  /** Archives of processes that were killed; they go after a day. */
  stranded: number;
  convergedMs: number;
  seconds: number;
};

export async function runTrial(world: World, { faults, times, lives }: TrialOptions): Promise<Trial> {
  const started = performance.now();
  const [recorder, moments] = [createRecorder(), createMoments()];
  const struck: Struck = { faults: {}, moments: {}, states: {} };
  const sampler = await startSampler(world);
  const crowd = gatherCrowd({ world, recorder, moments }, lives);
  await strike(world, moments, faults, times, struck);
  sampler.calm();
  const resting = untilAtRest(world, performance.now());
  const living = await crowd.leave();
  const failures: unknown[] = [...crowd.failures];
  const all = async (what: "settle" | "end" | "close"): Promise<void> => {
    const outcomes = await Promise.allSettled(living.map((life) => life[what]()));
    for (const outcome of outcomes) if (outcome.status === "rejected") failures.push(outcome.reason);
  };
  await all("settle");
  const waits = { converged: await resting, spools: await untilSpooled(world), readers: await untilShown(world, living), drain: 0 };
  await all("end");
  await all("close");
  const evidence = await gather(world, recorder, sampler, waits, failures);
  return { struck, figures: figuresOf(evidence, started), violations: judge(evidence), evidence };
}

type Crowd = {
  failures: unknown[];
  /** Nobody begins anything new; resolves with the sessions that are in the middle of their lives. */
  leave(): Promise<readonly Life[]>;
};

/** So many people, each with one session after another. */
function gatherCrowd(deps: Omit<LifeDeps, "name">, people: number): Crowd {
  const { random } = deps.world;
  const [living, failures]: [Life[], unknown[]] = [[], []];
  let leaving = false;
  let number = 0;
  const liveOn = async (): Promise<void> => {
    while (!leaving) {
      const life = await begin({ ...deps, name: `life${(number += 1)}` });
      living.push(life);
      const enough = () => leaving || deps.moments.wanted === "create" || deps.moments.wanted === "terminate";
      for (let acts = 4 + random.below(10); acts > 0 && !(acts < 8 && enough()); acts -= 1) await life.act();
      if (leaving) return;
      // Some are ended in the middle of their work.
      if (random.chance(0.6)) await life.settle();
      await life.end();
      living.splice(living.indexOf(life), 1);
    }
  };
  const everybody = Promise.all(Array.from({ length: people }, () => liveOn().catch((error: unknown) => void failures.push(error))));
  return {
    failures,
    async leave() {
      leaving = true;
      await everybody;
      return living;
    },
  };
}

async function gather(
  world: World,
  recorder: Recorder,
  sampler: Awaited<ReturnType<typeof startSampler>>,
  waits: Evidence["waits"],
  failures: readonly unknown[],
): Promise<Evidence> {
  await sampler.stop();
  const stuck = [
    ...(await gatherStuck(world)),
    ...failures.map((error) => (error instanceof Error ? error.message : String(error)).slice(0, 600)),
    ...recorder.internal,
  ];
  const sessions = await gatherSessions(world);
  const archives = gatherArchives(world);
  const profiles = await gatherProfiles(world);
  const { leftovers, drain } = await gatherEnd(world);
  await world.keeper.start();
  return {
    calls: recorder.calls,
    readers: recorder.readers,
    sessions,
    samples: sampler.samples,
    reported: [],
    zombies: [],
    looks: recorder.looks,
    forks: recorder.forks,
    archives,
    provider: world.provider,
    profiles,
    limits: world.limits,
    leftovers,
    waits: { ...waits, drain },
    stuck,
  };
}

/** Milliseconds from then until every session was where it is wanted, with nothing to do but what waits for a person. */
async function untilAtRest({ installation }: World, since: number): Promise<number> {
  const { db } = installation.database;
  while (performance.now() - since < longest.converged + 5_000) {
    const { rows } = await sql<{ id: string }>`select id from session where state <> 'ended' and not (
        (pending_count > 0 and state = 'running') or (turn = 0 and queued_prompts = 0 and (
          (state = 'running' and desired = 'run') or (state = 'dormant' and desired = 'hibernate' and box is null))))`.execute(db);
    if (rows.length === 0) break;
    await sleep(100);
  }
  return performance.now() - since;
}

/** Milliseconds until no runner has anything left that the server has not acknowledged. */
async function untilSpooled(world: World): Promise<number> {
  const started = performance.now();
  while (performance.now() - started < 31_000) {
    if (!(await somethingSpooled(world))) break;
    await sleep(50);
  }
  return performance.now() - started;
}

async function somethingSpooled({ installation }: World): Promise<boolean> {
  const rows = await installation.database.db
    .selectFrom("session")
    .select(["box", "epoch", "last_runner_seq"])
    .where("state", "=", "running")
    .execute();
  for (const { box, epoch, last_runner_seq } of rows) {
    for await (const { firstRunnerSeq, events } of readSpool(`${placesOf(installation).run}/${box}/spool/events`, epoch)) {
      if (firstRunnerSeq + events.length - 1 > last_runner_seq) return true;
    }
  }
  return false;
}

/** Milliseconds until every watcher was shown all there is. */
async function untilShown({ installation }: World, living: readonly Life[]): Promise<number> {
  const started = performance.now();
  const all = living.flatMap((life) => [life, ...life.forks]);
  while (performance.now() - started < 6_000) {
    const rows = await installation.database.db.selectFrom("session").select(["id", "last_seq"]).execute();
    if (all.every(({ sessionId, watcher }) => watcher.events.length >= (rows.find(({ id }) => id === sessionId)?.last_seq ?? 0))) break;
    await sleep(20);
  }
  return performance.now() - started;
}

function figuresOf(evidence: Evidence, started: number): Figures {
  const outcomes = (outcome: Evidence["calls"][number]["outcome"]) => evidence.calls.filter((call) => call.outcome === outcome).length;
  const events = evidence.sessions.flatMap((one) => one.events);
  const billed = events.filter(({ payload }) => payload?.kind.case === "usageDelta").length;
  return {
    sessions: evidence.sessions.length,
    forks: evidence.sessions.filter(({ session }) => session.forked_from !== null).length,
    calls: evidence.calls.length,
    acknowledged: outcomes("acknowledged"),
    unknown: outcomes("unknown"),
    refused: outcomes("failed"),
    events: events.length,
    snapshots: evidence.sessions.reduce((sum, { snapshots }) => sum + (snapshots.at(-1)?.generation ?? 0), 0),
    unbilled: Math.max(0, evidence.provider.whole - billed),
    stranded: strandedArchives(evidence).length,
    convergedMs: Math.round(evidence.waits.converged),
    seconds: Math.round((performance.now() - started) / 1000),
  };
}
