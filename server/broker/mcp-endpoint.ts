import { Transform } from "node:stream";

/** An event longer than this cannot be the one that is looked for. Bytes. */
const longestEndpointEvent = 16_384;

const lineFeed = 10;
const carriageReturn = 13;

/**
 * Passes an event stream on, event by event and byte by byte, but gives the data of each `endpoint` event to `rename` and sends
 * on what it returns. The stream fails when `rename` throws. An event is held until it is complete: a client acts no sooner, and
 * never on one that is cut.
 */
export function createEndpointRenamer(rename: (data: string) => string): Transform {
  let held = "";
  let lineLength = 0;
  let isAfterReturn = false;
  // Inside an event that is too long to hold, so it passes as it comes.
  let isLong = false;

  const pass = (text: string): string => {
    let out = "";
    let from = 0;
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      const isSecondHalf = code === lineFeed && isAfterReturn;
      isAfterReturn = code === carriageReturn;
      if (isSecondHalf) {
        // Of the line end that ended an event, which has gone already.
        if (held === "" && from === at) [out, from] = [`${out}\n`, at + 1];
        continue;
      }
      const isLineEnd = code === lineFeed || code === carriageReturn;
      const isEventEnd = isLineEnd && lineLength === 0;
      lineLength = isLineEnd ? 0 : lineLength + 1;
      if (!isEventEnd) continue;
      held += text.slice(from, at + 1);
      out += isLong || held.length > longestEndpointEvent ? held : renamed(held, rename);
      [held, isLong, from] = ["", false, at + 1];
    }
    held += text.slice(from);
    isLong ||= held.length > longestEndpointEvent;
    if (!isLong) return out;
    out += held;
    held = "";
    return out;
  };

  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      let out: string;
      try {
        // Latin-1 maps every byte to one character and back, also those of half a character at the end of a chunk.
        out = pass(chunk.toString("latin1"));
      } catch (error) {
        return done(error as Error);
      }
      done(null, Buffer.from(out, "latin1"));
    },
  });
}

function renamed(event: string, rename: (data: string) => string): string {
  // A byte order mark may open the stream.
  const lines = event.replace(/^\u00ef\u00bb\u00bf/, "").split(/\r\n|\n|\r/);
  const fields = lines.map((line) => /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? []);
  if (fields.findLast(([, name]) => name === "event")?.[2] !== "endpoint") return event;
  const data = fields.filter(([, name]) => name === "data").map(([, , value]) => value ?? "");
  const name = rename(Buffer.from(data.join("\n"), "latin1").toString("utf8"));
  return `event: endpoint\ndata: ${Buffer.from(name, "utf8").toString("latin1")}\n\n`;
}
