import { spawn } from "node:child_process";
import path from "node:path";
import { root } from "./buf.ts";

/** `text` says why: what the tool printed, or the reason to skip. */
export type Outcome = { result: "passed" | "failed" | "skipped"; text: string };

/** Runs a program to its end; it passes by ending with 0. */
export function runTool(file: string, args: readonly string[], cwd = root): Promise<Outcome> {
  // The tools' own first lines look up `node` on the path, and must find this one.
  const env = { ...process.env, NO_COLOR: "1", PATH: `${path.dirname(process.execPath)}${path.delimiter}${process.env["PATH"] ?? ""}` };
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    const output: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => output.push(chunk));
    child.on("error", reject);
    child.on("close", (code, signal) => {
      const text = Buffer.concat(output).toString();
      resolve(
        code === 0
          ? { result: "passed", text }
          : { result: "failed", text: `${text}\n${path.basename(file)} ended with ${signal ?? code}` },
      );
    });
  });
}
