/** The Postgres of a test run: TEST_DATABASE_URL, else a container where Docker answers, else the embedded one. */

import { existsSync, statSync } from "node:fs";
import { request } from "node:http";
import path from "node:path";
import type { DatabaseAddress } from "../../server/db/connect.ts";
import { startEmbeddedPostgres } from "../../server/db/embedded.ts";
import { findProcesses, signalAll } from "../../server/db/embedded-process.ts";
import type { DatabaseLog } from "../../server/db/log.ts";
import { findAbandoned, makeTemporaryDirectory, removeDirectory } from "./temporary.ts";

/** `kind` is a sentence part for people: which server it is. */
export type PostgresServer = { kind: string; address: DatabaseAddress; stop(): Promise<void> };

const CONTAINER_START_MS = 120_000;

export async function startPostgresServer(environment: NodeJS.ProcessEnv, tell: (line: string) => void): Promise<PostgresServer> {
  const url = environment["TEST_DATABASE_URL"];
  if (url !== undefined && url !== "")
    return { kind: `the one of TEST_DATABASE_URL (${new URL(url).host})`, address: url, stop: async () => undefined };
  if (await dockerAnswers(environment)) {
    try {
      return await startContainer(environment["TEST_POSTGRES_IMAGE"] ?? "postgres:17-alpine");
    } catch (error) {
      tell(`Docker answers but gives no Postgres (${(error as Error).message}); taking the embedded one`);
    }
  }
  return startEmbedded();
}

async function startContainer(image: string): Promise<PostgresServer> {
  // Loaded here only: the library is large and most machines do not need it.
  const { GenericContainer, Wait } = await import("testcontainers");
  const starting = new GenericContainer(image)
    .withEnvironment({ POSTGRES_USER: "carrel", POSTGRES_PASSWORD: "carrel", POSTGRES_DB: "carrel" })
    .withExposedPorts(5432)
    // Twice: the image starts a temporary server for its own set-up first.
    .withWaitStrategy(Wait.forLogMessage(/database system is ready to accept connections/, 2))
    .withStartupTimeout(CONTAINER_START_MS)
    .start();
  const container = await withDeadline(starting, CONTAINER_START_MS, `${image} did not start in ${CONTAINER_START_MS / 1000} s`);
  return {
    kind: `a container of ${image}`,
    address: { host: container.getHost(), port: container.getMappedPort(5432), user: "carrel", password: "carrel", database: "carrel" },
    stop: async () => {
      await container.stop();
    },
  };
}

async function startEmbedded(): Promise<PostgresServer> {
  // Of runs that were killed: this file's own servers and those of the embedded Postgres' tests.
  for (const abandoned of [...findAbandoned("pg"), ...findAbandoned("embedded")]) {
    endProcesses(path.join(abandoned, "data"));
    removeDirectory(abandoned);
  }
  const directory = makeTemporaryDirectory("pg");
  const dataDirectory = path.join(directory, "data");
  const postgres = await startEmbeddedPostgres({ dataDirectory, socketDirectory: directory, log: silentLog() });
  // It would outlive an interrupted run, as it is meant to outlive a control plane.
  const onExit = (): void => endProcesses(dataDirectory);
  process.once("exit", onExit);
  return {
    kind: "the embedded one",
    address: postgres.connectionConfig,
    stop: async () => {
      await postgres.stop();
      process.off("exit", onExit);
      removeDirectory(directory);
    },
  };
}

function endProcesses(dataDirectory: string): void {
  if (existsSync(dataDirectory)) signalAll(findProcesses(dataDirectory), "SIGQUIT");
}

/** Asks the daemon itself, with a deadline: a client program may hang or be there without its daemon. */
async function dockerAnswers(environment: NodeJS.ProcessEnv): Promise<boolean> {
  const host = environment["DOCKER_HOST"] ?? "unix:///var/run/docker.sock";
  const socketPath = host.startsWith("unix://") ? host.slice("unix://".length) : undefined;
  if (socketPath !== undefined && statSync(socketPath, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  const { hostname, port } = socketPath === undefined ? new URL(host) : { hostname: "localhost", port: "" };
  return new Promise((resolve) => {
    const probe = request({ socketPath, hostname, port, path: "/_ping", timeout: 1_000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    probe.on("timeout", () => probe.destroy(new Error("no answer")));
    probe.on("error", () => resolve(false));
    probe.end();
  });
}

async function withDeadline<T>(work: Promise<T>, milliseconds: number, message: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(message)), milliseconds);
  });
  return Promise.race([work, deadline]).finally(() => clearTimeout(timer));
}

/** A log nobody reads. */
export function silentLog(): DatabaseLog {
  const ignore = (): void => undefined;
  return { debug: ignore, info: ignore, warn: ignore, error: ignore };
}
