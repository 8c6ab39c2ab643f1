// Stands in for the runner inside a sandbox: no agent, but the real channel. A prompt is an order to append.
import { text } from "node:stream/consumers";
import { type Channel, openChannel } from "../../runner/channel.ts";
import type { AskedSnapshot } from "../../runner/snapshots.ts";
import type { PayloadKind } from "../../runner/translate.ts";
import type { Appended, Order } from "../support/orders.ts";

async function run(boot: { attachToken: string; socket: string; spool: string }): Promise<void> {
  const channel = await openChannel(boot.socket, boot.attachToken, boot.spool);
  await channel.follow(({ id, kind }) => {
    if (kind.case === "prompt") void obey(channel, JSON.parse(kind.value.text) as Order);
    if (kind.case === "hibernate") void putAway(channel, { generation: kind.value.generation, baseGeneration: 0, commandId: id });
    if (kind.case === "terminate") void channel.detach("asked to leave", 0).then(() => process.exit(0));
  });
}

/** There is nothing to keep; it is kept all the same. */
async function putAway(channel: Channel, asked: AskedSnapshot): Promise<void> {
  async function* nothing(): AsyncGenerator<Uint8Array> {
    yield Buffer.from("nothing");
  }
  if (await channel.snapshots.put(asked, nothing, new AbortController().signal)) process.exit(0);
}

/** One batch is one call: the next is made when the last is committed. */
async function obey(channel: Channel, { batches, forMs, batchEvents, payloadBytes }: Order): Promise<void> {
  const event: PayloadKind = {
    case: "assistant",
    value: { blockId: "bench", messageId: "bench", content: { case: "text", value: "x".repeat(payloadBytes) } },
  };
  const batch = Array.from({ length: batchEvents }, () => event);
  const startedAt = Date.now();
  let events = 0;
  while (events < batches * batchEvents && Date.now() - startedAt < forMs) {
    channel.append(batch);
    await channel.flushed();
    events += batchEvents;
  }
  const appended: Appended = { events, startedAt, endedAt: Date.now() };
  channel.append([{ case: "result", value: { success: true, summary: JSON.stringify(appended) } }]);
}

void text(process.stdin).then((orders) => run(JSON.parse(orders) as Parameters<typeof run>[0]));
