import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, expect, test } from "vitest";

const log = JSON.stringify(new URL("../../server/log.ts", import.meta.url).href);

/** A process that logs one line, far less than is written together, and then does `rest`. */
function logging(rest: string) {
  const program = `import { createLog } from ${log}; createLog().info({ rest: true }, "said"); ${rest}`;
  return spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: ["ignore", "ignore", "pipe"] });
}

describe("a line that waits to be written with others", () => {
  test.each([
    ["ends", "", 0],
    ["exits", "process.exit(3);", 3],
    ["fails", "throw new Error('fatal');", 1],
    ["fails later", "setTimeout(() => { throw new Error('fatal'); }, 1);", 1],
  ])("is written when the process %s", async (_how, rest, code) => {
    const child = logging(rest);
    const closed = once(child, "close");
    let written = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      written += text;
    });
    expect((await closed)[0]).toBe(code);
    expect(written.split("\n").filter((line) => line.includes('"msg":"said"'))).toHaveLength(1);
  });

  test("is written after a while when nothing else is said", async () => {
    const child = logging("setInterval(() => undefined, 60_000);");
    const [text] = (await once(child.stderr, "data")) as [Buffer];
    expect(JSON.parse(text.toString())).toMatchObject({ level: "info", msg: "said", rest: true });
    child.kill("SIGKILL");
    await once(child, "exit");
  });
});
