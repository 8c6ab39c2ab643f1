import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createLocalDisk } from "../../server/blobs/local-disk.ts";
import { BlobStoreError, createS3 } from "../../server/blobs/s3.ts";
import { type Faults, type S3Server, startS3 } from "../support/s3-server.ts";
import { signatureProblem } from "../support/signature-v4.ts";
import { makeTemporaryDirectory, removeDirectory } from "../support/temporary.ts";
import { blobSuite } from "./blobs-suite.ts";

// Small parts, so that what is large is of many.
const partBytes = 5 * 2 ** 20;

async function* text(content: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(content);
}

blobSuite("local disk", async () => {
  const directory = makeTemporaryDirectory("blobs");
  return { store: await createLocalDisk(directory), close: async () => removeDirectory(directory) };
});

async function openBucket(faults?: Faults) {
  const directory = makeTemporaryDirectory("blobs");
  const server = await startS3(directory, faults);
  return {
    store: createS3({ ...server.options, partBytes }),
    async close() {
      await server.close();
      removeDirectory(directory);
    },
  };
}

blobSuite("S3", () => openBucket());
blobSuite("S3 behind a bad network", () => openBucket((_, number) => (number % 7 === 3 ? "cut" : number % 5 === 2 ? 503 : "pass")));

describe("a directory of blobs", () => {
  let directory: string;
  beforeAll(() => {
    directory = makeTemporaryDirectory("blobs");
  });
  afterAll(() => removeDirectory(directory));

  test("nothing stays of what was deleted or not finished, also by a process that died", async () => {
    const place = join(directory, "left");
    mkdirSync(join(place, "@unfinished"), { recursive: true });
    writeFileSync(join(place, "@unfinished", "half"), "half");
    const store = await createLocalDisk(place);
    await store.put("a/b/c", text("x"));
    await store.delete("a/b/c");
    expect(readdirSync(place, { recursive: true })).toEqual(["@unfinished"]);
  });

  test("one deletes the last blob of a directory while another puts one there: neither fails", async () => {
    const store = await createLocalDisk(join(directory, "busy"));
    const work = Array.from({ length: 300 }, async (_, index) => {
      await store.put(`d/e/${index % 3}`, text("x"));
      await store.delete(`d/e/${(index + 1) % 3}`);
    });
    await Promise.all(work);
    for (const index of [0, 1, 2]) await store.delete(`d/e/${index}`);
    expect(readdirSync(join(directory, "busy"))).toEqual(["@unfinished"]);
  });

  test("a link in a blob's place is not followed", async () => {
    const store = await createLocalDisk(join(directory, "links"));
    symlinkSync("/etc/hostname", join(directory, "links", "link@"));
    await expect(store.get("link").next()).rejects.toThrow("ELOOP");
  });
});

describe("a bucket", () => {
  let server: S3Server;
  let directory: string;
  let faults: Faults = () => "pass";
  beforeAll(async () => {
    directory = makeTemporaryDirectory("blobs");
    server = await startS3(directory, (...request) => faults(...request));
  });
  afterEach(() => {
    faults = () => "pass";
  });
  afterAll(async () => {
    await server.close();
    removeDirectory(directory);
  });

  test("a wrong key pair and a bucket that is not there are refused in the service's own word", async () => {
    const stranger = createS3({ ...server.options, secretAccessKey: "another" });
    await expect(stranger.put("a", text("x"))).rejects.toThrow("object store: 403 SignatureDoesNotMatch");
    const unknown = createS3({ ...server.options, accessKeyId: "another" });
    await expect(unknown.get("a").next()).rejects.toThrow("object store: 403 InvalidAccessKeyId");
    const elsewhere = createS3({ ...server.options, bucket: "nowhere" });
    await expect(elsewhere.get("a").next()).rejects.toThrow("object store: 404 NoSuchBucket");
    await expect(elsewhere.put("a", text("x"))).rejects.toThrow("404 NoSuchBucket");
  });

  test("a service that is away is told after a few attempts", async () => {
    const away = createS3({ ...server.options, endpoint: new URL("http://127.0.0.1:1") });
    await expect(away.stat("a")).rejects.toMatchObject({ name: "BlobStoreError", status: 0 });
    let asked = 0;
    faults = () => {
      asked += 1;
      return 500;
    };
    await expect(createS3(server.options).stat("a")).rejects.toMatchObject({ status: 500 });
    expect(asked).toBe(5);
  });

  test("an upload whose part is refused for good leaves no blob and no parts", async () => {
    faults = ({ target }) => (target.includes("partNumber=2") ? 500 : "pass");
    const store = createS3({ ...server.options, partBytes });
    async function* large(): AsyncGenerator<Uint8Array> {
      for (let times = 0; times < 12; times += 1) yield Buffer.alloc(2 ** 20);
    }
    await expect(store.put("half", large())).rejects.toBeInstanceOf(BlobStoreError);
    expect(await store.stat("half")).toBeUndefined();
    expect(readdirSync(server.directory, { recursive: true }).filter((name) => String(name).includes("half"))).toEqual([]);
  });

  test("more keys than one page holds are all listed", async () => {
    const store = createS3(server.options);
    const all = Array.from({ length: 1_030 }, (_, index) => `many/${String(index).padStart(4, "0")}`);
    for (let at = 0; at < all.length; at += 20) await Promise.all(all.slice(at, at + 20).map((key) => store.put(key, text(key))));
    const listed: string[] = [];
    for await (const key of store.list("many/")) listed.push(key);
    expect(listed.toSorted()).toEqual(all);
  });
});

test("the judge of signatures agrees with the example that AWS publishes", () => {
  const headers = {
    host: "examplebucket.s3.amazonaws.com",
    range: "bytes=0-9",
    "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "x-amz-date": "20130524T000000Z",
    authorization:
      "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  };
  const keys = { accessKeyId: "AKIAIOSFODNN7EXAMPLE", secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" };
  const request = { method: "GET", target: "/test.txt", headers, body: new Uint8Array() };
  expect(signatureProblem(request, keys)).toBeUndefined();
  expect(signatureProblem({ ...request, target: "/test.txt?versions=" }, keys)).toBe("SignatureDoesNotMatch");
  expect(signatureProblem({ ...request, body: Buffer.from("x") }, keys)).toBe("XAmzContentSHA256Mismatch");
});
