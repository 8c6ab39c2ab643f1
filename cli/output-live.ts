import type { AssistantMessage, Delta, Event } from "../gen/carrel/v1/event_pb.ts";
import { DeltaKind, EventSchema } from "../gen/carrel/v1/event_pb.ts";
import { createLiveBlocks, toProductJson } from "../sdk/node.ts";
import type { Output } from "./output.ts";
import { eventLine, headOf, type RenderOptions, renderEvent, type Shown, showAssistant } from "./output-events.ts";
import { createSanitiser } from "./output-text.ts";

export type LiveOptions = RenderOptions & {
  sessionId: string;
  /** One JSON line per event instead. */
  raw: boolean;
  now: () => Date;
  /** Events that are already on the screen, such as a prompt typed here. */
  isShown: (event: Event) => boolean;
};

/** Prints a session as it happens: answers grow with their deltas, and their event adds only what was missing. */
export type LiveOutput = {
  delta(delta: Delta): void;
  event(event: Event): void;
  /** Ends the line that was growing. */
  finish(): void;
};

type OpenBlock = { id: string; sanitise: (piece: string) => string; shown: Shown };

export function createLiveOutput(output: Output, options: LiveOptions): LiveOutput {
  const blocks = createLiveBlocks();
  // How much of each unfinished block is on the screen; several may grow at once, one at a time is being printed.
  const printed = new Map<string, number>();
  let open: OpenBlock | undefined;

  function close(): void {
    open = undefined;
    output.endLine();
  }

  function print(blockId: string, shown: Shown, text: string): void {
    if (open?.id !== blockId) {
      close();
      open = { id: blockId, sanitise: createSanitiser(), shown };
      output.begin(...(options.quiet ? [] : headOf({ ...shown, text: "…" }, options.now(), options)));
    }
    output.append(shown.textStyle, open.sanitise(text));
    printed.set(blockId, (printed.get(blockId) ?? 0) + text.length);
  }

  function delta(piece: Delta): void {
    const { blockId, parentToolUseId, kind } = piece;
    if (options.raw || (kind !== DeltaKind.TEXT && kind !== DeltaKind.THINKING)) return;
    const isText = kind === DeltaKind.TEXT;
    if (options.quiet && (!isText || parentToolUseId !== "")) return;
    const known = blocks.textOf(blockId).length;
    const added = blocks.add(piece);
    // One block grows on the screen at a time; of the others the event brings the whole.
    const another = open !== undefined && open.id !== blockId;
    if (added === "" || another || (printed.get(blockId) ?? 0) !== known) return;
    print(blockId, showAssistant({ content: { case: isText ? "text" : "thinking", value: "" }, parentToolUseId }), added);
  }

  /** True when the block had begun to grow on the screen and is now complete there. */
  function complete({ blockId, content, parentToolUseId }: AssistantMessage): boolean {
    const text = content.value ?? "";
    const sofar = printed.get(blockId) ?? 0;
    const isPrefix = text.startsWith(blocks.textOf(blockId).slice(0, sofar));
    blocks.finish(blockId);
    printed.delete(blockId);
    if (sofar === 0 || !isPrefix) return false;
    if (text.length > sofar) print(blockId, showAssistant({ content, parentToolUseId }), text.slice(sofar));
    printed.delete(blockId);
    if (open?.id === blockId) close();
    return true;
  }

  function event(event: Event): void {
    if (options.raw) return output.jsonLine(eventLine(options.sessionId, toProductJson(EventSchema, event)));
    const kind = event.payload?.kind;
    if (kind?.case === "assistant" && complete(kind.value)) return;
    if (options.isShown(event)) return;
    const rendered = renderEvent(event, options);
    if (!rendered) return;
    close();
    rendered.print(output);
  }

  return { delta, event, finish: close };
}
