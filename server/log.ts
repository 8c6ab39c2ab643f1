import { type Logger, pino } from "pino";

/** JSON lines. Messages are constants, variables are fields; narrow with `log.child({ session_id })`. */
export type Log = Logger;

/** Lines are written together: one write each would cost a busy server more than making them. */
const bufferedBytes = 4_096;
/** A line waits for this long at the most, milliseconds. What waits is written when the process exits, and lost when it is killed. */
const bufferedMs = 200;

/** The process log. `level` is pino's; default `info`. Goes to stderr so that stdout stays for the ready line. */
export function createLog(level = "info"): Log {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (label) => ({ level: label }) } },
    pino.destination({ dest: 2, sync: false, minLength: bufferedBytes, periodicFlush: bufferedMs }),
  );
}
