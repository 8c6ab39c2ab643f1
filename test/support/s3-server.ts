/**
 * An S3 server as a process of its own, and a door in front of it that judges signatures, which that server does not, and
 * fails as networks and services do.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { buffer } from "node:stream/consumers";
import type { S3Options } from "../../server/blobs/s3.ts";
import { type KeyPair, signatureProblem } from "./signature-v4.ts";

/** `options` lead to the door. */
export type S3Server = { options: S3Options; directory: string; close(): Promise<void> };

/** What happens to a request; what fails has not reached the server. */
export type Faults = (request: { method: string; target: string }, number: number) => "pass" | "cut" | 500 | 503;

const pair = { accessKeyId: "S3RVER", secretAccessKey: "S3RVER" };

/** With the bucket `carrel`. */
export async function startS3(directory: string, faults: Faults = () => "pass"): Promise<S3Server> {
  const program = resolve(import.meta.dirname, "../../node_modules/s3rver/bin/s3rver.js");
  const data = join(directory, "s3");
  const child = spawn(
    process.execPath,
    // Its marks between pages of a list are made with a cipher of old.
    [
      "--openssl-legacy-provider",
      program,
      "-s",
      "-d",
      data,
      "-a",
      "127.0.0.1",
      "-p",
      "0",
      "--no-vhost-buckets",
      "--configure-bucket",
      "carrel",
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const exited = once(child, "exit");
  const port = await listeningPort(child.stdout);
  child.stdout.resume();
  const door = await startDoor(Number(port), pair, faults);
  return {
    options: { endpoint: door.url, region: "us-east-1", bucket: "carrel", ...pair },
    directory: data,
    async close() {
      await door.close();
      child.kill();
      await exited;
    },
  };
}

async function listeningPort(output: NodeJS.ReadableStream): Promise<string> {
  for await (const line of createInterface({ input: output })) {
    const port = /listening on .*:(\d+)$/.exec(line)?.[1];
    if (port) return port;
  }
  throw new Error("the S3 server ended before it listened");
}

async function startDoor(port: number, keys: KeyPair, faults: Faults): Promise<{ url: URL; close(): Promise<void> }> {
  let count = 0;
  const handle = async (request: http.IncomingMessage, response: http.ServerResponse): Promise<void> => {
    const { method = "", url: target = "", headers } = request;
    const fault = faults({ method, target }, (count += 1));
    if (fault === "cut") return void request.socket.destroy();
    const body = await buffer(request);
    if (fault !== "pass") return void response.writeHead(fault).end();
    const problem = signatureProblem({ method, target, headers, body }, keys);
    if (problem) return void response.writeHead(403).end(`<Error><Code>${problem}</Code></Error>`);
    const onward = http.request({ host: "127.0.0.1", port, method, path: target, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    onward.end(body);
  };
  const server = http.createServer((request, response) => void handle(request, response).catch(() => response.destroy()));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
