import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { KeyFileError } from "../../../server/vault/errors.ts";
import { createRootKeyFile, readKeyFile } from "../../../server/vault/key-file.ts";
import { readRootKeyring } from "../../../server/vault/keyring.ts";
import { createSodium } from "../../../server/vault/sodium.ts";

const sodium = await createSodium();
const ONE = "01".repeat(32);
const TWO = "aB".repeat(32);

describe("a root key file", () => {
  let folder: string;
  let file: string;

  beforeEach(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "carrel-key-file-"));
    file = path.join(folder, "root.key");
  });
  afterEach(() => rm(folder, { recursive: true }));

  const write = (content: string | Uint8Array, mode = 0o400) => writeFile(file, content, { mode });

  /** The message of the refusal; it must name the file and none of its content. */
  async function refusal(): Promise<string> {
    const error: unknown = await readRootKeyring(sodium, file).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(KeyFileError);
    const { message, file: named } = error as KeyFileError;
    expect(named).toBe(file);
    expect(message).toContain(file);
    expect(message.toLowerCase()).not.toMatch(/(01){8}|(ab){8}|(00){8}/);
    return message.slice(`root key file ${file}: `.length);
  }

  it("holds one key per line, the first one active, with or without a last newline", async () => {
    for (const end of ["", "\n"]) {
      await write(`${ONE}\n${TWO}${end}`);
      const keyring = await readRootKeyring(sodium, file);
      expect(keyring.kids).toHaveLength(2);
      expect(keyring.activeKid).toBe(keyring.kids[0]);
      const keys = await readKeyFile(sodium, file);
      expect(keys.map((key) => Buffer.from(key).toString("hex"))).toEqual([ONE, TWO.toLowerCase()]);
      await rm(file);
    }
  });

  it("names a key by its content alone, whatever the order of lines", async () => {
    await write(`${ONE}\n${TWO}\n`);
    const before = await readRootKeyring(sodium, file);
    await rm(file);
    await write(`${TWO}\n${ONE}\n`);
    const after = await readRootKeyring(sodium, file);
    expect(after.kids).toEqual(before.kids.toReversed());
  });

  it("is refused when it is missing or no regular file", async () => {
    expect(await refusal()).toBe("does not exist");
    await mkdir(file, { mode: 0o700 });
    expect(await refusal()).toBe("is not a regular file");
  });

  it("is refused when group or world have any right to it, also through a link", async () => {
    await write(ONE);
    for (const mode of [0o440, 0o404, 0o410, 0o420, 0o402, 0o401, 0o644, 0o777]) {
      await chmod(file, mode);
      expect(await refusal()).toContain(`its mode is 0${mode.toString(8)}`);
    }
    await chmod(file, 0o644);
    const target = path.join(folder, "target");
    await writeFile(target, ONE, { mode: 0o644 });
    await rm(file);
    await symlink(target, file);
    expect(await refusal()).toContain("its mode is 0644");
  });

  it("is refused when it holds no key, or anything that is not exactly a key", async () => {
    const refused: [content: string | Uint8Array, problem: string][] = [
      ["", "holds no key"],
      ["\n", "line 1 is not 64 hexadecimal digits"],
      [ONE.slice(1), "line 1 is not 64 hexadecimal digits"],
      [`${ONE}0`, "line 1 is not 64 hexadecimal digits"],
      [`${ONE}\r\n`, "line 1 is not 64 hexadecimal digits"],
      [` ${ONE}`, "line 1 is not 64 hexadecimal digits"],
      [`${ONE}\n\n`, "line 2 is not 64 hexadecimal digits"],
      [`${ONE}\n${TWO.slice(2)}`, "line 2 is not 64 hexadecimal digits"],
      [`# comment\n${ONE}`, "line 1 is not 64 hexadecimal digits"],
      [`${ONE.slice(0, 63)}g`, "line 1 is not 64 hexadecimal digits"],
      [`${ONE.slice(0, 63)}@`, "line 1 is not 64 hexadecimal digits"],
      [Buffer.from(ONE, "hex"), "line 1 is not 64 hexadecimal digits"],
      [Buffer.from(ONE, "hex").toString("base64"), "line 1 is not 64 hexadecimal digits"],
      ["0".repeat(64), "line 1 is the zero key"],
      [`${ONE}\n${"0".repeat(64)}\n`, "line 2 is the zero key"],
      [`${ONE}\n${TWO}\n${ONE}\n`, "line 3 repeats the key of line 1"],
      [`${TWO}\n${TWO.toLowerCase()}\n`, "line 2 repeats the key of line 1"],
      [`${ONE}\n`.repeat(1100), "is longer than 65536 bytes"],
    ];
    for (const [content, problem] of refused) {
      await write(content);
      expect(await refusal()).toBe(problem);
      await rm(file);
    }
  });

  it("is made readable by its owner alone, with a key of its own, and can be read at once", async () => {
    await createRootKeyFile(sodium, file);
    expect((await stat(file)).mode & 0o777).toBe(0o400);
    expect(await readFile(file, "latin1")).toMatch(/^[0-9a-f]{64}\n$/);
    expect((await readRootKeyring(sodium, file)).kids).toHaveLength(1);
    const other = path.join(folder, "other.key");
    await createRootKeyFile(sodium, other);
    expect(await readFile(other, "latin1")).not.toBe(await readFile(file, "latin1"));
    expect((await readdir(folder)).sort()).toEqual(["other.key", "root.key"]);
  });

  it("is never replaced by a new one", async () => {
    await write(ONE);
    await expect(createRootKeyFile(sodium, file)).rejects.toThrow(`root key file ${file}: exists already`);
    expect(await readFile(file, "latin1")).toBe(ONE);
    expect(await readdir(folder)).toEqual(["root.key"]);
  });

  it("is made by exactly one of many that try at once", async () => {
    const tries = await Promise.allSettled(Array.from({ length: 20 }, () => createRootKeyFile(sodium, file)));
    expect(tries.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(await readdir(folder)).toEqual(["root.key"]);
    expect((await readRootKeyring(sodium, file)).kids).toHaveLength(1);
  });

  it("is not made in a folder that does not exist", async () => {
    const lost = path.join(folder, "missing", "root.key");
    await expect(createRootKeyFile(sodium, lost)).rejects.toThrow(`root key file ${lost}: cannot be made`);
  });
});
