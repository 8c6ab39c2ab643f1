/** The server's side of AWS signatures of version 4, written from their description: what a client signs is judged by it. */
import { createHash, createHmac } from "node:crypto";

export type SignedRequest = {
  method: string;
  target: string;
  headers: Readonly<Record<string, string | string[] | undefined>>;
  body: Uint8Array;
};
export type KeyPair = { accessKeyId: string; secretAccessKey: string };

const mustBeSigned = ["host", "x-amz-content-sha256", "x-amz-date"];

/** What is wrong with a request, as an S3 service words it; undefined when it is whose it says and arrived as it was sent. */
export function signatureProblem(request: SignedRequest, { accessKeyId, secretAccessKey }: KeyPair): string | undefined {
  const header = (name: string) => String(request.headers[name] ?? "");
  const match = /^AWS4-HMAC-SHA256 Credential=([^/]+)\/([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$/.exec(
    header("authorization"),
  );
  if (!match) return "AccessDenied";
  const [, id, scope = "", names = "", given] = match;
  if (id !== accessKeyId) return "InvalidAccessKeyId";
  const signed = names.split(";");
  if (mustBeSigned.some((name) => !signed.includes(name))) return "AccessDenied";
  if (header("x-amz-content-sha256") !== sha256(request.body)) return "XAmzContentSHA256Mismatch";
  const [path = "", query = ""] = request.target.split("?");
  const canonical = [
    request.method,
    path,
    canonicalQuery(query),
    ...signed.map((name) => `${name}:${header(name).trim().replace(/ +/g, " ")}`),
    "",
    names,
    header("x-amz-content-sha256"),
  ].join("\n");
  const text = ["AWS4-HMAC-SHA256", header("x-amz-date"), scope, sha256(canonical)].join("\n");
  const key = scope.split("/").reduce<string | Buffer>((secret, part) => hmac(secret, part), `AWS4${secretAccessKey}`);
  return hmac(key, text).toString("hex") === given ? undefined : "SignatureDoesNotMatch";
}

function canonicalQuery(query: string): string {
  const pairs = query
    .split("&")
    .filter(Boolean)
    .map((pair) => pair.split("=").map((part) => encoded(decodeURIComponent(part.replaceAll("+", " ")))));
  return pairs
    .map(([name = "", value = ""]) => `${name}=${value}`)
    .sort()
    .join("&");
}

function encoded(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}

function sha256(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}

function hmac(key: string | Buffer, text: string): Buffer {
  return createHmac("sha256", key).update(text).digest();
}
