import { setTimeout as wait } from "node:timers/promises";
import type { Turn } from "./fake-session.ts";

/** What the fake agent does, by the first word of the prompt. */
export async function playPrompt(turn: Turn): Promise<void> {
  const [word = "", ...rest] = turn.text.split(" ");
  await (plays[word] ?? echo)(turn, rest.join(" "));
}

const plays: Record<string, (turn: Turn, rest: string) => Promise<void>> = {
  async think(turn) {
    await turn.say(["Let me ", "see."], true);
    await turn.say(["Forty-", "two."]);
  },
  async run(turn, command) {
    // No real agent asks before the end of an empty stdin was noticed.
    await wait(30);
    const { approved, message } = await turn.approve("toolu_1", { command });
    turn.append({ case: "toolUse", value: { id: "toolu_1", name: "Bash", input: { command } } });
    turn.append({
      case: "toolResult",
      value: {
        toolUseId: "toolu_1",
        isError: !approved,
        content: { kind: { case: "stringValue", value: approved ? "README.md" : message } },
      },
    });
    await turn.say([approved ? "There is a README." : "I may not."]);
  },
  async ask(turn) {
    const { answers } = await turn.question("q_1", {
      case: "askUserQuestion",
      value: {
        questionId: "q_1",
        questions: [
          { question: "Which colour?", header: "Colour", options: [{ label: "red", description: "like roses" }, { label: "blue" }] },
          {
            question: "Which days?",
            header: "Days",
            multiSelect: true,
            options: [{ label: "Monday" }, { label: "Tuesday" }, { label: "Friday" }],
          },
          { question: "Why?" },
        ],
      },
    });
    await turn.say([`You said ${JSON.stringify(answers)}.`]);
  },
  async wait(turn, reason) {
    await turn.say([reason ? `Waiting for ${reason}` : "Waiting"]);
    await turn.interruption;
  },
  async slow(turn) {
    await wait(150);
    await turn.say(["Slowly done."]);
  },
  async park(turn) {
    turn.append({ case: "system", value: { subtype: "parked", message: "The session is parked: its sandbox could not be started." } });
    await turn.interruption;
  },
  async fail(turn) {
    turn.fail("the model is overloaded");
  },
  async evil(turn) {
    await turn.say([
      "safe \u001b",
      "[31mred\u001b[0m \u001b]0;title\u0007 \u009b2J",
      "bell\u0007 back\bspace\r\nnext\tcolumn \u202eesrever",
    ]);
  },
};

async function echo(turn: Turn): Promise<void> {
  await turn.say(["You said: ", turn.text]);
}
