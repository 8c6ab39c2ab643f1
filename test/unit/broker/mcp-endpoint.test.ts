import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import fc from "fast-check";
import { expect, test } from "vitest";
import { createEndpointRenamer } from "../../../server/broker/mcp-endpoint.ts";

async function passed(chunks: (string | Uint8Array)[], rename: (data: string) => string = (data) => `<${data}>`): Promise<string> {
  return (await buffer(Readable.from(chunks.map((chunk) => Buffer.from(chunk))).pipe(createEndpointRenamer(rename)))).toString();
}

test.each([
  ["event: endpoint\ndata: /m?s=1\n\n", "</m?s=1>"],
  ["event:endpoint\ndata:/m\n\n", "</m>"],
  ["data: /m\nevent: endpoint\n\n", "</m>"],
  ["event: endpoint\r\ndata: /m\r\n\r\n", "</m>"],
  ["event: endpoint\rdata: /m\r\r", "</m>"],
  ["id: 4\n: comment\nevent: message\nevent: endpoint\ndata: /m\nretry: 3\n\n", "</m>"],
  ["event: endpoint\ndata: /a\ndata: /b\n\n", "</a\n/b>"],
  ["\ufeffevent: endpoint\ndata: /m\n\n", "</m>"],
  ["event: endpoint\ndata: /\u00fc\n\n", "</\u00fc>"],
  ["event: endpoint\ndata\n\n", "<>"],
])("%j is renamed", async (text, renamed) => {
  // Half of its last CR LF may follow, which is one more empty line.
  expect((await passed([text])).replace(/\n{3}$/, "\n\n")).toBe(`event: endpoint\ndata: ${renamed}\n\n`);
});

test.each([
  "event: message\ndata: {}\n\n",
  "data: event: endpoint\n\n",
  "event: endpoints\ndata: /m\n\n",
  "event: endpoint \ndata: /m\n\n",
  "Event: endpoint\ndata: /m\n\n",
  "event: endpoint\nevent: message\ndata: /m\n\n",
  ": event: endpoint\ndata: /m\n\n",
  ": keep-alive\n\n",
  "\n\r\n\r",
])("%j passes as it is", async (text) => {
  expect(await passed([text])).toBe(text);
});

test("an event that is cut is not passed on, an over-long one is, as it comes", async () => {
  expect(await passed(["data: a\n\nevent: endpoint\ndata: /m\n"])).toBe("data: a\n\n");
  const long = `data: ${"x".repeat(40_000)}\nevent: endpoint\n\n`;
  expect(await passed([long, "event: endpoint\ndata: /m\n\n"])).toBe(`${long}event: endpoint\ndata: </m>\n\n`);
});

test("what a refusing rename throws ends the stream", async () => {
  const refuse = (): string => {
    throw new Error("refused");
  };
  const renamer = createEndpointRenamer(refuse);
  const ended = new Promise<Error>((resolve) => renamer.once("error", resolve));
  renamer.write("event: endpoint\ndata: https://evil.test/\n\n");
  expect((await ended).message).toBe("refused");
});

test("where the stream is cut into chunks makes no difference, and other events keep every byte", async () => {
  const line = fc.oneof(
    fc.constantFrom("event: endpoint", "data: /m", "event: message", ": c", "id: 1"),
    fc.string({ unit: "grapheme", maxLength: 5 }).map((text) => `data: ${text.replace(/[\r\n]/g, "")}`),
  );
  const event = fc
    .tuple(fc.array(line, { minLength: 1, maxLength: 4 }), fc.constantFrom("\n", "\r\n"))
    .map(([lines, end]) => lines.concat("", "").join(end));
  await fc.assert(
    fc.asyncProperty(fc.array(event, { maxLength: 4 }), fc.array(fc.nat(60), { maxLength: 8 }), async (events, cuts) => {
      const bytes = Buffer.from(events.join(""));
      const places = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length];
      const chunks = places
        .slice(1)
        .map((place, index) => bytes.subarray(places[index], place))
        .filter((chunk) => chunk.length > 0);
      const whole = await passed([bytes]);
      // A CR LF at the end of an event is passed in two steps, so a cut may fall between them.
      expect(await passed(chunks)).toBe(whole);
      if (!events.some((text) => text.includes("event: endpoint"))) expect(whole).toBe(bytes.toString());
    }),
  );
});
