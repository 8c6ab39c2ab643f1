import { fork } from "node:child_process";
import { once } from "node:events";

/** Another process of the benchmark, which answers questions. It ends with this one. */
export type Program = { pid: number; ask<Answer>(question: object): Promise<Answer>; stop(): Promise<void> };

/** `say` is what the program says once it is ready. */
export type StartedProgram<Said> = Program & { said: Said };

type Reply = { id: number; answer?: unknown; error?: string };

/** Starts `bench/programs/<name>.ts` with JSON `settings`. Programs are apart so that each has a processor's worth of its own. */
export async function startProgram<Said>(name: string, settings: object, nodeOptions: string[] = []): Promise<StartedProgram<Said>> {
  const child = fork(new URL(`../programs/${name}.ts`, import.meta.url), [JSON.stringify(settings)], {
    execArgv: nodeOptions,
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const waiting = new Map<number, PromiseWithResolvers<unknown>>();
  const exited = once(child, "exit");
  let last = 0;
  const ask = <Answer>(question: object): Promise<Answer> => {
    const id = (last += 1);
    const reply = Promise.withResolvers<unknown>();
    waiting.set(id, reply);
    child.send({ id, question });
    return reply.promise as Promise<Answer>;
  };
  const ready = Promise.withResolvers<unknown>();
  waiting.set(0, ready);
  child.on("message", ({ id, answer, error }: Reply) => {
    const reply = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) reply?.resolve(answer);
    else reply?.reject(new Error(`${name}: ${error}`));
  });
  child.on("exit", (code, signal) => {
    for (const reply of waiting.values()) reply.reject(new Error(`${name} ended (${code ?? signal})`));
    waiting.clear();
  });
  const stop = async (): Promise<void> => {
    if (child.connected) child.disconnect();
    const timer = setTimeout(() => child.kill("SIGKILL"), 15_000);
    await exited;
    clearTimeout(timer);
  };
  return { pid: child.pid ?? 0, said: (await ready.promise) as Said, ask, stop };
}

/** The other side: says it is ready and answers until the parent leaves. */
export function answerParent<Question>(
  said: unknown,
  answer: (question: Question) => unknown,
  close: () => Promise<void> | void = () => undefined,
): void {
  const send = (reply: Reply): void => void process.send?.(reply);
  process.on("message", ({ id, question }: { id: number; question: Question }) => {
    Promise.resolve()
      .then(() => answer(question))
      .then(
        (value) => send({ id, answer: value }),
        (error: unknown) => send({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
      );
  });
  process.on("disconnect", () => {
    Promise.resolve(close()).then(
      () => process.exit(0),
      () => process.exit(1),
    );
  });
  send({ id: 0, answer: said });
}

/** What `startProgram` was given. */
export function settingsOfProgram<Settings>(): Settings {
  return JSON.parse(process.argv[2] ?? "{}") as Settings;
}
