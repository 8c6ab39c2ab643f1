/**
 * A lock between processes of one machine that survives none of them: a symbolic link whose target names its holder.
 *
 * A link is made with its content in one step, so nobody ever sees a lock without a holder. The holder is a pid together
 * with its start time, because pids are used again.
 */
import { lstatSync, readFileSync, readlinkSync, symlinkSync, unlinkSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** Runs `work` alone; `onWait` is told once, with the holder's pid, when somebody else is at it. */
export async function withLock(file, onWait, work) {
  for (let told = false; !take(file); told = true) {
    const holder = holderOf(file);
    if (holder !== undefined && !isAlive(holder)) breakLock(file, holder);
    else if (holder !== undefined && !told) onWait(holder.split("-")[0]);
    await sleep(100);
  }
  try {
    return await work();
  } finally {
    unlinkSync(file);
  }
}

function take(file) {
  try {
    symlinkSync(`${process.pid}-${startTime(process.pid)}`, file);
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

/** Two waiters may find the same dead holder; the second must not remove the lock that the first has just taken. */
function breakLock(file, holder) {
  const guard = `${file}.breaking`;
  if (!take(guard)) {
    const since = lstatSync(guard, { throwIfNoEntry: false })?.mtimeMs;
    if (since !== undefined && Date.now() - since > 10_000) unlinkSync(guard);
    return;
  }
  if (holderOf(file) === holder) unlinkSync(file);
  unlinkSync(guard);
}

function holderOf(file) {
  try {
    return readlinkSync(file);
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

function isAlive(holder) {
  const [pid, started] = holder.split("-");
  return startTime(pid) === started;
}

/** Field 22 of stat, or empty for a process that does not exist. */
function startTime(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch (error) {
    if (error.code === "ENOENT" || error.code === "ESRCH") return "";
    throw error;
  }
}
