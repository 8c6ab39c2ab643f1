import { readFile } from "node:fs/promises";
import type { JsonValue } from "@bufbuild/protobuf";
import { usageFailure } from "./failures.ts";
import type { Surroundings } from "./surroundings.ts";

/** The whole text of a file, as it is; "-" is stdin. */
export async function readText({ stdin }: Surroundings, file: string): Promise<string> {
  if (file === "-") {
    const chunks: Buffer[] = [];
    for await (const chunk of stdin) chunks.push(Buffer.from(chunk as Buffer | string));
    return Buffer.concat(chunks).toString("utf8");
  }
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw usageFailure(`cannot read ${file}: ${(error as Error).message}`);
  }
}

/** A file of JSON; "-" is stdin. */
export async function readJson(surroundings: Surroundings, file: string): Promise<JsonValue> {
  const text = await readText(surroundings, file);
  try {
    return JSON.parse(text) as JsonValue;
  } catch (error) {
    // The parser quotes what it read, line ends too.
    throw usageFailure(`${fileName(file)} is not JSON: ${(error as Error).message.replace(/\s+/g, " ")}`);
  }
}

/** A file as people call it. */
export function fileName(file: string): string {
  return file === "-" ? "stdin" : file;
}
