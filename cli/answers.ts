import { ApprovalScope, type Question } from "../gen/carrel/v1/approval_pb.ts";
import { ErrorReason } from "../gen/carrel/v1/error_reason_pb.ts";
import { type Carrel, metadataOf, reasonOf, retrying } from "../sdk/node.ts";
import type { Pending } from "./conversation.ts";
import type { Output } from "./output.ts";
import { safeJson } from "./output-text.ts";

type Item = Question["questions"][number];

/** Asks a person, one line after the other, until everything that one Pending wants is known. */
export type Asking = {
  pending: Pending;
  /** Prints what is to be answered next. */
  ask(): void;
  /** Takes a line; resolves to true when the answer is complete and was sent. */
  answer(line: string): Promise<boolean>;
};

type Deps = { carrel: Carrel; output: Output; sessionId: string };

export const deniedHere = "denied by CLI user";
const nobody = "Nobody is there to answer. Choose what is safest, or say what you would need to know.";

export function createAsking(deps: Deps, pending: Pending): Asking {
  return pending.kind === "approval" ? askApproval(deps, pending) : askQuestions(deps, pending);
}

function askApproval(deps: Deps, pending: Pending & { kind: "approval" }): Asking {
  return {
    pending,
    ask() {
      const { toolName, toolInput } = pending.approval;
      // The request itself stands on stdout only where a person reads it there.
      if (deps.output.quiet || deps.output.json) deps.output.warn({ style: "approval", text: `${toolName}: ${safeJson(toolInput ?? {})}` });
      deps.output.warn("Approve? [y/n/session] (default n)");
    },
    async answer(line) {
      const word = line.trim().toLowerCase();
      const isSession = word === "s" || word === "session";
      const approved = isSession || word === "y" || word === "yes";
      await sendApproval(deps, pending.id, approved, isSession ? ApprovalScope.SESSION : ApprovalScope.ONCE, deniedHere);
      return true;
    },
  };
}

function askQuestions(deps: Deps, pending: Pending & { kind: "question" }): Asking {
  const { questions } = pending.question;
  const answers: Record<string, string> = {};
  let at = 0;
  return {
    pending,
    ask() {
      const item = questions[at];
      if (!item) return;
      deps.output.warn({ style: "question", text: item.question });
      item.options.forEach(({ label, description }, index) =>
        deps.output.warn(`  ${index + 1}. ${label}${description && `: ${description}`}`),
      );
      deps.output.warn(
        item.options.length === 0
          ? "Your answer:"
          : item.multiSelect
            ? "Numbers (1,3), or your own words:"
            : "A number, or your own words:",
      );
    },
    async answer(line) {
      const item = questions[at];
      if (item) answers[item.header || item.question] = chosen(item, line);
      at++;
      if (at < questions.length) {
        this.ask();
        return false;
      }
      await sendAnswers(deps, pending.id, answers);
      return true;
    },
  };
}

/** Labels for numbers; anything else is taken as it was typed. */
export function chosen({ options, multiSelect }: Item, line: string): string {
  const text = line.trim();
  const numbers = (multiSelect ? text.split(/[\s,]+/).filter(Boolean) : [text]).map(Number);
  const labels = numbers.map((number) => (Number.isInteger(number) ? options[number - 1]?.label : undefined));
  return labels.length > 0 && labels.every((label) => label !== undefined) ? labels.join(", ") : text;
}

/**
 * Answers for a person who is not there, or who said in advance what to answer, and says what it did. `rule` is what they
 * said; undefined when nobody is there.
 */
export async function answerUnasked(deps: Deps, pending: Pending, rule: "all" | "none" | undefined): Promise<void> {
  if (pending.kind === "question") {
    deps.output.warn("a question waits and nobody is here to answer it: the agent is told so");
    const answers = pending.question.questions.map(({ header, question }) => [header || question, nobody]);
    return sendAnswers(deps, pending.id, Object.fromEntries(answers) as Record<string, string>);
  }
  const { toolName } = pending.approval;
  if (rule === undefined)
    deps.output.warn(`denied ${toolName} (${pending.id}): nobody is here to approve it; use --approve all, or a terminal`);
  else deps.output.warn(`${rule === "all" ? "approved" : "denied"} ${toolName} (${pending.id}): --approve ${rule}`);
  const message = rule === undefined ? "nobody is there to approve it" : deniedHere;
  return sendApproval(deps, pending.id, rule === "all", ApprovalScope.ONCE, message);
}

async function sendApproval(
  { carrel, output, sessionId }: Deps,
  toolUseId: string,
  approved: boolean,
  scope: ApprovalScope,
  message: string,
): Promise<void> {
  const request = approved ? { sessionId, toolUseId, approved, approvalScope: scope } : { sessionId, toolUseId, approved, message };
  await firstWins(output, async () => {
    const { pattern } = await retrying(() => carrel.channel.answerApproval(request));
    if (pattern !== "") output.notice(`approved for this session: ${pattern}`);
  });
}

async function sendAnswers({ carrel, output, sessionId }: Deps, questionId: string, answers: Record<string, string>): Promise<void> {
  await firstWins(output, async () => void (await retrying(() => carrel.channel.answerQuestion({ sessionId, questionId, answers }))));
}

/** Somebody else may answer first; that is worth a word and no failure. */
async function firstWins(output: Output, send: () => Promise<void>): Promise<void> {
  try {
    await send();
  } catch (error) {
    const reason = reasonOf(error);
    if (reason !== ErrorReason.ALREADY_ANSWERED && reason !== ErrorReason.NOT_FOUND) throw error;
    const { answered_by: who, outcome } = metadataOf(error);
    output.notice(`already answered${who ? ` by ${who}` : ""}${outcome ? `: ${outcome}` : ""}`);
  }
}
