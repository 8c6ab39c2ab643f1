import type { ToolDecision } from "../gen/carrel/runner/v1/command_pb.ts";
import type { Decision, ToolCall } from "./agent.ts";
import type { Channel } from "./channel.ts";

export type Decisions = {
  /** Asks the control plane about a call, and waits for a person where it has to. */
  decide(call: ToolCall): Promise<Decision>;
  /** A decision that came as a command. */
  arrived(decision: ToolDecision): void;
};

/**
 * @param turnNow the turn that the agent is in.
 * @param parentOf the tool call that a sub-agent works for.
 */
export function createDecisions(
  attached: Promise<Channel>,
  turnNow: () => number,
  parentOf: (agentId: string | undefined) => string,
): Decisions {
  const waiting = new Map<string, (decision: Decision) => void>();
  // A decision may come before the call that asked learns that it has to wait.
  const early = new Map<string, Decision>();
  return {
    async decide({ toolUseId, toolName, input, agentId, signal }) {
      // By the time that it is asked about, there may be another. What a sub-agent does in the background outlives its turn.
      const turn = agentId === undefined ? turnNow() : 0;
      const channel = await attached;
      // The call itself is in the log before anybody is asked about it.
      await channel.flushed();
      const answer = await channel.decide({ toolUseId, toolName, input, turn, parentToolUseId: parentOf(agentId) });
      if (answer.decision) return decisionOf(answer.decision);
      const known = early.get(toolUseId);
      early.delete(toolUseId);
      if (known) return known;
      return new Promise((resolve, reject) => {
        waiting.set(toolUseId, resolve);
        signal.addEventListener("abort", () => reject(new Error("the tool call was given up")), { once: true });
      });
    },
    arrived(message) {
      const decision = decisionOf(message);
      const resolve = waiting.get(message.toolUseId);
      waiting.delete(message.toolUseId);
      if (resolve) resolve(decision);
      else early.set(message.toolUseId, decision);
    },
  };
}

function decisionOf(decision: ToolDecision): Decision {
  return { allow: decision.allow, message: decision.message, ...(decision.updatedInput ? { updatedInput: decision.updatedInput } : {}) };
}
