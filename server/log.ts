import { type Logger, pino } from "pino";

/** JSON lines. Messages are constants, variables are fields; narrow with `log.child({ session_id })`. */
export type Log = Logger;

/** The process log. `level` is pino's; default `info`. Goes to stderr so that stdout stays for the ready line. */
export function createLog(level = "info"): Log {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (label) => ({ level: label }) } },
    pino.destination({ dest: 2, sync: false }),
  );
}
