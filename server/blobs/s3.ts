import { hash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { AwsClient } from "aws4fetch";
import { inChunks } from "./chunks.ts";
import { BlobMissingError, type BlobStore, checkKey, checkPrefix, createMeter, verified } from "./store.ts";

export type S3Options = {
  /** The service's own URL; the bucket is a part of the path. */
  endpoint: URL;
  region: string;
  /** Exists already. */
  bucket: string;
  accessKeyId: string;
  secretAccessKey: string;
  /** What is sent, and kept in memory, at once: at least 5 MiB, and a ten-thousandth of the largest blob. Default 8 MiB. */
  partBytes?: number;
  /** Time for one request; for a content that is read, until it begins. Default 60,000. */
  requestMs?: number;
};

/** The store refused, or did not answer in `attempts` attempts. */
export class BlobStoreError extends Error {
  override name = "BlobStoreError";
  /** Of the answer; 0 when there was none. */
  readonly status: number;
  constructor(what: string, status: number, options?: ErrorOptions) {
    super(`object store: ${what}`, options);
    this.status = status;
  }
}

type Call = { method: string; key?: string; query?: Record<string, string>; body?: Uint8Array };
type Send = (call: Call) => Promise<Response>;

const attempts = 5;
const firstPauseMs = 100;

/** Blobs in a bucket of a service that speaks S3, with signatures of version 4. */
export function createS3(options: S3Options): BlobStore {
  const send = createSender(options);
  const partBytes = options.partBytes ?? 8 * 1024 * 1024;
  return {
    async put(key, content) {
      checkKey(key);
      const meter = createMeter();
      const parts = inChunks(meter.pass(content), partBytes);
      const first = (await parts.next()).value!;
      if (first.isLast) await finish(send({ method: "PUT", key, body: first.bytes }));
      else await putInParts(send, key, first.bytes, parts);
      return meter.digest();
    },
    async *get(key, expected) {
      checkKey(key);
      const answer = await send({ method: "GET", key });
      if (answer.status === 404) throw await missing(answer, key);
      const content = bodyOf(await accepted(answer));
      yield* expected ? verified(key, content, expected) : content;
    },
    async stat(key) {
      checkKey(key);
      const answer = await send({ method: "HEAD", key });
      if (answer.status === 404) return undefined;
      return { bytes: Number((await accepted(answer)).headers.get("content-length")) };
    },
    async delete(key) {
      checkKey(key);
      const answer = await send({ method: "DELETE", key });
      if (answer.status === 404) return void (await answer.body?.cancel());
      await finish(Promise.resolve(answer));
    },
    async *list(prefix) {
      checkPrefix(prefix);
      for (let token: string | undefined = ""; token !== undefined; ) {
        const query = { "list-type": "2", prefix, ...(token ? { "continuation-token": token } : {}) };
        const page: string = await finish(send({ method: "GET", query }));
        for (const [, key] of page.matchAll(/<Key>([^<]*)<\/Key>/g)) yield key!;
        token = /<NextContinuationToken>([^<]+)</.exec(page)?.[1];
      }
    },
  };
}

/** An upload that fails is taken back, so that nobody pays for parts of nothing. */
async function putInParts(send: Send, key: string, first: Uint8Array, others: AsyncIterable<{ bytes: Uint8Array }>): Promise<void> {
  const begun = await finish(send({ method: "POST", key, query: { uploads: "" } }));
  const uploadId = /<UploadId>([^<]+)</.exec(begun)?.[1];
  if (!uploadId) throw new BlobStoreError("an upload without an id", 200);
  try {
    const tags: string[] = [];
    const add = async (body: Uint8Array): Promise<void> => {
      const answer = await accepted(await send({ method: "PUT", key, query: { partNumber: String(tags.length + 1), uploadId }, body }));
      tags.push(answer.headers.get("etag") ?? "");
      await answer.body?.cancel();
    };
    await add(first);
    for await (const { bytes } of others) await add(bytes);
    const list = tags.map((tag, index) => `<Part><PartNumber>${index + 1}</PartNumber><ETag>${escaped(tag)}</ETag></Part>`);
    const body = Buffer.from(`<CompleteMultipartUpload>${list.join("")}</CompleteMultipartUpload>`);
    const done = await finish(send({ method: "POST", key, query: { uploadId }, body }));
    // This one call may fail after it has answered 200.
    if (done.includes("<Error>")) throw new BlobStoreError(`the upload was not completed: ${codeOf(done)}`, 200);
  } catch (error) {
    const dropped = await send({ method: "DELETE", key, query: { uploadId } }).catch(() => undefined);
    await dropped?.body?.cancel();
    throw error;
  }
}

function createSender({ endpoint, region, bucket, accessKeyId, secretAccessKey, requestMs = 60_000 }: S3Options): Send {
  const signer = new AwsClient({ accessKeyId, secretAccessKey, region, service: "s3" });
  const once = async ({ method, key, query, body }: Call): Promise<Response> => {
    const url = new URL(endpoint);
    url.pathname = `${url.pathname.replace(/\/$/, "")}/${bucket}${key === undefined ? "" : `/${key}`}`;
    url.search = new URLSearchParams(query).toString();
    // The signature covers the content: what arrives is what was sent.
    const headers = { "x-amz-content-sha256": hash("sha256", body ?? "", "hex") };
    const request = await signer.sign(url.href, { method, headers, ...(body ? { body: body as Uint8Array<ArrayBuffer> } : {}) });
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error(`no answer within ${requestMs} ms`)), requestMs);
    try {
      return await fetch(request, { signal: late.signal });
    } finally {
      clearTimeout(timer);
    }
  };
  return async (call) => {
    for (let attempt = 1; ; attempt += 1) {
      let failure: unknown;
      const answer = await once(call).catch((error: unknown) => {
        failure = error;
        return undefined;
      });
      if (answer && answer.status < 500 && answer.status !== 429) return answer;
      const status = answer?.status ?? 0;
      if (attempt === attempts) throw new BlobStoreError(`${call.method} failed ${attempts} times`, status, { cause: failure });
      await answer?.body?.cancel();
      await sleep(firstPauseMs * 2 ** attempt * (0.5 + Math.random() / 2));
    }
  };
}

/** The answer's text, when it is a good one. */
async function finish(answer: Promise<Response>): Promise<string> {
  return (await accepted(await answer)).text();
}

async function accepted(answer: Response): Promise<Response> {
  if (answer.ok) return answer;
  const text = await answer.text();
  throw new BlobStoreError(`${answer.status} ${codeOf(text)}`, answer.status);
}

/** A bucket that is not there is not a blob that is not there. */
async function missing(answer: Response, key: string): Promise<Error> {
  const code = codeOf(await answer.text());
  return code === "NoSuchKey" ? new BlobMissingError(key) : new BlobStoreError(`404 ${code}`, 404);
}

async function* bodyOf(answer: Response): AsyncGenerator<Uint8Array> {
  if (answer.body) yield* answer.body;
}

function codeOf(xml: string): string {
  return /<Code>([A-Za-z0-9]{1,100})<\/Code>/.exec(xml)?.[1] ?? "";
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
